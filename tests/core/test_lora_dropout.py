"""Dropout on the adapters' inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from realism_core.training.lora import attach
from tests.core.adapted import everything, seeded


def test_dropout_leaves_out_its_share_and_scales_up_the_rest() -> None:
    layer, x = nn.Linear(32, 32, bias=False), torch.rand(500, 32) + 1
    nn.init.zeros_(layer.weight)
    config = everything(rank=32, alpha=32.0, dropout=0.3)
    with attach(nn.ModuleDict({"layer": layer}), config, 5) as adapters:
        for weight in adapters.parameters():
            nn.init.eye_(weight)
        adapters.begin_pass(0)
        ratio = layer(x) / x
        kept = ratio != 0
        torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 1 / 0.7))
        assert abs(kept.double().mean() - 0.7) < 5 * math.sqrt(0.21 / kept.numel())
        assert torch.equal(adapters.train(False) and layer(x), x)


def test_a_mask_is_a_function_of_seed_path_and_number() -> None:
    def outputs(seed: int, number: int) -> Iterator[Tensor]:
        torch.manual_seed(2)
        model = nn.ModuleDict({"a": nn.Linear(20, 20), "b": nn.Linear(20, 20)})
        model["b"].load_state_dict(model["a"].state_dict())
        with attach(model, everything(dropout=0.5), seed) as adapters:
            for weight in adapters.parameters():
                nn.init.ones_(weight)
            torch.manual_seed(number * 7)  # the global generator has no say
            adapters.begin_pass(number)
            yield from (model[name](torch.ones(8, 20)) for name in "ab")

    first, other = outputs(1, 3)
    assert not torch.equal(first, other)
    assert torch.equal(first, next(outputs(1, 3)))
    assert not torch.equal(first, next(outputs(1, 4)))
    assert not torch.equal(first, next(outputs(2, 3)))


def test_dropout_without_a_number_is_refused() -> None:
    model = seeded()
    with attach(model, everything(dropout=0.1), 0) as adapters:
        with pytest.raises(RuntimeError, match=r"call begin_pass\(number\)"):
            model(torch.randn(1, 6, 4, 4))
        assert torch.isfinite(adapters.train(False) and model(torch.randn(1, 6, 4, 4))).all()
