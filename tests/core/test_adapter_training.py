"""The token adapter in the training loop: groups dropped apart, joined with a LoRA, resumed bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from realism_core.conditioning.adapter import AdapterConfig, TokenAdapter
from realism_core.training.adapter_training import Said, TrainableAdapter, adapter_memory, state_of
from realism_core.training.data import Dataset, LatentExample
from realism_core.training.joined import JoinedAdapters
from realism_core.training.loop import StopAndKeep, train
from realism_core.training.lora import LoraAdapters, LoraConfig
from realism_core.training.memory import MemoryEstimate
from realism_core.training.settings import TrainSettings
from tests.core.toy_denoisers import CHANNELS, TEXT, ToyDenoiser, same_tensors, toy_adapters

CONFIG = AdapterConfig(context=TEXT, width=8, grid=2, patch=2)
SAID = Said(torch.ones(40), torch.rand(19, 4, 4, generator=torch.Generator().manual_seed(3)))


def trainable(dropout: float = 0.1, unknown: float = 0.5, seed: int = 0, **config) -> TrainableAdapter:
    made = TokenAdapter(AdapterConfig(**{**vars(CONFIG), **config}), 2)
    return TrainableAdapter(made, seed, dropout, unknown)


def null_groups(part: TrainableAdapter, count: int, number: int) -> tuple[Tensor, Tensor]:
    """Return for each picture of a pass whether its attributes, and its mask, have null tokens."""
    part.begin_pass(number)
    with torch.no_grad():
        made = part.conditions([SAID] * count)
    null = (made.tokens == made.null).all(-1)
    return null[:, :40].all(1), null[:, 40:].all(1)


def test_groups_are_dropped_apart_and_as_often_as_asked() -> None:
    part = trainable(0.3, 0.0).train()
    columns = [null_groups(part, 50, number) for number in range(60)]
    attributes, mask = (torch.cat(column).float() for column in zip(*columns, strict=True))
    count = len(attributes)
    # within four standard deviations
    for share, wanted in ((attributes, 0.3), (mask, 0.3), (attributes * mask, 0.09)):
        assert abs(float(share.mean()) - wanted) < 4 * (wanted * (1 - wanted) / count) ** 0.5


def test_what_is_dropped_goes_by_seed_and_pass() -> None:
    one, same, other = (trainable(0.5, 0.5, seed).train() for seed in (0, 0, 1))
    for part in (one, same, other):
        part.begin_pass(7)
    with torch.no_grad():
        tokens = [part.conditions([SAID] * 20).tokens for part in (one, same, other)]
        one.begin_pass(8)
        later = one.conditions([SAID] * 20).tokens
        one.begin_pass(7)
        again = one.conditions([SAID] * 20).tokens
    assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[0], again)
    assert not torch.equal(tokens[0], tokens[2]) and not torch.equal(tokens[0], later)


def test_outside_training_nothing_is_dropped() -> None:
    part = trainable(0.9, 1.0)
    assert not any(bool(group.any()) for group in null_groups(part, 40, 1))
    part.train()
    assert all(bool(group.any()) for group in null_groups(part, 40, 1))
    part.train(False)
    assert not any(bool(group.any()) for group in null_groups(part, 40, 1))


def test_some_attributes_are_left_unsaid() -> None:
    part = trainable(0.0, 1.0).train()
    with torch.no_grad():
        made = part.conditions([SAID] * 400)
    said = 40 - (made.tokens == made.null).all(-1)[:, :40].sum(1).float()
    assert float(said.min()) < 4 and float(said.max()) > 36 and abs(float(said.mean()) - 20) < 3
    part.unknown = 0.0
    with torch.no_grad():
        assert not bool((part.conditions([SAID]).tokens == made.null).all(-1)[:, :40].any())


def test_pictures_of_which_nothing_is_said_get_null_tokens() -> None:
    part = trainable()
    with torch.no_grad():
        made = part.conditions([SAID, Said(), Said(SAID.attributes), Said(None, SAID.planes)])
    null = (made.tokens == made.null).all(-1)
    assert null[1].all() and null[2, 40:].all() and null[3, :40].all()
    assert not null[0].any() and not null[2, :40].any() and not null[3, 40:].any()
    assert torch.equal(made.tokens[0, :40], made.tokens[2, :40])
    with torch.no_grad():
        assert torch.equal(part.conditions([Said(), Said()]).tokens[0], made.null)


class Worded(ToyDenoiser):
    """A toy denoiser that reads the mean of the tokens beside the words, and paints with it."""

    def __init__(self, part: TrainableAdapter) -> None:
        super().__init__("flow")
        self.part = part

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[dict]) -> Tensor:
        tokens = self.part.conditions([Said(one["attributes"], one["planes"]) for one in conditioning]).tokens
        words = torch.stack([one["words"] for one in conditioning]) + tokens.mean(1)
        painted = words[:, :CHANNELS, None, None]
        return 0.1 * super().predict(noisy, sigma, words) + painted


def pictures(count: int = 6) -> Dataset:
    """Images whose colours are what their attributes say."""
    dice = torch.Generator().manual_seed(4)
    examples = []
    for _ in range(count):
        values = torch.randint(-1, 2, (40,), generator=dice).float()
        latent = values[:CHANNELS, None, None] + 0.1 * torch.randn(CHANNELS, 4, 4, generator=dice)
        planes = torch.rand(19, 4, 4, generator=dice)
        told = {"words": torch.zeros(TEXT), "attributes": values, "planes": planes}
        examples.append(LatentExample(latent, told))
    return Dataset(examples)


EMPTY = {"words": torch.zeros(TEXT), "attributes": None, "planes": None}


def joined(part: TrainableAdapter, denoiser: ToyDenoiser, with_lora: bool) -> JoinedAdapters:
    if with_lora:
        return JoinedAdapters([toy_adapters(denoiser), part])
    return JoinedAdapters([LoraAdapters(denoiser.module, LoraConfig(rank=1, alpha=1.0), {}), part])


def run(steps: int, with_lora: bool = False, stop: int = 0, **options):
    """Train; stop: after so many steps. Returns the result and the adapter's trainable."""
    part = trainable()
    denoiser = Worded(part)

    def on_step(progress) -> None:
        if stop and progress.step == stop:
            raise StopAndKeep

    chosen = TrainSettings(
        steps, batch_size=2, learning_rate=1e-2, condition_dropout=0.2, seed=5, log_every=3,
        ema_decay=options.pop("ema_decay", 0.0),
    )  # fmt: skip
    before = {name: weight.clone() for name, weight in denoiser.module.named_parameters()}
    with joined(part, denoiser, with_lora) as both:
        result = train(
            denoiser, both, pictures(), chosen, empty_conditioning=EMPTY, on_step=on_step, **options
        )  # fmt: skip
    for name, weight in denoiser.module.named_parameters():
        assert torch.equal(weight, before[name]) and weight.requires_grad, name
    return result, part


@pytest.mark.parametrize("with_lora", [False, True])
def test_it_learns_alone_and_with_a_lora(with_lora: bool) -> None:
    result, part = run(120, with_lora, held_out=pictures())
    (_, before), (_, after) = result.held_out
    assert sum(band.loss for band in after) < 0.85 * sum(band.loss for band in before)
    own, others = state_of(result.state)
    start = trainable().adapter.state_dict()
    assert set(own) == set(start) and bool(others) == with_lora
    unchanged = [name for name, tensor in own.items() if torch.equal(tensor, start[name])]
    assert not unchanged
    assert same_tensors(own, dict(part.adapter.state_dict()))


@pytest.mark.parametrize("options", [{}, {"with_lora": True}, {"ema_decay": 0.9}])
def test_stopped_and_resumed_it_is_the_same_bit_for_bit(tmp_path: Path, options: dict) -> None:
    whole, _ = run(9, **options)
    file = tmp_path / "state.safetensors"
    half, _ = run(9, stop=4, checkpoint=file, **options)
    assert half.stopped and half.steps == 4
    rest, _ = run(9, checkpoint=file, resume=file, **options)
    assert same_tensors(whole.state, rest.state) and whole.losses == rest.losses


def test_states_of_another_adapter_are_refused_and_change_nothing() -> None:
    part = trainable()
    before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    for other, words in (({"grid": 3}, "adapter.mask.null"), ({"mask": "none"}, "adapter.mask.null")):
        with pytest.raises(ValueError, match=words):
            part.load_state_dict(trainable(**other).state_dict())
    assert same_tensors(before, part.state_dict())
    other = {name: tensor + 1 for name, tensor in before.items()}
    part.load_state_dict(other)
    assert same_tensors(other, part.state_dict())


@pytest.mark.parametrize(
    ("shares", "words"),
    [((1.0, 0.0), "dropout is 1.0"), ((-0.1, 0.0), "dropout"), ((0.1, 1.5), "unknown is 1.5")],
)
def test_shares_that_are_none_are_refused(shares: tuple[float, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        trainable(*shares)


def test_the_memory_is_that_of_its_numbers() -> None:
    part = trainable()
    size = 4 * sum(weight.numel() for weight in part.parameters())
    for optimiser, kept in (("adamw", 2 * size), ("sgd", size)):
        settings = TrainSettings(1, optimiser=optimiser, ema_decay=0.5)
        found = adapter_memory(part.adapter, settings, MemoryEstimate(1, 2, 3, 4, 5, 6, 7))
        assert found == MemoryEstimate(1, 2 + size, 3 + size, 4 + kept, 5 + size, 6 + 2 * size, 7)
