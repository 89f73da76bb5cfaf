"""Traces of lossy compression: block grids, the quality of a JPEG, the luma steps of WebP and video."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .jpeg import last_quality
from .samples import groups, line_activity, luma, windows
from .table import Column

COLUMNS = (
    Column(
        "jpeg_grid", "log ratio", "none", -math.inf, math.inf,
        "Steps on a grid of 8 x 8 pixels at any phase: a JPEG was here, the harder compressed the higher; "
        "0 does not rule out a JPEG of high quality, and a little can come from a latent decoder.",
    ),
    Column(
        "jpeg_quality", "IJG quality", "none", 1.0, 100.0,
        "The quality of the last JPEG compression if nothing has changed the pixels since; it does not "
        "apply where there was none, or where resizing or another codec came after it.",
    ),
    Column(
        "webp_grid", "log ratio", "none", -math.inf, math.inf,
        "Steps on a grid of 4 x 4 pixels that one of 8 does not explain: WebP or video compression, or a "
        "JPEG of low quality; 0 does not rule them out, since their decoders smooth the grid.",
    ),
    Column(
        "video_levels", "0..1", "none", 0.0, 1.0,
        "How well brightness keeps to the 219 steps of WebP and video, about 0.55 if it was decoded from "
        "them and not resized or edited since, at any quality; few tones can reach it by chance.",
    ),
)
_MIN_GRID = 32
_MIN_LEVELS = 256
_EPSILON = 0.02  # of an activity that is about 1 where the picture varies
_FINE = 16  # histogram bins a grey level


def measure_codec(planes: Tensor) -> Tensor:
    """Return the traces of lossy compression of each picture.

    planes: uint8 [B,3,H,W], any device and size. Returns float64 [B,4] in the order of `COLUMNS`, NaN where
    a column does not apply: grids below 32 pixels a side or without any variation, JPEG quality where no
    JPEG is found, levels where fewer than 256 pixels are unclipped or all are grey. Pictures of more than
    2 megapixels are measured in five windows of 1024 pixels at native resolution.
    """
    return torch.cat([_measure(planes[part]) for part in groups(planes)])


def _measure(planes: Tensor) -> Tensor:
    parts = windows(planes)
    greys = [luma(part) for part in parts]
    jpeg, webp = _grids(greys)
    return torch.stack((jpeg, last_quality(parts), webp, _video_levels(parts, greys)), 1)


def _grids(greys: list[Tensor]) -> tuple[Tensor, Tensor]:
    jpeg, webp = [], []
    if min(greys[0].shape[1:]) < _MIN_GRID:
        nothing = torch.full((len(greys[0]),), torch.nan, dtype=torch.float64, device=greys[0].device)
        return nothing, nothing
    for axis in (0, 1):
        lines = [_phase_means(grey if axis == 0 else grey.mT) for grey in greys]
        phases = torch.stack(lines).mean(0)
        empty = ~(phases.sum(1) > 0)
        phases = phases + _EPSILON
        top = phases.max(1)
        middle = phases.scatter(1, top.indices[:, None], -1).sort(1).values[:, 4]
        # a grid of 4 has its steps half a block away too
        half = phases.gather(1, (top.indices[:, None] + 4) % 8)[:, 0]
        others = torch.maximum(middle, half)
        jpeg.append((top.values / others).log().masked_fill(empty, torch.nan))
        both = torch.minimum(phases[:, :4], phases[:, 4:])
        middles = [phases[:, [i for i in range(8) if i % 4 != k]].sort(1).values[:, 2] for k in range(4)]
        ratios = (both / torch.stack(middles, 1)).log()
        webp.append(ratios.amax(1).masked_fill(empty, torch.nan))
    # texture has one direction, a codec's grid two
    return torch.fmin(*jpeg), torch.stack(webp).nanmean(0)


def _phase_means(grey: Tensor) -> Tensor:
    profile = line_activity(grey).mean(1, dtype=torch.float64)
    whole = profile.shape[1] // 8 * 8
    return profile[:, :whole].reshape(len(profile), -1, 8).mean(1)


def _video_levels(parts: list[Tensor], greys: list[Tensor]) -> Tensor:
    """The length of the mean of exp(2 pi i 219/255 luma) over unclipped pixels: 1 = all on the steps."""
    batch = len(greys[0])
    counts = torch.zeros(batch, 255 * _FINE + 1, dtype=torch.float64, device=greys[0].device)
    coloured = torch.zeros(batch, dtype=torch.bool, device=greys[0].device)
    for part, grey in zip(parts, greys, strict=True):
        # every other row is plenty
        low, high = part[:, :, ::2].amin(1), part[:, :, ::2].amax(1)
        bins = (grey[:, ::2] * _FINE + 0.5).long().masked_fill_((low == 0) | (high == 255), 0)
        bins += torch.arange(batch, device=bins.device)[:, None, None] * counts.shape[1]
        counts += torch.bincount(bins.flatten(), minlength=counts.numel()).reshape(counts.shape)
        coloured |= (low != high).flatten(1).any(1)
    counts[:, 0] = 0
    levels = torch.arange(counts.shape[1], dtype=torch.float64, device=counts.device) / _FINE
    turns = levels * (2 * math.pi * 219 / 255)
    total = counts.sum(1)
    length = torch.hypot(counts @ turns.cos(), counts @ turns.sin()) / total.clamp(min=1)
    # the sums' rounding can lead past 1
    return length.clamp(max=1).masked_fill((total < _MIN_LEVELS / 2) | ~coloured, torch.nan)
