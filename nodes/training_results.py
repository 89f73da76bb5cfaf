"""What becomes of a training in ComfyUI, however it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ..realism_core.training.joined import JoinedAdapters
from ..realism_core.training.loop import Result
from ..realism_core.training.lora import LoraAdapters
from ..realism_core.training.metadata import TrainingRecord
from ..realism_core.training.recording import held_out_rows
from .comfy import show_text
from .lora import TrainedLora, free_path, joined

INTERRUPTED = "loras/realism_interrupted"


class Keeper:
    """Makes the LoRA of a result, and saves it where the training ends early.

    node: to show on. shapes: of all weights by path. record: what the file says of a result.
    """

    what = "LoRA"

    def __init__(
        self,
        node: str,
        adapters: LoraAdapters | JoinedAdapters,
        shapes: Mapping[str, tuple[int, ...]],
        record: Callable[[Result], TrainingRecord],
    ) -> None:
        self._node, self._adapters, self._shapes, self._record = node, adapters, shapes, record

    def lora(self, result: Result) -> TrainedLora:
        """Return the LoRA of a result; raises RuntimeError with the fix where no step was worth keeping."""
        self.check(result)
        state = joined(result.state, self._adapters.comfyui_dora_scales())
        return TrainedLora(state, self._shapes, self._record(result))

    def check(self, result: Result) -> None:
        """Raise RuntimeError with the fix where no step was worth keeping."""
        if not result.steps:
            raise RuntimeError(
                "Nothing is kept: the loss became NaN or infinite in the first steps. Lower "
                "learning_rate, raise warmup, set clip_norm to 1, or check the latents."
            )

    def save(self, result: Result) -> Path:
        """Save a result where it is found again, and return the file."""
        path = free_path(INTERRUPTED, result.steps)
        self.lora(result).save(path, "comfyui")
        return path

    def rescue(self, result: Result) -> None:
        """Save what an error or Cancel would lose; raises RuntimeError with both reasons where that fails."""
        ending = sys.exc_info()[1]
        try:
            path = self.save(result)
        except OSError as problem:
            lost = f"The {self.what} of {result.steps} steps is lost: {problem.strerror}."
            raise RuntimeError(f"{ending} {lost}".strip()) from ending
        show_text(self._node, f"stopped after {result.steps} steps; saved as {path.name}")


def report_of(result: Result, record: TrainingRecord, unused: Sequence[str]) -> str:
    """Return what the node tells of a training, as JSON; unused: layers that learnt nothing."""
    told = {"stopped": result.stopped, "held_out": held_out_rows(result.held_out)}
    return json.dumps({**told, "unused_layers": list(unused), "training": asdict(record)})
