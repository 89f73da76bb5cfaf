"""The energy of grey-level co-occurrence, from a soft histogram of neighbouring pairs."""

from __future__ import annotations

import torch
from torch import Tensor

# bins over a pair's mean, and on each side of 0 over its difference; 256 of the mean come closer to the hard
# energy (median 1 % instead of 2 %), but their slopes lower it less a step
MEAN_BINS = 128
STEP_BINS = 20
# differences have bins of one level at 0 that widen with the difference from here on
LINEAR_STEPS = 4.0


def soft_glcm_energy(grey: Tensor) -> Tensor:
    """Return the root of the angular second moment [B], 0..1, of grey levels 0..255 [B,H,W].

    Neighbours (left, right) are counted by their mean and their difference. Each pair is shared linearly by
    the bins around it (triangular binning). Differences have bins of one level near 0, where the pairs of
    smooth pictures crowd, and wider ones, as asinh grows, where they are few. A bin's squared share counts
    by its area, so the sum estimates sum p_ij^2 of the 256 x 256 matrix. Mirrored differences are averaged:
    the symmetric matrix.
    """
    left, right = grey[:, :, :-1].flatten(1), grey[:, :, 1:].flatten(1)
    mean = (left + right) * ((MEAN_BINS - 1) / 510)
    step = torch.asinh((right - left) / LINEAR_STEPS) * LINEAR_STEPS + STEP_BINS
    shares = _soft_histogram(mean, step) / left.shape[1]
    symmetric = (shares + shares.flip(2)) / 2
    place = torch.arange(-STEP_BINS, STEP_BINS + 1, device=grey.device, dtype=grey.dtype)
    area = (place / LINEAR_STEPS).cosh() * (255 / (MEAN_BINS - 1))
    return (symmetric.square() / area).sum((1, 2)).sqrt()


def _soft_histogram(mean: Tensor, step: Tensor) -> Tensor:
    """Return [B, MEAN_BINS, 2 STEP_BINS + 1]: each pair [B,N] shared by the four bins around its place."""
    batch, columns = len(mean), 2 * STEP_BINS + 1
    row = mean.detach().floor().clamp(0, MEAN_BINS - 2)
    column = step.detach().floor().clamp(0, columns - 2)
    down, across = mean - row, step - column
    first = torch.arange(batch, device=mean.device)[:, None] * MEAN_BINS
    place = (first + row.long()) * columns + column.long()
    places = torch.stack((place, place + 1, place + columns, place + columns + 1))
    parts = torch.stack(
        ((1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across)
    )
    counts = mean.new_zeros(batch * MEAN_BINS * columns).index_add(0, places.flatten(), parts.flatten())
    return counts.view(batch, MEAN_BINS, columns)
