"""An exponential moving average of the trained weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Ema:
    """Averages of parameters, average <- decay average + (1 - decay) parameter, once a step.

    The decay of update n (from 0) is min(decay, (1 + n) / (10 + n)), so that the start is soon forgotten.
    Raises ValueError for a decay outside 0..1.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay is {decay}: use a number between 0 and 1, or 0 for off.")
        self.parameters, self.decay = list(parameters), decay
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    def update(self, count: int) -> None:
        """Take the parameters in; count: the updates that were made before, from 0."""
        decay = min(self.decay, (1 + count) / (10 + count))
        values = [parameter.detach() for parameter in self.parameters]
        torch._foreach_lerp_(self.averages, values, 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the parameters for a while; the parameters come back bit for bit."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        fill(self.parameters, self.averages)
        try:
            yield
        finally:
            fill(self.parameters, own)


@torch.no_grad()
def fill(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors into tensors in place."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
