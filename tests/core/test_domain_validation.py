"""Cross-validation, AUC with its interval, and calibration, against scipy and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from realism_core.evidence.logistic import Logistic, fit_logistic
from realism_core.evidence.validation import (
    FOLDS,
    PENALTIES,
    auc_interval,
    calibration,
    choose_penalty,
    consecutive_folds,
    fold_auc,
    out_of_fold,
    validated_fit,
)

NAMES = tuple(f"statistic_{index}" for index in range(48))


def two_classes(count: int, shift: float, seed: int, width: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard normal rows; of the photographs the first six values are shifted."""
    table = np.random.default_rng(seed).standard_normal((2 * count, width))
    table[:count, :6] += shift
    return torch.from_numpy(table), torch.tensor([1.0] * count + [0.0] * count, dtype=torch.float64)


def mann_whitney(photographs: np.ndarray, generated: np.ndarray) -> float:
    return float(stats.mannwhitneyu(photographs, generated).statistic)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=80), st.integers(2, 7))
def test_folds_are_runs_of_equal_length_within_each_class(labels: list[int], count: int) -> None:
    folds = consecutive_folds(torch.tensor(labels), count).numpy()
    for label in (0, 1):
        own = folds[np.array(labels) == label]
        assert (np.diff(own) >= 0).all()
        if len(own) >= count:
            sizes = np.bincount(own, minlength=count)
            assert len(sizes) == count and sizes.max() - sizes.min() <= 1


def test_no_row_is_judged_by_a_fit_that_saw_it() -> None:
    table, labels = two_classes(23, 0, seed=1, width=6)
    seen: list[set[bytes]] = []

    class Witness(Logistic):
        def log_odds(self, rows: torch.Tensor) -> torch.Tensor:
            assert not seen[-1] & {row.numpy().tobytes() for row in rows}
            return rows[:, 0]

    def fit(rows: torch.Tensor, kinds: torch.Tensor) -> Logistic:
        assert set(kinds.tolist()) == {0, 1}
        seen.append({row.numpy().tobytes() for row in rows})
        return Witness((), rows[:0], rows[:0], rows[:0], 0.0)

    assert torch.equal(out_of_fold(table, labels, FOLDS, fit), table[:, 0])
    assert len(seen) == FOLDS and set.intersection(*seen) == set()


@given(
    st.lists(st.integers(-4, 4), min_size=5, max_size=40),
    st.lists(st.integers(-4, 4), min_size=5, max_size=40),
    st.integers(1, 5),
)
def test_auc_is_mann_whitneys_within_folds(real: list[int], made: list[int], count: int) -> None:
    odds = torch.tensor(real + made, dtype=torch.float64)
    labels = torch.tensor([1] * len(real) + [0] * len(made))
    folds = consecutive_folds(labels, count).numpy()
    one, other = (folds[labels.numpy() == label] for label in (1, 0))
    parts = [
        (np.array(real)[one == fold], np.array(made)[other == fold]) for fold in range(count)
    ]  # fmt: skip
    wins = sum(mann_whitney(*part) for part in parts)
    assert fold_auc(odds, labels, count) == pytest.approx(wins / sum(len(a) * len(b) for a, b in parts))


@given(st.floats(0, 1), st.integers(30, 3000), st.integers(30, 3000))
def test_interval_ends_explain_the_auc(auc: float, photographs: int, generated: int) -> None:
    """An end is where the AUC seen is 1.96 Hanley-McNeil deviations away."""
    low, high = auc_interval(auc, photographs, generated)
    assert 0 <= low <= auc <= high <= 1 and high - low > 1e-4

    def excess(theta: float) -> float:
        more = (photographs + generated) / 2 - 1
        inner = 1 + more * (1 - theta) / (2 - theta) + more * theta / (1 + theta)
        deviation = np.sqrt(theta * (1 - theta) * inner / photographs / generated)
        return abs(auc - theta) - stats.norm.ppf(0.975) * deviation

    for end, edge in ((low, 0.0), (high, 1.0)):
        if abs(auc - edge) > 1e-9:
            assert excess(end) == pytest.approx(0, abs=1e-6)
        if 0.01 < auc < 0.99:
            root = optimize.brentq(excess, edge, auc - np.sign(auc - edge) * 1e-9)
            assert end == pytest.approx(root, abs=1e-5)


def test_interval_covers_the_truth_in_95_of_100() -> None:
    dice = np.random.default_rng(3)
    shift = np.sqrt(2) * stats.norm.ppf(0.9)
    hits = 0
    for _ in range(600):
        auc = mann_whitney(dice.normal(shift, 1, 30), dice.normal(0, 1, 40)) / 1200
        low, high = auc_interval(auc, 30, 40)
        hits += low <= 0.9 <= high
    assert 0.925 < hits / 600 < 0.985


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 30), st.floats(-5, 5))
def test_calibration_is_platts(seed: int, scale: float, shift: float) -> None:
    dice = np.random.default_rng(seed)
    labels = np.repeat([1.0, 0.0], (40, 70))
    odds = scale * (dice.normal(0, 1, 110) + labels) + shift
    target = np.where(labels == 1, 41 / 42, 1 / 72)
    each = np.where(labels == 1, 1 / 40, 1 / 70)
    for_photo, against = each * target, each * (1 - target)

    def loss(line: np.ndarray) -> float:
        value = line[0] * (odds - shift) / scale + line[1]
        own = -for_photo @ special.log_expit(value) / for_photo.sum()
        return float(own - against @ special.log_expit(-value) / against.sum())

    best = optimize.minimize(loss, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x
    slope, bias = calibration(torch.from_numpy(odds), torch.from_numpy(labels))
    if best[0] > 0.02:
        assert slope * scale == pytest.approx(best[0], rel=0.01)
        assert bias + slope * shift == pytest.approx(best[1], abs=0.01)


@pytest.mark.parametrize("odds", [[-1.0, 1.0], [0.0, 0.0]])
def test_odds_that_mean_nothing_become_one_half(odds: list[float]) -> None:
    values = torch.tensor(odds, dtype=torch.float64).repeat_interleave(30)
    labels = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat_interleave(30)
    assert calibration(values, labels) == (0.0, 0.0)


def test_classes_without_overlap_stay_finite() -> None:
    values = torch.tensor([50.0, -50.0], dtype=torch.float64).repeat_interleave(30)
    labels = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat_interleave(30)
    slope, bias = calibration(values, labels)
    chance = torch.sigmoid(slope * values + bias)
    assert chance[[0, -1]].tolist() == pytest.approx([31 / 32, 1 / 32], abs=1e-3)


def test_penalty_is_the_one_of_least_loss_on_inner_folds() -> None:
    for seed, shift in ((0, 0.0), (1, 0.5), (2, 1.5)):
        table, labels = two_classes(60, shift, seed)
        folds = consecutive_folds(labels, 4)
        losses = []
        for penalty in PENALTIES:
            per_row = np.empty(len(labels))
            for fold in range(4):
                held = folds == fold
                odds = fit_logistic(table[~held], labels[~held], NAMES, penalty).log_odds(table[held]).numpy()
                per_row[held] = -special.log_expit(np.where(labels[held] == 1, odds, -odds))
            losses.append(per_row.mean())
        assert choose_penalty(table, labels, NAMES) == PENALTIES[int(np.argmin(losses))]
    assert choose_penalty(*two_classes(60, 0, 4), NAMES) >= 30


def test_labels_without_meaning_give_an_auc_of_one_half() -> None:
    """The fit itself separates 60 rows of 48 numbers almost perfectly: only held-out rows are honest."""
    found = []
    for seed in range(12):
        table, labels = two_classes(30, 0, seed)
        seen = fit_logistic(table, labels, NAMES, min(PENALTIES)).log_odds(table)
        assert fold_auc(seen, labels, 1) > 0.95
        found.append(fold_auc(validated_fit(table, labels, NAMES)[1], labels))
    assert np.mean(found) == pytest.approx(0.5, abs=0.09)


def test_the_fit_is_calibrated_and_as_good_as_promised_on_new_rows() -> None:
    table, labels = two_classes(250, 0.5, seed=5)
    detector, odds = validated_fit(table, labels, NAMES)
    new, kinds = two_classes(4000, 0.5, seed=6)
    chance = torch.sigmoid(detector.log_odds(new)).numpy()
    low, high = auc_interval(fold_auc(odds, labels), 250, 250)
    assert low - 0.02 <= mann_whitney(chance[:4000], chance[4000:]) / 4000**2 <= high + 0.02
    bins = np.minimum((chance * 10).astype(int), 9)
    off = [
        (bins == part).mean() * abs(chance[bins == part].mean() - kinds.numpy()[bins == part].mean())
        for part in np.unique(bins)
    ]
    assert sum(off) < 0.05
