"""Selection rules against a brute-force definition, ties, NaN, and every sentence of refusal."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.gate import RULES, UNKNOWN, best, check_rule, decide, real_of, select

# few values, so that ties are common
SCORE = st.sampled_from([-math.inf, -1.5, 0.0, 0.25, 1.0, 2.5, math.inf, math.nan])
SCORES = st.lists(SCORE, min_size=1, max_size=12)
KEEP = st.sampled_from(["high", "low"])
FINITE = st.floats(-3, 3)


def ranked(scores: list[float], keep: str) -> list[int]:
    known = [index for index, value in enumerate(scores) if not math.isnan(value)]
    return sorted(known, key=lambda index: (-scores[index] if keep == "high" else scores[index], index))


def chosen(mask: torch.Tensor) -> list[int]:
    assert mask.dtype == torch.bool
    return mask.nonzero().flatten().tolist()


def tensor(scores: list[float]) -> torch.Tensor:
    return torch.tensor(scores, dtype=torch.float64)


@settings(deadline=None)
@given(SCORES, FINITE, KEEP)
def test_threshold(scores: list[float], value: float, keep: str) -> None:
    expected = [i for i, score in enumerate(scores) if (score >= value if keep == "high" else score <= value)]
    assert chosen(select(tensor(scores), "threshold", value, keep=keep)) == expected


@settings(deadline=None)
@given(SCORES, FINITE, FINITE)
def test_band(scores: list[float], first: float, second: float) -> None:
    low, high = sorted((first, second))
    expected = [i for i, score in enumerate(scores) if low <= score <= high]
    assert chosen(select(tensor(scores), "band", low=low, high=high)) == expected


@settings(deadline=None)
@given(SCORES, st.integers(1, 15), KEEP)
def test_top_k(scores: list[float], value: int, keep: str) -> None:
    assert chosen(select(tensor(scores), "top_k", value, keep=keep)) == sorted(ranked(scores, keep)[:value])


@settings(deadline=None)
@given(SCORES, st.integers(1, 100), KEEP)
def test_top_fraction(scores: list[float], percent: int, keep: str) -> None:
    count = math.ceil(Fraction(percent, 100) * len(scores))
    found = chosen(select(tensor(scores), "top_fraction", percent / 100, keep=keep))
    assert found == sorted(ranked(scores, keep)[:count])


@settings(deadline=None)
@given(SCORES, KEEP)
def test_best_is_the_first_of_the_best_end(scores: list[float], keep: str) -> None:
    if all(map(math.isnan, scores)):
        with pytest.raises(ValueError, match="none of the pictures has a value .*choose another metric"):
            best(tensor(scores), "threshold", keep=keep)
    else:
        assert best(tensor(scores), "top_k", keep=keep) == ranked(scores, keep)[0]


@settings(deadline=None)
@given(
    st.lists(st.one_of(FINITE, st.just(math.nan)), min_size=1).filter(lambda s: not all(map(math.isnan, s))),
    FINITE,
    FINITE,
)
def test_best_of_a_band_is_nearest_to_its_middle(scores: list[float], first: float, second: float) -> None:
    low, high = sorted((first, second))
    middle = low / 2 + high / 2
    distances = {i: abs(score - middle) for i, score in enumerate(scores) if not math.isnan(score)}
    # two distances may round to the same number where a band is as narrow as numbers get
    nearest = min(distances, key=lambda i: (not low <= scores[i] <= high, distances[i], i))
    assert best(tensor(scores), "band", low, high) == nearest


RULE = st.one_of(
    st.tuples(st.just("threshold"), FINITE, st.none(), st.none()),
    st.tuples(st.just("band"), st.none(), st.floats(-3, 0), st.floats(0, 3)),
    st.tuples(st.just("top_k"), st.integers(1, 15), st.none(), st.none()),
    st.tuples(st.just("top_fraction"), st.integers(1, 64).map(lambda n: n / 64), st.none(), st.none()),
)


@settings(deadline=None)
@given(SCORES, RULE, KEEP, st.sampled_from(UNKNOWN))
def test_each_picture_goes_one_way_and_unknown_ones_where_they_are_sent(
    scores: list[float], rule: tuple, keep: str, on_unknown: str
) -> None:
    passed, rejected, blocked = map(chosen, decide(tensor(scores), *rule, keep, on_unknown))
    unknown = [i for i, score in enumerate(scores) if math.isnan(score)]
    assert sorted(passed + rejected + blocked) == list(range(len(scores)))
    assert blocked == (unknown if on_unknown == "block" else [])
    assert set(unknown) <= set({"reject": rejected, "pass": passed, "block": blocked}[on_unknown])
    if on_unknown == "reject":
        assert passed == chosen(select(tensor(scores), *rule, keep))
        return
    # pass and block: the rule decides as if the unknown pictures were not there
    known = [i for i in range(len(scores)) if i not in unknown]
    alone = chosen(select(tensor([scores[i] for i in known]), *rule, keep)) if known else []
    assert [i for i in passed if i not in unknown] == [known[place] for place in alone]


def test_unknown_pictures_do_not_count_where_they_are_not_judged() -> None:
    scores = tensor([math.nan, 3.0, math.nan, 1.0, 2.0, 4.0])
    half = {on: chosen(decide(scores, "top_fraction", 0.5, on_unknown=on).passed) for on in UNKNOWN}
    assert half == {"reject": [1, 4, 5], "pass": [0, 1, 2, 5], "block": [1, 5]}
    two = {on: chosen(decide(scores, "top_k", 2, on_unknown=on).passed) for on in UNKNOWN}
    assert two == {"reject": [1, 5], "pass": [0, 1, 2, 5], "block": [1, 5]}


def test_unknown_choices_and_rules_are_refused_also_where_no_picture_has_a_score() -> None:
    for scores in (torch.ones(2), tensor([math.nan])):
        with pytest.raises(ValueError, match="on_unknown is 'keep'; use one of reject, pass, block"):
            decide(scores, "top_k", 1, on_unknown="keep")
        with pytest.raises(ValueError, match="top_k keeps a whole number"):
            decide(scores, "top_k", 0, on_unknown="pass")
    with pytest.raises(ValueError, match="scores has shape"):
        decide(torch.ones(0), "top_k", 1, on_unknown="block")


def test_of_equal_scores_the_earlier_goes_first() -> None:
    scores = torch.ones(500)
    for keep in ("high", "low"):
        assert chosen(select(scores, "top_k", 3, keep=keep)) == [0, 1, 2]
        assert best(scores, "top_k", keep=keep) == 0
    scores[7] = math.nan
    assert chosen(select(scores, "top_fraction", 0.02)) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int64, torch.bool])
def test_any_type_of_number_is_ranked(dtype: torch.dtype) -> None:
    assert chosen(select(torch.tensor([0, 1, 1]).to(dtype), "top_k", 2)) == [1, 2]


def test_a_share_counts_all_pictures_also_those_without_a_score() -> None:
    scores = tensor([math.nan, math.nan, 1.0, 2.0])
    assert chosen(select(scores, "top_fraction", 0.25)) == [3]
    assert chosen(select(scores, "top_fraction", 1.0)) == [2, 3]
    assert chosen(select(tensor([math.nan] * 3), "top_k", 2)) == []


def test_scores_are_not_changed() -> None:
    scores = tensor([3.0, math.nan, 1.0])
    for rule, value in (("top_k", 1), ("top_fraction", 0.5), ("threshold", 2)):
        select(scores, rule, value)
    assert scores.tolist()[::2] == [3.0, 1.0] and scores.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rule": "luck"}, "rule is 'luck'; use one of threshold, band, top_k, top_fraction, profile_band"),
        ({"rule": "threshold", "value": 1, "keep": "middle"}, "keep is 'middle'; use 'high' or 'low'"),
        ({"rule": "threshold"}, "rule 'threshold' needs a value: set it"),
        ({"rule": "threshold", "value": math.nan}, "rule 'threshold' needs a value"),
        ({"rule": "top_k"}, "rule 'top_k' needs a value"),
        ({"rule": "band", "low": 1.0}, "rule 'band' needs both low and high: set them"),
        ({"rule": "band", "high": 1.0}, "rule 'band' needs both"),
        ({"rule": "band", "low": math.nan, "high": 1.0}, "rule 'band' needs both"),
        (
            {"rule": "band", "low": 2.0, "high": 1.0},
            "low is 2 and high 1, so nothing lies between: exchange them",
        ),
        ({"rule": "top_k", "value": 0}, "value is 0; top_k keeps a whole number of pictures: use 1 or more"),
        ({"rule": "top_k", "value": -2}, "value is -2; top_k"),
        ({"rule": "top_k", "value": 1.5}, "value is 1.5; top_k"),
        ({"rule": "top_k", "value": math.inf}, "value is inf; top_k"),
        (
            {"rule": "top_fraction", "value": 0},
            "value is 0; top_fraction keeps a share: use more than 0 and at most 1",
        ),
        ({"rule": "top_fraction", "value": 1.01}, "value is 1.01; top_fraction"),
        ({"rule": "top_fraction", "value": math.inf}, "value is inf; top_fraction"),
    ],
)
def test_rules_that_cannot_be_applied_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        select(torch.ones(3), **arguments)


def test_scores_of_another_shape_are_refused() -> None:
    for scores in (torch.ones(2, 2), torch.ones(0), torch.tensor(1.0)):
        with pytest.raises(
            ValueError, match=r"scores has shape \(.*give one score for each of at least one picture"
        ):
            select(scores, "top_k", 1)
        with pytest.raises(ValueError, match="scores has shape"):
            best(scores, "top_k")


def test_a_band_needs_its_ends_to_have_a_best() -> None:
    with pytest.raises(ValueError, match="rule 'band' needs both low and high"):
        best(torch.ones(3), "band")
    with pytest.raises(ValueError, match="rule is 'luck'"):
        best(torch.ones(3), "luck")
    assert RULES == ("threshold", "band", "top_k", "top_fraction", "profile_band")


ENDS = st.sampled_from([-math.inf, -1.5, -0.25, 0.0, 1.0, 2.5, math.inf])


@settings(deadline=None)
@given(SCORES, ENDS, ENDS, KEEP, st.sampled_from(UNKNOWN))
def test_a_profile_band_is_the_band_of_real_photographs(
    scores: list[float], first: float, second: float, keep: str, on_unknown: str
) -> None:
    low, high = real = tuple(sorted((first, second)))
    band = decide(tensor(scores), "band", low=low, high=high, on_unknown=on_unknown)
    # value, low, high and keep belong to other rules
    found = decide(tensor(scores), "profile_band", 7, 9, 8, keep, on_unknown, real)
    assert [chosen(side) for side in found] == [chosen(side) for side in band]
    alone = [i for i, score in enumerate(scores) if low <= score <= high]
    assert chosen(select(tensor(scores), "profile_band", real=real)) == alone
    if not all(map(math.isnan, scores)):
        assert best(tensor(scores), "profile_band", real=real) == best(tensor(scores), "band", low, high)


@settings(deadline=None)
@given(SCORES.filter(lambda scores: not all(map(math.isnan, scores))), ENDS, ENDS)
def test_best_of_a_band_without_an_end(scores: list[float], first: float, second: float) -> None:
    low, high = sorted((first, second))

    def key(index: int) -> tuple:
        score = scores[index]
        if math.isinf(low) and math.isinf(high):
            distance = 0.0
        elif math.isinf(low) or math.isinf(high):
            distance = abs(score - (high if math.isinf(low) else low))
        else:
            distance = abs(score - (low + high) / 2)
        return not low <= score <= high, distance, index

    known = [index for index, score in enumerate(scores) if not math.isnan(score)]
    assert best(tensor(scores), "band", low, high) == min(known, key=key)


def test_the_best_of_a_band_with_infinite_ends_by_hand() -> None:
    scores = tensor([math.nan, 9.0, 0.5, 2.0])
    assert best(scores, "band", 1.0, math.inf) == 3, "inside, and nearest to the finite end"
    assert best(scores, "band", -math.inf, 1.0) == 2
    assert best(scores, "band", -math.inf, 0.0) == 2, "nothing is inside: the nearest"
    assert best(scores, "band", -math.inf, math.inf) == 1, "the first that has a score"
    assert best(tensor([1e308, 1.7e308, 0.0]), "band", 1.2e308, 1.7e308) == 1, "ends that add up to infinity"


@pytest.mark.parametrize("real", [None, (math.nan, 1.0), (0.0, math.nan), (2.0, 1.0)])
def test_a_profile_band_without_a_band_is_refused(real: tuple | None) -> None:
    words = "rule 'profile_band' needs the band of real photographs, .*choose one that has it"
    for call in (
        lambda: select(torch.ones(2), "profile_band", real=real),
        lambda: decide(tensor([math.nan]), "profile_band", on_unknown="pass", real=real),
        lambda: best(torch.ones(2), "profile_band", real=real),
        lambda: check_rule("profile_band", real=real),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    check_rule("profile_band", real=(1.0, 1.0))


def test_a_metric_without_a_band_names_those_that_have_one() -> None:
    bands = {"irs": (1.0, 4.0), "size": None, "typicality": (0.05, 0.95)}
    assert real_of("irs", bands) == (1.0, 4.0)
    for metric in ("size", "beauty"):
        words = f"metric: .* no band .* for '{metric}'.*columns that have one: irs, typicality\\."
        with pytest.raises(ValueError, match=words):
            real_of(metric, bands)
    with pytest.raises(ValueError, match=r"that have one: none of these columns\."):
        real_of("size", {"size": None})
