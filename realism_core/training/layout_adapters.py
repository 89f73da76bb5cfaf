"""One layer's low-rank update: checked against its layer, cut into pieces of rows, put together again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .layout_transformers import Rows


class Adapter(NamedTuple):
    """The update (alpha / rank) * up @ down of a layer's weight [out,in,...].

    down: [rank,in,...]; up: [out,rank] or [out,rank,1,1]; alpha: a scalar; dora_scale: the magnitudes of
    DoRA [out,1,...] or [1,in,...], None without.
    """

    down: Tensor
    up: Tensor
    alpha: Tensor
    dora_scale: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """The factor alpha / rank."""
        return float(self.alpha) / self.rank


def fitted(adapter: Adapter, shape: Sequence[int], outputs: int, name: str) -> Adapter:
    """Return an adapter in the form that a layer of this shape wants.

    shape: the layer's weight [out,in,...]; outputs: how many of its rows the adapter is for; name: for
    errors. Convolutions may come as matrices, as ComfyUI's trainer writes them. Raises ValueError where the
    sizes are another layer's.
    """
    down, up, rank = adapter.down, adapter.up, adapter.down.shape[0] if adapter.down.dim() else 0
    if down.dim() < 2 or not rank or up.dim() < 2 or up[0].numel() != rank:
        raise ValueError(
            f"{name}: its two matrices {list(down.shape)} and {list(up.shape)} have no rank in common; "
            "the file is damaged or not a LoRA."
        )
    inputs = math.prod(shape[1:])
    if down[0].numel() != inputs or up.shape[0] != outputs:
        raise ValueError(
            f"{name}: the LoRA is for a layer of {down[0].numel()} inputs and {up.shape[0]} outputs, the "
            f"model's has {inputs} and {outputs}: the LoRA was made for another model."
        )
    if adapter.alpha.numel() != 1:
        raise ValueError(f"{name}: its alpha has {adapter.alpha.numel()} values instead of one.")
    return Adapter(
        down.reshape(rank, *shape[1:]),
        up.reshape(outputs, rank, *[1] * (len(shape) - 2)),
        adapter.alpha.reshape(()),
        adapter.dora_scale,
    )


def unscaled(adapter: Adapter) -> Adapter:
    """Return the same update with alpha equal to the rank: its factor goes into `up`, in up's precision."""
    up = adapter.up if adapter.scale == 1 else (adapter.up.float() * adapter.scale).to(adapter.up.dtype)
    return adapter._replace(up=up, alpha=_alpha(adapter.rank, adapter.alpha))


def piece(adapter: Adapter, rows: Rows) -> Adapter:
    """Return the part of an adapter that updates these rows of its layer, in the order given."""
    up = torch.cat([adapter.up[first:end] for first, end in rows])
    return adapter._replace(down=adapter.down.clone(), up=up)


def fused(pieces: Sequence[tuple[Rows, Adapter]], outputs: int) -> Adapter:
    """Return one adapter that updates a layer as the adapters of its rows do; other rows stay as they are.

    Where all pieces have the same `down` and factor, as one adapter cut by `piece` has, that adapter comes
    back bit for bit. Otherwise ranks add up: `down` holds all of theirs, `up` is block-diagonal.
    """
    adapters = [adapter for _, adapter in pieces]
    first = adapters[0]
    scales = [adapter.scale for adapter in adapters]
    same_scale = all(scale == scales[0] for scale in scales)
    if same_scale and all(torch.equal(adapter.down, first.down) for adapter in adapters[1:]):
        up = first.up.new_zeros(outputs, *first.up.shape[1:])
        for rows, adapter in pieces:
            _place(up, rows, adapter.up)
        return Adapter(first.down, up, first.alpha)
    if not same_scale:
        adapters = [unscaled(adapter) for adapter in adapters]
    rank = sum(adapter.rank for adapter in adapters)
    up = first.up.new_zeros(outputs, rank, *first.up.shape[2:])
    column = 0
    for (rows, _), adapter in zip(pieces, adapters, strict=True):
        _place(up[:, column : column + adapter.rank], rows, adapter.up)
        column += adapter.rank
    down = torch.cat([adapter.down for adapter in adapters])
    return Adapter(down, up, _alpha(adapters[0].scale * rank, first.alpha))


def _place(up: Tensor, rows: Rows, values: Tensor) -> None:
    start = 0
    for first, end in rows:
        up[first:end] = values[start : start + end - first]
        start += end - first


def _alpha(value: float, like: Tensor) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float32, device=like.device)
