"""One loss in every prediction: gradients, conversions, normalisation and means, each derived anew."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor, nn

from realism_core.training.objective import KINDS, SPACES, V_SNR_FLOOR, Objective
from realism_core.training.timesteps import TimestepSampler, stable_diffusion_sigmas
from realism_core.training.weighting import KINDS as WEIGHTS
from realism_core.training.weighting import LossWeight, p2

EDM = Objective("edm", 0.5)
OBJECTIVES = [*map(Objective, KINDS), EDM]
# sigma of the variance-exploding sample; SNR from above the floor for v to far into the clean
ratios = st.lists(st.floats(0.01, 20), min_size=1, max_size=4)


def doubles(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def native(objective: Objective, ratio: Tensor) -> Tensor:
    return ratio / (1 + ratio) if objective.kind == "flow" else ratio


class Network(nn.Module):
    """Predicts the noise from the sample at unit variance and log sigma."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 6)).double()

    def forward(self, sample: Tensor, ratio: Tensor) -> Tensor:
        ratio = ratio[:, None]
        inside = torch.cat([sample / (1 + ratio**2).sqrt(), ratio.log()], 1)
        return self.layers(inside)


def gradient(network: Network, loss: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))])


def predicted(objective: Objective, network: Network, noisy: Tensor, ratio: Tensor) -> Tensor:
    """What a model of this kind would say if its noise prediction were the network's."""
    s = ratio[:, None]
    exploding = noisy * (1 + s) if objective.kind == "flow" else noisy
    eps = network(exploding, ratio)
    x0 = exploding - s * eps
    if objective.kind == "v":
        angle = torch.atan(s)
        return torch.cos(angle) * eps - torch.sin(angle) * x0
    return {"eps": eps, "x0": x0, "edm": x0, "flow": eps - x0}[objective.kind]


choices = st.one_of(
    st.builds(
        lambda k, gamma: LossWeight("p2", {"k": k, "gamma": gamma}, normalise=False),
        st.floats(0, 20), st.floats(0, 3),
    ),
    st.builds(lambda gamma: LossWeight("min_snr", {"gamma": gamma}, normalise=False), st.floats(0.1, 20)),
    st.just(LossWeight("debiased", normalise=False)),
    st.just(LossWeight("soft_min_snr", normalise=False, times=(("debiased", {}),))),
)  # fmt: skip
# the same weights without the code under test
FORMULAS = {
    "p2": lambda snr, k, gamma: (k + snr) ** -gamma,
    "min_snr": lambda snr, gamma: np.minimum(snr, gamma) / snr,
    "debiased": lambda snr: snr**-0.5,
    "soft_min_snr": lambda snr, sigma_data: 1 / (1 + sigma_data**2 * snr),
}


@settings(max_examples=60, deadline=None)
@given(choices, ratios, st.integers(0, 999))
def test_the_weighted_noise_loss_has_one_gradient_in_every_prediction(weight, values, seed):
    network, ratio = Network(seed), doubles(values)
    dice = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, len(values), 6, generator=dice, dtype=torch.float64)
    formula = math.prod(FORMULAS[kind](ratio.numpy() ** -2, **own) for kind, own in weight.factors)
    errors = (network(x0 + ratio[:, None] * noise, ratio) - noise) ** 2
    expected = gradient(network, (torch.from_numpy(formula) * errors.mean(1)).mean())
    for objective in OBJECTIVES:
        sigma = native(objective, ratio)
        prediction = predicted(objective, network, objective.noisy(x0, noise, sigma), ratio)
        errors = (prediction - objective.target(x0, noise, sigma)) ** 2
        found = gradient(network, (errors.mean(1) * objective.weights(weight, sigma)).mean())
        assert (found - expected).abs().max() <= 1e-9 * expected.abs().max(), objective


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-4, 1e4), st.floats(0, 9), st.floats(0, 2), st.integers(0, 999))
def test_conversions_follow_from_the_errors(s, k, gamma, seed):
    """A wrong noise prediction makes the other predictions wrong by amounts that definitions give."""
    eps_error = np.random.default_rng(seed).normal()
    # the sample is known, so x0 = sample - s eps is wrong by -s times as much
    x0_error = -s * eps_error
    angle = math.atan(s)
    errors = {
        "eps": eps_error,
        "x0": x0_error,
        "v": math.cos(angle) * eps_error - math.sin(angle) * x0_error,
        "flow": eps_error - x0_error,
    }
    on_eps = (k + s**-2) ** -gamma
    for objective in OBJECTIVES:
        sigma = native(objective, doubles([s]))
        assert objective.snr(sigma).item() == pytest.approx(s**-2, rel=1e-11)
        weight = p2(objective.snr(sigma), k, gamma)
        for space in SPACES:
            found = objective.convert(weight, sigma, space).item() * errors[space] ** 2
            assert found == pytest.approx(on_eps * eps_error**2, rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 0.999), st.floats(0.01, 9), st.floats(0, 2))
def test_the_table_of_exact_weights(t, k, gamma):
    """As it is written down for each kind of model, sigma standing for t in the flow rows."""
    def at(kind: str, space: str, sigma: float = t) -> float:
        objective, sigma = Objective(kind), doubles([sigma])
        return objective.convert(p2(objective.snr(sigma), k, gamma), sigma, space).item()

    snr, flow_snr = t**-2, ((1 - t) / t) ** 2
    factor, flow_factor = (k + snr) ** -gamma, (k + flow_snr) ** -gamma
    near = {"rel": 1e-11}
    assert at("eps", "eps") == pytest.approx(factor, **near)
    assert at("x0", "x0") == pytest.approx(snr * factor, **near)
    assert at("v", "v") == pytest.approx(snr / (1 + snr) * factor, **near)
    assert at("flow", "flow") == pytest.approx((1 - t) ** 2 * flow_factor, **near)
    assert at("flow", "x0") == pytest.approx(flow_snr * flow_factor, **near)
    assert at("edm", "x0") == pytest.approx(t**-2 * (k + t**-2) ** -gamma, **near)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_samples_and_targets_are_comfyuis(objective):
    """A perfect prediction gives the clean sample back by the formulas that ComfyUI samples with."""
    dice = torch.Generator().manual_seed(5)
    x0, noise = torch.randn(2, 6, 4, 5, 3, generator=dice, dtype=torch.float64)
    sigma = doubles([0.01, 0.1, 0.4, 0.9, 0.99, 1.0])
    if objective.kind != "flow":
        sigma = sigma * 15
    x, out = objective.noisy(x0, noise, sigma), objective.target(x0, noise, sigma)
    s = sigma[:, None, None, None]
    denoised = {
        "eps": lambda: x - out * s,
        "v": lambda: x / (s**2 + 1) - out * s / (s**2 + 1) ** 0.5,
        "flow": lambda: x - out * s,
        "x0": lambda: out,
        "edm": lambda: out,
    }[objective.kind]()
    assert (denoised - x0).abs().max() < 1e-12


@settings(max_examples=60, deadline=None)
@given(st.floats(0.002, 80), st.floats(0.1, 3), st.floats(0, 2))
def test_factor_on_an_edm_model_weighs_its_own_loss(sigma, data, gamma):
    """Karras et al. 2022: D = c_skip x + c_out F, and a loss with weight 1 on F."""
    out = sigma * data / math.sqrt(sigma**2 + data**2)
    weight = LossWeight("p2", {"gamma": gamma}, "factor", normalise=False)
    found = Objective("edm", data).weights(weight, doubles([sigma])).item() * out**2
    assert found == pytest.approx((1 + sigma**-2) ** -gamma, rel=1e-10)


@pytest.mark.parametrize("kind", ["eps", "v", "x0", "flow"])
def test_factor_is_the_plain_factor(kind):
    objective, sigma = Objective(kind), doubles([0.1, 0.5, 0.9])
    weight = LossWeight("p2", {"gamma": 0.5}, "factor", normalise=False)
    assert torch.equal(objective.weights(weight, sigma), (1 + objective.snr(sigma)) ** -0.5)
    exact = objective.weights(replace(weight, mode="exact"), sigma)
    on_eps = objective.in_eps_terms(exact, sigma)
    assert torch.allclose(on_eps, (1 + objective.snr(sigma)) ** -0.5, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_no_limit_is_nan_or_infinite(objective, dtype):
    ends = [0.0, 1e-30, 1 - 1e-12, 1.0] if objective.kind == "flow" else [0.0, 1e-30, 1e9, math.inf]
    sigma = torch.tensor(ends, dtype=dtype)
    for kind in WEIGHTS:
        for mode in ("exact", "factor"):
            weight = LossWeight(kind, {"k": 0.0} if kind == "p2" else {}, mode, normalise=False)
            values = objective.weights(weight, sigma)
            assert values.dtype == dtype and torch.isfinite(values).all() and (values >= 0).all()
    for space in SPACES:
        assert torch.isfinite(objective.convert(p2(objective.snr(sigma)), sigma, space)).all()


def test_the_last_step_of_a_zero_terminal_snr_schedule_is_trained():
    weight = LossWeight("p2", normalise=False)
    sigma = doubles([4518.0, 999999999.9, math.inf])
    floor = V_SNR_FLOOR / (1 + V_SNR_FLOOR)
    assert Objective("v").weights(weight, sigma).tolist() == pytest.approx([floor] * 3, rel=1e-6)
    # above the floor nothing changes: the schedule of Stable Diffusion ends at sigma 14.6
    sigma = stable_diffusion_sigmas(torch.linspace(0, 1, 50, dtype=torch.float64))
    exact = 1 / (1 + sigma**2) / (1 + sigma**-2)
    assert Objective("v").weights(weight, sigma).tolist() == pytest.approx(exact.tolist(), rel=1e-11)


def test_half_precision_is_computed_in_single():
    for dtype in (torch.float16, torch.bfloat16):
        sigma = torch.tensor([0.5, 8.0], dtype=dtype)
        weights = Objective("v").weights(LossWeight(normalise=False), sigma)
        assert weights.dtype == torch.float32
        assert weights.tolist() == Objective("v").weights(LossWeight(normalise=False), sigma.float()).tolist()


def log_even(u: Tensor) -> Tensor:
    return 0.002 * 40000**u


SCHEDULES = [
    (Objective("eps"), stable_diffusion_sigmas),
    (Objective("v"), stable_diffusion_sigmas),
    (Objective("flow"), lambda u: u),
    (Objective("flow"), lambda u: 3 * u / (1 + 2 * u)),
    (EDM, log_even),
]
DENSITIES = [
    (TimestepSampler(), lambda u: 1.0),
    (TimestepSampler("shifted", shift=3.0), lambda u: 3 / (3 - 2 * u) ** 2),
    (
        TimestepSampler("logit_normal", 0.3, 0.8),
        lambda u: math.exp(-0.5 * ((math.log(u / (1 - u)) - 0.3) / 0.8) ** 2)
        / (0.8 * math.sqrt(2 * math.pi) * u * (1 - u)),
    ),
]


@pytest.mark.parametrize("mode", ["exact", "factor"])
@pytest.mark.parametrize(("sampler", "density"), DENSITIES)
@pytest.mark.parametrize(("objective", "sigmas"), SCHEDULES)
def test_the_mean_over_the_drawn_timesteps_is_one(objective, sigmas, sampler, density, mode):
    for weight in (
        LossWeight("p2", mode=mode, timesteps=sampler),
        LossWeight("min_snr", mode=mode, timesteps=sampler, times=(("p2", {"gamma": 0.5}),)),
    ):
        prepared = objective.prepare(weight, sigmas)
        assert prepared == objective.prepare(weight, sigmas)

        def integrand(u: float, prepared: LossWeight = prepared) -> float:
            return density(u) * objective.weights(prepared, sigmas(doubles([u]))).item()

        parts = [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0]
        pieces = (
            quad(integrand, max(low, 1e-6), min(high, 1 - 1e-6), limit=60, epsrel=1e-6)[0]
            for low, high in zip(parts, parts[1:], strict=False)
        )
        assert sum(pieces) == pytest.approx(1, abs=2e-4)


def test_the_scale_is_one_number_for_the_whole_training():
    """Dividing by each batch's own mean would give every batch of one the weight 1."""
    objective = Objective("v")
    prepared = objective.prepare(LossWeight(), stable_diffusion_sigmas)
    sigma = doubles([0.1, 1.0, 10.0])
    together = objective.weights(prepared, sigma)
    singles = [objective.weights(prepared, sigma[i : i + 1]).item() for i in range(3)]
    assert together.tolist() == singles and max(singles) > 2 * min(singles)
    plain = objective.weights(replace(prepared, normalise=False), sigma)
    assert (together / plain).tolist() == pytest.approx([prepared.scale] * 3, rel=1e-12)


def test_a_mean_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="use what Objective.prepare"):
        Objective("eps").weights(LossWeight(), doubles([1.0]))
    unscaled = Objective("eps").prepare(LossWeight(normalise=False), stable_diffusion_sigmas)
    assert unscaled.scale is None
    assert Objective("eps").weights(unscaled, doubles([1.0])).tolist() == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("objective", "sigmas", "weight"),
    [
        (Objective("flow"), lambda u: u, LossWeight("debiased", mode="factor")),
        (Objective("flow"), lambda u: u, LossWeight("p2", {"k": 0, "gamma": 2}, normalise=False)),
        (Objective("v"), lambda u: torch.tan(math.pi / 2 * u), LossWeight("p2", {"k": 0}, "factor")),
    ],
)
def test_a_weight_that_falls_on_a_few_timesteps_is_refused_by_name(objective, sigmas, weight):
    with pytest.raises(ValueError, match="of the whole weight would fall on 1 % of the timesteps") as error:
        objective.prepare(weight, sigmas)
    assert weight.label() in str(error.value) and weight.mode in str(error.value)


@pytest.mark.parametrize("sampler", ["uniform", "logit_normal", "mode", "shifted"])
@pytest.mark.parametrize(("objective", "sigmas"), SCHEDULES)
def test_the_usual_weights_are_honoured_exactly_by_every_kind_of_model(objective, sigmas, sampler):
    for kind in WEIGHTS:
        weight = LossWeight(kind, timesteps=TimestepSampler(sampler))
        assert 0 < objective.prepare(weight, sigmas).scale < math.inf


def test_bad_objectives():
    for call, words in (
        (lambda: Objective("epsilon"), "'epsilon': choose one of eps, v, x0, flow, edm"),
        (lambda: Objective("v", 0.5), "sigma_data is 0.5, but the objective v has none"),
        (lambda: Objective("edm", 0), "sigma_data is 0: set it above 0"),
        (lambda: Objective("eps").convert(doubles([1]), doubles([1]), "edm"), "space is 'edm'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
