"""The five measures with gradients: soft edges, a soft co-occurrence histogram, no rounding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .measures import Measures
from .soft_edges import soft_edge_density
from .soft_energy import soft_glcm_energy

MIN_SOFT_SIDE = 16
CHANNELS = (1, 3, 4)
# red, green, blue: what Pillow's "L" weighs, and OpenCV's grey with red and blue swapped
PILLOW = (0.299, 0.587, 0.114)
SWAPPED = (0.114, 0.587, 0.299)
# variance of rounding to whole levels
ROUNDING = 1 / 12
EULER = 0.5772156649015329


def soft_measures(images: Tensor) -> Measures:
    """Return differentiable forms of the `reference` measures, each [B] in float32 (float64 for float64).

    images: floating point 0..1, [B,C,H,W] or [B,H,W,C], C of 1, 3 or 4, sides of at least 16 pixels (so
    the short dimension tells the layout); any device. Values beyond 0..1 are cut off, as in a saved picture,
    and have no gradient there; alpha is left out. Units and ranges are those of `measure`, to which
    they come close but are not equal: compare soft measures with soft ones (`SoftReference`).
    The gradients of finite pictures are finite, also of flat, black and white ones. Three equal channels
    (C = 1 too) have a finite spectrum that means nothing. The spectrum grows with the width, as that of
    `measure` does: compare pictures of one size. Raises ValueError with the input and the fix.
    Source: arXiv 2309.14756 for what is measured; the forms are this project's.
    """
    levels = _levels(images)
    luma, swapped = _grey(levels, PILLOW), _grey(levels, SWAPPED)
    return Measures(
        soft_edge_density(swapped),
        (luma[:, :, 1:] - luma[:, :, :-1]).square().mean((1, 2)),
        soft_glcm_energy(luma),
        (swapped - swapped.mean((1, 2), keepdim=True)).square().mean((1, 2)),
        soft_mean_spectrum(levels),
    )


def soft_mean_spectrum(levels: Tensor) -> Tensor:
    """Return the mean of 10 ln(|F|^2 + 0.14 W) over (W, C) transforms, [B], of levels 0..255 [B,3,H,W].

    Rounding three channels to 8 bits adds noise of power W / 4 to each term, and the mean logarithm of noise
    of power N is ln(N exp(-Euler's constant)): hence 0.14 W. With it, unrounded pictures measure like their
    8-bit copies, and the logarithm has a bounded slope where there is no signal.
    """
    red, green, blue = levels.unbind(1)
    width = levels.shape[3]
    pair = green + blue
    line = torch.fft.rfft(red + pair)
    colour = torch.fft.fft(torch.complex(red - pair / 2, (blue - green) * 0.75**0.5))
    floor = 3 * ROUNDING * width * math.exp(-EULER)
    # the half of the real transform that is not computed mirrors its inner part
    logs = _log_power(line, floor)
    total = logs.sum(2) + logs[:, :, 1 : (width + 1) // 2].sum(2) + 2 * _log_power(colour, floor).sum(2)
    return total.mean(1) * (10 / (3 * width))


def soft_planes(images: Tensor) -> Tensor:
    """Return [B,C,H,W] of a batch that `soft_measures` accepts, in either layout, or raise a ValueError."""
    shape = "x".join(map(str, images.shape))
    if not images.is_floating_point():
        raise ValueError(
            f"images is of type {images.dtype}, which has no gradient: pass floating point in 0..1, or use "
            "`measure` for 8-bit pictures."
        )
    if images.ndim != 4 or (images.shape[1] in CHANNELS) == (images.shape[3] in CHANNELS):
        raise ValueError(
            f"images has shape {shape}, but soft measures need [B,C,H,W] or [B,H,W,C] with 1, 3 or 4 "
            f"channels and sides of at least {MIN_SOFT_SIDE} pixels: reshape or enlarge the pictures."
        )
    planes = images if images.shape[1] in CHANNELS else images.movedim(3, 1)
    if min(planes.shape[2:]) < MIN_SOFT_SIDE or len(planes) == 0:
        raise ValueError(
            f"images has shape {shape}, but soft measures need at least one picture and sides of at least "
            f"{MIN_SOFT_SIDE} pixels: use larger pictures or crops."
        )
    return planes


def _levels(images: Tensor) -> Tensor:
    planes = soft_planes(images)
    planes = planes if planes.dtype == torch.float64 else planes.float()
    return planes[:, :3].expand(-1, 3, -1, -1).clamp(0, 1) * 255


def _grey(levels: Tensor, weights: tuple[float, float, float]) -> Tensor:
    red, green, blue = levels.unbind(1)
    return weights[0] * red + weights[1] * green + weights[2] * blue


def _log_power(line: Tensor, floor: float) -> Tensor:
    return (line.real.square() + line.imag.square() + floor).log()
