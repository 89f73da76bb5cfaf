"""The token adapter as the training loop sees it: its parameters, and what it leaves out by chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..conditioning.adapter import Conditions, TokenAdapter
from .memory import MemoryEstimate
from .optimisers import state_numbers
from .seeds import generator_of
from .settings import TrainSettings

PREFIX = "adapter."


class Said(NamedTuple):
    """What is said of one picture: attributes [40] and mask planes [19,side,side]; None: nothing."""

    attributes: Tensor | None = None
    planes: Tensor | None = None


class TrainableAdapter:
    """A `TokenAdapter` as a `Trainable`, alone or as a part of `JoinedAdapters`.

    dropout: the share of pictures, drawn anew each time and for each group by itself, that get null tokens
    in place of the attributes or of the mask; so each group can be guided by itself, and needs no other.
    unknown: the share of pictures of which some attributes are left unsaid, 0 to all of them, as people do
    who name only some. Both are off outside training. Raises ValueError for shares that are none.
    """

    layers: Mapping[str, nn.Module] = {}
    idle: Sequence[str] = ()

    def __init__(
        self, adapter: TokenAdapter, seed: int = 0, dropout: float = 0.1, unknown: float = 0.5
    ) -> None:
        for name, share in (("dropout", dropout), ("unknown", unknown)):
            if not (math.isfinite(share) and 0 <= share <= 1) or (name == "dropout" and share == 1):
                raise ValueError(f"{name} is {share}: it must be a share from 0 to 1, and dropout below 1.")
        self.adapter, self.dropout, self.unknown = adapter, dropout, unknown
        self._seed, self._number, self._training = seed, 0, False

    def conditions(self, said: Sequence[Said]) -> Conditions:
        """Return the tokens of a batch, with gradient; in training without what is left out by chance."""
        values, planes = (self._stacked(list(column)) for column in zip(*said, strict=True))
        kept = torch.ones(2, len(said))
        if self._training:
            dice = generator_of(self._seed, "adapter dropout", self._number)
            kept = (torch.rand(2, len(said), generator=dice) >= self.dropout).float()
            share = torch.rand(len(said), 1, generator=dice)
            partly = torch.rand(len(said), 1, generator=dice) < self.unknown
            unsaid = partly & (torch.rand(len(said), 40, generator=dice) < share)
            values = None if values is None else values * (~unsaid).to(values)
        given = [[float(one.attributes is not None), float(one.planes is not None)] for one in said]
        attributes, mask = (kept * torch.tensor(given).T).to(self.adapter.device)
        return self.adapter(values, planes, len(said), attributes, mask)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by their names in `state_dict`."""
        return {PREFIX + name: weight for name, weight in self.adapter.named_parameters()}

    def parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters."""
        return list(self.adapter.parameters())

    def rate_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Return the trained parameters with the factor on their learning rate, 1."""
        return [(1.0, self.parameters())]

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {PREFIX + name: tensor for name, tensor in self.adapter.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a `state_dict`; raises ValueError, nothing changed, naming what differs."""
        own = self.state_dict()
        for name in {**own, **state}:
            found = tuple(state[name].shape) if name in state else None
            wanted = tuple(own[name].shape) if name in own else None
            if found != wanted:
                raise ValueError(
                    f"The saved adapter has {name!r} of shape {found}, this one of {wanted}: it is for "
                    "another model or other settings. Use those of that run."
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def train(self, mode: bool = True) -> TrainableAdapter:
        """Switch what is left out by chance on or off; returns itself."""
        self._training = mode
        return self

    def begin_pass(self, number: int) -> None:
        """Say which forward pass of the training comes next: what is left out goes by seed and number."""
        self._number = number

    def comfyui_dora_scales(self) -> dict[str, Tensor]:
        """Return nothing: no layer has a magnitude of its own."""
        return {}

    def remove(self) -> None:
        """Take nothing off: no layer of the model was changed."""

    def _stacked(self, column: list[Tensor | None]) -> Tensor | None:
        known = next((one for one in column if one is not None), None)
        if known is None:
            return None
        # zeros are nothing said in attributes, and times strength 0 in masks
        rows = [torch.zeros_like(known) if one is None else one for one in column]
        return torch.stack(rows).to(self.adapter.device, torch.float32)


def state_of(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return (the adapter's own tensors, all others) of a state of `JoinedAdapters`, as copies."""
    with torch.inference_mode(False):
        copies = {name: value.detach().cpu().clone() for name, value in state.items()}
    own = {name.removeprefix(PREFIX): value for name, value in copies.items() if name.startswith(PREFIX)}
    return own, {name: value for name, value in copies.items() if not name.startswith(PREFIX)}


def adapter_memory(adapter: TokenAdapter, settings: TrainSettings, beside: MemoryEstimate) -> MemoryEstimate:
    """Return what a training takes for certain with an adapter, beside what the rest of it takes."""
    shapes = [tuple(weight.shape) for weight in adapter.parameters()]
    size = 4 * sum(map(math.prod, shapes))
    kept = 4 * sum(map(partial(state_numbers, settings.optimiser), shapes))
    ema = size if settings.ema_decay else 0
    more = MemoryEstimate(0, size, size, kept, ema, size + ema, 0)
    return MemoryEstimate(*map(sum, zip(beside, more, strict=True)))
