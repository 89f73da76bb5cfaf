"""Adapters of several networks, of a model and its text encoders, or a token adapter, trained as one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from .adapter_training import TrainableAdapter
from .lora import LoraAdapters
from .lora_layer import LoraLayer


class JoinedAdapters:
    """Several `LoraAdapters`, or a `TrainableAdapter` too, as one `Trainable`.

    As a context, removes them all at the end. factors: on the learning rate, one for each part; 1 without.
    Raises ValueError where parts share the name of a layer, and for a factor that is not above 0.
    """

    def __init__(
        self, parts: Sequence[LoraAdapters | TrainableAdapter], factors: Sequence[float] | None = None
    ) -> None:
        self.parts = list(parts)
        self.factors = [1.0] * len(self.parts) if factors is None else list(factors)
        for factor in self.factors:
            if not (math.isfinite(factor) and factor > 0):
                raise ValueError(
                    f"text_rate is {factor}: it is the text encoders' share of the learning rate, a number "
                    "above 0. To leave them as they are, disconnect clip."
                )
        names = [name for part in self.parts for name in part.layers]
        if len(names) != len(set(names)):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"The layer {twice!r} is in two of the networks: adapters need names of their own."
            )

    @property
    def layers(self) -> dict[str, LoraLayer]:
        """The adapters by path, part by part."""
        return {path: adapter for part in self.parts for path, adapter in part.layers.items()}

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by their names in `state_dict`, part by part."""
        return {name: weight for part in self.parts for name, weight in part.named_parameters().items()}

    def parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters, part by part."""
        return list(self.named_parameters().values())

    def rate_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Return the trained parameters in their order, with the factor on the learning rate of each part."""
        return [(factor, part.parameters()) for factor, part in zip(self.factors, self.parts, strict=True)]

    def train(self, mode: bool = True) -> JoinedAdapters:
        """Switch dropout on or, with mode False, off; returns itself."""
        for part in self.parts:
            part.train(mode)
        return self

    def begin_pass(self, number: int) -> None:
        """Say which forward pass of the training comes next, from 0 on."""
        for part in self.parts:
            part.begin_pass(number)

    @property
    def idle(self) -> list[str]:
        """Paths of the layers that no forward pass has called yet."""
        return [path for part in self.parts for path in part.idle]

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors by name, as `LoraAdapters` does."""
        return {name: value for part in self.parts for name, value in part.state_dict().items()}

    def comfyui_dora_scales(self) -> dict[str, Tensor]:
        """Return DoRA's magnitudes as ComfyUI applies them; empty without DoRA."""
        return {name: scale for part in self.parts for name, scale in part.comfyui_dora_scales().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a `state_dict`; raises ValueError, nothing changed, as a part does."""
        own = [set(part.state_dict()) for part in self.parts]
        foreign = {name: value for name, value in state.items() if not any(name in names for names in own)}
        before = {name: weight.detach().clone() for name, weight in self.named_parameters().items()}
        try:
            for part, names in zip(self.parts, own, strict=True):
                # the first part names what belongs to none
                known = {name: value for name, value in state.items() if name in names}
                part.load_state_dict(known | foreign)
        except ValueError:
            with torch.no_grad():
                for name, weight in self.named_parameters().items():
                    weight.copy_(before[name])
            raise

    def remove(self) -> None:
        """Take all adapters off; what was trained stays readable here."""
        for part in reversed(self.parts):
            part.remove()

    def __enter__(self) -> JoinedAdapters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
