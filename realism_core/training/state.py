"""The state of a training between two steps, and the last weights that are known to be good."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import (
    CheckpointError,
    below,
    check_settings,
    optimiser_state,
    read_checkpoint,
    restore_optimiser,
    write_checkpoint,
)
from .data import Epochs
from .denoiser import Trainable
from .ema import Ema, fill
from .optimisers import make_optimiser
from .settings import TrainSettings
from .validation import BandLoss


class TrainingDiverged(RuntimeError):
    """The loss, its gradient or the weights became NaN or infinite."""


class TrainState:
    """What a checkpoint holds.

    step: steps that were made. looked: the step up to which losses are known to the host and finite; `good`
    are the weights of that step. settled: the weights and everything else belong to the same step. record:
    the loss and the gradient norm of the steps since, on the device.
    """

    def __init__(
        self,
        adapters: Trainable,
        settings: TrainSettings,
        epochs: Epochs,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.adapters, self.settings, self.epochs = adapters, settings, epochs
        self.parameters = list(adapters.parameters())
        if not self.parameters:
            raise ValueError("adapters: no layer is trained: choose other targets.")
        groups = [{"params": list(group), "factor": factor} for factor, group in adapters.rate_groups()]
        self.optimiser = make_optimiser(settings.optimiser, groups, settings.learning_rate, settings.decay)
        self.ema = Ema(self.parameters, settings.ema_decay) if settings.ema_decay else None
        self.live = [*(p.detach() for p in self.parameters), *(self.ema.averages if self.ema else ())]
        self.good = [tensor.clone() for tensor in self.live]
        self.record = torch.zeros(2, settings.log_every, device=device, dtype=dtype)
        self.order = epochs.state()
        self.step = self.looked = 0
        self.losses: list[float] = []
        self.validations: list[tuple[int, list[BandLoss]]] = []
        self.settled = True

    def advance(self, loss: Tensor, norm: Tensor, learning_rate: float) -> None:
        """Make the optimiser's step with the gradients that are there, and take down its loss and norm."""
        place = self.step - self.looked
        self.settled = False
        self.record[0, place], self.record[1, place] = loss, norm
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate * group["factor"]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(self.step)
        self.step, self.order = self.step + 1, self.epochs.state()
        self.settled = True

    @torch.no_grad()
    def look(self) -> None:
        """Take the losses since the last look from the device; the weights become the last good ones.

        Raises TrainingDiverged if one of them, a gradient or a weight is not finite. The host waits once.
        """
        count = self.step - self.looked
        if not count:
            return
        size = torch.stack(torch._foreach_norm(self.live)).sum().to(self.record)
        values = torch.cat([self.record[:, :count].flatten(), size[None]]).tolist()
        losses, norms = values[:count], values[count : 2 * count]
        bad = next((n for n in range(count) if not math.isfinite(losses[n] + norms[n])), None)
        if bad is not None or not math.isfinite(values[-1]):
            raise TrainingDiverged(self._why(losses, norms, bad))
        self.losses += losses
        fill(self.good, self.live)
        self.looked = self.step

    def rewind(self) -> None:
        """Put the last good weights back; optimiser and order stay, so no checkpoint is to follow."""
        fill(self.live, self.good)
        self.step, self.settled = self.looked, False

    def averaged(self) -> AbstractContextManager:
        """Return a context in which the parameters hold their averages, where EMA is on."""
        return self.ema.applied() if self.ema else contextlib.nullcontext()

    def layers(self) -> dict[str, Tensor]:
        """Return copies of the adapters' tensors by name, averaged where EMA is on."""
        with self.averaged():
            return {name: tensor.detach().clone() for name, tensor in self.adapters.state_dict().items()}

    def write(self, path: Path, binding: Mapping[str, Any]) -> None:
        """Write a checkpoint; binding: what a run that goes on from it must agree with."""
        optimiser, numbers = optimiser_state(self.optimiser)
        averages = self.ema.averages if self.ema else ()
        tensors = {
            **{f"lora/{name}": tensor for name, tensor in self.adapters.state_dict().items()},
            **{f"ema/{number}": tensor for number, tensor in enumerate(averages)},
            **{f"optimiser/{name}": tensor for name, tensor in optimiser.items()},
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        state = {
            "step": self.step,
            "order": self.order,
            "optimiser": numbers,
            "held_out": self.validations,
            "settings": binding,
            "versions": {"torch": torch.__version__},
        }
        write_checkpoint(path, tensors, state)

    def restore(self, path: Path, binding: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; raises CheckpointError where it does not belong to this training."""
        tensors, state = read_checkpoint(path)
        check_settings(state["settings"], binding, path)
        if state["step"] > self.settings.steps:
            raise CheckpointError(
                f"resume: {path} is at step {state['step']} already, beyond the {self.settings.steps} "
                "asked for: raise steps."
            )
        try:
            self.adapters.load_state_dict(below(tensors, "lora/"))
        except ValueError as error:
            raise CheckpointError(f"resume: {path} does not fit this model. {error}") from error
        if self.ema:
            fill(self.ema.averages, [tensors[f"ema/{number}"] for number in range(len(self.parameters))])
        restore_optimiser(self.optimiser, below(tensors, "optimiser/"), state["optimiser"])
        self.order = state["order"]
        self.epochs.restore(self.order)
        self.step = self.looked = state["step"]
        self.losses = tensors["losses"].tolist()
        held_out = state["held_out"]
        self.validations = [(step, [BandLoss(*band) for band in bands]) for step, bands in held_out]
        fill(self.good, self.live)

    def _why(self, losses: list[float], norms: list[float], bad: int | None) -> str:
        if bad is None:
            what, when = "weights became infinite", f"by step {self.step}"
        else:
            name, value = ("gradient", norms[bad]) if math.isfinite(losses[bad]) else ("loss", losses[bad])
            what = f"{name} became {'NaN' if math.isnan(value) else 'infinite'}"
            when = f"at step {self.looked + bad + 1}"
        advice = [f"lower learning_rate (now {self.settings.learning_rate:g})", "raise warmup"]
        if not self.settings.clip_norm:
            advice.append("set clip_norm to 1")
        advice.append("compute in fp32" if self.settings.precision != "fp32" else "check the latents")
        return (
            f"The {what} {when} of {self.settings.steps}; the weights of step {self.looked} are kept. "
            f"To go on: {', or '.join(advice)}."
        )
