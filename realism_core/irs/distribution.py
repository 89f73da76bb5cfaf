"""A distribution of five log measures: fitted in one pass, asked how typical a new picture is."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

from .measures import Measures

# added before the logarithm, so that flat pictures stay finite; the spectrum is used as it is
OFFSETS = (1e-3, 1.0, 0.0, 1.0)
MIN_SPREAD = 1e-3
STORED_DISTANCES = 1000


def features(measures: Measures | Tensor) -> Tensor:
    """Return five features [B,5]: log edge density, contrast, energy, variance (floored); the spectrum."""
    table = measures if isinstance(measures, Tensor) else torch.stack(tuple(measures), 1)
    # numbers, not a tensor of them: making one would have the device waited for
    logs = [(table[:, place] + offset).log() for place, offset in enumerate(OFFSETS)]
    return torch.stack((*logs, table[:, 4]), 1)


class Distribution(NamedTuple):
    """Mean [5] and shrunk covariance [5,5] of features, sorted distances of the fitted pictures; float64."""

    count: int
    mean: Tensor
    covariance: Tensor
    distances: Tensor

    def distance(self, table: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance [B] of features [B,5]."""
        return _mahalanobis(table - self.mean.to(table), self.covariance.to(table))

    def typicality(self, table: Tensor) -> Tensor:
        """Return the conformal p-value [B] in 0..1 of features [B,5]: (1 + #{D_i >= D}) / (n + 1).

        1 is the middle of the fitted pictures, 1/(n+1) is further out than all of them. NaN stays NaN.
        """
        distance = self.distance(table).contiguous()
        stored = self.distances.to(distance)
        beyond = 1 - torch.searchsorted(stored, distance).double() / stored.numel()
        p_value = (1 + self.count * beyond) / (self.count + 1)
        return torch.where(torch.isnan(distance), torch.nan, p_value.to(distance))


class StreamingFit:
    """Welford's mean and covariance over any number of rows, with a seeded reservoir; constant memory."""

    def __init__(self, width: int, capacity: int = 10_000) -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64)
        self.scatter = torch.zeros(width, width, dtype=torch.float64)
        self.capacity = capacity
        self.rows: list[Tensor] = []
        self._random = random.Random(0)

    def update(self, rows: Tensor) -> None:
        """Take in rows [n, width]."""
        rows = rows.detach().double().cpu()
        added = rows.shape[0]
        if added == 0:
            return
        mean = rows.mean(0)
        centred = rows - mean
        step, total = mean - self.mean, self.count + added
        self.scatter += centred.T @ centred + torch.outer(step, step) * (self.count * added / total)
        self.mean += step * (added / total)
        for row in rows:
            self.count += 1
            if len(self.rows) < self.capacity:
                self.rows.append(row.clone())
            elif (slot := self._random.randrange(self.count)) < self.capacity:
                self.rows[slot] = row.clone()

    def sample(self) -> Tensor:
        """Return the reservoir [min(count, capacity), width]: all rows, or an even random draw of them."""
        return torch.stack(self.rows)

    def distribution(self) -> Distribution:
        """Return the fitted distribution; needs at least 3 rows.

        The covariance is shrunk towards a diagonal one with the OAS weight (Chen, Wiesel, Eldar, Hero 2010)
        on the correlations. Each stored distance leaves its own picture out of mean and covariance, so that
        few pictures do not look more typical of themselves than new ones do.
        """
        n = self.count
        if n < 3:
            raise ValueError(f"a distribution needs at least 3 pictures, got {n}: add pictures.")
        weight = _oas_weight(_correlation(self.scatter / (n - 1)), n)
        rows = self.sample()
        centred = rows - self.mean
        outer = centred[:, :, None] * centred[:, None, :]
        left_out = (self.scatter - outer * (n / (n - 1))) / max(n - 2, 1)
        distances = _mahalanobis(centred * (n / (n - 1)), _shrink(left_out, weight)).sort().values
        if len(distances) > STORED_DISTANCES:
            levels = (torch.arange(STORED_DISTANCES, dtype=torch.float64) + 0.5) / STORED_DISTANCES
            distances = torch.quantile(distances, levels)
        return Distribution(n, self.mean.clone(), _shrink(self.scatter / (n - 1), weight), distances)


def rank_among(quantiles: Tensor, values: Tensor) -> Tensor:
    """Return each value's place among ascending quantiles, 0..1: linear between, the middle of equal ones."""
    values, last = values.contiguous(), len(quantiles) - 1
    first, after = (torch.searchsorted(quantiles, values, right=right) for right in (False, True))
    high = first.clamp(1, last)
    low_value, high_value = quantiles[high - 1], quantiles[high]
    part = ((values - low_value) / (high_value - low_value)).nan_to_num(0.0).clamp(0, 1)
    rank = torch.where(after > first, (first + after - 1) / 2, high - 1 + part) / last
    return torch.where(torch.isnan(values), torch.nan, rank)


def _mahalanobis(centred: Tensor, covariance: Tensor) -> Tensor:
    return (centred * torch.linalg.solve(covariance.expand(len(centred), -1, -1), centred)).sum(1)


def _spread(covariance: Tensor) -> Tensor:
    return covariance.diagonal(dim1=-2, dim2=-1).clamp_min(MIN_SPREAD**2).sqrt()


def _correlation(covariance: Tensor) -> Tensor:
    spread = _spread(covariance)
    return covariance / (spread[..., :, None] * spread[..., None, :])


def _shrink(covariance: Tensor, weight: float) -> Tensor:
    """Return (1 - weight) covariance + weight * its diagonal, with a floor under the diagonal."""
    floored = torch.diag_embed(_spread(covariance).square())
    return (1 - weight) * covariance + (floored - (1 - weight) * torch.diag_embed(_diagonal(covariance)))


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _oas_weight(correlation: Tensor, n: int) -> float:
    p = correlation.shape[0]
    square, trace = float((correlation**2).sum()), float(correlation.trace())
    below = (n + 1 - 2 / p) * (square - trace**2 / p)
    return 1.0 if below <= 0 else min(1.0, ((1 - 2 / p) * square + trace**2) / below)
