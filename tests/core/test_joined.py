"""Adapters of two networks trained as one: names, rates, checkpoints, and a gradient through both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from realism_core.training.joined import JoinedAdapters
from realism_core.training.loop import StopAndKeep, train
from realism_core.training.lora import LoraConfig, attach
from realism_core.training.settings import TrainSettings
from tests.core.toy_denoisers import TEXT, ToyDenoiser, same_tensors, toy_data


class Encoder(nn.Module):
    """A text encoder of two blocks, by the names that ComfyUI gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.clip_l = nn.Module()
        self.clip_l.transformer = nn.Sequential(nn.Linear(TEXT, 8), nn.Tanh(), nn.Linear(8, TEXT))

    def forward(self, words: Tensor) -> Tensor:
        return self.clip_l.transformer(words)


class ToyWithText(ToyDenoiser):
    """A toy whose conditioning goes through an encoder."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(3)
            self.encoder = Encoder()

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[Tensor]) -> Tensor:
        return super().predict(noisy, sigma, [self.encoder(words) for words in conditioning])


def joined(toy: ToyWithText, rates: Sequence[float] | None = None, dropout: float = 0.0) -> JoinedAdapters:
    """Attach adapters to both, B away from 0."""
    config = LoraConfig(rank=2, alpha=2, targets="all", dropout=dropout)
    both = JoinedAdapters([attach(toy.module, config, 1), attach(toy.encoder, config, 1)], rates)
    generator = torch.Generator().manual_seed(5)
    for parameter in both.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return both


def settings(**options) -> TrainSettings:
    return TrainSettings(**{"steps": 6, "batch_size": 2, "learning_rate": 1e-2, "log_every": 2, **options})


def text_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith("clip_l.")}


@pytest.mark.parametrize("optimiser", ["adamw", "adafactor", "sgd"])
def test_both_networks_learn_and_come_back_as_they_were(optimiser: str) -> None:
    toy = ToyWithText()
    before = {**toy.module.state_dict(), **toy.encoder.state_dict()}
    before = {name: value.clone() for name, value in before.items()}
    with joined(toy) as both:
        start = {name: value.clone() for name, value in both.state_dict().items()}
        result = train(toy, both, toy_data(), settings(optimiser=optimiser))
        assert not both.idle and list(both.layers)[-1] == "clip_l.transformer.2"
        assert list(result.state) == list(both.state_dict())
    for name, value in result.state.items():
        assert name.endswith(".alpha") or not torch.equal(value, start[name]), name
    assert len(text_of(result.state)) == 2 * 3
    assert same_tensors(before, {**toy.module.state_dict(), **toy.encoder.state_dict()})
    assert all(weight.requires_grad for weight in [*toy.module.parameters(), *toy.encoder.parameters()])
    assert not any(part._forward_hooks for part in [*toy.module.modules(), *toy.encoder.modules()])


def test_each_part_has_its_own_share_of_the_learning_rate() -> None:
    """A step of SGD is rate times factor times gradient."""
    moved = []
    for rates in (None, (1.0, 0.25)):
        toy = ToyWithText()
        with joined(toy, rates) as both:
            start = {name: value.clone() for name, value in both.state_dict().items()}
            options = settings(steps=1, optimiser="sgd", clip_norm=0.0, learning_rate=1.0)
            state = train(toy, both, toy_data(), options).state
        moved.append({name: value - start[name] for name, value in state.items() if "lora" in name})
    for name, step in moved[0].items():
        share = 0.25 if name.startswith("clip_l.") else 1.0
        assert torch.allclose(moved[1][name], share * step, rtol=1e-3, atol=1e-7), name
        assert step.abs().max() > 0


@pytest.mark.parametrize("stop", [1, 4])
def test_a_run_that_goes_on_from_a_checkpoint_ends_as_one_in_one_go(tmp_path: Path, stop: int) -> None:
    options = settings(ema_decay=0.9, warmup=1, condition_dropout=0.3)

    def run(**more) -> dict[str, Tensor]:
        toy = ToyWithText()
        with joined(toy, (1.0, 0.5), dropout=0.4) as both:
            empty = torch.zeros(TEXT)
            return train(toy, both, toy_data(), options, empty_conditioning=empty, **more).state

    whole, file = run(), tmp_path / "checkpoint.safetensors"

    def pause(progress) -> None:
        if progress.step == stop:
            raise StopAndKeep

    run(checkpoint=file, on_step=pause)
    assert same_tensors(run(resume=file), whole)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    with joined(ToyWithText()) as both:
        own = {name: value.clone() for name, value in both.state_dict().items()}
        other = {name: value + 1 if "lora" in name else value for name, value in own.items()}
        last = list(own)[-1].rsplit(".", 1)[0]
        wrong = {**other, "clip_l.transformer.2.lora_B.weight": torch.zeros(3, 3)}
        for state, words in (
            (wrong, "clip_l.transformer.2.lora_B.weight"),
            ({**other, "t5xxl.layer.alpha": torch.tensor(1.0)}, "t5xxl.layer.alpha"),
            ({name: value for name, value in other.items() if name not in text_of(own)}, "clip_l."),
        ):
            with pytest.raises(ValueError, match=words):
                both.load_state_dict(state)
            assert same_tensors(both.state_dict(), own), last
        both.load_state_dict(other)
        assert same_tensors(both.state_dict(), other)


def test_parts_need_names_of_their_own_and_a_rate_above_0() -> None:
    one, other = ToyWithText(), ToyWithText()
    config = LoraConfig(rank=1, alpha=1, targets="all")
    with attach(one.encoder, config, 1) as first, attach(other.encoder, config, 1) as second:
        with pytest.raises(ValueError, match=r"'clip_l.transformer.0' is in two"):
            JoinedAdapters([first, second])
        for rate in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="text_rate is"):
                JoinedAdapters([first], [rate])


def test_dora_scales_and_dropout_are_those_of_all_parts() -> None:
    toy = ToyWithText()
    config = LoraConfig(rank=2, alpha=2, targets="all", dora=True, dropout=0.5)
    with JoinedAdapters([attach(toy.module, config, 1), attach(toy.encoder, config, 1)]) as both:
        assert {name.rsplit(".", 1)[0] for name in both.comfyui_dora_scales()} == set(both.layers)
        both.train()
        both.begin_pass(3)
        assert {layer.number for layer in both.layers.values()} == {3}
        assert all(layer.training for layer in both.layers.values())
        assert not any(layer.training for layer in both.train(False).layers.values())
