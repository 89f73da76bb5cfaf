"""Loss weights against their formulas, the choice that travels, and the plot."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.plots.canvas import PICTURE
from realism_core.plots.weights import (
    BOTTOM,
    LEFT,
    POINTS,
    RIGHT,
    TOP,
    value_range,
    weight_curves,
    weight_plot,
)  # fmt: skip
from realism_core.training.objective import Objective
from realism_core.training.timesteps import KINDS as TIMESTEPS
from realism_core.training.timesteps import TimestepSampler, stable_diffusion_sigmas
from realism_core.training.weighting import (
    KINDS,
    LossWeight,
    constant,
    debiased,
    min_snr,
    p2,
    product,
    soft_min_snr,
)  # fmt: skip

snrs = st.floats(1e-9, 1e9)
exact = {"rel": 1e-12, "abs": 0}


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@settings(max_examples=200, deadline=None)
@given(snrs, st.floats(0, 50), st.floats(0, 4))
def test_p2(snr, k, gamma):
    assert p2(one(snr), k, gamma).item() == pytest.approx(math.exp(-gamma * math.log(k + snr)), rel=1e-11)


@settings(max_examples=200, deadline=None)
@given(snrs, st.floats(0.01, 100))
def test_min_snr_and_debiased(snr, gamma):
    assert min_snr(one(snr), gamma).item() == pytest.approx(min(snr, gamma) / snr, **exact)
    assert debiased(one(snr)).item() == pytest.approx(1 / math.sqrt(snr), **exact)
    assert debiased(one(snr)).item() == pytest.approx(p2(one(snr), 0, 0.5).item(), **exact)
    assert constant(one(snr)).item() == 1


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(0.05, 10), st.floats(-5, 5))
def test_soft_min_snr_is_the_weighted_loss_on_the_preconditioned_target(sigma, data, error):
    """(s d)^2 / (s^2 + d^2)^2 on the network's own output, whose error is that of x0 over c_out."""
    out = sigma * data / math.sqrt(sigma**2 + data**2)
    loss = (sigma * data) ** 2 / (sigma**2 + data**2) ** 2 * (error * sigma / out) ** 2
    ours = soft_min_snr(one(sigma**-2), data).item() * error**2
    assert ours == pytest.approx(loss, rel=1e-11)
    same = p2(one(sigma**-2), k=data**-2, gamma=1).item() * data**-2
    assert soft_min_snr(one(sigma**-2), data).item() == pytest.approx(same, rel=1e-12)


def test_limits_are_limits_and_never_nan():
    ends = torch.tensor([0.0, math.inf], dtype=torch.float64)
    assert constant(ends).tolist() == [1, 1]
    assert p2(ends, 4.0, 0.5).tolist() == [0.5, 0]
    assert p2(ends, 0.0, 0.0).tolist() == [1, 1]
    assert p2(ends, 0.0, 1.0).tolist() == [math.inf, 0]
    assert min_snr(ends).tolist() == [1, 0]
    assert soft_min_snr(ends).tolist() == [1, 0]
    assert debiased(ends).tolist() == [math.inf, 0]


@pytest.mark.parametrize("weighting", [constant, p2, min_snr, soft_min_snr, debiased, product(p2, min_snr)])
def test_shape_and_type_stay(weighting):
    for dtype in (torch.float32, torch.float64):
        snr = torch.rand(2, 3, 4, dtype=dtype) + 0.1
        weight = weighting(snr)
        assert weight.shape == snr.shape and weight.dtype == dtype
        assert torch.equal(weight[1, 2], weighting(snr[1, 2]))
    assert weighting(torch.tensor([4])).is_floating_point()


@settings(max_examples=50, deadline=None)
@given(st.lists(snrs, min_size=1, max_size=5), st.floats(0, 3), st.floats(0.1, 9))
def test_product(values, gamma, cut):
    snr = torch.tensor(values, dtype=torch.float64)
    together = product(lambda x: p2(x, 1, gamma), lambda x: min_snr(x, cut), debiased)(snr)
    expected = [(1 + x) ** -gamma * min(x, cut) / x / math.sqrt(x) for x in values]
    assert together.tolist() == pytest.approx(expected, rel=1e-11)
    assert product()(snr).tolist() == [1] * len(values)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: p2(x, k=-1), "k is -1: set it to 0 or more"),
        (lambda x: p2(x, gamma=-0.5), "gamma is -0.5: set it to 0 or more"),
        (lambda x: p2(x, k=math.nan), "k is nan"),
        (lambda x: p2(x, gamma=math.inf), "gamma is inf"),
        (lambda x: min_snr(x, 0), "gamma is 0: set it above 0"),
        (lambda x: soft_min_snr(x, 0), "sigma_data is 0: set it above 0"),
    ],
)
def test_numbers_out_of_range(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.ones(1))


numbers = {
    "p2": st.fixed_dictionaries({}, optional={"k": st.floats(0, 9), "gamma": st.floats(0, 4)}),
    "min_snr": st.fixed_dictionaries({}, optional={"gamma": st.floats(0.1, 9)}),
    "soft_min_snr": st.fixed_dictionaries({}, optional={"sigma_data": st.floats(0.1, 9)}),
    "debiased": st.just({}),
    "constant": st.just({}),
}
factors = st.sampled_from(list(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), numbers[kind]))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(factors, min_size=1, max_size=3), st.sampled_from(["exact", "factor"]), st.booleans(),
    st.sampled_from(list(TIMESTEPS)), st.floats(0.1, 1.5), st.booleans(), snrs,
)  # fmt: skip
def test_a_choice_is_the_product_and_survives_json(chosen, mode, normalise, kind, number, even, snr):
    sampler = TimestepSampler(kind, number, number, number, number, even)
    (name, given_numbers), *times = chosen
    weight = LossWeight(name, given_numbers, mode, normalise, sampler, tuple(times))
    parts = [KINDS[kind].function(one(snr), **{**KINDS[kind].numbers, **own}).item() for kind, own in chosen]
    assert weight.on_eps(one(snr)).item() == pytest.approx(math.prod(parts), rel=1e-12)
    stored = json.loads(json.dumps(weight.to_dict()))
    back = LossWeight.from_dict(stored)
    assert back.to_dict() == stored and back.factors == weight.factors
    assert torch.equal(back.on_eps(one(snr)), weight.on_eps(one(snr)))
    assert back.describe() == weight.describe()


def test_words():
    assert LossWeight().describe() == "P2 (k 1, gamma 1), exact, mean 1 over uniform timesteps"
    further = (("debiased", {}), ("min_snr", {"gamma": 2.5}))
    weight = LossWeight("constant", mode="factor", normalise=False, times=further)
    assert weight.label() == "constant x debiased x min-SNR (gamma 2.5)"
    assert "as a factor on the model's own loss, not normalised" in weight.describe()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LossWeight("p3"), "'p3': choose one of p2, min_snr"),
        (lambda: LossWeight("p2", {"sigma": 1}), "p2 takes no sigma; its numbers are: k, gamma"),
        (lambda: LossWeight("debiased", {"k": 1}), "debiased takes no k; its numbers are: none"),
        (lambda: LossWeight("p2", {"k": -1}), "k is -1"),
        (lambda: LossWeight(times=(("min_snr", {"gamma": 0}),)), "gamma is 0"),
        (lambda: LossWeight(mode="about"), "mode is 'about': choose one of exact, factor"),
        (lambda: LossWeight.from_dict({"kind": "p2", "power": 2}), r"unknown fields \(power\)"),
    ],
)
def test_bad_choices(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_choice_is_frozen_and_keeps_its_own_numbers():
    given_numbers = {"k": 2.0}
    weight = LossWeight("p2", given_numbers)
    given_numbers["k"] = 5.0
    assert weight.numbers == {"k": 2.0, "gamma": 1.0}
    with pytest.raises(FrozenInstanceError):
        weight.kind = "constant"


def straight(u: torch.Tensor) -> torch.Tensor:
    return u


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_the_curves_are_weights_on_the_noise_error(kind, normalise):
    objective = Objective(kind)
    sigmas = straight if kind == "flow" else stable_diffusion_sigmas
    u, (ours, plain, other) = weight_curves(LossWeight(normalise=normalise), objective, sigmas)
    t = u if kind == "flow" else stable_diffusion_sigmas(torch.from_numpy(u)).numpy()
    snr = ((1 - t) / t) ** 2 if kind == "flow" else t**-2
    own = {"eps": 1, "v": 1 + 1 / snr, "flow": (1 - t) ** -2.0}[kind] * np.ones(POINTS)
    for curve, expected in ((ours, 1 / (1 + snr)), (plain, own), (other, np.minimum(snr, 5) / snr)):
        ratio = curve.values / expected
        assert ratio == pytest.approx(ratio[0], rel=1e-9)
        mean = float(np.mean(curve.values / own))
        assert mean == pytest.approx(1, abs=3e-3) if normalise else ratio[0] == pytest.approx(1, rel=1e-9)
    assert [curve.label for curve in (ours, plain, other)] == ["P2 (k 1, gamma 1)", "unweighted", "min-SNR 5"]


@pytest.mark.parametrize("timesteps", TIMESTEPS)
@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_the_plot_draws_the_weight_where_it_is(kind, timesteps):
    objective = Objective(kind)
    sigmas = straight if kind == "flow" else stable_diffusion_sigmas
    weight = LossWeight(timesteps=TimestepSampler(timesteps))
    plot = weight_plot(weight, objective, sigmas)
    assert plot.shape == (1, 400, 640, 3) and plot.dtype == torch.float32
    assert plot.min() >= 0 and plot.max() <= 1
    assert torch.equal(plot, weight_plot(weight, objective, sigmas))
    u, curves = weight_curves(weight, objective, sigmas)
    low, high = value_range(curves)
    near = (plot[0] - torch.tensor(PICTURE) / 255).abs().amax(2) < 0.15
    drawn = 0
    for place, value in zip(u[20:-20:25], curves[0].values[20:-20:25], strict=True):
        x = round(LEFT + place * (RIGHT - LEFT))
        y = round(BOTTOM - (math.log10(value) - low) / (high - low) * (BOTTOM - TOP))
        if TOP + 4 < y < BOTTOM - 4:
            assert near[y - 4 : y + 5, x - 2 : x + 3].any(), (place, value)
            drawn += 1
    assert drawn > 12
    # below and above the frame only the legend has this colour
    assert not near[BOTTOM + 4 :].any() and not near[TOP - 20 : TOP - 4].any()
