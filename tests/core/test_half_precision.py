"""A network in fp16 learns what one in fp32 does, also where gradients are too small for fp16."""

from __future__ import annotations

import pytest
import torch

from realism_core.training import loop
from realism_core.training.data import Dataset
from realism_core.training.devices import loss_scale_of, scale_gradients
from realism_core.training.settings import TrainSettings
from tests.core.toy_denoisers import ToyDenoiser, toy_adapters, toy_data


def learned(dtype: torch.dtype, weight: float) -> torch.Tensor:
    """Return what one step of plain descent on faint images adds to all adapters, [n]."""
    denoiser = ToyDenoiser("eps", dtype)
    adapters = toy_adapters(denoiser)
    for parameter in adapters.parameters():
        parameter.data = parameter.data.half().float()
    start = torch.cat([parameter.detach().flatten().clone() for parameter in adapters.parameters()])
    data = Dataset([example._replace(weight=weight) for example in toy_data().examples])
    settings = TrainSettings(steps=1, batch_size=4, learning_rate=1.0, optimiser="sgd", clip_norm=0)
    loop.train(denoiser, adapters, data, settings)
    return torch.cat([parameter.detach().flatten() for parameter in adapters.parameters()]) - start


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("weight", [1.0, 1e-2, 1e-4])
def test_small_gradients_are_not_lost(weight: float) -> None:
    assert far(learned(torch.float16, weight), learned(torch.float32, weight)) < 0.02


def test_they_would_be_lost_without_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "loss_scale_of", lambda precision, denoiser: 1.0)
    assert far(learned(torch.float16, 1e-4), learned(torch.float32, 1e-4)) > 0.02


def test_only_a_network_in_fp16_is_scaled() -> None:
    scales = {dtype: loss_scale_of("fp32", ToyDenoiser("eps", dtype)) for dtype in
              (torch.float16, torch.bfloat16, torch.float32, torch.float64)}  # fmt: skip
    assert scales.pop(torch.float16) == 1024 and set(scales.values()) == {1.0}
    assert loss_scale_of("bf16", ToyDenoiser("eps", torch.float16)) == 1.0  # bf16 holds small numbers


def test_gradients_are_scaled_in_place() -> None:
    parameters = [torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)]
    parameters[0].grad = torch.arange(3.0)
    scale_gradients(parameters, 0.5)
    assert parameters[0].grad.tolist() == [0, 0.5, 1] and parameters[1].grad is None
