"""What adapters leave of the network they were on, and what they keep while they train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from realism_core.training.lora import LoraConfig, attach
from tests.core.adapted import everything, fill, numbers, one, seeded


def bits(module: nn.Module) -> dict[str, Any]:
    """Everything of a network that an adapter could have touched."""
    state: dict[str, Any] = {}
    for path, part in module.named_modules():
        state[path] = (type(part), list(part.__dict__), id(part.forward.__func__))
        state[f"{path}:dicts"] = {
            key: (id(value), list(value.items()) if "hooks" in key else list(value))
            for key, value in part.__dict__.items()
            if isinstance(value, dict)
        }
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        copied = tensor.detach().contiguous().view(torch.uint8).flatten().tolist()
        grad = None if tensor.grad is None else tensor.grad.tolist()
        state[f"{name}:tensor"] = (id(tensor), tensor.data_ptr(), tensor.requires_grad, grad, copied)
    return state


@pytest.mark.parametrize("dora", [False, True])
def test_after_removal_the_network_is_what_it_was_bit_for_bit(dora: bool) -> None:
    model, x = seeded(), numbers(2, 6, 5, 4, dtype=torch.float32)
    model.register_buffer("shift", torch.ones(3))
    model.second.weight.requires_grad_(False)
    model.conv.bias.grad = torch.ones(6)
    model.first.register_forward_hook(lambda layer, given, output: output)
    model.conv.forward = model.conv.forward  # an instance's own, as other patches leave it
    before, output = bits(model), model(x)
    with attach(model, everything(dora=dora, dropout=0.2), 0) as adapters:
        adapters.begin_pass(0)
        optimiser = torch.optim.SGD(adapters.parameters(), lr=0.1)
        for _ in range(2):
            model(x).square().mean().backward()
            optimiser.step()
        assert bits(model) != before
        assert not torch.equal(adapters.train(False) and model(x), output)
    assert bits(model) == before
    assert torch.equal(model(x), output)
    trained = adapters.state_dict()
    adapters.remove()
    assert bits(model) == before
    assert all(torch.equal(trained[name], weight) for name, weight in adapters.named_parameters().items())


def test_an_error_inside_the_context_or_before_it_leaves_nothing_behind() -> None:
    model = seeded()
    before = bits(model)
    with pytest.raises(RuntimeError, match="stop"), attach(model, everything(), 0):
        raise RuntimeError("stop")
    assert bits(model) == before
    with pytest.raises(ValueError, match="rank 7 is more than layer"):
        attach(model, everything(rank=7), 0)
    assert bits(model) == before


def test_two_sets_of_adapters_add_up_and_go_in_any_order() -> None:
    layer, x = nn.Linear(6, 5).double(), numbers(4, 6)
    before, base = bits(layer), layer(x)
    first, second = one(layer, everything(alpha=3.0)), one(layer, everything(alpha=9.0))
    total = layer(x)
    first.remove()
    only = layer(x) - base
    second.remove()
    assert bits(layer) == before
    torch.testing.assert_close(total - base, only * 4 / 3, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_weights_from_inference_mode_train_on_their_own_memory(inside: bool, frozen: bool) -> None:
    with torch.inference_mode():
        model = seeded()
        model.tied = model.first
        model.register_buffer("shift", torch.rand(6, 1, 1))
        model.requires_grad_(not frozen)
        before = bits(model)
    x = numbers(2, 6, 5, 4, dtype=torch.float32).requires_grad_()
    with torch.inference_mode(inside):
        adapters = attach(model, everything(), 0)
    assert model.tied is model.first
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert not tensor.is_inference()
        assert not tensor.requires_grad
        assert tensor.data_ptr() == before[f"{name}:tensor"][1]
    with fill(adapters):
        (model(x) * model.shift).square().sum().backward()
        assert all(weight.grad.any() for weight in [x, *adapters.parameters()])
    with torch.inference_mode():
        assert bits(model) == before


def test_weights_that_were_replaced_while_training_stay_replaced() -> None:
    with torch.inference_mode():
        model = nn.ModuleDict({"layer": nn.Linear(6, 5), "other": nn.Linear(6, 5)})
        own = model["other"].weight
    with attach(model, everything(), 0):
        moved = model["layer"].weight = nn.Parameter(torch.zeros(5, 6), requires_grad=False)
        model["other"].bias.data = torch.zeros(5)
        assert model["other"].weight is not own
    assert model["layer"].weight is moved
    assert model["other"].weight is own
    assert not model["other"].bias.any()


def test_layers_that_no_pass_has_called_are_named() -> None:
    model = seeded()
    model.add_module("unused", nn.Linear(6, 6))
    with attach(model, everything(), 0) as adapters:
        assert adapters.idle == ["first", "second", "conv", "unused"]
        model(torch.randn(1, 6, 4, 4))
        assert adapters.idle == ["unused"]


def saved(compute: Any) -> dict[int, Tensor]:
    """What autograd keeps of a computation, one tensor a storage."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = compute()
    assert output.requires_grad
    return kept


@pytest.mark.parametrize("grows", [False, True])
def test_a_linear_layer_keeps_its_input_and_a_x_and_no_more(grows: bool) -> None:
    layer = nn.Linear(64, 48)
    x = torch.randn(2, 50, 64, requires_grad=grows)
    with one(layer, everything(rank=4), torch.float32) as adapters:
        kept = saved(lambda: layer(x))
        known = {tensor.data_ptr(): tensor for tensor in (x, layer.weight, *adapters.parameters())}
        assert (layer.weight.data_ptr() in kept) == grows  # for the gradient of x, not for its own
        assert x.data_ptr() in kept
        new = [tensor for place, tensor in kept.items() if place not in known]
        assert [tensor.untyped_storage().nbytes() for tensor in new] == [4 * 2 * 50 * 4]
        layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is None


def test_a_convolution_keeps_its_input_and_a_x_and_no_more() -> None:
    layer, x = nn.Conv2d(8, 12, 3, padding=1), torch.randn(2, 8, 10, 10, requires_grad=True)
    with one(layer, everything(rank=4), torch.float32) as adapters:
        kept = saved(lambda: layer(x))
        known = {tensor.data_ptr() for tensor in (x, layer.weight, *adapters.parameters())}
        new = sorted(t.untyped_storage().nbytes() for place, t in kept.items() if place not in known)
        assert new == [4 * 12 * 4, 4 * 2 * 4 * 10 * 10]  # scale B, and A x
        layer(x).sum().backward()
    assert layer.weight.grad is None


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("config", [everything(), everything(dora=True), everything(dropout=0.5)])
def test_gradients_are_the_same_with_checkpointing(reentrant: bool, config: LoraConfig) -> None:
    model, x = seeded(), numbers(2, 6, 5, 4, dtype=torch.float32).requires_grad_()
    with fill(attach(model, config, 3)) as adapters:
        weights = [x, *adapters.parameters()]

        def gradients(output: Tensor) -> list[Tensor]:
            for weight in weights:
                weight.grad = None
            output.square().mean().backward()
            return [weight.grad.clone() for weight in weights]

        adapters.begin_pass(4)
        plain = gradients(model(x))
        again = gradients(checkpoint(model, x, use_reentrant=reentrant))
        assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
        assert all(gradient.abs().max() > 0 for gradient in plain)
