"""The mean spectrum, in both circulating forms."""

from __future__ import annotations

import torch
from torch import Tensor

from ..blocks import Block, map_blocks

FLOOR = 1e-8
# rounding noise of a float32 transform stays below this share of the largest row's length
FLOAT32_TRUST = 1e-6


def mean_log_spectrum(planes: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean of 20 ln(|F| + 1e-8), F = fft2 over the axes (W, C), float64 [B].

    uint8 planes [B,3,H,W]. This is the research code's spectrum: numpy's fft2 of an H x W x 3 array
    transforms its last two axes, so it is one-dimensional along the rows. A mask weights each row by its
    share of masked pixels. Where the three channels are equal, two thirds of the terms are 20 ln(1e-8) and
    the number means nothing.

    Along the channels the transform is r+g+b and r - (g+b)/2 + i sqrt(3)/2 (b-g) with its mirror image, whose
    magnitudes are the same set; so one real and one complex transform along the rows give all three lines.
    """
    batch, _, height, width = planes.shape
    shape = (batch, height, width)

    def log_sums(block: Block) -> Tensor:
        return _row_log_sums(planes[block.images, :, block.rows].movedim(1, 0).flatten(1, 2))

    per_row = torch.cat(map_blocks(log_sums, shape, planes.device)).view(batch, height) * (20 / (3 * width))
    if mask is None:
        return per_row.mean(1)
    share = mask.sum(2).double()
    return (per_row * share).sum(1) / share.sum(1)


def mean_magnitude_spectrum(grey: Tensor) -> Tensor:
    """Return the mean of |fft2(grey)| of uint8 grey [B,H,W], float64 [B]; it grows with sqrt(H W)."""
    half = torch.fft.rfft2(grey.double()).abs()
    width = grey.shape[2]
    mirrored = half[:, :, 1 : (width + 1) // 2]
    return (half.sum(2).sum(1) + mirrored.sum(2).sum(1)) / (grey.shape[1] * width)


def _row_log_sums(rows: Tensor) -> Tensor:
    """Sum ln(|F| + 1e-8) over each row's W x 3 terms; uint8 [3,N,W] -> float64 [N].

    float32 first; rows with a term so small that float32 cannot tell it from zero are done again in float64.
    """
    sums, smallest = _log_sums(rows, torch.float32)
    limit = FLOAT32_TRUST * 765 * rows.shape[2] ** 0.5
    doubtful = torch.nonzero(smallest < limit**2).squeeze(1)
    if doubtful.numel():
        sums[doubtful] = _log_sums(rows[:, doubtful], torch.float64)[0]
    return sums


def _log_sums(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return each row's sum of ln(|F| + 1e-8), float64, and its smallest |F|^2."""
    # whole numbers and halves far below 2^23: exact in float32
    red, green, blue = rows.to(torch.float32)
    pair = green + blue
    width = rows.shape[2]
    luma, first_luma = _without_first(red + pair)
    real, first_real = _without_first(red - pair / 2)
    imaginary, first_imaginary = _without_first(blue - green)
    line = torch.fft.rfft(luma.to(dtype))
    colour = torch.fft.fft(torch.complex(real.to(dtype), imaginary.to(dtype).mul_(0.75**0.5)))
    line[:, 0] += first_luma * width
    colour[:, 0] += torch.complex(first_real, first_imaginary * 0.75**0.5) * width
    squares, colour_squares = _squares(line), _squares(colour)
    mirrored = squares[:, 1 : (width + 1) // 2]
    sums = _log_sum(squares) + _log_sum(mirrored) + 2 * _log_sum(colour_squares)
    return sums / 2, torch.minimum(squares.amin(1), colour_squares.amin(1))


def _without_first(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows [N,W] less their first value, so that constant rows become zero; and that value [N]."""
    first = rows[:, 0].clone()
    return rows.sub_(first[:, None]), first


def _squares(line: Tensor) -> Tensor:
    parts = torch.view_as_real(line)
    real, imaginary = parts[..., 0], parts[..., 1]
    return (real * real).addcmul_(imaginary, imaginary)


def _log_sum(squares: Tensor) -> Tensor:
    """Sum ln(|F|^2 + 1e-16) along the last axis, float64.

    That is 2 ln(|F| + 1e-8) but where |F| is near 1e-8, and nothing lies there: terms of whole numbers are
    zero, up to rounding, or far larger.
    """
    return (squares + FLOOR**2).log_().sum(1).double()
