"""How noisy, clipped and empty a picture is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from .samples import groups, luma, windows
from .table import Column

COLUMNS = (
    Column(
        "noise_floor", "grey levels", "none", 0.0, math.inf,
        "The standard deviation of noise in the smoothest areas: near 0 after denoising, hard compression "
        "or rendering, higher with grain; fine even texture counts as noise.",
    ),
    Column(
        "saturation_share", "share of pixels", "none", 0.0, 1.0,
        "Pixels with a channel at 0 or 255, where every trace is cut off: blown light, deep shadow, pure "
        "colours.",
    ),
    Column(
        "flat_share", "share of pixels", "none", 0.0, 1.0,
        "Pixels in areas of 8 x 8 without any variation: drawings, screenshots, blown skies and canvas, "
        "where there is nothing to measure.",
    ),
)
_SIDE = 8
_SMOOTHEST = 0.1
# E|x| of the least tenth of blocks of 64 diagonal differences of white noise of sigma 1 (by simulation)
_CHOICE = 0.624


def measure_noise(planes: Tensor) -> Tensor:
    """Return noise floor, clipped share and flat share of each picture.

    planes: uint8 [B,3,H,W], any device and size. Returns float64 [B,3] in the order of `COLUMNS`; the noise
    floor is NaN below 16 pixels a side and where no block of 8 x 8 both varies and is unclipped, the flat
    share below 8 pixels a side. The noise is that of luma, from the mean absolute diagonal difference in
    the tenth of those blocks with the least, corrected for that choice. Of pictures of more than 2
    megapixels, five windows of 1024 pixels are measured.
    Source: the mask is the smallest of those in Immerkaer 1996, the choice of smooth blocks is usual.
    """
    return torch.cat([_measure(planes[part]) for part in groups(planes)])


def _measure(planes: Tensor) -> Tensor:
    parts = windows(planes)
    clipped, flat, spreads, usable = [], [], [], []
    for part in parts:
        low, high = part.amin(1), part.amax(1)
        clipped.append(((low == 0) | (high == 255)).count_nonzero((1, 2)).double() / low[0].numel())
        if min(part.shape[2:]) < _SIDE:
            continue
        low, high = _by_blocks(part, Tensor.amin), _by_blocks(part, Tensor.amax)
        even = (low == high).all(1)
        flat.append(even.flatten(1).double().mean(1))
        if min(part.shape[2:]) >= 2 * _SIDE:
            spreads.append(_spreads(luma(part)))
            usable.append((~even & (low > 0).all(1) & (high < 255).all(1)).flatten(1))
    nothing = clipped[0].new_full(clipped[0].shape, torch.nan)
    return torch.stack(
        (
            _noise_floor(torch.cat(spreads, 1), torch.cat(usable, 1)) if spreads else nothing,
            torch.stack(clipped).mean(0),
            torch.stack(flat).mean(0) if flat else nothing,
        ),
        1,
    )


def _by_blocks(planes: Tensor, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Reduce the whole blocks of 8 x 8 of [B,3,H,W] to [B,3,rows,columns]."""
    rows, columns = planes.shape[2] // _SIDE, planes.shape[3] // _SIDE
    tall = reduce(planes[:, :, : rows * _SIDE].unflatten(2, (rows, _SIDE)), 3)
    return reduce(tall[..., : columns * _SIDE].unflatten(3, (columns, _SIDE)), 4)


def _spreads(grey: Tensor) -> Tensor:
    """The mean absolute diagonal difference [B,blocks] of each block of 8 x 8."""
    across = grey[..., :-1] - grey[..., 1:]
    rows, columns = grey.shape[1] // _SIDE, grey.shape[2] // _SIDE
    diagonal = pad((across[:, :-1] - across[:, 1:]).div_(2).abs_(), (0, 1, 0, 1))
    means = avg_pool2d(diagonal[:, None, : rows * _SIDE, : columns * _SIDE], _SIDE)
    return means.flatten(1).double()


def _noise_floor(spreads: Tensor, usable: Tensor) -> Tensor:
    counts = usable.sum(1, keepdim=True)
    ordered = spreads.masked_fill(~usable, torch.inf).sort(1).values
    chosen = torch.arange(spreads.shape[1], device=spreads.device) < (counts * _SMOOTHEST).ceil()
    total = ordered.masked_fill(~chosen, 0).sum(1)
    return (total / chosen.sum(1) / _CHOICE).masked_fill(counts[:, 0] == 0, torch.nan)
