"""Learning rates and averages against torch's own and the sums written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.training.ema import Ema
from realism_core.training.schedule import learning_rate_factor


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(0, 10))
def test_cosine_after_the_warm_up_is_torch_s(decaying: int, warmup: int) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=decaying)
    for step in range(decaying):
        factor = learning_rate_factor("cosine", warmup + step, warmup + decaying, warmup)
        assert factor == pytest.approx(reference.get_last_lr()[0], abs=1e-9)
        optimiser.step()
        reference.step()


@given(st.sampled_from(["constant", "cosine"]), st.integers(1, 50), st.integers(1, 50))
def test_the_warm_up_is_a_line_from_above_0_to_1(kind: str, warmup: int, more: int) -> None:
    factors = [learning_rate_factor(kind, step, warmup + more, warmup) for step in range(warmup + more)]
    assert factors[:warmup] == pytest.approx([(n + 1) / (warmup + 1) for n in range(warmup)])
    assert factors[warmup] == 1
    assert all(0 < factor <= 1 for factor in factors)
    assert kind == "cosine" or set(factors[warmup:]) == {1.0}


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="schedule is 'linear'; use one of constant, cosine"):
        learning_rate_factor("linear", 0, 1)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.01, 0.9999), st.integers(1, 40), st.integers(0, 1000))
def test_the_average_is_the_weighted_sum_of_all_weights(decay: float, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    path = torch.randn(steps + 1, 3, generator=generator, dtype=torch.float64)
    parameter = path[0].clone().requires_grad_()
    ema = Ema([parameter], decay)
    shares = [1.0]
    for count in range(steps):
        with torch.no_grad():
            parameter.copy_(path[count + 1])
        ema.update(count)
        kept = min(decay, (1 + count) / (10 + count))
        shares = [share * kept for share in shares] + [1 - kept]
    expected = (torch.tensor(shares, dtype=torch.float64)[:, None] * path).sum(0)
    assert sum(shares) == pytest.approx(1)
    assert torch.allclose(ema.averages[0], expected, rtol=0, atol=1e-12)


def test_averages_are_lent_and_given_back_bit_for_bit() -> None:
    parameters = [torch.randn(3, requires_grad=True), torch.randn(2, 2, requires_grad=True)]
    ema = Ema(parameters, 0.5)
    with torch.no_grad():
        parameters[0].add_(1)
    own = [parameter.detach().clone() for parameter in parameters]
    with pytest.raises(KeyError), ema.applied():
        assert all(torch.equal(p, a) for p, a in zip(parameters, ema.averages, strict=True))
        assert not torch.equal(parameters[0], own[0])
        raise KeyError
    assert all(torch.equal(p, o) for p, o in zip(parameters, own, strict=True))


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, float("nan")])
def test_a_decay_outside_0_to_1_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="ema_decay is"):
        Ema([torch.zeros(1)], decay)
