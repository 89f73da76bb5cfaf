"""The settings of a training, checked before anything runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from .optimisers import OPTIMISERS
from .schedule import SCHEDULES

PRECISIONS = ("fp32", "bf16")
# what may differ between a run and the one that goes on from its checkpoint
_FREE = ("log_every", "checkpoint_every", "validate_every", "preview_every", "recompute")


@dataclass(frozen=True)
class TrainSettings:
    """What a training does, apart from the model, the data and the weighting.

    steps: of the optimiser; each takes batch_size * accumulation images. weight_decay: None is the
    optimiser's usual one, 0.01 for adamw and 0 otherwise. warmup: steps of rising learning rate. clip_norm:
    the gradients' norm at most, 0 = off. ema_decay: 0 = off. condition_dropout: the share of images, drawn
    anew each time, that get the empty conditioning. precision: fp32, the network's own without autocast, or
    bf16 autocast. recompute: gradient checkpointing. log_every: steps between two looks at the losses, the
    only times the host waits. checkpoint_every, validate_every, preview_every: steps, 0 = only at the
    end, if at all. Raises ValueError with the setting's name and the fix.
    """

    steps: int
    batch_size: int = 1
    accumulation: int = 1
    learning_rate: float = 1e-4
    optimiser: str = "adamw"
    weight_decay: float | None = None
    schedule: str = "constant"
    warmup: int = 0
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    condition_dropout: float = 0.0
    precision: str = "fp32"
    recompute: bool = False
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 0
    validate_every: int = 0
    preview_every: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every"):
            if vars(self)[name] < 1:
                raise ValueError(f"{name} is {vars(self)[name]}: it must be 1 or more.")
        for name in ("warmup", "checkpoint_every", "validate_every", "preview_every"):
            if vars(self)[name] < 0:
                raise ValueError(f"{name} is {vars(self)[name]}: it must be 0 (off) or more.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                f"learning_rate is {self.learning_rate}: nothing would be learned. Use a small number "
                "above 0, such as 1e-4."
            )
        if self.warmup >= self.steps:
            raise ValueError(
                f"warmup is {self.warmup} of {self.steps} steps: the learning rate would never be reached. "
                "Lower warmup or raise steps."
            )
        if not (math.isfinite(self.clip_norm) and self.clip_norm >= 0):
            raise ValueError(f"clip_norm is {self.clip_norm}: it must be a number above 0, or 0 for off.")
        if not (self.weight_decay is None or 0 <= self.weight_decay < 1):
            raise ValueError(f"weight_decay is {self.weight_decay}: it must be from 0 to below 1.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: it must be from 0 (off) to below 1.")
        if not 0 <= self.condition_dropout < 1:
            share = self.condition_dropout
            raise ValueError(f"condition_dropout is {share}: it must be from 0 to below 1.")
        for name, choices in (
            ("optimiser", OPTIMISERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
        ):
            if vars(self)[name] not in choices:
                raise ValueError(f"{name} is {vars(self)[name]!r}; use one of {', '.join(choices)}.")

    @property
    def images_per_step(self) -> int:
        """How many images one step of the optimiser takes."""
        return self.batch_size * self.accumulation

    @property
    def decay(self) -> float:
        """The weight decay in use."""
        if self.weight_decay is None:
            return 0.01 if self.optimiser == "adamw" else 0.0
        return self.weight_decay

    def binding(self) -> dict[str, Any]:
        """Return the settings that a checkpoint holds its successor to.

        The number of steps binds only where the schedule depends on it: a constant one may be prolonged.
        """
        free = {*_FREE, *(("steps",) if self.schedule == "constant" else ())}
        return {name: value for name, value in asdict(self).items() if name not in free}
