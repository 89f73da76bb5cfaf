"""Timestep samplers against closed-form distributions, and Stable Diffusion's schedule."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import kstest, norm

from realism_core.training.timesteps import EDGE, KINDS, TimestepSampler, stable_diffusion_sigmas


def mode_cdf(scale: float):
    """The distribution of 1 - x - s (cos^2(pi x / 2) - 1 + x) for a uniform x, by solving for x."""

    def sample(x: float) -> float:
        return 1 - x - scale * (math.cos(math.pi / 2 * x) ** 2 - 1 + x)

    return np.vectorize(lambda u: 1 - brentq(lambda x: sample(x) - u, 0, 1, xtol=1e-14))


CASES = [
    (TimestepSampler("uniform"), lambda u: u),
    (TimestepSampler("logit_normal"), lambda u: norm.cdf(np.log(u / (1 - u)))),
    (
        TimestepSampler("logit_normal", mean=-0.7, std=0.4),
        lambda u: norm.cdf(np.log(u / (1 - u)), -0.7, 0.4),
    ),
    (TimestepSampler("mode"), mode_cdf(1.29)),
    (TimestepSampler("mode", scale=-0.8), mode_cdf(-0.8)),
    (TimestepSampler("mode", scale=1.75), mode_cdf(1.75)),
    (TimestepSampler("shifted", shift=3.0), lambda u: u / (3 - 2 * u)),
    (TimestepSampler("shifted", shift=0.4), lambda u: u / (0.4 + 0.6 * u)),
]
IDS = [sampler.describe() for sampler, _ in CASES]


def plain(sampler: TimestepSampler) -> TimestepSampler:
    return TimestepSampler(
        sampler.kind, sampler.mean, sampler.std, sampler.scale, sampler.shift, stratified=False
    )


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("sampler", "cdf"), CASES, ids=IDS)
def test_independent_draws_have_the_distribution(sampler, cdf):
    u = plain(sampler).draw(20_000, generator(3))
    assert u.dtype == torch.float64 and u.shape == (20_000,)
    assert kstest(u.numpy(), cdf).pvalue > 1e-3


@pytest.mark.parametrize(("sampler", "cdf"), CASES, ids=IDS)
def test_stratified_draws_miss_it_by_at_most_one_draw(sampler, cdf):
    for n in (1, 2, 7, 64, 500):
        u = sampler.draw(n, generator(n))
        places = cdf(u.numpy())
        assert sorted(np.minimum((places * n).astype(int), n - 1)) == list(range(n))
        assert kstest(u.numpy(), cdf).statistic <= 1 / n + 1e-9


@pytest.mark.parametrize(("sampler", "cdf"), CASES, ids=IDS)
def test_every_position_of_a_stratified_batch_has_the_distribution(sampler, cdf):
    """Were the draws in order, the first image would always be nearly clean."""
    dice = generator(11)
    batches = torch.stack([sampler.draw(4, dice) for _ in range(3000)])
    for position in range(4):
        assert kstest(batches[:, position].numpy(), cdf).pvalue > 1e-3


def test_stratified_batches_differ_less():
    means = {}
    for even in (True, False):
        dice, sampler = generator(1), TimestepSampler(stratified=even)
        means[even] = torch.stack([sampler.draw(8, dice).mean() for _ in range(500)]).std().item()
    # 1 / sqrt(12 n) and 1 / sqrt(12 n^3)
    assert means[False] == pytest.approx(96**-0.5, rel=0.15)
    assert means[True] == pytest.approx((12 * 8**3) ** -0.5, rel=0.15)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(KINDS)), st.floats(-10, 10), st.floats(0.01, 10), st.floats(-1, 1.75),
    st.floats(0.01, 100), st.integers(0, 50), st.integers(0, 2**32), st.booleans(),
)  # fmt: skip
def test_draws_are_inside_and_repeatable(kind, mean, std, scale, shift, n, seed, even):
    sampler = TimestepSampler(kind, mean, std, scale, shift, even)
    u = sampler.draw(n, generator(seed))
    assert u.shape == (n,) and torch.equal(u, sampler.draw(n, generator(seed)))
    assert ((u >= EDGE) & (u <= 1 - EDGE)).all() and ((u.float() > 0) & (u.float() < 1)).all()
    quantiles = sampler.quantile(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert (quantiles.diff() >= -1e-15).all() and not quantiles.isnan().any()
    stored = json.loads(json.dumps(sampler.to_dict()))
    back = TimestepSampler.from_dict(stored)
    assert back.to_dict() == stored and torch.equal(back.draw(n, generator(seed)), u)


def test_words_and_fields_that_count():
    assert TimestepSampler().describe() == "uniform timesteps"
    sampler = TimestepSampler("logit_normal", -0.5, 2)
    assert sampler.describe() == "logit-normal timesteps (mean -0.5, std 2)"
    assert sampler.to_dict() == {"kind": "logit_normal", "mean": -0.5, "std": 2, "stratified": True}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TimestepSampler("normal"), "'normal': choose one of uniform, logit_normal, mode, shifted"),
        (lambda: TimestepSampler("logit_normal", std=0), "std of the timesteps is 0: set it above 0"),
        (lambda: TimestepSampler("logit_normal", mean=math.nan), "mean of the timesteps is nan"),
        (lambda: TimestepSampler("mode", scale=1.76), "the timesteps is 1.76: set it from -1 to 1.752"),
        (lambda: TimestepSampler("mode", scale=-1.1), "scale of the timesteps is -1.1"),
        (lambda: TimestepSampler("shifted", shift=0), "shift of the timesteps is 0: set it above 0"),
        (lambda: TimestepSampler.from_dict({"kind": "uniform", "mean": 0}), r"unknown fields \(mean\)"),
    ],
)
def test_bad_samplers(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_stable_diffusions_schedule():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    sigmas = np.sqrt((1 - kept) / kept)
    steps = torch.arange(1000, dtype=torch.float64) / 999
    assert stable_diffusion_sigmas(steps).numpy() == pytest.approx(sigmas, rel=1e-9)
    ends = stable_diffusion_sigmas(torch.tensor([0.0, 1.0])).tolist()
    assert ends == pytest.approx([0.0291671582, 14.6146412], rel=1e-6)
    between = stable_diffusion_sigmas((steps[:-1] + steps[1:]) / 2).numpy()
    assert between == pytest.approx(np.sqrt(sigmas[:-1] * sigmas[1:]), rel=1e-9)
    assert stable_diffusion_sigmas(torch.zeros(2, 3)).shape == (2, 3)
