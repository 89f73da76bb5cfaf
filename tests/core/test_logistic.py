"""The logistic regression against scipy's minimiser, and its JSON."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from realism_core.evidence.logistic import CLIP, FORMAT, VERSION, Logistic, fit_logistic

NAMES = ("a", "b", "c")


def data(seed: int, count: int, apart: float, names: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Statistics [n,F] of any scale and place, a few far out, and labels of both kinds."""
    dice = np.random.default_rng(seed)
    labels = (np.arange(count) % 5 < dice.integers(1, 4)).astype(float)
    table = dice.standard_t(3, (count, names)) + apart * labels[:, None] * dice.normal(0, 1, names)
    return table * dice.uniform(0.01, 100, names) + dice.normal(0, 50, names), labels


def reference(table, labels, penalty, weight):
    """(mean, scale, weights, bias) by scipy, from the objective as it is documented."""
    weight = weight.copy()
    for label in (0, 1):
        weight[labels == label] *= len(labels) / 2 / weight[labels == label].sum()
    mean = np.average(table, axis=0, weights=weight)
    scale = np.sqrt(np.average((table - mean) ** 2, axis=0, weights=weight))
    standard = np.clip((table - mean) / scale, -CLIP, CLIP)

    def loss(x):
        odds = standard @ x[:-1] + x[-1]
        error = weight * (1 / (1 + np.exp(-odds)) - labels)
        value = (weight * (np.logaddexp(0, odds) - labels * odds)).sum() + penalty / 2 * (x[:-1] ** 2).sum()
        return value, np.append(standard.T @ error + penalty * x[:-1], error.sum())

    found = minimize(loss, np.zeros(table.shape[1] + 1), jac=True, method="BFGS", options={"gtol": 1e-7})
    return mean, scale, found.x[:-1], found.x[-1], loss


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 9999), st.integers(10, 120), st.floats(0, 4), st.sampled_from([0.1, 1.0, 10.0, 100.0]),
    st.booleans(),
)  # fmt: skip
def test_the_fit_is_the_minimum(seed, count, apart, penalty, weighted):
    table, labels = data(seed, count, apart)
    weight = np.random.default_rng(seed).uniform(0.1, 5, count) if weighted else np.ones(count)
    mean, scale, weights, bias, loss = reference(table, labels, penalty, weight)
    fitted = fit_logistic(
        torch.from_numpy(table), torch.from_numpy(labels), NAMES, penalty,
        torch.from_numpy(weight) if weighted else None,
    )  # fmt: skip
    assert fitted.names == NAMES
    np.testing.assert_allclose(fitted.mean, mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fitted.scale, scale, rtol=1e-9)
    np.testing.assert_allclose(fitted.weights, weights, atol=1e-4)
    assert fitted.bias == pytest.approx(bias, abs=1e-4)
    value, slope = loss(np.append(fitted.weights.numpy(), fitted.bias))
    assert np.abs(slope).max() < 1e-5 and value <= loss(np.append(weights, bias))[0] + 1e-9


@pytest.mark.parametrize("apart", [3.0, 30.0, 300.0])
@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 1.0])
def test_classes_that_one_number_separates(apart, penalty):
    """Newton's method from zero must not run away where the loss is nearly flat."""
    dice = np.random.default_rng(1)
    labels = np.repeat([0.0, 1.0], 200)
    table = dice.normal(0, 1, (400, 3)) + apart * labels[:, None]
    fitted = fit_logistic(torch.from_numpy(table), torch.from_numpy(labels), NAMES, penalty)
    loss = reference(table, labels, penalty, np.ones(400))[4]
    assert np.abs(loss(np.append(fitted.weights.numpy(), fitted.bias))[1]).max() < 1e-4
    odds = fitted.log_odds(torch.from_numpy(table))
    assert ((odds > 0) == torch.from_numpy(labels > 0)).double().mean() > 0.98


def test_both_classes_weigh_alike() -> None:
    """Nine of ten are photographs, but without evidence the odds are even."""
    labels = torch.tensor([1.0] * 90 + [0.0] * 10)
    fitted = fit_logistic(torch.zeros(100, 1) + 5, labels, ("a",), 1.0)
    assert fitted.bias == pytest.approx(0, abs=1e-9) and fitted.weights.abs().max() < 1e-9
    table = torch.from_numpy(data(3, 60, 1.0)[0])
    labels = torch.from_numpy(data(3, 60, 1.0)[1])
    twice = torch.cat((table, table[labels == 1]))
    once = fit_logistic(table, labels, NAMES, 1e-6)
    more = fit_logistic(twice, torch.cat((labels, labels[labels == 1])), NAMES, 1e-6)
    torch.testing.assert_close(more.weights, once.weights, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(more.mean, once.mean)


def test_a_row_of_weight_two_is_two_rows() -> None:
    table, labels = (torch.from_numpy(part) for part in data(4, 40, 1.0))
    weight = torch.where(torch.arange(40) % 3 == 0, 2.0, 1.0)
    repeated = fit_logistic(
        table.repeat_interleave(weight.long(), 0), labels.repeat_interleave(weight.long()), NAMES, 0.0 + 1e-9
    )
    weighted = fit_logistic(table, labels, NAMES, 1e-9, weight)
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(weighted.weights, repeated.weights, rtol=1e-3, atol=1e-3)


def test_what_came_in_stays_as_it_was() -> None:
    table, labels = (torch.from_numpy(part) for part in data(5, 30, 1.0))
    weight = torch.ones(30, dtype=torch.float64)
    fit_logistic(table, labels, NAMES, 1.0, weight)
    assert torch.equal(weight, torch.ones(30, dtype=torch.float64))
    np.testing.assert_array_equal(table, data(5, 30, 1.0)[0])


@pytest.mark.parametrize(("label", "words"), [(1.0, "no generated picture"), (0.0, "no photograph")])
def test_a_class_that_is_missing(label, words):
    with pytest.raises(ValueError, match=f"there is {words} to fit on: add some"):
        fit_logistic(torch.zeros(5, 3), torch.full((5,), label), NAMES, 1.0)


def hand_made(**changes: object) -> Logistic:
    values = {
        "names": NAMES,
        "mean": torch.tensor([1.0, -2.0, 0.123456789], dtype=torch.float64),
        "scale": torch.tensor([0.5, 3.0, 1e-3], dtype=torch.float64),
        "weights": torch.tensor([2.0, -1.0, 0.333333333], dtype=torch.float64),
        "bias": 0.7654321,
        "about": {"auc": 0.9, "by": {"x": [1, 2]}},
    }
    return Logistic(**{**values, **changes})


def test_contributions_are_clipped_and_add_up() -> None:
    detector = hand_made()
    rows = [[1.5, 1.0, 0.123456789], [1e9, -1e9, 0.0], [math.nan, 0.0, 0.0]]
    table = torch.tensor(rows, dtype=torch.float64)
    added = detector.contributions(table)
    torch.testing.assert_close(added[0], torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(
        added[1], torch.tensor([CLIP * 2.0, CLIP * 1.0, -CLIP * 0.333333333], dtype=torch.float64)
    )
    odds = detector.log_odds(table)
    torch.testing.assert_close(odds[:2], added[:2].sum(1) + detector.bias)
    assert odds.isnan().tolist() == [False, False, True] and not added[2, 1:].isnan().any()
    assert CLIP == 4
    with pytest.raises(FrozenInstanceError):
        detector.bias = 1.0


def test_json_round_trip_keeps_five_digits() -> None:
    detector = hand_made()
    text = json.dumps(detector.to_dict(), allow_nan=False)
    again = Logistic.from_dict(json.loads(text), NAMES)
    assert again.names == NAMES and again.about == detector.about and again.mean.dtype == torch.float64
    for name in ("mean", "scale", "weights"):
        torch.testing.assert_close(getattr(again, name), getattr(detector, name), rtol=5e-5, atol=0)
    assert again.bias == 0.76543 and again.mean[2].item() == 0.12346
    assert again.to_dict() == detector.to_dict() == json.loads(text)
    assert (detector.to_dict()["format"], detector.to_dict()["version"]) == (FORMAT, VERSION)


def without(key: str) -> dict:
    return {name: value for name, value in hand_made().to_dict().items() if name != key}


def with_row(row: object) -> dict:
    whole = hand_made().to_dict()
    return {**whole, "statistics": {**whole["statistics"], "b": row}}


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        ([], "format realism-detector version 1"),
        (None, "format realism-detector"),
        ({**hand_made().to_dict(), "format": "realism-scores"}, "not of format"),
        ({**hand_made().to_dict(), "version": 2}, "not of format"),
        (without("statistics"), "damaged"),
        (without("bias"), "damaged"),
        (without("about"), "damaged"),
        ({**hand_made().to_dict(), "statistics": ["a", "b", "c"]}, "damaged"),
        ({**hand_made().to_dict(), "statistics": {}}, "damaged"),
        ({**hand_made().to_dict(), "statistics": 7}, "damaged"),
        ({**hand_made().to_dict(), "bias": "much"}, "damaged"),
        ({**hand_made().to_dict(), "bias": math.nan}, "damaged"),
        ({**hand_made().to_dict(), "bias": -math.inf}, "damaged"),
        ({**hand_made().to_dict(), "bias": 10**400}, "damaged"),
        ({**hand_made().to_dict(), "about": 3}, "damaged"),
        (with_row([1.0, 2.0]), "damaged"),
        (with_row([1.0, 2.0, 3.0, 4.0]), "damaged"),
        (with_row([1.0, 0.0, 3.0]), "damaged"),
        (with_row([1.0, -1.0, 3.0]), "damaged"),
        (with_row([math.nan, 1.0, 3.0]), "damaged"),
        (with_row([1.0, math.inf, 3.0]), "damaged"),
        (with_row(["1", "2", "3"]), "damaged"),
        (with_row([10**400, 1.0, 3.0]), "damaged"),
        (with_row(None), "damaged"),
    ],
)
def test_what_is_damaged_or_of_another_kind_is_refused_with_the_fix(damaged, words):
    with pytest.raises(ValueError, match=f"{words}.*: fit it again"):
        Logistic.from_dict(damaged, NAMES)


@pytest.mark.parametrize("names", [("a", "b"), ("a", "c", "b"), ("a", "b", "c", "d"), ("a", "b", "x")])
def test_a_detector_for_other_statistics_is_refused(names):
    with pytest.raises(ValueError, match="fitted on other statistics than this version has: fit it again"):
        Logistic.from_dict(hand_made().to_dict(), names)
