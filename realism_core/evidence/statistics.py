"""The detector's statistics: how much power a picture's residual has at the frequencies of a decoder's
lattice.

No statistic knows a colour, a content or a size: each is a ratio to the power of the same residual
elsewhere.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .lattice import MIN_SIDE, fold_lattice
from .residual import residual_strips
from .samples import luma, windows

# frequencies in eighths of the sampling frequency; the diagonal residual has none where one of the two is 0
PAIRS = tuple((k, m) for k in range(1, 5) for m in range(k, 5))
_PLANES = ("luma", "red", "blue")
NAMES = (
    "lattice",
    *(f"{plane}_{k}{m}" for plane in _PLANES for k, m in PAIRS),
    *(f"{plane}_block" for plane in _PLANES),
    *(f"{plane}_peak" for plane in _PLANES),
)
_SOFT = 0.3
_ALIGN = 32  # fast transforms, and every eighth of the sampling frequency is one of their bins
_NEAR = 6
_LOW = 0.06


def detector_statistics(planes: Tensor) -> Tensor:
    """Return float64 [B,37], in the order of NAMES, of uint8 planes [B,3,H,W]; NaN under 104 pixels a side,
    or flat.

    All are read from normalised diagonal residuals: of the luma, of R and of B minus the luma. lattice: as
    `decoder_lattice`. _km: ln(0.3 + power at (k/8, m/8) of the sampling frequency over the mean power),
    both axes and mirror images together. _block: ln((power a phase + 0.3) on
    the two rows and two columns of the 8 x 8 that hold most / elsewhere): block codecs pile theirs up at a
    border, decoders spread it. _peak: ln(1 + the highest power over its surroundings at all other
    frequencies), where resampling moves the lattice. Pictures above two megapixels are read in five
    windows, whose statistics are averaged.
    """
    batch, _, height, width = planes.shape
    if min(height, width) < MIN_SIDE:
        return torch.full((batch, len(NAMES)), torch.nan, dtype=torch.float64, device=planes.device)
    rows = []
    for index in range(batch):
        parts = [_of_window(part) for part in windows(planes[index : index + 1])]
        rows.append(torch.stack(parts).nanmean(0))
    return torch.cat(rows)


def _of_window(planes: Tensor) -> Tensor:
    grey = luma(planes)
    values, blocks, peaks = [fold_lattice(grey).strength[:, None]], [], []
    for plane in (grey, planes[:, 0].float() - grey, planes[:, 2].float() - grey):
        q = torch.cat([strip.q for strip in residual_strips(plane)], 1)
        harmonics, block = harmonic_power(q)
        values.append(harmonics)
        blocks.append(block)
        peaks.append(_peak(q))
    return torch.cat((*values, torch.stack(blocks, 1), torch.stack(peaks, 1)), 1).double()


def harmonic_power(q: Tensor) -> tuple[Tensor, Tensor]:
    """Return (ln(0.3 + power) [B,10] in the order of PAIRS, the block statistic [B]) of residuals [B,h,w].

    Power is relative to that of white noise of the same variance: 1 where q is white, and the residual
    filter's own gain where q comes from white noise.
    """
    rows, columns = q.shape[1] // 8, q.shape[2] // 8
    folded = q[:, : 8 * rows, : 8 * columns].unflatten(2, (columns, 8)).unflatten(1, (rows, 8)).mean((1, 3))
    scale = (rows * columns / q.var((1, 2), correction=0).clamp_min(1e-12)).sqrt()
    folded = (folded - folded.mean((1, 2), keepdim=True)) * scale[:, None, None]
    crosses = _crosses(q.device).to(q.dtype)
    energy = folded.square().flatten(1)
    cross = crosses[(energy @ crosses.T).argmax(1)]
    on, off = ((energy * part).sum(1) / part.sum(1) for part in (cross, 1 - cross))
    power = torch.fft.fft2(folded).abs().square() / 64
    mirrored = (power[:, 1:5] + power[:, [7, 6, 5, 4]]) / 2
    grid = (mirrored[:, :, 1:5] + mirrored[:, :, [7, 6, 5, 4]]) / 2
    pairs = torch.stack([(grid[:, k - 1, m - 1] + grid[:, m - 1, k - 1]) / 2 for k, m in PAIRS], 1)
    return (pairs + _SOFT).log(), ((on + _SOFT) / (off + _SOFT)).log()


@lru_cache(maxsize=4)
def _crosses(device: torch.device) -> Tensor:
    """Return [64,64]: for each place of a block's corner, 1 on the two rows and two columns that meet
    there.
    """
    line = torch.zeros(8)
    line[:2] = 1
    lines = torch.stack([line.roll(shift) for shift in range(8)])
    crosses = torch.maximum(lines[:, None, :, None], lines[None, :, None, :])
    return crosses.flatten(2).flatten(0, 1).to(device)


def _peak(q: Tensor) -> Tensor:
    """Return ln(1 + the highest power over the mean of its 168 neighbours) [B], off the eighths and low
    frequencies.
    """
    height, width = (length // _ALIGN * _ALIGN for length in q.shape[1:])
    power = torch.fft.rfft2(q[:, :height, :width]).abs().square()
    side = 2 * _NEAR + 1
    around = torch.nn.functional.pad(power[:, None], (_NEAR,) * 4, mode="reflect")
    around = torch.nn.functional.avg_pool2d(around, (1, side), 1)
    around = torch.nn.functional.avg_pool2d(around, (side, 1), 1)[:, 0]
    ratio = power / ((around * side**2 - power) / (side**2 - 1)).clamp_min(1e-9)
    down = torch.fft.fftfreq(height, device=q.device).abs()
    across = torch.fft.rfftfreq(width, device=q.device)
    eighths = _near_eighth(down, height)[:, None] & _near_eighth(across, width)
    left_out = eighths | (torch.maximum(down[:, None], across) <= _LOW)
    return ratio.masked_fill(left_out, 0).flatten(1).amax(1).log1p()


def _near_eighth(frequency: Tensor, length: int) -> Tensor:
    """Return bool: which frequencies are within a bin and a half of an eighth of the sampling frequency."""
    return (frequency * 8 - (frequency * 8).round()).abs() * length / 8 <= 1.5
