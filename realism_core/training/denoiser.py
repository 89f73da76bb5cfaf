"""What the training asks of a model and of the layers it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .objective import Objective


class Denoiser(Protocol):
    """A diffusion or flow model as the loop sees it.

    dtype: what the model computes in; the loop draws and compares in float32, or in float64 where this is
    float64. device: of all tensors that go into `predict`.
    """

    module: nn.Module
    objective: Objective
    device: torch.device
    dtype: torch.dtype

    def sigmas(self, u: Tensor) -> Tensor:
        """Return the model's sigma (flow: t) for u of any shape, 0 = clean, 1 = pure noise.

        u comes on the CPU in float64. Answer on the CPU, so that the device need not be waited for.
        """

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[Any]) -> Tensor:
        """Return the model's own prediction (eps, v, x0 or flow), shaped as noisy [B,...].

        sigma: [B]. conditioning: one an image, as the examples hold them. Gradients flow to the trained
        layers.
        """


class Trainable(Protocol):
    """The layers that are trained: what the loop asks of `lora.LoraAdapters`."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the trained tensors, always in the same order."""

    def rate_groups(self) -> Sequence[tuple[float, Sequence[nn.Parameter]]]:
        """Return the same in groups, in their order, each with a factor on the learning rate."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors by name."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned, in place; ValueError names a layer that does not fit."""

    def train(self, mode: bool = True) -> object:
        """Switch dropout on or off."""

    def begin_pass(self, number: int) -> None:
        """Say which forward pass of the training comes next, from 0 on."""
