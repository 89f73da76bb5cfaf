"""The suggested cut against every cut there is, tried one by one."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from realism_core.gate import Choices, Suggestion, decide, suggest_cut

UNKNOWN = ["reject", "pass", "block"]
# few values, so that ties are common, and close ones, so that short numbers do not always fit
SCORE = st.one_of(
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, -3.0, 0.1 + 2**-50, 100.0, 1e-9, 1e30, math.nan]),
    st.sampled_from([-math.inf, math.inf, 1.7e308, -1.7e308, 5e-324]),
    st.floats(-1, 1),
)
PICTURES = st.lists(st.tuples(SCORE, st.sampled_from([0, 0, 1, -1])), min_size=1, max_size=9)


def tensor(scores) -> torch.Tensor:
    return torch.tensor(scores, dtype=torch.float64)


def choices_of(hands) -> Choices:
    keep, reject = (tuple(i for i, hand in enumerate(hands) if hand == kind) for kind in (1, -1))
    return Choices(keep, reject)


def cost(passing: list[bool], now: list[bool], scores, hands) -> tuple[int, int]:
    """Return how many choices are on the wrong side, and how many other pictures moved."""
    known = [i for i, score in enumerate(scores) if not math.isnan(score)]
    wrong = sum(passing[i] != (hands[i] > 0) for i in known if hands[i])
    return wrong, sum(passing[i] != now[i] for i in known if not hands[i])


def width(passing: list[bool], scores) -> float:
    """Return how wide the gaps around what passes are, without those that have no end."""
    known = [pair for pair in zip(scores, passing, strict=True) if not math.isnan(pair[0])]
    inside, outside = ([score for score, passes in known if passes is side] for side in (True, False))
    if not inside:
        return 0.0
    below = min(inside) - max((score for score in outside if score <= min(inside)), default=-math.inf)
    above = min((score for score in outside if score >= max(inside)), default=math.inf) - max(inside)
    return sum(gap for gap in (below, above) if math.isfinite(gap))


def check(scores, hands, rule: str, arguments: dict, others: list[dict]) -> None:
    """Hold the suggestion against all `others`, the arguments of every cut worth trying."""
    known = [i for i, score in enumerate(scores) if not math.isnan(score)]
    now = decide(tensor(scores), rule, **arguments).passed.tolist()
    found = suggest_cut(tensor(scores), choices_of(hands), rule, **arguments)
    to = "band" if rule == "profile_band" else rule
    shared = {key: arguments[key] for key in ("keep", "on_unknown") if key in arguments}
    trials = [decide(tensor(scores), to, **other, **shared).passed.tolist() for other in others]
    best = min((cost(trial, now, scores, hands) for trial in trials), default=(math.inf, 0))
    before = cost(now, now, scores, hands)[0]
    if best[0] >= before:
        assert found is None
        return
    assert found is not None and found.rule == to
    numbers = {key: getattr(found, key) for key in ("value", "low", "high")}
    assert {key for key, number in numbers.items() if number is not None} == set(others[0])
    # typed in as the sentence writes it
    for number in filter(lambda number: number is not None, (*numbers.values(), found.threshold)):
        assert any(float(word.strip("(),")) == number for word in words_of(found.text)), found.text
    passing = decide(tensor(scores), to, **numbers, **shared).passed.tolist()
    assert cost(passing, now, scores, hands) == best
    assert sum(passing[i] for i in known) == found.passes
    total = sum(hands[i] != 0 for i in known)
    assert (found.explained, found.before, found.choices) == (total - best[0], total - before, total)
    assert f"{found.explained} of {total} choice" in found.text
    assert f": {found.before} of {total})" in found.text
    widest = max(width(trial, scores) for trial in trials if cost(trial, now, scores, hands) == best)
    assert width(passing, scores) == widest
    if found.threshold is not None:
        again = decide(tensor(scores), "threshold", found.threshold, **shared).passed.tolist()
        assert again == passing


def words_of(text: str) -> list[str]:
    def is_number(word: str) -> bool:
        try:
            float(word.strip("(),"))
        except ValueError:
            return False
        return True

    return [word for word in text.split() if is_number(word)]


@settings(deadline=None, max_examples=300)
@given(PICTURES, SCORE, st.sampled_from(["high", "low"]), st.sampled_from(UNKNOWN))
@example([(0.1, 1), (0.1 + 2**-50, -1)], 0.0, "low", "reject")
@example([(math.inf, -1)], 0.0, "high", "reject")
def test_thresholds(pictures: list, value: float, keep: str, on_unknown: str) -> None:
    assume(not math.isnan(value))
    scores, hands = zip(*pictures, strict=True)
    known = {score for score in scores if not math.isnan(score)}
    outside = math.nextafter(max(known), math.inf) if keep == "high" and known else math.nan
    outside = math.nextafter(min(known), -math.inf) if keep == "low" and known else outside
    cuts = [{"value": cut} for cut in [*known, outside] if not math.isnan(cut)]
    check(scores, hands, "threshold", {"value": value, "keep": keep, "on_unknown": on_unknown}, cuts)


@settings(deadline=None, max_examples=300)
@given(PICTURES, SCORE, SCORE, st.sampled_from(["band", "profile_band"]))
def test_bands(pictures: list, first: float, second: float, rule: str) -> None:
    assume(not math.isnan(first) and not math.isnan(second))
    low, high = sorted((first, second))
    scores, hands = zip(*pictures, strict=True)
    known = sorted({score for score in scores if not math.isnan(score)})
    bands = [{"low": a, "high": b} for i, a in enumerate(known) for b in known[i:]]
    arguments = {"low": low, "high": high} if rule == "band" else {"real": (low, high)}
    check(scores, hands, rule, arguments, bands)


@settings(deadline=None, max_examples=300)
@given(PICTURES, st.integers(1, 10), st.sampled_from(["high", "low"]), st.sampled_from(UNKNOWN))
def test_counts(pictures: list, value: int, keep: str, on_unknown: str) -> None:
    scores, hands = zip(*pictures, strict=True)
    counts = [{"value": count} for count in range(1, len(scores) + 1)]
    check(scores, hands, "top_k", {"value": value, "keep": keep, "on_unknown": on_unknown}, counts)


@settings(deadline=None, max_examples=300)
@given(PICTURES, st.integers(1, 100), st.sampled_from(["high", "low"]), st.sampled_from(UNKNOWN))
def test_shares(pictures: list, percent: int, keep: str, on_unknown: str) -> None:
    scores, hands = zip(*pictures, strict=True)
    known = sum(not math.isnan(score) for score in scores)
    totals = {len(scores), known} - {0}
    shares = [{"value": count / total} for total in totals for count in range(1, total + 1)]
    arguments = {"value": percent / 100, "keep": keep, "on_unknown": on_unknown}
    check(scores, hands, "top_fraction", arguments, shares)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=9, unique=True), st.data())
def test_a_threshold_lies_in_the_middle_half_of_the_gap_where_the_fewest_move(scores: list, data) -> None:
    """One kept and one rejected picture, and a rule that passes both: any cut between explains."""
    ordered = sorted(scores)
    kept = data.draw(st.integers(2, len(ordered) - 1))
    rejected = data.draw(st.integers(0, kept - 1))
    hands = [1 if score == ordered[kept] else -1 if score == ordered[rejected] else 0 for score in scores]
    found = suggest_cut(tensor(scores), choices_of(hands), "threshold", -1.0)
    # that is just above the rejected picture
    below, above = ordered[rejected], ordered[rejected + 1]
    assert abs(found.value - (below + above) / 2) <= (above - below) / 4 or above - below < 1e-15
    assert found.passes == len(scores) - rejected - 1


def test_of_cuts_that_explain_and_move_as_many_the_one_in_the_widest_gap_is_taken() -> None:
    # a cut of 4 has three wrong; below 2 and above 7 one is wrong and one other picture moves
    hands = choices_of([1, 0, 0, -1, 1])
    found = suggest_cut(tensor([1.0, 2.0, 6.0, 7.0, 9.0]), hands, "threshold", 4.0)
    assert (found.value, found.explained, found.before) == (8.0, 2, 1)
    # the same with something below, further away than the 2 between 7 and 9
    found = suggest_cut(tensor([1.0, 2.0, 6.0, 7.0, 9.0, -4.0]), hands, "threshold", 4.0)
    assert (found.value, found.explained, found.before) == (-2.0, 2, 1)
    # moving nothing comes before the gap
    found = suggest_cut(tensor([1.0, 2.0, 8.0, 9.0]), choices_of([-1, 0, 0, 1]), "threshold", 0.5)
    assert found.value == 1.5 and found.passes == 3


def test_numbers_are_short() -> None:
    values = torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort().values
    for place in (3, 100, 250, 499):
        choices = Choices((place,), (place - 1,))
        found = suggest_cut(values, choices, "threshold", 0.0)
        below, above = values[place - 1].item(), values[place].item()
        assert below < found.value <= above and found.passes == 500 - place
        digits = len(repr(found.value).lstrip("0.").replace(".", ""))
        # a number of n digits is at most half a unit of its last from the middle
        assert digits <= max(1, 2 - math.floor(math.log10(above - below)))


def test_sentences() -> None:
    scores = tensor([0.02, 0.1, 0.146, 0.9, math.nan])
    choices = Choices((2, 3), (1, 4))
    assert suggest_cut(scores, choices, "threshold", 0.05).text == (
        "value 0.12 explains 3 of 3 choices by hand (now 0.05: 2 of 3)"
    )
    assert suggest_cut(scores, choices, "top_k", 3.0).text == (
        "value 2 (threshold 0.12) explains 3 of 3 choices by hand (now 3: 2 of 3)"
    )
    assert suggest_cut(scores, choices, "top_fraction", 0.6).text == (
        "value 0.4 (threshold 0.12) explains 3 of 3 choices by hand (now 0.6: 2 of 3)"
    )
    assert suggest_cut(scores, choices, "band", low=0.05, high=1.0).text == (
        "low 0.12 and high 1 explain 3 of 3 choices by hand (now 0.05 to 1: 2 of 3)"
    )
    assert suggest_cut(scores, choices, "profile_band", real=(0.05, 0.95)).text == (
        "rule band with low 0.12 and high 0.95 explains 3 of 3 choices by hand (now 0.05 to 0.95: 2 of 3)"
    )
    assert suggest_cut(scores, Choices((), (1,)), "threshold", 0.05).text == (
        "value 0.12 explains 1 of 1 choice by hand (now 0.05: 0 of 1)"
    )


def test_nothing_is_suggested_where_nothing_is_better() -> None:
    scores = tensor([1.0, 2.0, math.nan])
    assert suggest_cut(scores, Choices(), "threshold", 1.5) is None
    assert suggest_cut(scores, Choices((1,), (0,)), "threshold", 1.5) is None
    assert suggest_cut(scores, Choices((0,), (1,)), "threshold", 1.5).explained == 1
    assert suggest_cut(scores, Choices((2,), ()), "threshold", 1.5) is None, "no cut reaches it"
    assert suggest_cut(tensor([1.0, 1.0]), Choices((0,), (1,)), "threshold", 1.0) is None
    split = suggest_cut(tensor([1.0, 1.0]), Choices((0,), (1,)), "top_k", 2)
    assert isinstance(split, Suggestion) and split.value == 1 and split.threshold is None
    assert split.text == "value 1 explains 2 of 2 choices by hand (now 2: 1 of 2)"


def test_rules_that_cannot_be_applied_are_refused() -> None:
    with pytest.raises(ValueError, match="rule 'profile_band' needs the band of real photographs"):
        suggest_cut(torch.ones(2), Choices((0,)), "profile_band")
    with pytest.raises(ValueError, match="rule 'threshold' needs a value"):
        suggest_cut(torch.ones(2), Choices((0,)), "threshold")


def test_thousands_of_pictures_take_no_time_worth_mentioning() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(5000, generator=generator, dtype=torch.float64)
    order = scores.sort().indices.tolist()
    choices = Choices(tuple(order[2000:3000:10]), (*order[:2000:10], *order[3000::10]))
    found = suggest_cut(scores, choices, "band", low=0.0, high=1.0)
    assert (found.explained, found.choices) == (500, 500)
    edges = scores.sort().values
    for end, (before, after) in ((found.low, (1990, 2000)), (found.high, (2990, 3000))):
        assert edges[before] <= end <= edges[after]
    assert all(before < after for before, after in pairwise((found.low, found.high)))
