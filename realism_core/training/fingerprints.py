"""What tells the layers of one model from those of another: their shapes, and some of their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

SAMPLED = 256


def layer_shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's weights by the paths of their layers."""
    return {
        name.removesuffix(".weight"): tuple(weight.shape)
        for name, weight in weights.items()
        if name.endswith(".weight")
    }


def layer_fingerprints(layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return for each layer by path 16 hex digits of the SHA-256 of numbers spread evenly over its weight.

    At most 256 numbers of each weight are read, as float32, so that even large models take no time.
    """
    # in inference mode, ordinary tensors of quantised kinds cannot be detached
    with torch.inference_mode(False), torch.no_grad():
        return {path: _fingerprint(layer.weight) for path, layer in layers.items()}


def _fingerprint(weight: torch.Tensor) -> str:
    flat = weight.detach().flatten()
    numbers = flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED].to("cpu", torch.float32)
    told = f"{tuple(weight.shape)} ".encode() + numbers.contiguous().numpy().tobytes()
    return hashlib.sha256(told).hexdigest()[:16]
