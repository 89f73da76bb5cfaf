"""Statistics that were tried for the detector beside its own, for the ablation of
benchmarks/fit_detector.py.

Natural-scene statistics of the mean-subtracted, contrast-normalised luma (MSCN, after BRISQUE), the slope
of the spectrum, the noise residual against intensity, the correlation of the channels' residuals, the five
measures, and the lattice of the residual's log energy (where it is strong, whatever its sign).
"""

from __future__ import annotations

import torch
from torch import Tensor

from realism_core.evidence.residual import diagonal_residual, gaussian_blur
from realism_core.evidence.samples import luma
from realism_core.evidence.statistics import PAIRS, harmonic_power
from realism_core.irs.distribution import features
from realism_core.irs.measures import Measures, measure_reference

GROUPS = {
    "measures": Measures._fields,
    "mscn": tuple(
        f"{name}{scale}" for scale in (1, 2) for name in ("shape", "spread", "skew", "h", "v", "d", "e")
    ),
    "slope": ("32_8", "8_6", "6_4", "4_3", "3_2.5", "axes"),
    "noise": ("smooth", "middle", "rough", "with_tone"),
    "channels": ("rg", "gb", "rb", "red", "blue"),
    "energy": tuple(f"{k}{m}" for k, m in PAIRS),
}
NAMES = tuple(f"{group}_{name}" for group, names in GROUPS.items() for name in names)


def candidates(planes: Tensor) -> Tensor:
    """Return float64 [1,44], in the order of NAMES, of one uint8 picture [1,3,H,W] of at least 104 pixels a
    side.
    """
    grey = luma(planes)
    measures = features(measure_reference(planes))
    rows = [
        *measures[0],
        *_mscn(grey[0]),
        *_slope(grey[0]),
        *_noise(grey[0]),
        *_channels(planes.float()[0]),
    ]
    energy = (diagonal_residual(grey).abs() + 0.3).log()
    rows += [*harmonic_power((energy - gaussian_blur(energy, 6.0)).clamp(-3, 3))[0][0]]
    return torch.stack([row.double() for row in rows])[None].nan_to_num(0.0, 0.0, 0.0)


def _mscn(grey: Tensor) -> list[Tensor]:
    values = []
    for _ in range(2):
        mean = gaussian_blur(grey, 7 / 6)
        spread = (gaussian_blur(grey.square(), 7 / 6) - mean.square()).clamp_min(0).sqrt()
        normal = (grey - mean) / (spread + 1)
        power = normal.square().mean().clamp_min(1e-9)
        values += [normal.abs().mean().square() / power, power.log(), normal.pow(3).mean() / power.pow(1.5)]
        pairs = (
            (normal[:, 1:], normal[:, :-1]), (normal[1:], normal[:-1]),
            (normal[1:, 1:], normal[:-1, :-1]), (normal[1:, :-1], normal[:-1, 1:]),
        )  # fmt: skip
        values += [(a * b).mean() / power for a, b in pairs]
        grey = torch.nn.functional.avg_pool2d(grey[None], 2)[0]
    return values


def _slope(grey: Tensor) -> list[Tensor]:
    side = min(512, *(length // 32 * 32 for length in grey.shape))
    top, left = ((length - side) // 2 for length in grey.shape)
    window = torch.hann_window(side, periodic=False)
    tile = grey[top : top + side, left : left + side]
    power = torch.fft.rfft2((tile - tile.mean()) * window * window[:, None]).abs().square()
    down, across = torch.fft.fftfreq(side).abs()[:, None], torch.fft.rfftfreq(side)[None]
    radius = (down.square() + across.square()).sqrt()
    edges = (1 / 32, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 0.4, 0.5)
    bands = [
        power[(radius >= a) & (radius < b)].mean().add(1e-3).log()
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    fine = (radius >= 0.3) & (radius < 0.5)
    axes, diagonal = fine & (torch.minimum(down, across) < 0.08), fine & ((down - across).abs() < 0.08)
    slopes = [a - b for a, b in zip(bands, bands[1:], strict=False)]
    return [*slopes, ((power[axes].mean() + 1e-3) / (power[diagonal].mean() + 1e-3)).log()]


def _noise(grey: Tensor) -> list[Tensor]:
    energy = gaussian_blur(diagonal_residual(grey).square(), 3.0).clamp_min(0).add(0.01).log()
    tone = gaussian_blur(grey[1:-1, 1:-1], 3.0)
    low, middle, high = torch.quantile(energy.flatten()[::7], torch.tensor([0.1, 0.5, 0.9]))
    return [low, middle - low, high - middle, _correlation(tone - tone.mean(), energy - energy.mean())]


def _channels(planes: Tensor) -> list[Tensor]:
    red, green, blue = diagonal_residual(planes)
    luma_power = ((red + 2 * green + blue) / 4).square().mean() + 0.05
    chroma = [((plane - green).square().mean() + 0.05) / luma_power for plane in (red, blue)]
    pairs = ((red, green), (green, blue), (red, blue))
    return [*(_correlation(a, b) for a, b in pairs), *(value.log() for value in chroma)]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt().clamp_min(1e-9)
