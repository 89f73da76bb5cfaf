"""Gaussian blur and the unsharp mask."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .shared import check_number, checked, map_colours

# in sigmas; the rest of the kernel weighs less than a tenth of a level
TRUNCATE = 4.0
UNSHARP_SIGMA = 1.0
LARGEST_SIGMA = 100.0


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Return the pictures blurred by a Gaussian, cut off at 4 sigma, with the edge pixels repeated outside.

    images: [B,H,W,C], float 0..1 or uint8, the same out. sigma: in pixels, 0..100. Alpha stays as it is.
    Raises ValueError or TypeError.
    """
    images = checked(images)
    check_number("sigma", sigma, 0, LARGEST_SIGMA)
    return map_colours(images, lambda colours, index: _blurred(colours, sigma))


def unsharp_mask(images: Tensor, amount: float, sigma: float = UNSHARP_SIGMA) -> Tensor:
    """Return the pictures plus `amount` times what a Gaussian blur takes from them, with no threshold.

    images: [B,H,W,C], float 0..1 or uint8, the same out. amount: 0..100, 1 = 100 %. sigma: the radius of
    the blur in pixels, 0..100. Alpha stays as it is.
    Raises ValueError or TypeError.
    """
    images = checked(images)
    check_number("amount", amount, 0, 100)
    check_number("sigma", sigma, 0, LARGEST_SIGMA)
    return map_colours(
        images, lambda colours, index: colours + amount * (colours - _blurred(colours, sigma))
    )


def _blurred(colours: Tensor, sigma: float) -> Tensor:
    radius = math.floor(TRUNCATE * sigma + 0.5)
    if radius == 0:
        return colours
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    total = sum(weights)
    planes = colours.movedim(-1, 0).contiguous()
    # shifted sums, not a convolution: those of accelerators may round to 10 bits
    for dim, pad in ((1, (0, 0, radius, radius)), (2, (radius, radius, 0, 0))):
        wide = F.pad(planes[None], pad, mode="replicate")[0]
        side = planes.shape[dim]
        planes = torch.zeros_like(planes)
        for offset, weight in enumerate(weights):
            planes.add_(wide.narrow(dim, offset, side), alpha=weight / total)
    return planes.movedim(0, -1)
