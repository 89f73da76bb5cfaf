"""Networks with adapters on them, and the weights that they stand for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realism_core.training.lora import LoraAdapters, LoraConfig, attach

Adapted = nn.Linear | nn.Conv2d


class Block(nn.Module):
    """Two linear layers and a convolution over positions [B, 6, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.second = nn.Linear(10, 6, bias=False)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.first(x.movedim(1, -1)))
        return self.conv(x + self.second(hidden).movedim(-1, 1))


def seeded(seed: int = 0) -> Block:
    torch.manual_seed(seed)
    return Block()


def numbers(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def everything(**given: Any) -> LoraConfig:
    return LoraConfig(**({"rank": 3, "targets": "all"} | given))


def fill(adapters: LoraAdapters, dtype: torch.dtype = torch.float32) -> LoraAdapters:
    """Give A and B numbers, and magnitudes other lengths, in a dtype."""
    for place, (name, weight) in enumerate(adapters.named_parameters().items()):
        noise = numbers(*weight.shape, seed=place).to(dtype)
        weight.data = weight.data.to(dtype) * (1 + noise / 8) if name.endswith("dora_scale") else noise / 4
    return adapters


def one(layer: nn.Module, config: LoraConfig, dtype: torch.dtype = torch.float64) -> LoraAdapters:
    """Adapters of a single layer, filled with numbers."""
    return fill(attach(nn.ModuleDict({"layer": layer}), config, 0), dtype)


def merged(adapters: LoraAdapters, path: str = "layer") -> Tensor:
    """The weight that an adapted layer stands for, differentiable."""
    adapter = adapters.layers[path]
    weight = adapter.layer.weight.to(adapter.down.dtype)
    delta = torch.einsum("or,ri->oi", adapter.up.flatten(1), adapter.down.flatten(1)).view(weight.shape)
    updated = weight + adapter.scale * delta
    if adapter.magnitude is None:
        return updated
    length = updated.flatten(1).norm(dim=1).view(adapter.magnitude.shape).detach()
    return adapter.magnitude * updated / length


def applied(layer: Adapted, x: Tensor, weight: Tensor) -> Tensor:
    """What a layer puts out with another weight."""
    if weight.dim() > 2:
        return layer._conv_forward(x, weight, layer.bias)
    return F.linear(x, weight, layer.bias)


class Cast(nn.Linear):
    """A linear layer as ComfyUI's are: its weight is cast, and changed by functions, at each call."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__(inputs, outputs)
        self.weight = nn.Parameter(self.weight.detach().to(dtype), requires_grad=False)
        self.weight_function: list[Any] = []

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight.to(input.dtype)
        for function in self.weight_function:
            weight = function(weight)
        return F.linear(input, weight, self.bias.to(input.dtype))
