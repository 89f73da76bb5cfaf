"""DoRA: lengths of rows without the merged weight, weights that it cannot read, ComfyUI's form."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from realism_core.training import dora
from realism_core.training.lora import attach
from tests.core.adapted import Adapted, Cast, everything, merged, numbers, one


def test_functions_on_the_weight_are_the_layers_own_affair_but_not_for_dora() -> None:
    layer, x = Cast(6, 5, torch.float16), numbers(4, 6)
    layer.weight_function.append(lambda weight: 3 * weight)
    with one(layer, everything()) as adapters:
        target = F.linear(x, merged(adapters) + 2 * layer.weight, layer.bias.double())
        torch.testing.assert_close(layer(x), target, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="'layer' changes its weight or bias at each call"):
        one(layer, everything(dora=True))


class PackedLinear(nn.Module):
    """A quantised layer: bytes and a scale, no nn.Linear."""

    def __init__(self, scale: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = 6, 4
        self.weight = nn.Parameter(torch.randint(0, 255, (4, 6), dtype=torch.uint8), requires_grad=False)
        self.bias = None
        if scale:
            self.weight = nn.Parameter(torch.randn(4, 6))
            self.scale_weight = torch.tensor(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype) / 256)


def test_quantised_weights_take_adapters_and_refuse_dora_by_name() -> None:
    layer, x = PackedLinear(False), numbers(3, 6)
    base = layer(x)
    with one(layer, everything()) as adapters:
        adapter = adapters.layers["layer"]
        target = base + adapter.scale * (x @ adapter.down.T @ adapter.up.T)
        torch.testing.assert_close(layer(x), target, rtol=1e-10, atol=1e-10)
    for bad, why in [
        (layer, "keeps its weight packed"),
        (PackedLinear(True), "scales its weight"),
        (nn.Linear(6, 4, device="meta"), "has no weight in memory"),
    ]:
        with pytest.raises(ValueError, match=f"'layer' {why}.*Switch DoRA off"):
            one(bad, everything(dora=True))
        assert not bad._forward_hooks


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 5), st.integers(1, 200))
def test_row_lengths_need_no_merged_weight(rows: int, columns: int, rank: int, chunk: int) -> None:
    weight, down, up = numbers(rows, columns), numbers(rank, columns, seed=2), numbers(rows, rank, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dora, "CHUNK", chunk)
        lengths = dora.row_lengths(weight, down, up, 0.7)
    merged = weight + 0.7 * up @ down
    torch.testing.assert_close(lengths.updated, merged.norm(dim=1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(lengths.base, weight.norm(dim=1), rtol=1e-12, atol=0)


def test_dora_leaves_rows_of_zeros_finite_and_starts_at_the_rows_lengths() -> None:
    layer, x = nn.Conv2d(4, 6, 3).double(), numbers(1, 4, 6, 6)
    nn.init.zeros_(layer.weight[2:4])
    before = layer(x)
    with attach(nn.ModuleDict({"layer": layer}), everything(dora=True), 0) as adapters:
        magnitude = adapters.layers["layer"].magnitude
        assert magnitude.shape == (6, 1, 1, 1)
        torch.testing.assert_close(magnitude.flatten().double(), layer.weight.flatten(1).norm(dim=1))
        output = layer(x)
        assert torch.equal(output, before)
        output.sum().backward()
        assert all(weight.grad.isfinite().all() for weight in adapters.parameters())


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(4, 5, 3)])
def test_comfyuis_form_of_the_magnitude_arrives_at_the_trained_weight(layer: Adapted) -> None:
    with one(layer.double(), everything(dora=True)) as adapters:
        adapter = adapters.layers["layer"]
        plain = copy.copy(adapter)
        plain.magnitude = None
        scale = adapters.comfyui_dora_scales()["layer.dora_scale"]
        adapters.layers["plain"] = plain
        weight = layer.weight.detach()
        # what comfy/weight_adapter/base.py does with the file
        length = weight.flatten(1).norm(dim=1).view(adapter.magnitude.shape)
        theirs = merged(adapters, "plain") * (scale / length)
        torch.testing.assert_close(theirs, merged(adapters), rtol=1e-10, atol=1e-10)
    with one(layer, everything()) as adapters:
        assert adapters.comfyui_dora_scales() == {}
