"""Square tiles of a picture, and the way back from one value a tile to one a pixel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE_SIDES = (64, 128, 256)


def tile_starts(length: int, side: int, stride: int) -> list[int]:
    """Return where tiles begin along one axis: every `stride`, and a last one flush with the end."""
    if length < side:
        return []
    starts = list(range(0, length - side + 1, stride))
    return starts if starts[-1] == length - side else [*starts, length - side]


def cut_tiles(planes: Tensor, side: int, stride: int) -> tuple[Tensor, list[int], list[int]]:
    """Return tiles [B*rows*columns,C,side,side] of planes [B,C,H,W], and the starts of rows and columns."""
    rows = tile_starts(planes.shape[2], side, stride)
    columns = tile_starts(planes.shape[3], side, stride)
    if not rows or not columns:
        return planes.new_zeros(0, planes.shape[1], side, side), rows, columns
    inside = torch.arange(side, device=planes.device)
    down = (torch.tensor(rows, device=planes.device)[:, None] + inside).flatten()
    across = (torch.tensor(columns, device=planes.device)[:, None] + inside).flatten()
    grid = planes[:, :, down][:, :, :, across]
    grid = grid.unflatten(3, (len(columns), side)).unflatten(2, (len(rows), side))
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).contiguous(), rows, columns


def map_tiles(planes: Tensor, side: int, stride: int, judge: Callable[[Tensor], Tensor]) -> Tensor:
    """Return one value a pixel [B,H,W]: judge(tiles [n,3,side,side]) -> [n] on square tiles, blended.

    One row of tiles is judged at a time. Raises ValueError with the fix for tiles that do not fit.
    """
    height, width = planes.shape[2:]
    if side < 16 or stride < 1 or stride > side:
        raise ValueError(
            f"tile is {side} and stride {stride}: use a tile of at least 16 and a stride from 1 to tile."
        )
    if min(height, width) < side:
        raise ValueError(
            f"tile is {side} pixels, larger than the pictures ({width} x {height}): use a smaller tile."
        )
    rows, columns = tile_starts(height, side, stride), tile_starts(width, side, stride)
    strips = (cut_tiles(planes[:, :, top : top + side], side, stride)[0] for top in rows)
    values = torch.stack([judge(strip).view(len(planes), len(columns)) for strip in strips], 1)
    return spread_tiles(values, rows, columns, side, height, width)


def spread_tiles(
    values: Tensor, rows: list[int], columns: list[int], side: int, height: int, width: int
) -> Tensor:
    """Return one value a pixel [B,H,W] from one a tile [B,rows,columns], blended with triangular windows.

    NaN tiles give way to their neighbours; where nothing but NaN covers a pixel the result is NaN.
    """
    down = _windows(rows, side, height, values)
    across = _windows(columns, side, width, values)
    known = ~torch.isnan(values)
    weight = down.T @ known.to(values.dtype) @ across
    total = down.T @ values.nan_to_num(0.0) @ across
    return torch.where(weight > 0, total / weight, torch.nan)


def _windows(starts: list[int], side: int, length: int, like: Tensor) -> Tensor:
    """Return [tiles, length]: each tile's triangular weight over the axis, above zero on the whole tile."""
    centres = torch.tensor(starts, dtype=like.dtype, device=like.device)[:, None] + (side - 1) / 2
    pixels = torch.arange(length, dtype=like.dtype, device=like.device)
    return (1 - (pixels - centres).abs() / ((side + 1) / 2)).clamp_min(0)
