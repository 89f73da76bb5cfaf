"""Which attempt is kept of each slot, against a plain search over all attempts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from realism_core.gate.retry import RETRY_RULES, SlotSearch

VALUES = st.one_of(st.just(math.nan), st.integers(-4, 4).map(float), st.floats(-5, 5))
TABLES = st.integers(1, 4).flatmap(
    lambda slots: st.lists(st.lists(VALUES, min_size=slots, max_size=slots), min_size=1, max_size=6)
)
ENDS = st.tuples(st.floats(-5, 5), st.floats(-5, 5)).map(sorted)


def search(attempts: list[list[float]], rule: str, **limits) -> SlotSearch:
    found = SlotSearch(len(attempts[0]), rule, **limits)
    for number, values in enumerate(attempts):
        found.offer(number, torch.tensor(values, dtype=torch.float64))
    return found


def wanted(column: list[float], distance) -> int:
    """Return the attempt with the smallest distance, of equals the first; NaN only if there is no other."""
    known = [number for number, value in enumerate(column) if not math.isnan(value)]
    return min(known, key=lambda number: distance(column[number])) if known else 0


@given(TABLES, st.floats(-5, 5), st.sampled_from(["high", "low"]))
def test_threshold_keeps_the_best_end(attempts: list[list[float]], value: float, keep: str) -> None:
    found = search(attempts, "threshold", value=value, keep=keep)
    for slot, column in enumerate(zip(*attempts, strict=True)):
        best = wanted(column, lambda x: -x if keep == "high" else x)
        assert found.attempts[slot] == best
        passes = column[best] >= value if keep == "high" else column[best] <= value
        assert found.passed[slot] == passes


@given(TABLES, ENDS, st.sampled_from(["band", "profile_band"]))
def test_a_band_keeps_what_is_nearest_to_its_middle(
    attempts: list[list[float]], ends: list[float], rule: str
) -> None:
    low, high = ends
    limits = {"low": low, "high": high} if rule == "band" else {"real": (low, high)}
    found = search(attempts, rule, **limits)
    for slot, column in enumerate(zip(*attempts, strict=True)):
        middle = (low + high) / 2
        kept = column[found.attempts[slot]]
        inside = [x for x in column if low <= x <= high]
        assert found.passed[slot] == bool(inside)
        pool = inside or [x for x in column if not math.isnan(x)]
        if pool:
            assert abs(kept - middle) == pytest.approx(min(abs(x - middle) for x in pool), abs=1e-12)
        else:
            assert found.attempts[slot] == 0 and math.isnan(found.values[slot])


@given(TABLES, st.floats(-5, 5))
def test_what_passed_is_never_given_up_for_what_does_not(attempts: list[list[float]], low: float) -> None:
    """A band without an upper end: nearer to its end is no reason to leave it."""
    found = search(attempts, "band", low=low, high=math.inf)
    for slot, column in enumerate(zip(*attempts, strict=True)):
        assert found.passed[slot] == any(x >= low for x in column)


@given(TABLES, st.floats(-5, 5))
def test_offer_names_the_slots_that_it_changed(attempts: list[list[float]], value: float) -> None:
    found = SlotSearch(len(attempts[0]), "threshold", value=value)
    for number, values in enumerate(attempts):
        before = list(zip(found.values, found.attempts, strict=True))
        better = found.offer(number, torch.tensor(values, dtype=torch.float64))
        after = list(zip(found.values, found.attempts, strict=True))
        changed = [slot for slot in range(len(values)) if after[slot][1] != before[slot][1]]
        assert better == changed
        assert all(found.attempts[slot] == number for slot in better)
    assert found.done == all(found.passed)


@given(TABLES, st.data())
def test_an_attempt_without_a_picture_is_kept_only_if_there_is_no_other(
    attempts: list[list[float]], data: st.DataObject
) -> None:
    found = SlotSearch(len(attempts[0]), "threshold", value=0.0)
    usable = []
    for number, values in enumerate(attempts):
        sound = [data.draw(st.booleans()) for _ in values]
        usable.append(sound)
        seen = [value if ok else math.nan for value, ok in zip(values, sound, strict=True)]
        found.offer(number, torch.tensor(seen, dtype=torch.float64), torch.tensor(sound))
    for slot in range(len(attempts[0])):
        any_usable = any(sound[slot] for sound in usable)
        assert found.usable[slot] == any_usable == usable[found.attempts[slot]][slot]
        assert found.passed[slot] == any(
            sound[slot] and values[slot] >= 0 for values, sound in zip(attempts, usable, strict=True)
        )


@pytest.mark.parametrize("rule", ["top_k", "top_fraction", "best"])
def test_rules_that_compare_pictures_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=f"rule is '{rule}'; use one of {', '.join(RETRY_RULES)}"):
        SlotSearch(1, rule, value=1)


def test_limits_are_checked_at_once() -> None:
    with pytest.raises(ValueError, match="low is 2 and high 1"):
        SlotSearch(1, "band", low=2.0, high=1.0)
    with pytest.raises(ValueError, match="needs a value"):
        SlotSearch(1, "threshold")
    with pytest.raises(ValueError, match="profile_band"):
        SlotSearch(1, "profile_band")
