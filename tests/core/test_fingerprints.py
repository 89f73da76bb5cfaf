"""Fingerprints of layers: the same for the same weights, another for every change that can matter."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import nn

from realism_core.training.fingerprints import SAMPLED, layer_fingerprints


def layer(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    made = nn.Module()
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    made.weight = nn.Parameter(values.to(dtype))
    return made


def of(one: nn.Module) -> str:
    return layer_fingerprints({"a": one})["a"]


def test_the_same_weights_have_the_same_fingerprint() -> None:
    told = layer_fingerprints({"a": layer(40, 30), "b": layer(40, 30), "c": layer(40, 30, seed=1)})
    assert list(told) == ["a", "b", "c"]
    assert told["a"] == told["b"] != told["c"]
    assert all(len(print_) == 16 and int(print_, 16) >= 0 for print_ in told.values())


@pytest.mark.parametrize("shape", [(1,), (255,), (16, 16), (257,), (4, 3, 3, 3), (100, 70), (1000, 1000)])
def test_every_size_has_one_and_every_scale_another(shape: tuple[int, ...]) -> None:
    one = layer(*shape)
    told = of(one)
    with torch.no_grad():
        one.weight *= 1.0001
    assert of(one) != told


def test_a_change_of_any_row_is_seen() -> None:
    """A layer that was trained at all changes in its rows; at most 256 numbers are read."""
    one = layer(SAMPLED, 8)
    told = of(one)
    for row in (0, 1, 100, SAMPLED - 1):
        changed = layer(SAMPLED, 8)
        with torch.no_grad():
            changed.weight[row] += 1e-3
        assert of(changed) != told


def test_the_shape_counts() -> None:
    flat = layer(24)
    wide, tall = nn.Module(), nn.Module()
    wide.weight = nn.Parameter(flat.weight.detach().reshape(4, 6))
    tall.weight = nn.Parameter(flat.weight.detach().reshape(6, 4))
    assert len({of(flat), of(wide), of(tall)}) == 3


def test_the_order_in_memory_does_not_count() -> None:
    straight, turned = layer(30, 40), nn.Module()
    turned.weight = nn.Parameter(straight.weight.detach().T.contiguous().T)
    assert not turned.weight.is_contiguous() and of(turned) == of(straight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_precision_and_inference_tensors_are_read(dtype: torch.dtype) -> None:
    one = layer(20, 20, dtype=dtype)
    with torch.inference_mode():
        same = nn.Module()
        same.weight = nn.Parameter(one.weight.detach().clone(), requires_grad=False)
    assert of(one) == of(same) != of(layer(20, 20, seed=2, dtype=dtype))
    single = nn.Module()
    single.weight = nn.Parameter(one.weight.detach().float())
    assert of(single) == of(one), "a weight that was loaded in another precision is the same"


def test_nan_is_a_number_like_others() -> None:
    one, other = layer(5, 5), layer(5, 5)
    with torch.no_grad():
        one.weight[0, 0] = other.weight[0, 0] = math.nan
    assert of(one) == of(other) != of(layer(5, 5))


def test_large_layers_take_no_time() -> None:
    large = layer(4000, 4000)
    start = time.process_time()
    layer_fingerprints(dict.fromkeys(map(str, range(100)), large))
    assert time.process_time() - start < 1
