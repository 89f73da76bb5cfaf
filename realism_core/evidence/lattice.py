"""The decoder lattice: a periodic trace that latent decoders leave in a picture's high-pass residual."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .residual import BORDER, residual_strips
from .samples import luma
from .table import Column

PERIODS = tuple(range(2, 25))
# below this side the longest period has fewer than four repeats
MIN_SIDE = 4 * PERIODS[-1] + 2 * BORDER
SOFT = 0.3
COLUMNS = (
    Column(
        "lattice",
        "log ratio",
        "lower",
        0.0,
        math.inf,
        "a periodic trace in the finest detail, as image decoders, block codecs and resampling leave it; it "
        "says where the pixels came from, not how real they look",
    ),
    Column(
        "lattice_period",
        "pixels",
        "none",
        PERIODS[0],
        PERIODS[-1],
        "the period at which that trace is strongest: 8, 4 and 2 are a decoder's own (and block codecs'), "
        "others come from resizing",
    ),
)


class Lattice(NamedTuple):
    """strength [B], period [B], ratios [B,23] (z of periods 2..24) float64; NaN where pictures are too
    small or flat.

    phases: mean normalised residual of each phase of each period p, a list of [B,p,p].
    """

    strength: Tensor
    period: Tensor
    ratios: Tensor
    phases: list[Tensor]

    def phase_map(self, index: int) -> Tensor:
        """Return the [p,p] phase means of picture `index` at its winning period (2 where there is none)."""
        period = self.period[index].nan_to_num(PERIODS[0])
        return self.phases[PERIODS.index(int(period))][index]


def measure_lattice(planes: Tensor) -> Tensor:
    """Return the columns of this file for uint8 planes [B,3,H,W]: float64 [B,2]."""
    found = decoder_lattice(planes)
    return torch.stack((found.strength, found.period), 1)


def decoder_lattice(planes: Tensor) -> Lattice:
    """Return the decoder lattice of uint8 planes [B,3,H,W], any device, memory bounded by strips.

    For each period p of 2..24: z_p = n_p Var(m_p) / Var(q), with m_p the means of q over the p x p phases,
    n_p the pixels a phase (q cropped to a multiple of p). strength = ln((max z + 0.3) / (median z + 0.3)).
    Pictures with a side under 104 pixels, and flat ones, get NaN. Source: science of README, "Decoder
    lattice".
    """
    batch, _, height, width = planes.shape
    if min(height, width) < MIN_SIDE:
        nothing = torch.full((batch, len(PERIODS)), torch.nan, dtype=torch.float64, device=planes.device)
        return Lattice(
            nothing[:, 0], nothing[:, 0].clone(), nothing, [nothing.new_zeros(batch, p, p) for p in PERIODS]
        )
    return fold_lattice(luma(planes))


def fold_lattice(values: Tensor) -> Lattice:
    """Return the lattice of one plane a picture, float [B,H,W] with sides of at least 104."""
    rows, columns = values.shape[1] - 2 * BORDER, values.shape[2] - 2 * BORDER
    sums = [values.new_zeros(len(values), p, p, dtype=torch.float64) for p in PERIODS]
    moments = values.new_zeros(2, len(values), dtype=torch.float64)
    across = _phases(columns, values.dtype, values.device)
    for strip in residual_strips(values):
        moments += torch.stack((strip.q.sum((1, 2)), strip.q.square().sum((1, 2)))).double()
        folded = strip.q @ across
        start = 0
        for total, period in zip(sums, PERIODS, strict=True):
            # rows beyond a multiple of the period are left out, as the columns are in _phases
            length = min(strip.q.shape[1], rows // period * period - strip.first)
            if length > 0:
                down = _fold_rows(strip.first % period, length, period, values.dtype, values.device)
                total += (down @ folded[:, :length, start : start + period]).double()
            start += period
    count = rows * columns
    variance = moments[1] / count - (moments[0] / count).square()
    ratios, phases = [], []
    for total, period in zip(sums, PERIODS, strict=True):
        repeats = (rows // period) * (columns // period)
        mean = total / repeats
        ratios.append(repeats * mean.flatten(1).var(1, correction=0) / variance)
        phases.append(mean)
    ratio = torch.stack(ratios, 1)
    flat = variance < 1e-9
    ratio = ratio.masked_fill(flat[:, None], torch.nan)
    top = ratio.max(1)
    strength = ((top.values + SOFT) / (ratio.median(1).values + SOFT)).log()
    period = (top.indices + PERIODS[0]).double().masked_fill(flat, torch.nan)
    return Lattice(strength, period, ratio, phases)


@lru_cache(maxsize=8)
def _phases(columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [columns, 2+3+...+24]: 1 where a column belongs to a phase of a period, one product for all."""
    place = torch.arange(columns)
    parts = []
    for period in PERIODS:
        part = torch.nn.functional.one_hot(place % period, period)
        part[columns // period * period :] = 0
        parts.append(part)
    return torch.cat(parts, 1).to(device, dtype)


@lru_cache(maxsize=64)
def _fold_rows(phase: int, rows: int, period: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return [period, rows]: 1 where a row belongs to a phase, the first row having the given phase."""
    place = (torch.arange(rows) + phase) % period
    return torch.nn.functional.one_hot(place, period).T.to(device, dtype)
