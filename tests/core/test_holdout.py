"""The arithmetic of the hold-out benchmarks: AUC, intervals, calibration, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import _holdout as holdout
from benchmarks._detector_data import Origin, Sample

numbers = st.lists(st.integers(-5, 5), min_size=1, max_size=12)


@given(numbers, numbers)
def test_auc_counts_pairs(real, made):
    wins = sum((a > b) + (a == b) / 2 for a in real for b in made) / len(real) / len(made)
    assert holdout.auc(np.array(real), np.array(made)) == pytest.approx(wins)


def test_interval_holds_its_middle_and_narrows_with_pictures():
    random = np.random.default_rng(0)
    widths = []
    for count in (20, 200):
        above = (random.normal(1, 1, (count, 1)) > random.normal(0, 1, (1, count))).astype(float)
        middle, low, high = holdout.interval(above)
        assert low < middle < high
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_calibration_of_honest_and_of_overconfident_numbers():
    random = np.random.default_rng(0)
    chance = random.uniform(size=20000)
    labels = (random.uniform(size=20000) < chance).astype(int)
    assert holdout.calibration(chance, labels)[0] < 0.02
    assert holdout.calibration(np.where(chance > 0.5, 0.99, 0.01), labels)[0] > 0.2


def samples(shift: float) -> list[Sample]:
    random = torch.Generator().manual_seed(0)
    rows = []
    for label, groups in ((1, "abc"), (0, "xyz")):
        for group in groups:
            for number in range(30):
                values = torch.randn(2, generator=random, dtype=torch.float64) + shift * label
                origin = Origin(Path(f"{group}{number}"), label, group)
                rows.append(Sample(origin, "as_decoded", values, values, values))
    return rows


def pool_of(rows: list[Sample]) -> holdout.Pool:
    return holdout.Pool.of(rows, torch.stack([row.statistics for row in rows]), ("one", "two"))


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.35, 0.65), (3.0, 0.97, 1.0)])
def test_hold_out_finds_what_there_is(shift, low, high):
    pool = pool_of(samples(shift))
    odds = holdout.hold_out(pool, 10.0)
    above = holdout.compared(pool, odds, np.flatnonzero(pool.labels == 1), np.flatnonzero(pool.labels == 0))
    assert low <= above.mean() <= high
    assert not np.isnan(odds).any()


def test_the_inner_hold_out_calibrates():
    pool = pool_of(samples(1.0))
    found, penalty = holdout.fit_calibrated(pool)
    chance = torch.sigmoid(found.log_odds(pool.statistics)).numpy()
    assert penalty in holdout.PENALTIES
    assert holdout.calibration(chance, pool.labels, bins=4)[0] < 0.1


def test_a_held_out_group_does_not_change_its_own_detector():
    rows = samples(1.0)
    other = [
        row._replace(statistics=row.statistics + 50 * (row.origin.group == "a"))
        if row.origin.group == "a"
        else row
        for row in rows
    ]
    plain, moved = (holdout.hold_out(pool_of(found), 10.0) for found in (rows, other))
    column = pool_of(rows).sources.index("a")
    made = pool_of(rows).labels == 0
    assert np.allclose(plain[made, column], moved[made, column])
    assert not np.allclose(plain[made, 1 - column], moved[made, 1 - column])


def test_pictures_made_from_a_held_out_source_are_left_out_with_it():
    rows = samples(1.0)
    rows[100] = rows[100]._replace(origin=rows[100].origin._replace(also="a"))
    kept = pool_of(rows).without("a")
    assert not kept[100]
    assert kept.sum() == len(rows) - 31
