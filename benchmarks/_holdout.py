"""Judging a detector on sources and generators that it never saw: nested hold-out, AUC with intervals,
calibration.

For every source of photographs and every generator one detector is fitted on all the others, its penalty
and its calibration chosen by an inner hold-out among these. A photograph and a generated picture are
compared by the one detector that saw neither's group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from benchmarks._detector_data import Sample
from realism_core.evidence.logistic import Logistic, fit_logistic

PENALTIES = (10.0, 100.0, 1000.0)
DRAWS = 1000


@dataclass(frozen=True)
class Pool:
    """A state of a picture a row: statistics [n,F], what it is, and whether p_photo answers there."""

    statistics: Tensor
    names: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    also: np.ndarray
    states: np.ndarray
    pictures: np.ndarray
    answers: np.ndarray

    @classmethod
    def of(
        cls,
        rows: Sequence[Sample],
        statistics: Tensor,
        names: Sequence[str],
        answers: np.ndarray | None = None,
    ) -> Pool:
        """Return the pool of measured samples with these statistics [n,F]; answers: all, if None."""
        return cls(
            statistics, tuple(names),
            *(np.array(values) for values in zip(
                *((r.origin.label, r.origin.group, r.origin.also, r.state, str(r.origin.path)) for r in rows),
                strict=True,
            )),
            np.ones(len(rows), bool) if answers is None else answers,
        )  # fmt: skip

    def take(self, rows: np.ndarray) -> Pool:
        """Return some of the rows (bool [n])."""
        return Pool(self.statistics[torch.from_numpy(rows)], self.names, *(
            values[rows]
            for values in (self.labels, self.groups, self.also, self.states, self.pictures, self.answers)
        ))  # fmt: skip

    @cached_property
    def sources(self) -> list[str]:
        return sorted(set(self.groups[self.labels == 1]))

    @cached_property
    def generators(self) -> list[str]:
        return sorted(set(self.groups[self.labels == 0]))

    def without(self, *groups: str) -> np.ndarray:
        """Return bool [n]: rows of none of these groups, nor made from one's pictures."""
        return ~(np.isin(self.groups, groups) | np.isin(self.also, groups))

    def weights(self) -> Tensor:
        """Return a weight a row: a group counts as the root of its pictures, its pictures and states
        alike.
        """
        weight = np.ones(len(self.labels))
        for label in (0, 1):
            for group in set(self.groups[self.labels == label]):
                rows = (self.labels == label) & (self.groups == group)
                weight[rows] = np.sqrt(len(set(self.pictures[rows]))) / rows.sum()
        return torch.from_numpy(weight)


def fit(pool: Pool, penalty: float) -> Logistic:
    """Return the uncalibrated detector of a pool."""
    return fit_logistic(pool.statistics, torch.from_numpy(pool.labels), pool.names, penalty, pool.weights())


def fit_calibrated(pool: Pool) -> tuple[Logistic, float]:
    """Return the detector of a pool, and its penalty.

    Penalty and calibration come from an inner hold-out, judged where p_photo answers; the weights are fitted
    on all rows.
    """
    best = max(((*_inner(pool, penalty), penalty) for penalty in PENALTIES), key=lambda found: found[0])
    _, odds, penalty = best
    known = ~torch.isnan(odds) & torch.from_numpy(pool.answers)
    labels = torch.from_numpy(pool.labels)
    line = fit_logistic(odds[known, None], labels[known], ("odds",), 1e-3, pool.weights()[known])
    slope = float(line.weights / line.scale)
    found = fit(pool, penalty)
    bias = slope * found.bias + line.bias - slope * float(line.mean)
    return Logistic(found.names, found.mean, found.scale, found.weights * slope, bias), penalty


def _inner(pool: Pool, penalty: float) -> tuple[float, Tensor]:
    """Return the mean AUC over held-out pairs of groups, and every row's log odds when its group was held
    out.
    """
    odds = torch.full((len(pool.labels),), torch.nan, dtype=torch.float64)
    pairs = max(len(pool.sources), len(pool.generators))
    total = torch.zeros_like(odds)
    count = torch.zeros_like(odds)
    scores = []
    for number in range(pairs):
        out = (pool.sources[number % len(pool.sources)], pool.generators[number % len(pool.generators)])
        found = fit(pool.take(pool.without(*out)), penalty)
        rows = torch.from_numpy(np.isin(pool.groups, out))
        held = found.log_odds(pool.statistics[rows])
        total[rows] += held
        count[rows] += 1
        real, made = (
            held[torch.from_numpy((pool.labels == label) & pool.answers)[rows]].numpy() for label in (1, 0)
        )
        if len(real) and len(made):
            scores.append(auc(real, made))
    odds[count > 0] = (total / count)[count > 0]
    return float(np.mean(scores)), odds


def hold_out(pool: Pool, penalty: float | None = None) -> np.ndarray:
    """Return log odds [n, groups of the other kind]: each row by the detectors that saw neither group.

    penalty: None chooses it, and calibrates, inside (nested); a number takes it and does not calibrate.
    """
    odds = np.full((len(pool.labels), max(len(pool.sources), len(pool.generators))), np.nan)
    for i, source in enumerate(pool.sources):
        for j, generator in enumerate(pool.generators):
            rest = pool.take(pool.without(source, generator))
            found = fit_calibrated(rest)[0] if penalty is None else fit(rest, penalty)
            for group, column in ((source, j), (generator, i)):
                rows = pool.groups == group
                odds[rows, column] = found.log_odds(pool.statistics[torch.from_numpy(rows)]).numpy()
    return odds


def auc(real: np.ndarray, made: np.ndarray) -> float:
    """Return the chance that a photograph's number is above a generated picture's, ties half."""
    above = real[:, None] - made[None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def compared(pool: Pool, odds: np.ndarray, real: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Return [photographs, generated]: 1, 0.5 or 0 = who is above, by the detector that saw neither's
    group.
    """
    column = {name: j for names in (pool.sources, pool.generators) for j, name in enumerate(names)}
    photo = odds[real][:, [column[group] for group in pool.groups[made]]]
    other = odds[made][:, [column[group] for group in pool.groups[real]]].T
    return (photo > other) + 0.5 * (photo == other)


def interval(
    above: np.ndarray, clusters: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[float, float, float]:
    """Return AUC and its 95 % bootstrap interval over pictures (or their clusters) of `compared` [n,m]."""
    random = np.random.default_rng(0)
    draws = []
    sides = clusters or (np.arange(above.shape[0]), np.arange(above.shape[1]))
    for _ in range(DRAWS):
        a, b = (_drawn(side, random) for side in sides)
        draws.append((a @ above @ b) / (a.sum() * b.sum()))
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(above.mean()), float(low), float(high)


def _drawn(clusters: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return how often each row is drawn when whole clusters are drawn with replacement."""
    names, place = np.unique(clusters, return_inverse=True)
    return np.bincount(random.integers(0, len(names), len(names)), minlength=len(names))[place].astype(
        float
    )


def calibration(
    chance: np.ndarray, labels: np.ndarray, bins: int = 10
) -> tuple[float, list[tuple[float, float, int]]]:
    """Return the expected calibration error, both classes weighing alike, and (mean p, share real, rows) a
    bin.
    """
    weight = np.where(labels == 1, 0.5 / max(1, (labels == 1).sum()), 0.5 / max(1, (labels == 0).sum()))
    place = np.minimum((chance * bins).astype(int), bins - 1)
    error, curve = 0.0, []
    for number in range(bins):
        rows = place == number
        if not rows.any():
            continue
        share = weight[rows] / weight[rows].sum()
        mean, real = float(share @ chance[rows]), float(share @ labels[rows])
        error += weight[rows].sum() * abs(mean - real)
        curve.append((mean, real, int(rows.sum())))
    return float(error), curve
