"""Score weights against scipy and brute force, and what the loop makes of weights that are 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import rankdata
from torch import Tensor

from realism_core.evidence.table import Column
from realism_core.plots.canvas import ALARM, BACKGROUND, PICTURE
from realism_core.plots.score_weights import BOTTOM, LEFT, RIGHT, TOP, score_weight_plot
from realism_core.training.data import Dataset
from realism_core.training.loop import train
from realism_core.training.score_weights import (
    KINDS,
    UNKNOWN,
    better_end,
    effective_count,
    merits,
    score_weights,
)
from realism_core.training.settings import TrainSettings
from tests.core.toy_denoisers import ToyDenoiser, same_tensors, toy_adapters, toy_data

BAND = (-0.5, 1.0)
# few values, so that ties are common, beside any others
FINITE = st.one_of(st.sampled_from([-1.5, -0.5, -0.0, 0.0, 0.25, 1.0, 2.5]), st.floats(-1e6, 1e6))
SCORE = st.one_of(FINITE, st.just(math.nan))
ANY = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1.0, math.inf]))
ENDS = st.sampled_from(["higher", "lower", "real_band"])
POWER = st.sampled_from([0.25, 1.0, 3.0, 40.0])


def known_scores(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(values, min_size=1, max_size=12).filter(lambda s: not all(map(math.isnan, s)))


def merit_of(score: float, better: str) -> float:
    if better == "real_band":
        return -max(BAND[0] - score, score - BAND[1], 0.0)
    return score if better == "higher" else -score


def weighed(scores: list[float], kind: str, value: float, better: str, unknown: str = "leave_out") -> Tensor:
    return score_weights(torch.tensor(scores, dtype=torch.float64), kind, value, better, BAND, unknown)


def check(found: Tensor, scores: list[float], known: np.ndarray, on_unknown: str) -> None:
    """Compare with the known images' weights at any scale."""
    applies = ~np.isnan(scores)
    expected = np.full(len(scores), known.mean() if on_unknown == "average" else 0.0)
    expected[applies] = known
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected / expected.mean(), rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(known_scores(SCORE), POWER, ENDS, st.sampled_from(["leave_out", "average"]))
def test_rank(scores: list[float], power: float, better: str, on_unknown: str) -> None:
    known = [merit_of(score, better) for score in scores if not math.isnan(score)]
    ranks = rankdata(known, method="average")
    expected = np.exp(power * (np.log(ranks) - np.log(ranks.max())))
    check(weighed(scores, "rank", power, better, on_unknown), scores, expected, on_unknown)


@settings(deadline=None)
@given(known_scores(SCORE), st.sampled_from([0.1, 1.0, 7.0]), ENDS, st.sampled_from(["leave_out", "average"]))
def test_softmax(scores: list[float], temperature: float, better: str, on_unknown: str) -> None:
    known = np.array([merit_of(score, better) for score in scores if not math.isnan(score)])
    # numpy cannot square tiny differences, nor tell numbers apart that are nearly alike: see the extremes
    assume(np.ptp(known) == 0 or np.ptp(known) > max(1e-100, 1e-6 * np.abs(known).max()))
    spread = known.std() or 1.0
    check(
        weighed(scores, "softmax", temperature, better, on_unknown),
        scores,
        softmax((known - known.mean()) / (temperature * spread)) if np.ptp(known) else np.ones(len(known)),
        on_unknown,
    )


@settings(deadline=None)
@given(known_scores(SCORE), st.floats(-3, 3), ENDS, st.sampled_from(["leave_out", "average"]))
def test_threshold(scores: list[float], value: float, better: str, on_unknown: str) -> None:
    passes = {
        "higher": lambda score: score >= value,
        "lower": lambda score: score <= value,
        "real_band": lambda score: max(BAND[0] - score, score - BAND[1], 0.0) <= value,
    }[better]
    expected = np.array([float(passes(score)) for score in scores if not math.isnan(score)])
    if not expected.any():
        with pytest.raises(ValueError, match=r"value is .* (Raise|Lower) value, or use kind rank"):
            weighed(scores, "threshold", value, better, on_unknown)
    else:
        check(weighed(scores, "threshold", value, better, on_unknown), scores, expected, on_unknown)


@settings(deadline=None)
@given(known_scores(ANY), st.sampled_from([1e-9, 1e-3, 1.0, 1e3, 1e9]), ENDS, st.sampled_from(KINDS))
def test_whatever_the_scores_better_ones_weigh_as_much_or_more(
    scores: list[float], value: float, better: str, kind: str
) -> None:
    """Finite weights with mean 1, alike for alike scores: also infinite, huge, tiny, all but equal ones."""
    try:
        found = weighed(scores, kind, value, better).tolist()
    except ValueError as error:
        words = {"softmax": "infinite score", "threshold": "use kind rank", "rank": "never"}
        assert words[kind] in str(error)
        return
    assert all(math.isfinite(weight) and weight >= 0 for weight in found)
    assert math.isclose(sum(found), len(scores), rel_tol=1e-9)
    known = [
        (merit_of(score, better), weight)
        for score, weight in zip(scores, found, strict=True)
        if not math.isnan(score)
    ]
    for merit, weight in known:
        assert all(weight >= other for lower, other in known if lower <= merit)
    assert all(weight == 0 for score, weight in zip(scores, found, strict=True) if math.isnan(score))


@settings(deadline=None)
@given(known_scores(SCORE), POWER, ENDS, st.sampled_from(["rank", "softmax"]), st.randoms())
def test_the_order_of_the_images_does_not_matter(scores, power, better, kind, random) -> None:
    order = list(range(len(scores)))
    random.shuffle(order)
    found = weighed([scores[place] for place in order], kind, power, better)
    torch.testing.assert_close(found, weighed(scores, kind, power, better)[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("on_unknown", UNKNOWN)
@pytest.mark.parametrize("kind", KINDS)
def test_one_image_and_equal_images_weigh_1(kind: str, on_unknown: str) -> None:
    for scores in ([0.1], [0.1] * 7, [1e-320] * 2, [-1e308] * 3):
        assert weighed(scores, kind, 1.0, "lower", on_unknown).tolist() == [1.0] * len(scores)


def test_known_values() -> None:
    assert weighed([3.0, 1.0, 2.0], "rank", 1.0, "higher").tolist() == [1.5, 0.5, 1.0]
    assert weighed([3.0, 1.0, math.nan, 1.0], "rank", 1.0, "higher").tolist() == [2.0, 1.0, 0.0, 1.0]
    assert weighed([math.inf, 0.0, -math.inf], "rank", 1.0, "lower").tolist() == [0.5, 1.0, 1.5]
    # one standard deviation up and down: e^2 apart
    first, second = weighed([0.0, 10.0], "softmax", 1.0, "higher").tolist()
    assert math.isclose(second / first, math.e**2, rel_tol=1e-12)
    assert weighed([0.4, math.nan, 0.1, 0.5], "threshold", 0.4, "higher").tolist() == [2.0, 0, 0, 2.0]
    half_known = weighed([0.4, math.nan, 0.1, 0.5], "threshold", 0.4, "higher", "average")
    torch.testing.assert_close(half_known, torch.tensor([1.5, 1, 0, 1.5], dtype=torch.float64))
    # within the band all are alike, whatever their place in it
    assert weighed([0.0, 0.9, 7.0, -1.0], "threshold", 0.0, "real_band").tolist() == [2.0, 2.0, 0, 0]
    ends = torch.tensor([-math.inf, 0, math.inf, math.nan])
    below = merits(ends, "real_band", (-math.inf, 1.0)).tolist()
    assert below[:3] == [0, 0, -math.inf] and math.isnan(below[3])


def test_the_effective_count_is_the_number_of_images_that_have_a_say() -> None:
    assert effective_count(torch.ones(5)) == 5
    assert effective_count(torch.tensor([2.0, 0.0, 2.0, 0.0])) == 2
    assert 1 < effective_count(torch.tensor([1.0, 3.0])) < 2


def column(direction: str, real: tuple[float, float] | None = None) -> Column:
    return Column("taste", "score", direction, -math.inf, math.inf, real=real)


def test_the_better_end_is_the_columns_unless_it_is_said() -> None:
    assert better_end([column("higher")]) == ("higher", None)
    assert better_end([column("lower", BAND), column("lower", (0, 1))]) == ("lower", None)
    assert better_end([column("middle", BAND)] * 2) == ("real_band", BAND)
    assert better_end([column("none", BAND)], "real_band") == ("real_band", BAND)
    assert better_end([column("none")], "lower") == ("lower", None)


@pytest.mark.parametrize(
    ("columns", "better", "words"),
    [
        ([column("none")], "auto", "taste is a plain fact, .*set better to higher"),
        ([column("higher"), column("lower")], "auto", "taste is better higher in one table and lower in ano"),
        ([column("middle")], "auto", "no band of real photographs for taste"),
        ([column("higher")], "real_band", "no band of real photographs for taste"),
        ([column("middle", BAND), column("middle", (0, 1))], "auto", "several profiles"),
        ([column("higher")], "best", "better is 'best'; use one of auto, higher"),
    ],
)
def test_no_better_end_is_refused(columns: list[Column], better: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        better_end(columns, better)


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        ([], {}, "give one score for each of at least one"),
        ([[1.0]], {}, "give one score for each of at least one"),
        ([math.nan] * 3, {}, "none of the 3 images has a value .*choose another metric"),
        ([math.nan] * 3, {"on_unknown": "average"}, "none of the 3 images has a value"),
        ([0.1, math.nan], {"on_unknown": "error"}, "image 2 has no value .*leave_out"),
        ([0.1] + [math.nan] * 7, {"on_unknown": "error"}, "images 2, 3, 4, 5, 6 and 2 more have no value"),
        ([0.1, math.nan, math.inf], {"kind": "softmax"}, "image 3 has an infinite score, .*use rank"),
        ([0.1], {"kind": "best"}, "kind is 'best'; use one of rank"),
        ([0.1], {"on_unknown": "drop"}, "on_unknown is 'drop'; use one of leave_out"),
        ([0.1], {"better": "best"}, "better is 'best'; use one of higher"),
        ([0.1], {"better": "real_band"}, "needs the band of real photographs"),
        ([0.1], {"better": "real_band", "real": (1.0, math.nan)}, "needs the band of real photographs"),
        ([0.1], {"value": 0.0}, "value is 0; for rank it is the power of the rank: use more than 0"),
        ([0.1], {"value": -1.0, "kind": "softmax"}, "value is -1; for softmax it is a temperature"),
        ([0.1], {"value": math.inf}, "value is inf; for rank"),
        ([0.1], {"value": math.nan, "kind": "threshold"}, "value is NaN"),
        ([0.1, 0.4], {"value": 0.9, "kind": "threshold"}, "the highest score is 0.4. Lower value"),
        (
            [0.1, 0.4], {"value": 0.0, "kind": "threshold", "better": "lower"},
            "the lowest score is 0.1. Raise value",
        ),
        (
            [0.1, 0.4], {"value": 0.05, "kind": "threshold", "better": "real_band", "real": (0.5, 0.6)},
            "the band 0.5 to 0.6 of real photographs: the nearest is 0.1 outside. Raise value",
        ),
    ],
)  # fmt: skip
def test_refusals_name_the_fix(scores: list, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        score_weights(torch.tensor(scores), **{"kind": "rank", **options})


def has(plot: Tensor, x: float, y: float, colour: tuple[int, ...]) -> bool:
    return bool(((255 * plot[0, round(y), round(x)] - torch.tensor(colour)).abs() < 3).all())


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0, 3.0, 0.0], [0.5, 1.5] * 400])
def test_the_plot_has_the_highest_weights_first(weights: list[float]) -> None:
    plot = score_weight_plot(torch.tensor(weights), 1, "a name much longer than any column of ours" * 3)
    assert plot.shape == (1, 220, 512, 3)
    falling = sorted(weights, reverse=True)
    height = (BOTTOM - TOP) / falling[0]
    for share in (0.1, 0.3, 0.6, 0.9):
        x = LEFT + share * (RIGHT - LEFT)
        top = BOTTOM - falling[int(share * len(weights))] * height
        assert top > BOTTOM - 3 or has(plot, x, top + 3, PICTURE)
        assert has(plot, x, top - 6, BACKGROUND)
    line = BOTTOM - height
    # the mean's line is white over the image that counts least, and orange is not
    assert plot[0, round(line) - 2 : round(line) + 2, 490].amin(-1).max() > 0.4
    alarms = ((255 * plot[0, 30:50] - torch.tensor(ALARM)).abs() < 3).all(-1).any()
    assert bool(alarms) == (0.0 in weights)


def learned(examples: list, **settings) -> dict[str, Tensor]:
    denoiser = ToyDenoiser()
    adapters = toy_adapters(denoiser)
    with adapters:
        plan = TrainSettings(steps=6, learning_rate=0.01, seed=3, **settings)
        return train(denoiser, adapters, Dataset(examples), plan).state


@pytest.mark.parametrize("batch_size", [1, 2])
def test_nothing_of_an_image_without_weight_is_learned(batch_size: int) -> None:
    """Its picture may be any other, and no bit of the LoRA changes."""
    examples = toy_data(4).examples
    weights = score_weights(torch.tensor([0.2, 0.6, math.nan, 0.5]), "threshold", 0.5).tolist()
    assert weights == [0.0, 2.0, 0.0, 2.0]
    given = [one._replace(weight=weight) for one, weight in zip(examples, weights, strict=True)]
    others = [one._replace(latent=one.latent + 3, conditioning=one.conditioning - 1) for one in given]
    first = learned(given, batch_size=batch_size)
    same = [other if weight == 0 else one for one, other, weight in zip(given, others, weights, strict=True)]
    assert same_tensors(learned(same, batch_size=batch_size), first)
    assert not same_tensors(learned([given[0], others[1], *given[2:]], batch_size=batch_size), first)


def test_weights_of_1_change_nothing_and_others_do() -> None:
    examples = toy_data(3).examples
    plain = learned(examples, batch_size=3)
    scores = torch.tensor([0.3, 0.3, 0.3])
    equal = [
        one._replace(weight=weight)
        for one, weight in zip(examples, score_weights(scores, "softmax").tolist(), strict=True)
    ]
    assert same_tensors(learned(equal, batch_size=3), plain)
    ranked = score_weights(torch.tensor([0.3, 0.1, 0.2]), "rank").tolist()
    uneven = [one._replace(weight=weight) for one, weight in zip(examples, ranked, strict=True)]
    assert not same_tensors(learned(uneven, batch_size=3), plain)
