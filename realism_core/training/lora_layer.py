"""The adapter of one layer: scale B A x, added to what the layer puts out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dora import RowLengths, row_lengths
from .lora_plan import LayerPlan, LoraConfig
from .seeds import derived_seed


class LoraLayer:
    """The adapter of one layer: `down` (A), `up` (B) and, with DoRA, `magnitude`, the trained row lengths.

    All are float32. A starts uniform in +-1/sqrt(inputs) (Kaiming with a = sqrt 5), B at 0, the magnitude
    at the lengths that the weight's rows have.
    """

    def __init__(
        self, path: str, plan: LayerPlan, config: LoraConfig, seed: int, device: torch.device
    ) -> None:
        self.path = path
        self.layer = plan.layer
        self.rank = plan.rank
        self.scale = config.scale
        self.dropout = config.dropout
        self.training = True
        self.number: int | None = None
        self.called = False
        self._seed = seed
        bound = math.prod(plan.down[1:]) ** -0.5
        generator = torch.Generator().manual_seed(derived_seed(seed, f"lora_A {path}", 0))
        start = torch.empty(plan.down, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(start.to(device))
        self.up = nn.Parameter(torch.zeros(plan.up, dtype=torch.float32, device=device))
        self.magnitude: nn.Parameter | None = None
        if plan.magnitude:
            self.magnitude = nn.Parameter(self._lengths(device).updated.view(plan.magnitude))

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return A, B and, with DoRA, the magnitude, by their names in a state dict."""
        named = {f"{self.path}.lora_A.weight": self.down, f"{self.path}.lora_B.weight": self.up}
        if self.magnitude is not None:
            named[f"{self.path}.dora_scale"] = self.magnitude
        return named

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters, detached, and alpha: what makes alpha / rank this layer's scale."""
        state = {name: weight.detach() for name, weight in self.named_parameters().items()}
        return state | {f"{self.path}.alpha": torch.tensor(self.scale * self.rank)}

    def comfyui_dora_scale(self) -> Tensor:
        """Return the magnitude for a reader that divides by the rows of W, not of W + scale B A."""
        lengths = self._lengths(self.down.device)
        ratio = torch.where(lengths.updated > 0, lengths.base / lengths.updated, 1)
        return self.magnitude.detach() * ratio.view(self.magnitude.shape)

    def after(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        """Return a layer's output with the adapter's added; a forward hook that takes keywords."""
        self.called = True
        x = args[0] if args else kwargs["input"]
        down, up = (weight.to(device=x.device, dtype=x.dtype) for weight in (self.down, self.up))
        if self.dropout and self.training:
            x = self._drop(x)
        add = self._add_convolved if down.dim() > 2 else self._add_projected
        total = add(x, down, up, output)
        return total if self.magnitude is None else self._rescaled(total)

    def _add_projected(self, x: Tensor, down: Tensor, up: Tensor, output: Tensor) -> Tensor:
        hidden = F.linear(x, down)
        if hidden.dtype != output.dtype:
            return output + (self.scale * F.linear(hidden, up)).to(output.dtype)
        # one product that adds as it goes: no tensor for the adapter's own output
        rows = output.reshape(-1, output.shape[-1])
        total = torch.addmm(rows, hidden.reshape(-1, self.rank), up.T, alpha=self.scale)
        return total.view(output.shape)

    def _add_convolved(self, x: Tensor, down: Tensor, up: Tensor, output: Tensor) -> Tensor:
        layer, padding = self.layer, self.layer.padding
        if layer.padding_mode != "zeros":
            x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
            padding = 0
        hidden = F.conv2d(x, down, None, layer.stride, padding, layer.dilation)
        added = F.conv2d(hidden, self.scale * up)
        return added.add_(output) if added.dtype == output.dtype else output + added.to(output.dtype)

    def _rescaled(self, total: Tensor) -> Tensor:
        """Bring the rows of the updated weight to their trained lengths; the bias stays as it is."""
        with torch.autocast(total.device.type, enabled=False):
            lengths = self._lengths(total.device).updated
            magnitude = self.magnitude.to(total.device).flatten()
            # ratios are near 1: 16 bits tell their distance from 1, not the ratios themselves, apart.
            # Rows of zeros have no direction to rescale
            ratio = magnitude / torch.where(lengths > 0, lengths, 1)
            change = torch.where(lengths > 0, ratio - 1, 0).to(total.dtype)
            bias = self.layer.bias
            if bias is None:
                return torch.addcmul(total, total, self._by_channel(change))
            bias = bias.detach().to(device=total.device, dtype=total.dtype)
            return torch.addcmul(total, total - self._by_channel(bias), self._by_channel(change))

    def _by_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1) if self.down.dim() > 2 else values

    def _lengths(self, device: torch.device) -> RowLengths:
        down, up = self.down.detach().to(device), self.up.detach().to(device)
        return row_lengths(self.layer.weight, down, up, self.scale)

    def _drop(self, x: Tensor) -> Tensor:
        if self.number is None:
            raise RuntimeError(
                "Dropout needs the number of the forward pass: call begin_pass(number) on the adapters "
                "before each, or train(False) to switch dropout off."
            )
        seed = derived_seed(self._seed, f"lora dropout {self.path}", self.number)
        generator = torch.Generator(x.device).manual_seed(seed)
        kept = torch.empty(x.shape, dtype=torch.bool, device=x.device)
        kept.bernoulli_(1 - self.dropout, generator=generator)
        return x * kept * (1 / (1 - self.dropout))
