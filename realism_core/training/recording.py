"""From a training that has ended to what its file and its report say of it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from .data import Dataset
from .loop import Result
from .lora_plan import LoraConfig
from .metadata import TrainingRecord
from .settings import TrainSettings
from .validation import BandLoss
from .weighting import LossWeight


def record_of(
    result: Result,
    dataset: Dataset,
    settings: TrainSettings,
    config: LoraConfig,
    loss_weight: LossWeight,
    objective: str,
    **known: Any,
) -> TrainingRecord:
    """Return what a LoRA's file will say of its training; known: further fields, as of the base model."""
    return TrainingRecord(
        adapter="dora" if config.dora else "lora",
        scaling="alpha/sqrt(rank)" if config.rank_stabilised else "alpha/rank",
        # clamped ranks differ from layer to layer
        rank=None if config.clamp_rank else config.rank,
        alpha=None if config.clamp_rank else config.alpha,
        dropout=config.dropout,
        targets=config.targets,
        objective=objective,
        weighting=loss_weight.to_dict(),
        timesteps=loss_weight.timesteps.to_dict(),
        dataset_sha256=dataset.digest,
        images=len(dataset),
        steps=result.steps,
        planned_steps=settings.steps,
        batch_size=settings.batch_size,
        accumulation=settings.accumulation,
        learning_rate=settings.learning_rate,
        optimiser=settings.optimiser,
        schedule=settings.schedule,
        warmup_steps=settings.warmup,
        seed=settings.seed,
        precision=settings.precision,
        finished_at=time.time(),
        **known,
    )


def held_out_rows(held_out: Sequence[tuple[int, Sequence[BandLoss]]]) -> list[dict[str, Any]]:
    """Return the held-out losses as JSON-ready {"step", "bands"} rows; None for a loss that is not finite."""
    return [{"step": step, "bands": [_band(band) for band in bands]} for step, bands in held_out]


def _band(band: BandLoss) -> dict[str, float | None]:
    return {**band._asdict(), "loss": band.loss if math.isfinite(band.loss) else None}
