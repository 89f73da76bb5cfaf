"""Traces of resizing: periodic steps between pixels, and the end of the spectrum."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from .samples import WINDOW, groups, line_activity, luma, windows
from .table import Column

COLUMNS = (
    Column(
        "resample_peak", "log ratio", "none", 0.0, math.inf,
        "A period in how much neighbouring pixels differ, the stronger of the two axes: above 2.2 the "
        "picture was enlarged, or turned, or shows a fine regular pattern; reductions leave little.",
    ),
    Column(
        "resample_factor", "times", "none", 1.0, math.inf,
        "The factor of enlargement along the rows (down the columns where only they show one) that this "
        "period means, taking it for one; it does not apply without a clear period.",
    ),
    Column(
        "resample_factor_y", "times", "none", 1.0, math.inf,
        "The same down the columns, where it has a clear period of its own; another factor than along the "
        "rows means that the proportions were changed.",
    ),
    Column(
        "spectral_cutoff", "share of Nyquist", "none", 0.0, 1.0,
        "The share of the frequencies that hold more than noise and rounding: low in enlarged, blurred or "
        "hard compressed pictures, but also in a photograph out of focus.",
    ),
)
CLEAR_PEAK = 2.2
_MIN_LENGTH = 64
_BAND = 64  # lines whose mean is one profile
_LOWEST = 0.05  # cycles a pixel; below lie pictures' own rhythms
_ROUNDING = (0.299**2 + 0.587**2 + 0.114**2) / 12  # power of luma from rounding three channels
_ABOVE = 2.0  # what counts as more than the floor
_LINES = 256
_MIRROR = 0.03
_LARGE = 1.62  # cutoff over 1 / factor, with what the interpolation lets through


def measure_resampling(planes: Tensor) -> Tensor:
    """Return the traces of resizing of each picture.

    planes: uint8 [B,3,H,W], any device and size. Returns float64 [B,4] in the order of `COLUMNS`, NaN where
    a column does not apply: all below 64 pixels a side and where nothing varies, factors where the peak is
    below 2.2, a cutoff where nothing but noise is seen. Frequencies of 1/8 and its multiples are taken for
    a codec's grid as far as they look like one: factors of 8/7, 8/5, 8/3 and 8 are not seen, 4/3 and 4 less
    well, and none of these, 2 included, behind a JPEG. Of pictures of more than 2 megapixels, five windows
    of 1024 pixels are measured at native resolution.
    Source: Gallagher 2005 and Mahdian and Saic 2008, with third differences: second ones miss a factor of
    2, whose two pixel positions are mirror images.
    """
    return torch.cat([_measure(planes[part]) for part in groups(planes)])


def _measure(planes: Tensor) -> Tensor:
    if min(planes.shape[2:]) < _MIN_LENGTH:
        return torch.full((len(planes), 4), torch.nan, dtype=torch.float64, device=planes.device)
    rows = [luma(part) for part in windows(planes)]
    peaks, factors, cutoffs = [], [], []
    for greys in (rows, [grey.mT for grey in rows]):
        spectrum = _spectrum(greys)
        peak, factor = _peak(greys, spectrum)
        peaks.append(peak)
        factors.append(factor)
        cutoffs.append(_cutoff(spectrum))
    factor = torch.where(factors[0].isnan(), factors[1], factors[0])
    return torch.stack((torch.fmax(*peaks), factor, factors[1], torch.stack(cutoffs).nanmean(0)), 1)


def _peak(greys: list[Tensor], spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Peak strength and factor of enlargement [B] along the rows."""
    length = min(greys[0].shape[2] - 3, WINDOW)
    size = 1 << (length - 1).bit_length()
    profiles = torch.cat([_profiles(grey, length) for grey in greys], 1)
    slow = avg_pool1d(profiles, 33, 1, 16, count_include_pad=False)
    window = torch.hann_window(length, dtype=profiles.dtype, device=profiles.device)
    power = torch.fft.rfft((profiles - slow) * window, size).abs().square()
    # a rhythm of the subject is in few bands, one of resizing in all
    level = (power + 1e-9).log().mean(1) / 2
    reach = max(8, size // 25)
    padded = pad(level[:, None], (reach, reach), "reflect")[:, 0]
    around = padded.unfold(1, 2 * reach + 1, 1).median(2).values
    excess = _without_grid(level - around, size, length)
    excess[:, : math.ceil(_LOWEST * size)] = 0
    top = excess.max(1)
    frequency = (top.indices + _offset(level, top.indices)) / size
    # a period of f cycles a pixel is that of enlargements by 1 / f and by 1 / (1 - f): the larger one
    # leaves an emptier spectrum
    large = _cutoff(spectrum).nan_to_num(1) < _LARGE * frequency
    factor = torch.where(large, 1 / frequency, 1 / (1 - frequency))
    flat = profiles.amax((1, 2)) == 0
    peak = top.values.masked_fill(flat, torch.nan)
    return peak, factor.masked_fill(~(peak > CLEAR_PEAK), torch.nan)


def _profiles(grey: Tensor, length: int) -> Tensor:
    activity = line_activity(grey)[..., :length]
    bands = max(1, activity.shape[1] // _BAND)
    lines = activity.shape[1] // bands * bands
    return activity[:, :lines].reshape(len(grey), bands, -1, length).mean(2, dtype=torch.float64)


def _without_grid(excess: Tensor, size: int, length: int) -> Tensor:
    """Take away what codecs explain: a grid of 8 has four equal frequencies, one of 4 has two."""
    reach = math.ceil(2 * size / length) + 1
    near = [slice(size * k // 8 - reach, min(size * k // 8 + reach, size // 2) + 1) for k in (1, 2, 3, 4)]
    high = [excess[:, part].amax(1).clamp(min=0) for part in near]
    grid = torch.maximum(torch.maximum(high[0], high[2]), torch.minimum(high[1], high[3]))[:, None]
    excess = excess.clone()
    for k in (1, 3):
        excess[:, near[k]] -= grid
    for k in (0, 2):
        excess[:, near[k]] = 0
    return excess


def _offset(level: Tensor, index: Tensor) -> Tensor:
    """The top of the parabola through a bin and its neighbours, in bins from it; 0 at the last bin."""
    last = level.shape[1] - 1
    left, middle, right = (level.gather(1, (index + k).clamp(0, last)[:, None])[:, 0] for k in (-1, 0, 1))
    bend = left - 2 * middle + right
    offset = ((left - right) / 2 / bend).clamp(-0.5, 0.5)
    return offset.masked_fill((bend >= 0) | (index == last), 0)


def _places(spectrum: Tensor) -> Tensor:
    count = spectrum.shape[1]
    return torch.arange(1, count + 1, dtype=torch.float64, device=spectrum.device) / count


def _spectrum(greys: list[Tensor]) -> Tensor:
    """The smoothed mean power [B,count] of the rows, in squared levels: white noise has its variance."""
    length = min(greys[0].shape[2], WINDOW)
    window = torch.hann_window(length, periodic=False, device=greys[0].device)
    window = window / window.square().sum().sqrt().clamp(min=1e-9)
    power = []
    for grey in greys:
        lines = grey[:, :: -(-grey.shape[1] // _LINES), :length]
        lines = (lines - lines.mean(2, keepdim=True)) * window
        power.append(torch.fft.rfft(lines).abs().square().mean(1, dtype=torch.float64))
    mean = torch.stack(power).mean(0)
    width = max(3, mean.shape[1] // 32) | 1
    return avg_pool1d(mean[:, None], width, 1, width // 2, count_include_pad=False)[:, 0]


def _cutoff(spectrum: Tensor) -> Tensor:
    """The share of Nyquist [B] up to which the spectrum stands above its floor."""
    count = spectrum.shape[1]
    place = _places(spectrum)
    end = spectrum[:, int(count * 0.9) :].mean(1)
    before = spectrum[:, int(count * 0.75) : int(count * 0.85)].mean(1)
    # noise makes a plateau; a spectrum that still falls at its end holds more than noise
    noise = torch.where(end > 0.9 * before, spectrum.amin(1), 0.0)
    floor = _ABOVE * noise.clamp(min=2 * _ROUNDING)[:, None]
    whitened = spectrum * place.square()
    usual = whitened[:, int(count * 0.1) : int(count * 0.3)].mean(1, keepdim=True)
    # mirror images that an interpolation leaves are no content
    held = (spectrum > floor) & (whitened > _MIRROR * usual)
    last = (place * held).amax(1)
    return last.masked_fill(last == 0, torch.nan)
