"""Going on from a checkpoint changes no bit; whatever ends a training, what there is is kept."""

from __future__ import annotations

import json
import math
import pickle
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from realism_core.training import state as state_module
from realism_core.training.checkpoint import CheckpointError, read_checkpoint
from realism_core.training.loop import (
    OutOfMemory,
    Progress,
    Result,
    StopAndKeep,
    TrainingDiverged,
    train,
)
from realism_core.training.lora import LoraConfig
from realism_core.training.memory import estimate
from realism_core.training.optimisers import OPTIMISERS
from realism_core.training.settings import TrainSettings
from realism_core.training.validation import validate
from realism_core.training.weighting import LossWeight
from tests.core.toy_denoisers import TEXT, ToyDenoiser, same_tensors, toy_adapters, toy_data

BASE = {"steps": 20, "batch_size": 2, "learning_rate": 1e-2, "log_every": 4}


class Run:
    """One toy training; `saved` is what `save` was given."""

    def __init__(self, rank: int = 2, **settings) -> None:
        self.denoiser = ToyDenoiser()
        self.denoiser.shaky = True
        self.adapters = toy_adapters(self.denoiser, rank, dropout=0.2)
        self.settings = TrainSettings(**{**BASE, **settings})
        self.saved: list[Result] = []

    def __call__(self, **options) -> Result:
        data = options.pop("data", None) or toy_data(7, (6, 8))
        options = {"save": self.saved.append, "empty_conditioning": torch.zeros(TEXT), **options}
        return train(self.denoiser, self.adapters, data, self.settings, **options)

    def fails_at(self, call: int, error: BaseException | Callable) -> Run:
        """Let the prediction of that number raise, or be changed."""
        honest = self.denoiser.predict

        def predict(*args):
            prediction = honest(*args)
            if self.denoiser.calls == call:
                if isinstance(error, BaseException):
                    raise error
                return error(prediction)
            return prediction

        self.denoiser.predict = predict
        return self


def at(step: int, error: BaseException) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if progress.step == step:
            raise error

    return on_step


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("stop", [1, 6, 19])
def test_a_stop_and_a_resume_change_no_bit(tmp_path: Path, optimiser: str, stop: int) -> None:
    options = {
        "optimiser": optimiser, "ema_decay": 0.9, "condition_dropout": 0.3, "accumulation": 2,
        "schedule": "cosine", "warmup": 3, "validate_every": 5, "checkpoint_every": 100,
    }  # fmt: skip
    held_out = toy_data(2, seed=5)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    expected = Run(**options)(checkpoint=whole, held_out=held_out)
    stopped = Run(**options)(checkpoint=parts, held_out=held_out, on_step=at(stop, StopAndKeep()))
    assert (stopped.steps, stopped.stopped, len(stopped.losses)) == (stop, True, stop)
    resumed = Run(**options)(checkpoint=parts, resume=parts, held_out=held_out)
    assert same_tensors(expected.state, resumed.state)
    assert expected.losses == resumed.losses
    assert expected.held_out == resumed.held_out
    assert [step for step, _ in resumed.held_out] == [0, 5, 10, 15, 20]
    (one, told), (other, also_told) = read_checkpoint(whole), read_checkpoint(parts)
    assert same_tensors(one, other)
    assert told == also_told
    again = Run(**options)(resume=parts, checkpoint=parts, held_out=held_out)
    assert same_tensors(again.state, expected.state)


def test_a_constant_schedule_can_be_prolonged_a_cosine_cannot(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Run(steps=8)(checkpoint=path)
    assert same_tensors(Run()(resume=path).state, Run()().state)
    with pytest.raises(CheckpointError, match="at step 8 already, beyond the 5 asked for: raise steps"):
        Run(steps=5)(resume=path)
    Run(steps=8, schedule="cosine")(checkpoint=path)
    with pytest.raises(CheckpointError, match="resume: steps was 8 when .* is 20 now"):
        Run(schedule="cosine")(resume=path)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("cancelled"), SystemExit(3)])
@pytest.mark.parametrize("step", [1, 4, 7, 20])
def test_whatever_a_step_raises_what_was_trained_is_kept_first(tmp_path: Path, error, step: int) -> None:
    run, path = Run(), tmp_path / "c.safetensors"
    with pytest.raises(type(error)) as caught:
        run(on_step=at(step, error), checkpoint=path)
    assert caught.value is error
    expected = Run(steps=step)()
    (kept,) = run.saved
    assert same_tensors(kept.state, expected.state)
    assert (kept.steps, kept.losses) == (step, expected.losses)
    assert same_tensors(Run()(resume=path).state, Run()().state)
    assert all(parameter.grad is None for parameter in run.adapters.parameters())


def test_stop_and_keep_returns_and_calls_no_save() -> None:
    run = Run()
    result = run(on_step=at(9, StopAndKeep()))
    assert result.stopped and result.steps == 9 and not run.saved
    assert same_tensors(result.state, Run(steps=9)().state)


@pytest.mark.parametrize("call", [1, 2, 9])
def test_an_interrupt_within_a_step_keeps_the_steps_before(tmp_path: Path, call: int) -> None:
    run, path = Run(accumulation=2).fails_at(call, KeyboardInterrupt()), tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path)
    made = (call - 1) // 2
    assert [kept.steps for kept in run.saved] == ([made] if made else [])
    if made:
        assert same_tensors(run.saved[0].state, Run(accumulation=2, steps=made)().state)
    assert same_tensors(Run(accumulation=2)(resume=path).state, Run(accumulation=2)().state)


def test_an_interrupt_within_a_validation_is_made_up_for(tmp_path: Path) -> None:
    path, held_out = tmp_path / "c.safetensors", toy_data(2, seed=5)
    expected = Run(validate_every=5)(held_out=held_out)
    # 8 predictions before the start, 5 steps, and the third of the next 8
    run = Run(validate_every=5).fails_at(8 + 5 + 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path, held_out=held_out)
    assert run.saved[0].steps == 5
    assert not any(part.training != run.denoiser.module.training for part in run.denoiser.module.modules())
    resumed = Run(validate_every=5)(resume=path, held_out=held_out)
    assert resumed.held_out == expected.held_out
    assert same_tensors(resumed.state, expected.state)


def test_an_interrupt_within_the_optimiser_falls_back_to_whole_weights(tmp_path, monkeypatch) -> None:
    run, path = Run(checkpoint_every=3), tmp_path / "c.safetensors"
    make = state_module.make_optimiser

    def torn(*args):
        optimiser = make(*args)
        honest, steps = optimiser.step, []

        def step():
            steps.append(1)
            honest()
            if len(steps) == 6:
                raise KeyboardInterrupt

        optimiser.step = step
        return optimiser

    monkeypatch.setattr(state_module, "make_optimiser", torn)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path)
    monkeypatch.undo()
    assert run.saved[0].steps == read_checkpoint(path)[1]["step"] == 3
    assert same_tensors(run.saved[0].state, Run(steps=3)().state)
    assert same_tensors(Run(checkpoint_every=3)(resume=path, checkpoint=path).state, Run()().state)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("every", [0, 3])
def test_a_loss_that_is_no_number_stops_with_the_last_good_weights(
    tmp_path, value: float, every: int
) -> None:
    run, path = Run(checkpoint_every=every).fails_at(7, lambda p: p * value), tmp_path / "c.safetensors"
    name = "NaN" if math.isnan(value) else "infinite"
    good = 6 if every else 4
    text = (
        f"The loss became {name} at step 7 of 20; the weights of step {good} are kept.*lower learning_rate"
    )
    with pytest.raises(TrainingDiverged, match=text):
        run(checkpoint=path)
    (kept,) = run.saved
    assert (kept.steps, len(kept.losses)) == (good, good)
    assert same_tensors(kept.state, Run(steps=good)().state)
    assert same_tensors(run.adapters.state_dict(), kept.state), "the parameters are the good ones too"
    assert path.exists() == bool(every)
    if every:
        assert read_checkpoint(path)[1]["step"] == 6


def test_a_gradient_that_is_no_number_stops_too() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * math.nan

    run = Run(ema_decay=0.9, clip_norm=0.0).fails_at(6, Broken.apply)
    with pytest.raises(TrainingDiverged, match="The gradient became NaN at step 6 .*set clip_norm to 1"):
        run()
    assert same_tensors(run.saved[0].state, Run(steps=4, ema_decay=0.9, clip_norm=0.0)().state)


def test_weights_that_became_infinite_are_not_kept(tmp_path: Path, monkeypatch) -> None:
    make = state_module.make_optimiser

    def wild(kind, groups, *numbers):
        optimiser = make(kind, groups, *numbers)
        honest, steps = optimiser.step, []

        def step():
            honest()
            steps.append(1)
            if len(steps) == 8:
                groups[0]["params"][0].data.fill_(math.inf)

        optimiser.step = step
        return optimiser

    monkeypatch.setattr(state_module, "make_optimiser", wild)
    run, path = Run(), tmp_path / "c.safetensors"
    with pytest.raises(TrainingDiverged, match="The weights became infinite by step 8 .* step 4 are kept"):
        run(checkpoint=path)
    monkeypatch.undo()
    assert same_tensors(run.saved[0].state, Run(steps=4)().state)
    assert not path.exists()


def test_layers_are_told_the_number_of_each_pass(tmp_path: Path) -> None:
    numbers, path = [], tmp_path / "c.safetensors"
    for step in (4, 7):
        run = Run(steps=step, accumulation=2)
        run.adapters.begin_pass = numbers.append
        for layer in run.adapters.layers.values():
            layer.dropout = 0.0
        run(checkpoint=path, resume=path if path.exists() else None)
    assert numbers == list(range(14))


def test_the_averages_are_what_is_validated() -> None:
    run, held_out = Run(ema_decay=0.9, steps=6), toy_data(2, seed=5)
    result = run(held_out=held_out)
    as_trained = validate(run.denoiser, held_out, batch_size=2)
    run.adapters.load_state_dict(result.state)
    assert result.held_out[-1] == (6, validate(run.denoiser, held_out, batch_size=2))
    assert result.held_out[-1][1] != as_trained


def test_a_cancel_after_a_bad_step_keeps_good_weights(tmp_path: Path) -> None:
    run, path = Run().fails_at(6, lambda p: p * math.nan), tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(on_step=at(7, KeyboardInterrupt()), checkpoint=path)
    assert run.saved[0].steps == 4
    assert not path.exists()
    stopping = Run().fails_at(6, lambda p: p * math.nan)
    assert stopping(on_step=at(7, StopAndKeep())).steps == 4


def test_out_of_memory_says_what_to_lower() -> None:
    for error in (RuntimeError("device out of memory. Tried to allocate 2 GiB"), MemoryError()):
        run = Run().fails_at(5, error)
        with pytest.raises(
            OutOfMemory, match="at step 5; .*lower batch_size .now 2; .*recompute.*rank"
        ) as caught:
            run()
        assert caught.value.__cause__ is error
        assert run.saved[0].steps == 4
    with pytest.raises(RuntimeError, match="^other$"):
        Run().fails_at(5, RuntimeError("other"))()


def test_a_save_that_fails_is_told_with_what_came_before() -> None:
    def save(result: Result) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space") as caught:
        Run()(on_step=at(3, KeyboardInterrupt()), save=save)
    assert isinstance(caught.value.__context__, KeyboardInterrupt)


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch) -> None:
    written, honest = [], state_module.write_checkpoint
    monkeypatch.setattr(
        state_module, "write_checkpoint", lambda *given: (written.append(given[2]["step"]), honest(*given))
    )
    run, path = Run(checkpoint_every=2), tmp_path / "c.safetensors"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(progress: Progress) -> None:
        if progress.step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, limits[1]))

    try:
        with pytest.raises(CheckpointError, match="cannot be written: .*The checkpoint before it is whole"):
            run(checkpoint=path, on_step=fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.saved[0].steps == 6
    assert written == [2, 4, 6], "a disk that is full is not tried again"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert read_checkpoint(path)[1]["step"] == 4
    assert same_tensors(Run(checkpoint_every=2)(resume=path, checkpoint=path).state, Run()().state)


def test_a_checkpoint_of_other_layers_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Run(steps=1)(checkpoint=path)
    with pytest.raises(CheckpointError, match="resume: .*does not fit this model.*first.lora_A.weight"):
        Run(rank=1)(resume=path)


CHANGES = {
    "learning_rate was 0.01 .* is 0.02 now": {"settings": {"learning_rate": 0.02}},
    "seed was 0 .* is 1 now": {"settings": {"seed": 1}},
    "optimiser was 'adamw' .* is 'sgd' now": {"settings": {"optimiser": "sgd"}},
    "loss_weight.kind was 'constant' .* is 'p2' now": {"loss_weight": LossWeight()},
    "latents, prompts, attributes, masks, image weights or held_out": {"data": toy_data(7, (6, 8), seed=3)},
    "base was 'one' .* is 'two' now": {"about": {"base": "two"}},
}


@pytest.mark.parametrize("text", CHANGES)
def test_a_checkpoint_of_other_settings_names_the_first(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.safetensors"
    options = {"about": {"base": "one"}, **CHANGES[text]}
    Run(steps=1)(checkpoint=path, about={"base": "one"})
    with pytest.raises(CheckpointError, match=f"resume: {text}"):
        Run(**options.pop("settings", {}))(resume=path, **options)
    assert same_tensors(
        Run(log_every=1, recompute=True)(resume=path, about={"base": "one"}).state, Run()().state
    )


def test_files_that_are_no_whole_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Run(steps=2)(checkpoint=path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for cut in (0, 3, 8, 40, 8 + length - 1, 8 + length, 8 + length + 5, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(
            CheckpointError, match="resume: c.safetensors is (truncated|no safetensors|damaged)"
        ):
            Run()(resume=path)
    torch.save({"step": 1}, path)
    with pytest.raises(CheckpointError, match="resume: c.safetensors is a pickle"):
        Run()(resume=path)
    path.write_bytes(pickle.dumps({"step": 1}))
    with pytest.raises(CheckpointError, match="resume: c.safetensors is a pickle"):
        Run()(resume=path)
    with pytest.raises(CheckpointError, match="resume: .*is not there"):
        Run()(resume=tmp_path / "missing.safetensors")
    header = json.loads(content[8 : 8 + length])
    for metadata, text in (
        ({}, "no checkpoint of this trainer"),
        ({"version": "9"}, "of format version 9"),
    ):
        changed = {**header["__metadata__"], **metadata} if metadata else {"a": "b"}
        text_bytes = json.dumps({**header, "__metadata__": changed}).encode()
        path.write_bytes(struct.pack("<Q", len(text_bytes)) + text_bytes + content[8 + length :])
        with pytest.raises(CheckpointError, match=text):
            Run()(resume=path)


def test_the_held_out_loss_is_the_mean_by_band_whatever_the_batch() -> None:
    denoiser = ToyDenoiser("flow", torch.float64)
    toy_adapters(denoiser)
    data = toy_data(5, (6, 8), seed=4)
    denoiser.module.train()
    first = validate(denoiser, data, bands=4, draws=3)
    assert denoiser.module.training and all(part.training for part in denoiser.module.modules())
    torch.manual_seed(3)
    again = validate(denoiser, data, bands=4, draws=3, batch_size=7)
    assert [band.loss for band in again] == pytest.approx([band.loss for band in first], rel=1e-12)
    assert [band.loss for band in validate(denoiser, data, 4, 3, seed=1)] != [band.loss for band in first]
    assert [(b.low, b.high, b.sigma) for b in first] == [
        (n / 4, (n + 1) / 4, (n + 0.5) / 4) for n in range(4)
    ]
    seen: list[torch.Tensor] = []
    honest = denoiser.predict
    counts = torch.zeros(4)

    def counting(noisy, sigma, conditioning):
        seen.append(sigma)
        assert not any(part.training for part in denoiser.module.modules())
        bands = (sigma * 4).long()
        counts.index_add_(0, bands, torch.ones(len(bands)))
        return honest(noisy, sigma, conditioning)

    denoiser.predict = counting
    validate(denoiser, data, bands=4, draws=3)
    assert counts.tolist() == [15.0] * 4
    within = torch.cat(seen).mul(4).frac()
    assert within.std() > 0.2, "u spreads over each band"
    for name in ("bands", "draws", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            validate(denoiser, data, **{name: 0})


@pytest.mark.parametrize("kind", OPTIMISERS)
def test_the_estimate_counts_what_is_there(kind: str) -> None:
    denoiser = ToyDenoiser()
    base = sum(p.numel() for p in denoiser.module.parameters()) * 4
    settings = TrainSettings(**{**BASE, "optimiser": kind, "ema_decay": 0.9, "steps": 1})
    told = estimate(denoiser.module, LoraConfig(rank=2, targets="all"), toy_data(7, (6, 8)), settings)
    adapters = toy_adapters(denoiser)
    trained = sum(parameter.numel() for parameter in adapters.parameters()) * 4
    assert told[:3] == (base, trained, trained)
    assert (told.ema, told.last_good) == (trained, 2 * trained)
    assert told.optimiser == {"adamw": 2, "sgd": 1}.get(kind, told.optimiser / trained) * trained
    assert kind != "adafactor" or 0 < told.optimiser < trained
    assert told.batch == 5 * 2 * (2 * 8 * 9) * 4
    assert told.total == sum(told)
    assert "Activations come on top" in told.describe()
