"""Gradients of networks that add to their activations in place, against those of the same that do not."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from realism_core.training.norm_inputs import copied_norm_inputs
from realism_core.training.recompute import recomputed


class RootMeanNorm(nn.Module):
    """A norm written out, as T5's."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Block(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(6), RootMeanNorm()])
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            if self.in_place:
                x += torch.tanh(layer(norm(x)))
            else:
                x = x + torch.tanh(layer(norm(x)))
        return x


class Network(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(Block(in_place) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def gradients(in_place: bool, *contexts) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.random.fork_rng([]):
        network = Network(in_place).double()
        x = torch.randn(4, 6, dtype=torch.float64)
    with contextlib.ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context(network))
        output = network(x)
        output.square().sum().backward()
    assert not any(part._forward_pre_hooks for part in network.modules())
    return output.detach(), {name: weight.grad for name, weight in network.named_parameters()}


@pytest.mark.parametrize(
    "contexts", [(copied_norm_inputs,), (recomputed,), (recomputed, copied_norm_inputs)], ids=str
)
def test_gradients_are_those_of_the_network_out_of_place(contexts: tuple) -> None:
    output, expected = gradients(False)
    ours, found = gradients(True, *contexts)
    assert torch.equal(ours, output)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-12, atol=1e-14), name


def test_without_copies_autograd_refuses() -> None:
    with pytest.raises(RuntimeError, match="inplace operation"):
        gradients(True)


def test_nothing_is_copied_without_a_gradient() -> None:
    norm = nn.LayerNorm(6)
    seen = []
    norm.register_forward_hook(lambda norm, args, output: seen.append(args[0]))
    x = torch.randn(2, 6)
    with copied_norm_inputs(norm):
        with torch.no_grad():
            norm(x)
        norm(x)
    assert seen[0] is x and seen[1] is not x and torch.equal(seen[1], x)
