"""What the loop tells while it trains and when it ends, and how to end it early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .validation import BandLoss


class Progress(NamedTuple):
    """Where a training is. losses: of the steps up to the last look at them, one a step."""

    step: int
    steps: int
    epoch: int
    learning_rate: float
    losses: Sequence[float]
    held_out: Sequence[tuple[int, list[BandLoss]]]


class Result(NamedTuple):
    """What was trained.

    state: the layers' tensors by name, averaged where EMA is on. steps: that were made. stopped: by
    StopAndKeep.
    """

    state: dict[str, Tensor]
    steps: int
    losses: list[float]
    held_out: list[tuple[int, list[BandLoss]]]
    stopped: bool


class StopAndKeep(Exception):
    """Raised by `on_step` to end a training early and return what there is."""
