"""The high-pass residual that the lattice and the statistics are read from, in strips of rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

SIGMA = 6.0
BORDER = 4
CLIP = 3.0
FLOOR = 0.3
STRIP_PIXELS = 1 << 20
_PANEL = 128


class Strip(NamedTuple):
    """Some rows of the residual r and of its normalised form q, both [B,h,W-8]; first: number of the
    first.
    """

    r: Tensor
    q: Tensor
    first: int


def diagonal_residual(values: Tensor) -> Tensor:
    """Return [[1,-2,1],[-2,4,-2],[1,-2,1]] / 6 * values [...,H,W], without the outermost pixels."""
    down = values[..., :-2, :] + values[..., 2:, :] - 2 * values[..., 1:-1, :]
    return (down[..., :-2] + down[..., 2:] - 2 * down[..., 1:-1]).div_(6)


def residual_strips(values: Tensor, strip_pixels: int = STRIP_PIXELS) -> Iterator[Strip]:
    """Yield the diagonal residual of values [B,H,W] (H, W >= 9), 4 border pixels dropped, and normalised.

    q = clip(r / (sqrt(Gauss_6(r^2)) + 0.3), -3, 3); the Gaussian reaches 24 pixels and mirrors the edges.
    The strips do not change the numbers, they bound the memory. Source: the decoder lattice, README.
    """
    height, width = values.shape[1] - 2 * BORDER, values.shape[2] - 2 * BORDER
    radius = reach(SIGMA)
    step = max(2 * radius, strip_pixels // (width * len(values)))
    for top in range(0, height, step):
        bottom = min(top + step, height)
        # a strip at an edge mirrors there; elsewhere its neighbours' rows stand in for the mirror
        start, stop = max(0, top - radius), min(height, bottom + radius)
        inside = slice(start + BORDER - 1, stop + BORDER + 1)
        r = diagonal_residual(values[:, inside, BORDER - 1 : values.shape[2] - BORDER + 1])
        scale = gaussian_blur(r.square(), SIGMA).clamp_min_(0).sqrt_().add_(FLOOR)
        rows = slice(top - start, bottom - start)
        yield Strip(r[:, rows], (r[:, rows] / scale[:, rows]).clamp_(-CLIP, CLIP), top)


def reach(sigma: float) -> int:
    """Return how many pixels the Gaussian reaches: four sigma, rounded."""
    return int(4 * sigma + 0.5)


def gaussian_blur(values: Tensor, sigma: float) -> Tensor:
    """Return values [...,H,W] under a Gaussian that reaches four sigma and mirrors the edges (edge
    repeated).
    """
    across = _blur_rows(values, sigma)
    return _blur_rows(across.transpose(-1, -2), sigma).transpose(-1, -2)


def _blur_rows(values: Tensor, sigma: float) -> Tensor:
    """Blur along the last axis as one matrix product over panels: far faster on a CPU than a 1-channel
    conv.
    """
    radius, length = reach(sigma), values.shape[-1]
    panels = -(-length // _PANEL)
    places = torch.arange(-radius, panels * _PANEL + radius, device=values.device).remainder(2 * length)
    mirrored = values[..., torch.where(places < length, places, 2 * length - 1 - places)]
    windows = mirrored.unfold(-1, _PANEL + 2 * radius, _PANEL)
    blurred = windows @ _band(sigma, values.dtype, values.device)
    return blurred.flatten(-2)[..., :length]


@lru_cache(maxsize=8)
def _band(sigma: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [panel + 2 reach, panel]: the Gaussian's weights, one output pixel a column."""
    radius = reach(sigma)
    weights = torch.exp(-torch.arange(-radius, radius + 1, dtype=torch.float64).square() / (2 * sigma**2))
    band = torch.zeros(_PANEL + 2 * radius, _PANEL, dtype=torch.float64)
    for column in range(_PANEL):
        band[column : column + 2 * radius + 1, column] = weights / weights.sum()
    return band.to(device, dtype)
