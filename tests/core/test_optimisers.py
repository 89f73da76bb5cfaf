"""The optimisers against others' code, and what they keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.training.checkpoint import optimiser_state, restore_optimiser
from realism_core.training.optimisers import OPTIMISERS, Adafactor, make_optimiser, state_numbers

SHAPES = [(5, 3), (3, 5), (4,), (1, 1), (2, 7)]


def weights(shapes, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes
    ]


def walk(optimiser, parameters, steps: int, seed: int = 5, start: int = 0) -> None:
    """Make steps with gradients that are random and known."""
    for step in range(start, start + steps):
        for number, parameter in enumerate(parameters):
            generator = torch.Generator().manual_seed(1000 * seed + 10 * step + number)
            gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = gradient * 10 ** (step % 5 - 2)
        optimiser.step()


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-5, 1e-1), st.floats(0, 0.3), st.integers(1, 12), st.integers(0, 1000))
def test_adafactor_is_the_one_of_transformers(rate: float, decay: float, steps: int, seed: int) -> None:
    reference_class = pytest.importorskip("transformers.optimization").Adafactor
    ours, theirs = weights(SHAPES, seed), weights(SHAPES, seed)
    walk(Adafactor(ours, rate, decay), ours, steps, seed)
    reference = reference_class(
        theirs, lr=rate, weight_decay=decay, scale_parameter=False, relative_step=False, warmup_init=False
    )
    walk(reference, theirs, steps, seed)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-14)


def test_adafactor_factors_kernels_as_matrices() -> None:
    (kernel,), (matrix,) = weights([(4, 3, 2, 2)], 1), weights([(4, 12)], 1)
    matrix.data.copy_(kernel.data.flatten(1))
    one, other = Adafactor([kernel], 0.01), Adafactor([matrix], 0.01)
    for step in range(4):
        gradient = weights([(4, 12)], 50 + step)[0].detach()
        kernel.grad, matrix.grad = gradient.view(4, 3, 2, 2).clone(), gradient.clone()
        one.step()
        other.step()
    assert torch.equal(kernel.flatten(1), matrix)


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_state_is_as_large_as_said(kind: str) -> None:
    shapes = [(32, 64), (64, 16, 3, 3), (128,)]
    parameters = weights(shapes, 3)
    optimiser = make_optimiser(kind, parameters, 1e-3)
    walk(optimiser, parameters, 2)
    tensors, _ = optimiser_state(optimiser)
    kept = sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith(".step"))
    assert kept == sum(state_numbers(kind, shape) for shape in shapes)
    if kind == "adafactor":
        assert kept < 0.05 * sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize("kind", OPTIMISERS)
@pytest.mark.parametrize("made", [0, 1, 5])
def test_an_optimiser_goes_on_from_its_state_bit_for_bit(kind: str, made: int) -> None:
    whole, parts = weights(SHAPES, 4), weights(SHAPES, 4)
    walk(make_optimiser(kind, whole, 0.01, 0.1), whole, made + 4)
    first = make_optimiser(kind, parts, 0.01, 0.1)
    walk(first, parts, made)
    tensors, numbers = optimiser_state(first)
    second = make_optimiser(kind, parts, 0.01, 0.1)
    restore_optimiser(second, {name: tensor.clone() for name, tensor in tensors.items()}, numbers)
    walk(second, parts, 4, start=made)
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_a_closure_is_called_with_gradients_on() -> None:
    (parameter,) = weights([(3, 2)], 6)
    optimiser = Adafactor([parameter], 0.1)

    def closure() -> torch.Tensor:
        loss = parameter.square().sum()
        parameter.grad = None
        loss.backward()
        return loss

    losses = [optimiser.step(closure).item() for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]


def test_weights_without_gradient_stay() -> None:
    one, other = weights([(3, 2), (3, 2)], 7)
    before = other.detach().clone()
    one.grad = torch.ones_like(one)
    make_optimiser("adafactor", [one, other], 0.1, 0.5).step()
    assert torch.equal(other, before)


def test_an_unknown_optimiser_is_refused() -> None:
    with pytest.raises(ValueError, match="optimiser is 'lion'; use one of adamw, adafactor, sgd"):
        make_optimiser("lion", weights([(2, 2)], 0), 0.1)
