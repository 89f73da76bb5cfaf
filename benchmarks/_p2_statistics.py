"""Intervals for benchmarks/p2.py: over seeds and over held-out people, the wider of the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from benchmarks._p2_features import distance, kernel

DRAWS, LEVEL = 1000, 0.95


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def estimate(by_seed: np.ndarray, drawn: np.ndarray) -> Estimate:
    """Return the mean over seeds [S] with the wider of two intervals.

    One is Student's t over the seeds: what another training would give. The other holds the middle 95 % of
    the same number from resampled pictures [D]: what other held-out people would give.
    """
    value = float(by_seed.mean())
    share = (1 - LEVEL) / 2
    half = student.ppf(1 - share, len(by_seed) - 1) * by_seed.std(ddof=1) / len(by_seed) ** 0.5
    low, high = np.quantile(drawn, (share, 1 - share))
    if high - low > 2 * half:
        return Estimate(value, float(low), float(high))
    return Estimate(value, float(value - half), float(value + half))


def counts(clusters: int) -> np.ndarray:
    """Return how often each cluster is drawn with replacement, in DRAWS draws: [DRAWS, clusters]."""
    return np.random.default_rng(0).multinomial(clusters, np.full(clusters, 1 / clusters), DRAWS)


def loss_ratios(losses: Tensor, reference: Tensor) -> list[Estimate]:
    """Return the ratio of two losses [seeds, people, bands], paired: by band, then two ways over all bands.

    A ratio is that of the means over people, averaged over seeds in logarithms. Over all bands it is first
    the geometric mean, in which each band counts alike, then that of the plain mean losses.
    """
    a, b, drawn = losses.numpy(), reference.numpy(), counts(losses.shape[1])

    def logs(weights: np.ndarray) -> np.ndarray:
        """Return [seeds, draws, bands + 2] for weights [draws, people]."""
        first, second = weights @ a, weights @ b
        by_band = np.log(first / second)
        plain = np.log(first.mean(2) / second.mean(2))
        return np.concatenate((by_band, by_band.mean(2, keepdims=True), plain[..., None]), 2)

    by_seed = logs(np.ones((1, losses.shape[1])))[:, 0]
    by_draw = logs(drawn.astype(float)).mean(0)
    found = [estimate(by_seed[:, band], by_draw[:, band]) for band in range(by_seed.shape[1])]
    return [Estimate(*np.exp(band)) for band in found]


class Distances:
    """Kernel distances of sampled pictures to photographs of people.

    real: features [M,d]; people: who each shows [M], from 0 up.
    """

    def __init__(self, real: Tensor, people: Tensor) -> None:
        self.real, self.people = real, people
        self._within = kernel(real, real)

    def plain(self, made: Tensor) -> float:
        """Return the distance of features [N,d]."""
        return float(distance(kernel(made, made), kernel(made, self.real), self._within))

    def less(self, made: Sequence[Tensor], reference: Sequence[Tensor]) -> Estimate:
        """Return by how much the distance of one set exceeds another's, features [N,d] a seed.

        Picture n of both is made from the same noise: they are resampled together, people likewise.
        """
        by_seed = np.array([self.plain(a) - self.plain(b) for a, b in zip(made, reference, strict=True)])
        w = torch.from_numpy(counts(int(self.people.max()) + 1)).double()[:, self.people]
        v = torch.from_numpy(counts(len(made[0]))).double()
        drawn = torch.zeros(DRAWS, dtype=torch.float64)
        for sets in zip(made, reference, strict=True):
            first, second = (
                distance(kernel(x, x), kernel(x, self.real), self._within, v, w) for x in sets
            )
            drawn += (first - second) / len(made)
        return estimate(by_seed, drawn.numpy())
