"""Weights of torch's inference mode, quantised ones too, that a gradient has to come through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from realism_core.training.cast_weights import check_quantised
from realism_core.training.inference_weights import WeightAliases, inner_tensors
from realism_core.training.memory import model_bytes

WIDTH = 8


class Scaled(Tensor):
    """A quantised tensor as ComfyUI's: whole numbers and a scale that stand for their product."""

    @staticmethod
    def __new__(cls, data: Tensor, scale: Tensor, broken: bool = False) -> Scaled:
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=scale.dtype, device=data.device)

    def __init__(self, data: Tensor, scale: Tensor, broken: bool = False) -> None:
        self.data_, self.scale_, self.broken = data, scale, broken

    def __tensor_flatten__(self) -> tuple[list[str], bool]:
        return ["data_", "scale_"], self.broken

    @staticmethod
    def __tensor_unflatten__(inner: dict, broken: bool, size: object, stride: object) -> Scaled:
        return Scaled(inner["data_"], inner["scale_"], broken)

    def value(self) -> Tensor:
        return self.data_.to(self.scale_.dtype) * self.scale_

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Scaled(args[0].data_, args[0].scale_, args[0].broken)
        plain = [arg.value() if isinstance(arg, Scaled) else arg for arg in args]
        return func(*plain, **(kwargs or {}))


class KeepingWeight(torch.autograd.Function):
    """Keeps the weight itself for the way back, as ComfyUI's quantised layers do."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return x @ weight.value().T

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        if weight.broken:
            raise RuntimeError("there is no such product.")
        return grad @ weight.value(), None


class ScaledLinear(nn.Module):
    in_features = out_features = WIDTH

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        data = torch.randint(-9, 9, (WIDTH, WIDTH), dtype=torch.int8)
        scaled = Scaled(data, torch.tensor(0.25, dtype=torch.float64), broken)
        self.weight = nn.Parameter(scaled, requires_grad=False)
        self.cache = torch.ones(3)

    def forward(self, x: Tensor) -> Tensor:
        return KeepingWeight.apply(x, self.weight)


def inference_network(broken: bool = False) -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(ScaledLinear(broken), nn.Tanh(), ScaledLinear())


def test_quantised_weights_of_inference_mode_are_lent() -> None:
    module = inference_network()
    weight, cache = module[0].weight, module[0].cache
    x = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        module(x)
    aliases = WeightAliases(module)
    lent = module[0].weight
    assert lent is not weight and isinstance(lent, Scaled) and isinstance(lent, nn.Parameter)
    assert lent.data_.data_ptr() == weight.data_.data_ptr()
    assert lent.scale_.data_ptr() == weight.scale_.data_ptr()
    assert not any(t.is_inference() for t in (lent, lent.data_, lent.scale_, module[0].cache))
    module(x).sum().backward()
    inner = torch.tanh(x.detach() @ weight.value().T)
    wanted = (module[2].weight.value().sum(0) * (1 - inner**2)) @ weight.value()
    assert torch.allclose(x.grad, wanted)
    aliases.restore()
    assert module[0].weight is weight and module[0].cache is cache


class Bypass:
    """What ComfyUI's bypass LoRAs put in a layer's place: adapter.weights are B, A and a number."""

    def __init__(self, layer: nn.Module) -> None:
        self.adapter, self.layer_forward = self, layer.forward
        self.weights = (torch.randn(WIDTH, 2), torch.randn(2, WIDTH), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        up, down, alpha = self.weights
        return self.layer_forward(x) + alpha / 2 * F.linear(F.linear(x, down), up)


def test_loras_beside_the_weights_are_lent() -> None:
    with torch.inference_mode():
        layer = nn.Linear(WIDTH, WIDTH)
        bypass = Bypass(layer)
    layer.forward = bypass.forward
    weights = bypass.weights
    x = torch.randn(3, WIDTH, requires_grad=True)
    aliases = WeightAliases(layer)
    layer(x).sum().backward()
    up, down, _ = weights
    wanted = (layer.weight + up.clone() @ down.clone()).sum(0).expand(3, -1)
    assert torch.allclose(x.grad, wanted, atol=1e-5)
    assert bypass.weights[0].data_ptr() == up.data_ptr() and not bypass.weights[0].is_inference()
    aliases.restore()
    assert bypass.weights is weights
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        layer(x)


def test_weights_count_as_they_are_kept() -> None:
    module = inference_network()
    assert model_bytes(module) == 2 * (WIDTH * WIDTH + 8)
    assert set(inner_tensors(module[0].weight)) == {"data_", "scale_"} and not inner_tensors(torch.ones(2))
    assert model_bytes(nn.Linear(3, 5).half()) == 2 * (3 * 5 + 5)


def test_quantised_weights_without_a_gradient_are_named() -> None:
    device = torch.device("cpu")
    check_quantised(inference_network_lent(), device, torch.float64)
    check_quantised(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 1)), device, torch.float32)
    with pytest.raises(ValueError, match=r"Scaled weight of layer '0' \(there is no such product\): load"):
        check_quantised(inference_network_lent(broken=True), device, torch.float64)


def inference_network_lent(broken: bool = False) -> nn.Module:
    module = inference_network(broken)
    WeightAliases(module)
    return module
