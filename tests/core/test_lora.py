"""Adapters against merged weights in float64: outputs, gradients, precisions, states."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from realism_core.training.lora import LoraConfig, attach
from tests.core.adapted import Adapted, Cast, applied, everything, fill, merged, numbers, one, seeded

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@st.composite
def layers(draw: st.DrawFn) -> tuple[Adapted, tuple[int, ...]]:
    """A layer in float64 and the shape of an input."""
    inputs, outputs, bias = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        leading = draw(st.lists(st.integers(1, 4), max_size=3))
        return nn.Linear(inputs, outputs, bias).double(), (*leading, inputs)
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    mode = draw(st.sampled_from(["zeros", "reflect", "circular"]))
    stride = draw(st.integers(1, 2))
    padding = draw(st.sampled_from([0, 1, (0, 1)] + (["same"] if stride == 1 else [])))
    dilation = draw(st.integers(1, 2))
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, 1, bias, mode)
    return conv.double(), (draw(st.integers(1, 2)), inputs, 7, 6)


@settings(max_examples=120, deadline=None)
@given(layers(), st.integers(1, 9), st.floats(0.1, 30), st.booleans(), st.booleans())
def test_output_and_gradients_are_those_of_the_merged_weight(
    made: tuple[Adapted, tuple[int, ...]], rank: int, alpha: float, stable: bool, dora: bool
) -> None:
    layer, shape = made
    config = everything(rank=rank, alpha=alpha, rank_stabilised=stable, dora=dora, clamp_rank=True)
    with one(layer, config) as adapters:
        assert adapters.layers["layer"].scale == alpha / (rank**0.5 if stable else rank)
        x = numbers(*shape).requires_grad_()
        output = layer(x)
        target = applied(layer, x, merged(adapters))
        torch.testing.assert_close(output, target, rtol=1e-10, atol=1e-10)
        weights = [x, *adapters.parameters()]
        pull = numbers(*output.shape, seed=2)
        ours = torch.autograd.grad(output, weights, pull)
        theirs = torch.autograd.grad(target, weights, pull)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_before_the_first_step_the_output_is_the_base_models_bits(dtype: torch.dtype, dora: bool) -> None:
    model, x = seeded().to(dtype), numbers(2, 6, 5, 4, dtype=dtype)
    before = model.requires_grad_(False)(x)  # torch rounds otherwise where weights ask for gradients
    with attach(model, everything(dora=dora), 7):
        assert torch.equal(model(x), before)
        assert model(x).dtype == dtype


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02), (torch.float16, 2e-3)]
)
def test_lower_precision_stays_near_float64(dtype: torch.dtype, error: float, dora: bool) -> None:
    model, x = seeded().to(dtype), numbers(2, 6, 5, 4, dtype=dtype)
    exact = copy.deepcopy(model).double()
    with fill(attach(model, everything(dora=dora), 7)) as adapters:
        output = model(x)
        assert output.dtype == dtype
        output.float().square().mean().backward()
        assert all(weight.grad.dtype == torch.float32 for weight in adapters.parameters())
    with fill(attach(exact, everything(dora=dora), 7), torch.float64):
        target = exact(x.double())
        # rows that came out shorter than W and s B A show more of the rounding of both
        error *= 3 if dora else 1
        assert (output.double() - target).abs().max() < error * target.abs().max()


class Outside(nn.Linear):
    """A linear layer that computes outside autocast."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(x)


def test_under_autocast_the_sum_has_the_dtype_of_the_layers_output() -> None:
    model, x = seeded(), numbers(2, 6, 5, 4, dtype=torch.float32)
    with fill(attach(model, everything(), 7)) as adapters, torch.autocast("cpu", torch.bfloat16):
        output = model(x)
        assert output.dtype == torch.bfloat16
        output.float().sum().backward()
        assert all(weight.grad.dtype == torch.float32 for weight in adapters.parameters())
        with torch.autocast("cpu", enabled=False):
            target = model(x)
        assert (output.float() - target).abs().max() < 0.02 * target.abs().max()
    # a layer that leaves autocast keeps its float32, whatever the adapter computed in
    layer = Outside(6, 6)
    with one(layer, everything(), torch.float32) as adapters:
        x = x.movedim(1, -1)
        target = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        assert output.dtype == torch.float32
        assert 0 < (output - target).abs().max() < 0.02 * target.abs().max()


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_goes_by_its_input_not_by_the_stored_weight(stored: torch.dtype, dora: bool) -> None:
    layer = Cast(6, 5, stored)
    layer.bias = nn.Parameter(layer.bias.detach().to(torch.bfloat16))
    x = numbers(4, 6)
    with one(layer, everything(dora=dora)) as adapters:
        target = F.linear(x, merged(adapters), layer.bias.double())
        torch.testing.assert_close(layer(input=x), target, rtol=1e-10, atol=1e-10)


def test_a_starts_uniform_within_its_bound_and_depends_on_seed_and_path_alone() -> None:
    torch.manual_seed(9)
    model = nn.ModuleDict({"a": nn.Linear(100, 80), "b": nn.Conv2d(25, 80, 2), "c": nn.Linear(100, 80)})
    states = []
    for seed, pattern in [(1, "*"), (1, "c"), (2, "c")]:
        torch.manual_seed(len(states))
        with attach(model, LoraConfig(rank=50, targets="pattern", pattern=pattern), seed) as adapters:
            states.append(adapters.state_dict())
    for path in "abc":
        down = states[0][f"{path}.lora_A.weight"]
        assert down.abs().max() <= 0.1
        assert abs(down.std() - 0.1 / math.sqrt(3)) < 0.002
        assert not states[0][f"{path}.lora_B.weight"].any()
    assert torch.equal(states[0]["c.lora_A.weight"], states[1]["c.lora_A.weight"])
    assert not torch.equal(states[0]["c.lora_A.weight"], states[0]["a.lora_A.weight"])
    assert not torch.equal(states[1]["c.lora_A.weight"], states[2]["c.lora_A.weight"])


@pytest.mark.parametrize("config", [everything(alpha=5.0), everything(rank_stabilised=True, dora=True)])
def test_a_state_dict_gives_the_update_by_alpha_over_rank_and_loads_again(config: LoraConfig) -> None:
    x = numbers(2, 6, 5, 4, dtype=torch.float32)
    with fill(attach(model := seeded(), config, 0)) as adapters:
        output = model(x)
        state = {name: tensor.clone() for name, tensor in adapters.state_dict().items()}
    parts = ["lora_A.weight", "lora_B.weight", *(["dora_scale"] if config.dora else []), "alpha"]
    assert list(state) == [f"{path}.{part}" for path in ("first", "second", "conv") for part in parts]
    for path in ("first", "second", "conv"):
        adapter = adapters.layers[path]
        assert float(state[f"{path}.alpha"]) / adapter.rank == pytest.approx(adapter.scale, rel=1e-6)
    with attach(other := seeded(), config, 8) as fresh:
        fresh.load_state_dict(state)
        assert torch.equal(other(x), output)
        fresh.load_state_dict({name: tensor.bfloat16() for name, tensor in state.items()})
        assert (other(x) - output).abs().max() < 0.1


def test_a_state_dict_of_something_else_is_refused_by_name_and_changes_nothing() -> None:
    with fill(attach(seeded(), everything(), 0)) as adapters:
        own = adapters.state_dict()
        before = {name: tensor.clone() for name, tensor in own.items()}
        alpha = own["conv.alpha"]
        for change, message in [
            ({"conv.lora_B.weight": None}, r"lack 'conv.lora_B.weight' \(1 tensors are missing"),
            ({"last.alpha": alpha}, r"have 'last.alpha' \(0 tensors are missing, 1 unknown\)"),
            ({"conv.lora_B.weight": torch.ones(6, 4, 1, 1)}, r"_B.weight' has shape \[6, 4, 1, 1\]"),
            ({"conv.alpha": alpha * 2}, "Saved 'conv.alpha' is"),
            ({"conv.alpha": torch.tensor(math.nan)}, "Saved 'conv.alpha' is"),
            ({"conv.alpha": torch.ones(3)}, "Saved 'conv.alpha' is"),
        ]:
            state = {name: tensor + ("lora" in name) for name, tensor in own.items()} | change
            with pytest.raises(ValueError, match=message):
                adapters.load_state_dict({name: t for name, t in state.items() if t is not None})
            now = adapters.state_dict()
            assert all(torch.equal(before[name], tensor) for name, tensor in now.items())
