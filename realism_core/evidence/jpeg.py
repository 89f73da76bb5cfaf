"""The grid and the quality of the last JPEG compression, read from the comb of its coefficients."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from .samples import luma

_LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)
_PATCH = 15  # holds a whole 8 x 8 block at each of the 64 phases
_PATCHES = 320
_BLOCKS = 2048
_BINS = 8  # histogram bins a unit of the coefficient
_TOP = 96  # the largest coefficient that is counted
_SPREAD = 0.3  # of decoded coefficients about their multiples, from rounding to 8-bit RGB
_STRAY = 0.05  # share of coefficients that may lie anywhere
_ZERO = 0.6  # coefficients below are taken for a rounded zero, which fits every step
_EVIDENCE = 0.04  # nats a coefficient; pictures without JPEG history stay below 0.03
_TOTAL = 25.0  # nats in all: fewer is too small a picture to tell


def quality_table(quality: int) -> Tensor:
    """Return the IJG luminance steps [8,8] of a quality 1..100. Source: ITU-T T.81 K.1 and libjpeg."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(_LUMINANCE) * scale + 50) // 100).clamp(1, 255).reshape(8, 8)


def last_quality(parts: list[Tensor]) -> Tensor:
    """Return the IJG quality 1..100 of the last JPEG compression [B], NaN where no comb is seen.

    parts: uint8 windows [B,3,h,w] of the same pictures, whose corners are multiples of 8 pixels apart. The
    block grid is where most coefficients vanish; the quality is the one whose steps best explain the
    coefficients at that grid: the likelihood of multiples with a little rounding noise against an even
    spread. Blocks with clipped pixels are left out, and sides under 15 pixels get NaN.
    Source: Fan and de Queiroz 2003 (the model), Nikoukhah et al. 2021 (the phase).
    """
    if min(parts[0].shape[2:]) < _PATCH:
        return torch.full((len(parts[0]),), torch.nan, dtype=torch.float64, device=parts[0].device)
    phase = torch.stack([_vanished(part) for part in parts]).sum(0).argmax(1)
    counts = torch.stack([_histogram(part, phase // 8, phase % 8) for part in parts]).sum(0)
    steps = _tables().to(counts.device)
    gains = counts.float() @ _gains().to(counts.device).T  # [B,64,255]
    frequency = torch.arange(64, device=counts.device)
    totals = gains[:, frequency, steps - 1].sum(-1)
    best = totals.max(1)
    seen = counts[..., int(_ZERO * _BINS) :].sum((1, 2))
    found = (best.values > _TOTAL) & (best.values > _EVIDENCE * seen)
    return (best.indices + 1).double().masked_fill(~found, torch.nan)


@cache
def _tables() -> Tensor:
    return torch.stack([quality_table(quality).flatten() for quality in range(1, 101)])


@cache
def _cosines() -> Tensor:
    place = torch.arange(8, dtype=torch.float64)
    waves = torch.cos((2 * place[None] + 1) * place[:, None] * math.pi / 16) / 2
    waves[0] /= math.sqrt(2)
    return waves.float()


@cache
def _shifted_cosines() -> Tensor:
    waves = torch.zeros(8, 8, _PATCH)
    for shift in range(8):
        waves[shift, :, shift : shift + 8] = _cosines()
    return waves.reshape(64, _PATCH)


@cache
def _gains() -> Tensor:
    """Log likelihood ratio [255, bins] of a coefficient under each step against an even spread."""
    step = torch.arange(1, 256, dtype=torch.float64)[:, None]
    size = (torch.arange(_TOP * _BINS, dtype=torch.float64) + 0.5) / _BINS
    off = torch.remainder(size + step / 2, step) - step / 2
    near = sum(torch.exp(-0.5 * ((off + turn * step) / _SPREAD).square()) for turn in (-1, 0, 1))
    density = near * step / (_SPREAD * math.sqrt(2 * math.pi))
    # zeros fit any step and would outvote the rest
    return ((1 - _STRAY) * density + _STRAY).log().mul_(size >= (step / 2).clamp(min=_ZERO)).float()


def _scatter(count: int, device: torch.device) -> Tensor:
    # the golden section spreads any first part of the sequence evenly
    return torch.remainder(torch.arange(count, dtype=torch.float64, device=device) * 0.6180339887498949, 1)


def _vanished(part: Tensor) -> Tensor:
    """How many coefficients round to zero at each phase [B,64], over patches with some variation."""
    batch = torch.arange(part.shape[0], device=part.device)[:, None]
    views = part.unfold(2, _PATCH, 16).unfold(3, _PATCH, 16)
    rows, columns = views.shape[2:4]
    corners = part[:, 1, : rows * 16 - 1, : columns * 16 - 1]
    # the diagonal of a patch is enough to see whether it varies
    diagonal = torch.stack([corners[:, i::16, i::16] for i in range(_PATCH)])
    varied = (diagonal.amax(0) - diagonal.amin(0) > 4).flatten(1)
    rank = varied + _scatter(rows * columns, part.device)
    chosen = rank.topk(min(_PATCHES, rows * columns), 1).indices
    patches = luma(views[batch, :, chosen // columns, chosen % columns])
    waves = _shifted_cosines().to(part.device)
    along = (patches.reshape(-1, _PATCH) @ waves.T).reshape(*chosen.shape, _PATCH, 64)
    both = along.transpose(2, 3).reshape(-1, _PATCH) @ waves.T
    # column phase, its wave, row phase, its wave
    zeros = (both.abs_() < 0.5).reshape(*chosen.shape, 8, 8, 8, 8)
    zeros = zeros & varied.gather(1, chosen)[..., None, None, None, None]
    return zeros.sum(1).sum((2, 4)).transpose(1, 2).flatten(1)


def _histogram(part: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Counts [B,64,bins] of the sizes of the 64 coefficients of blocks at the phase (top, left)."""
    batch = part.shape[0]
    number = torch.arange(batch, device=part.device)[:, None]
    rows, columns = (part.shape[2] - 7) // 8, (part.shape[3] - 7) // 8
    order = _scatter(rows * columns, part.device).topk(min(_BLOCKS, rows * columns)).indices
    views = part.unfold(2, 8, 1).unfold(3, 8, 1)
    blocks = views[number, :, top[:, None] + order // columns * 8, left[:, None] + order % columns * 8]
    low, high = blocks.flatten(2).aminmax(dim=2)
    grey = luma(blocks)
    varied = grey.amax((2, 3)) - grey.amin((2, 3)) > 2
    kept = (low > 0) & (high < 255) & varied
    waves = _cosines().to(part.device)
    size = (waves @ grey @ waves.T).flatten(2).abs_()
    bins = (size * _BINS).long().clamp_(max=_TOP * _BINS)
    # one more bin takes what is not counted: too large, the mean (level shifted), blocks left out
    bins = bins.masked_fill_(~kept[..., None], _TOP * _BINS)
    bins[..., 0] = _TOP * _BINS
    offset = number[..., None] * 64 + torch.arange(64, device=part.device)
    flat = (bins + offset * (_TOP * _BINS + 1)).flatten()
    counts = torch.bincount(flat, minlength=batch * 64 * (_TOP * _BINS + 1))
    return counts.reshape(batch, 64, -1)[..., :-1]
