"""Lengths of the rows of W + s B A, without that matrix: what DoRA divides by."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

CHUNK = 1 << 22  # numbers of the weight in working precision at once: 16 MB in float32


class RowLengths(NamedTuple):
    """Lengths of the rows of W + scale B A, and of those of W, each [out]."""

    updated: Tensor
    base: Tensor


@torch.no_grad()
def row_lengths(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> RowLengths:
    """Return the length of each row of W + scale B A and of W.

    weight: [out, ...], of any float dtype, on any device. down: A, [rank, ...]; up: B, [out, rank, ...];
    their dtype and device are those of the result. The squared length of a row w with b of B is
    |w|^2 + 2 scale (w A^T) b + scale^2 b (A A^T) b, so a call reads W once, in parts of `CHUNK` numbers,
    and holds out x rank numbers besides: the work of `rank` more positions through the layer.
    """
    flat, across = down.flatten(1), up.flatten(1)
    matrix = weight.detach().flatten(1)
    squares, seen = [], []
    for part in matrix.split(max(1, CHUNK // matrix.shape[1])):
        rows = part.to(device=flat.device, dtype=flat.dtype)
        squares.append(torch.linalg.vector_norm(rows, dim=1).square_())
        seen.append(rows @ flat.T)
    base = torch.cat(squares)
    inner = 2 * scale * torch.cat(seen) + scale**2 * (across @ (flat @ flat.T))
    return RowLengths((base + (inner * across).sum(1)).clamp_min_(0).sqrt_(), base.sqrt())


def check_readable(path: str, layer: nn.Module) -> None:
    """Raise ValueError unless a layer's `weight` is the matrix that the layer applies.

    Supported are float64, float32, bfloat16, float16 and unscaled 8-bit floats, on any device. Refused, by
    the layer's name, are quantised and packed weights, weights with a scale of their own, weights that are
    not in memory, and layers that change weight or bias at each call (other LoRAs in ComfyUI's low-memory
    mode).
    """
    weight = getattr(layer, "weight", None)
    why = None
    if not isinstance(weight, Tensor) or weight.is_meta:
        why = "has no weight in memory"
    elif type(weight) not in (Tensor, nn.Parameter) or type(weight.data) is not Tensor:
        why = f"keeps its weight as {type(weight.data).__name__}"
    elif not weight.is_floating_point() or weight.shape != _shape(layer):
        why = f"keeps its weight packed ({weight.dtype}, {list(weight.shape)})"
    elif _is_scaled(layer):
        why = "scales its weight at each call"
    elif _is_changed(layer):
        why = "changes its weight or bias at each call, for example by another LoRA"
    if why:
        raise ValueError(
            f"DoRA needs to read the weight of every layer, but {path!r} {why}. Switch DoRA off, or load "
            "the model unquantised and without other LoRAs."
        )


def _shape(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels, *layer.kernel_size
    return layer.out_features, layer.in_features


def _is_scaled(layer: nn.Module) -> bool:
    scales = getattr(layer, "scale_weight", None), getattr(layer, "weight_scale", None)
    return any(scale is not None for scale in scales)


def _is_changed(layer: nn.Module) -> bool:
    lists = getattr(layer, "weight_function", None), getattr(layer, "bias_function", None)
    late = getattr(layer, "weight_lowvram_function", None), getattr(layer, "bias_lowvram_function", None)
    return any(map(bool, lists)) or any(function is not None for function in late)
