"""The training loop: its steps, and what is kept however it ends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cast_weights import cast_again, check_quantised
from .checkpoint import CheckpointError, clear_parts
from .data import Dataset, digest_of
from .denoiser import Denoiser, Trainable
from .devices import (
    autocast_of,
    clip_gradients,
    loss_scale_of,
    own_dice,
    scale_gradients,
    seed_own_dice,
)
from .draws import Draw, draw_batches, image_losses, moved, predict, predicted_x0, working_dtype
from .memory import OutOfMemory, is_out_of_memory, what_to_lower
from .norm_inputs import CopyingNorms, copied_norm_inputs
from .progress import Progress, Result, StopAndKeep
from .recompute import recomputed
from .schedule import learning_rate_factor
from .seeds import derived_seed, dice_of, generator_of
from .settings import TrainSettings
from .share import Company, Share
from .state import TrainingDiverged, TrainState
from .validation import validate
from .weighting import LossWeight

__all__ = ["Denoiser", "OutOfMemory", "Progress", "Result", "StopAndKeep", "TrainingDiverged", "train"]

# from predicted x0 [B,...], its SNR [B] on the CPU and a CPU generator to what is added to each loss, [B]
ExtraLoss = Callable[[Tensor, Tensor, torch.Generator], Tensor]
PLAIN = LossWeight("constant", mode="factor", normalise=False)


def train(
    denoiser: Denoiser,
    adapters: Trainable,
    dataset: Dataset,
    settings: TrainSettings,
    loss_weight: LossWeight = PLAIN,
    *,
    empty_conditioning: Any = None,
    extra_loss: ExtraLoss | None = None,
    held_out: Dataset | None = None,
    checkpoint: Path | None = None,
    resume: Path | None = None,
    about: Mapping[str, Any] | None = None,
    save: Callable[[Result], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
    share: Share | None = None,
    preview: Callable[[int], None] | None = None,
) -> Result:
    """Train the adapters and return what was trained.

    u is drawn by the loss weight's timesteps. All dice of a step are a function of seed and step alone:
    whatever ran between two steps, and a stop and resume, change nothing. An image's loss is its squared
    error against the objective's target, times the loss weight at its sigma, plus `extra_loss`, all times the
    image's weight. held_out: validated before the first and after the last step, and as the settings say.

    checkpoint: the file to write, at the end and when it ends early too. resume: a file to go on from.
    about: what else must agree with that file, such as the base model's weights. preview: called with the
    number of steps made, before the first, after the last, and as the settings say; the adapters then hold
    what would be kept. on_step: called after every step, dropout off. Whatever either raises ends the
    training: StopAndKeep makes it return; any other exception, whoever raises it, goes on its way after
    `save` was called with what there is, if any step was made. The parameters stay as trained, not averaged.

    share: this process's part where several train together, all called with the same arguments on the same
    files. batch_size is then that of each process; the training is that of one process with the batch size
    of all, but for the masks of dropout and what `extra_loss` draws. Only rank 0 writes checkpoints, saves
    and draws previews, and the hosts wait for one another once a step. What ends one process ends all:
    StopAndKeep and KeyboardInterrupt alike, anything else as PeerStopped in the others.

    Raises ValueError for settings that do not fit, CheckpointError, TrainingDiverged with the weights of
    the last good look at the losses kept, and OutOfMemory with what to lower.
    """
    if settings.condition_dropout and empty_conditioning is None:
        raise ValueError("condition_dropout needs an empty conditioning: connect one, or set it to 0.")
    if settings.checkpoint_every and checkpoint is None:
        raise ValueError("checkpoint_every needs a checkpoint file: name one, or set it to 0.")
    if settings.preview_every and preview is None:
        raise ValueError("preview_every needs something that draws previews: set it to 0.")
    if settings.validate_every and held_out is None:
        raise ValueError("validate_every needs held-out images: hold some out, or set it to 0.")
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(own_dice(denoiser.device))
        check_quantised(denoiser.module, denoiser.device, denoiser.dtype)
        stack.enter_context(cast_again(denoiser.module))
        norms = None
        if settings.recompute:
            stack.enter_context(recomputed(denoiser.module))
        else:
            norms = stack.enter_context(copied_norm_inputs(denoiser.module)).watch()
        training = _Training(denoiser, adapters, dataset, settings, loss_weight, held_out, checkpoint, share)
        training.empty, training.extra_loss, training.on_step = empty_conditioning, extra_loss, on_step
        training.about, training.preview, training.norms = about or {}, preview, norms
        stack.callback(training.state.optimiser.zero_grad, set_to_none=True)
        adapters.train(False)
        stack.callback(adapters.train, False)
        return training.run(resume, save)


class _Training:
    empty: Any
    extra_loss: ExtraLoss | None
    on_step: Callable[[Progress], None] | None
    about: Mapping[str, Any]
    preview: Callable[[int], None] | None
    norms: CopyingNorms | None
    previewed = -1

    def __init__(
        self,
        denoiser: Denoiser,
        adapters: Trainable,
        dataset: Dataset,
        settings: TrainSettings,
        loss_weight: LossWeight,
        held_out: Dataset | None,
        checkpoint: Path | None,
        share: Share | None,
    ) -> None:
        self.denoiser, self.adapters, self.dataset, self.settings = denoiser, adapters, dataset, settings
        self.held_out, self.checkpoint = held_out, checkpoint
        self.loss_weight = denoiser.objective.prepare(loss_weight, denoiser.sigmas)
        self.autocast = autocast_of(settings.precision, denoiser)
        self.loss_scale = loss_scale_of(settings.precision, denoiser)
        self.dtype = working_dtype(denoiser.dtype)
        self.company = Company(share, list(adapters.parameters()), (StopAndKeep, KeyboardInterrupt))
        self.batch_size = self.company.batch_size(settings.batch_size, len(dataset))
        self.images = self.batch_size * settings.accumulation
        self.epochs = dataset.epochs(self.batch_size, settings.seed)
        self.state = TrainState(adapters, settings, self.epochs, denoiser.device, self.dtype)
        self.stopped = False

    @cached_property
    def binding(self) -> dict[str, Any]:
        """What a run that goes on from a checkpoint must agree with."""
        return {
            **self.settings.binding(),
            "batch_size": self.batch_size,
            "objective": self.denoiser.objective.kind,
            "loss_weight": self.loss_weight.to_dict(),
            "images": self.dataset.digest,
            **({"negative": digest_of(self.empty)} if self.settings.condition_dropout else {}),
            **self.about,
        }

    def run(self, resume: Path | None, save: Callable[[Result], None] | None) -> Result:
        with self.company:
            return self._run(resume, save if self.company.leads else None)

    def _run(self, resume: Path | None, save: Callable[[Result], None] | None) -> Result:
        if resume is not None:
            self.state.restore(resume, self.binding)
        if self.checkpoint is not None and self.company.leads:
            clear_parts(self.checkpoint)
        try:
            try:
                self.company.open(lambda: self.binding, self.state.step)
                if self._owes_validation():
                    self._validate()
                self._show()
                while self.state.step < self.settings.steps:
                    self._take_step()
                    self._follow_up()
                self.company.close()
            except StopAndKeep as stop:
                self.company.leave(stop)
                self.stopped = True
                self._settle(stop)
        except BaseException as error:
            try:
                self._settle(error)
            finally:
                if save is not None and self.state.step:
                    save(self._result())
            if is_out_of_memory(error):
                raise OutOfMemory(
                    f"The memory ran out at step {self.state.step + 1}; what was trained before is kept. "
                    f"To fit: {what_to_lower(self.settings)}."
                ) from error
            raise
        return self._result()

    def _take_step(self) -> None:
        settings, step = self.settings, self.state.step
        generator = generator_of(settings.seed, "step", step)
        dice = dice_of(settings.seed, "condition dropout", step)
        # for dropout inside the model
        layers = derived_seed(settings.seed, "layers", self.company.numbered(step))
        seed_own_dice(self.denoiser.device, layers)
        self.adapters.train()
        batches = [next(self.epochs) for _ in range(settings.accumulation)]
        draws = draw_batches(
            self.denoiser,
            self.dataset,
            batches,
            self.loss_weight.timesteps.draw(self.images, generator),
            generator,
            lambda: dice.random() < settings.condition_dropout,
            self.empty,
        )
        total = torch.zeros((), dtype=self.dtype, device=self.denoiser.device)
        for number, draw in enumerate(draws, step * settings.accumulation):
            number = self.company.numbered(number)
            self.adapters.begin_pass(number)
            loss = self._loss(self.company.part(draw, settings.seed, number)) / self.images
            if not loss.requires_grad:
                raise ValueError("adapters: the model does not call them: attach them to this model.")
            try:
                (loss * self.loss_scale).backward()
            except RuntimeError as error:
                if "inplace operation" not in str(error):
                    raise
                raise ValueError(
                    "model: this one changes its activations in place where the gradient needs them, so it "
                    "cannot be trained here: use another model."
                ) from error
            if self.norms is not None:
                self.norms.settle()
            total += loss.detach()
        total = self.company.add_up(total)
        scale_gradients(self.state.parameters, 1 / self.loss_scale)
        norm = clip_gradients(self.state.parameters, settings.clip_norm or math.inf)
        self.state.advance(total, norm, self._learning_rate(step))
        self.adapters.train(False)

    def _loss(self, draw: Draw) -> Tensor:
        objective = self.denoiser.objective
        prediction = predict(self.denoiser, draw, self.autocast)
        weights = objective.weights(self.loss_weight, draw.schedule)
        losses = image_losses(objective, draw, prediction)
        losses = losses * moved(weights, losses.device, losses.dtype)
        if self.extra_loss is not None:
            x0, snr = predicted_x0(objective, draw, prediction), objective.snr(draw.schedule)
            losses = losses + self.extra_loss(x0, snr, draw.generator).to(losses.dtype)
        return (losses * draw.weight).sum()

    def _learning_rate(self, step: int) -> float:
        settings = self.settings
        factor = learning_rate_factor(settings.schedule, step, settings.steps, settings.warmup)
        return settings.learning_rate * factor

    def _follow_up(self) -> None:
        settings, state = self.settings, self.state
        last = state.step == settings.steps
        to_write = self.checkpoint is not None and (last or _due(state.step, settings.checkpoint_every))
        to_validate = self._owes_validation()
        if last or to_write or to_validate or _due(state.step - state.looked, settings.log_every):
            state.look()
        if to_validate:
            self._validate()
        if to_write:
            self._write()
        self._show()
        if self.on_step is not None:
            rate, epoch = self._learning_rate(state.step - 1), self.epochs.epoch
            with torch.no_grad():
                self.on_step(
                    Progress(state.step, settings.steps, epoch, rate, state.losses, state.validations)
                )

    def _settle(self, error: BaseException) -> None:
        """Bring the weights to the last state worth keeping, and write it down where it is whole."""
        state = self.state
        sound = state.settled and not isinstance(error, TrainingDiverged)
        if sound:
            try:
                state.look()
            except TrainingDiverged:
                sound = False
        if not sound:
            state.rewind()
        elif self.checkpoint is not None and not isinstance(error, CheckpointError):
            self._write()

    def _write(self) -> None:
        if self.company.leads:
            self.state.write(self.checkpoint, self.binding)

    def _result(self) -> Result:
        state = self.state
        losses, validations = list(state.losses), list(state.validations)
        return Result(state.layers(), state.step, losses, validations, self.stopped)

    def _owes_validation(self) -> bool:
        step, settings, done = self.state.step, self.settings, self.state.validations
        due = step in (0, settings.steps) or _due(step, settings.validate_every)
        return self.held_out is not None and due and not (done and done[-1][0] == step)

    def _show(self) -> None:
        step, settings = self.state.step, self.settings
        due = step in (0, settings.steps) or _due(step, settings.preview_every)
        if self.preview is not None and self.company.leads and due and step != self.previewed:
            self.previewed = step
            with self.state.averaged(), torch.no_grad():
                self.preview(step)

    def _validate(self) -> None:
        with self.state.averaged():
            bands = validate(
                self.denoiser, self.held_out, batch_size=self.settings.batch_size, autocast=self.autocast
            )
        self.state.validations.append((self.state.step, bands))


def _due(count: int, every: int) -> bool:
    return every > 0 and count % every == 0
