"""The mean spectrum, in both circulating forms."""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-8
CHUNK_PIXELS = 1 << 17
FOLD = 16


def mean_log_spectrum(planes: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of 20 ln(|F| + 1e-8), F = fft2 over the axes (W, C) of the H x W x 3 picture, float64 [B].

    uint8 planes [B,3,H,W]. This is the research code's spectrum: numpy's fft2 of an H x W x 3 array transforms its
    last two axes, so it is one-dimensional along the rows. A mask weights each row by its share of masked pixels.
    Where the three channels are equal, two thirds of the terms are 20 ln(1e-8) and the number means nothing.

    Along the channels the transform is r+g+b and r - (g+b)/2 + i sqrt(3)/2 (b-g) with its mirror image, whose magnitudes are
    the same set; so one real and one complex transform along the rows give all three lines.
    """
    batch, _, height, width = planes.shape
    sums = torch.empty(batch * height, dtype=torch.float64, device=planes.device)
    rows = planes.movedim(1, 0).reshape(3, batch * height, width)
    step = max(1, CHUNK_PIXELS // width)
    for start in range(0, batch * height, step):
        sums[start : start + step] = _row_log_sums(rows[:, start : start + step])
    per_row = sums.view(batch, height) * (20 / (3 * width))
    if mask is None:
        return per_row.mean(1)
    share = mask.sum(2).double()
    return (per_row * share).sum(1) / share.sum(1)


def mean_magnitude_spectrum(grey: Tensor) -> Tensor:
    """Return the mean of |fft2(grey)| over H and W, float64 [B], of uint8 grey [B,H,W]; it grows with sqrt(H W)."""
    half = _magnitude(torch.fft.rfft2(grey.double()))
    width = grey.shape[2]
    mirrored = half[:, :, 1 : (width + 1) // 2]
    return (half.sum(2).sum(1) + mirrored.sum(2).sum(1)) / (grey.shape[1] * width)


def _row_log_sums(rows: Tensor) -> Tensor:
    """Sum ln(|F| + 1e-8) over one row's W x 3 terms; uint8 [3,N,W] -> float64 [N]."""
    red, green, blue = rows.to(torch.float64)
    width = rows.shape[2]
    pair = green + blue
    line = torch.fft.rfft(red + pair)
    mirrored = line[:, 1 : (width + 1) // 2]
    chroma = torch.complex(red - pair / 2, (blue - green) * 0.75**0.5)
    return _log_sum(line) + _log_sum(mirrored) + 2 * _log_sum(torch.fft.fft(chroma))


def _log_sum(line: Tensor) -> Tensor:
    """Sum ln(|F| + 1e-8) along the last axis, taking one logarithm of a product of 16 terms.

    Terms lie between 1e-8 and about 1e7, so 16 of them stay far inside float64's range.
    """
    terms = _magnitude(line).add_(FLOOR)
    whole = terms.shape[1] // FOLD * FOLD
    folded = terms[:, :whole].unflatten(1, (FOLD, -1)).prod(1)
    return folded.log_().sum(1) + terms[:, whole:].log_().sum(1)


def _magnitude(line: Tensor) -> Tensor:
    # spelled out because torch's complex abs takes several times as long
    parts = torch.view_as_real(line)
    real, imaginary = parts[..., 0], parts[..., 1]
    return (real * real).addcmul_(imaginary, imaginary).sqrt_()
