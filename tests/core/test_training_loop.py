"""The loop against plain loops written out here, and what it asks of the device."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from realism_core.training import draws as draws_module
from realism_core.training import state as state_module
from realism_core.training.data import Dataset, LatentExample
from realism_core.training.draws import draw_batches, image_losses, predicted_x0
from realism_core.training.loop import Progress, train
from realism_core.training.recompute import blocks_of, recomputed
from realism_core.training.seeds import derived_seed
from realism_core.training.settings import TrainSettings
from realism_core.training.timesteps import TimestepSampler, stable_diffusion_sigmas
from realism_core.training.weighting import LossWeight
from tests.core.toy_denoisers import TEXT, ToyDenoiser, same_tensors, toy_adapters, toy_data

P2 = LossWeight("p2", {"k": 1, "gamma": 1}, normalise=False)


def trained(kind: str = "eps", dtype: torch.dtype = torch.float32, data: Dataset | None = None, **options):
    """Train toy adapters; options: TrainSettings, and for `train` those named below."""
    names = (
        "loss_weight",
        "held_out",
        "extra_loss",
        "on_step",
        "empty_conditioning",
        "checkpoint",
        "resume",
    )
    given = {name: options.pop(name) for name in names if name in options}
    dropout = options.pop("dropout", 0.0)
    denoiser = ToyDenoiser(kind, dtype)
    adapters = toy_adapters(denoiser, dropout=dropout)
    settings = TrainSettings(**{"steps": 12, "batch_size": 2, "learning_rate": 1e-2, **options})
    return train(denoiser, adapters, data or toy_data(), settings, **given)


def plain_loop(
    kind: str, optimiser: str, accumulation: int, steps: int, batch: int, rate: float, seed: int
):
    """A training by P2 on eps, eps models in float64, that shares nothing with the loop but its dice."""
    denoiser = ToyDenoiser(kind, torch.float64)
    adapters = toy_adapters(denoiser)
    examples = toy_data().examples
    parameters = list(adapters.parameters())
    algorithm = (
        torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        if optimiser == "adamw"
        else torch.optim.SGD(parameters, lr=rate, momentum=0.9)
    )
    order, epoch, losses = [], 0, []
    for step in range(steps):
        generator = torch.Generator().manual_seed(derived_seed(seed, "step", step))
        u = TimestepSampler().draw(batch * accumulation, generator)
        algorithm.zero_grad()
        total = 0.0
        for place in range(batch * accumulation):
            if not order:
                order = list(range(len(examples)))
                random.Random(f"order {seed} {epoch}").shuffle(order)
                epoch += 1
            example = examples[order.pop(0)]
            x0, noise = (
                example.latent.double(),
                torch.randn(example.latent.shape, generator=generator).double(),
            )
            sigma = u[place] if kind == "flow" else stable_diffusion_sigmas(u[place])
            if kind == "flow":
                noisy, target, snr = (
                    (1 - sigma) * x0 + sigma * noise,
                    noise - x0,
                    ((1 - sigma) / sigma) ** 2,
                )
                weight = (1 - sigma) ** 2 / (1 + snr)
            else:
                noisy, target, snr = x0 + sigma * noise, noise, sigma**-2
                weight = 1 / (1 + snr)
                if kind == "v":
                    target = (noise - sigma * x0) / (1 + sigma**2) ** 0.5
                    weight = snr / (1 + snr) / (1 + snr)
            prediction = denoiser.predict(noisy[None], sigma[None], [example.conditioning])[0]
            loss = weight * (prediction - target).square().mean() / (batch * accumulation)
            loss.backward()
            total += loss.item()
        length = sum(p.grad.square().sum() for p in parameters).sqrt().item()
        for parameter in parameters:
            parameter.grad *= min(1.0, 0.05 / (length + 1e-6))
        algorithm.step()
        losses.append(total)
    return adapters.state_dict(), losses


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_a_plain_loop_gives_the_same_weights(kind: str, optimiser: str, accumulation: int) -> None:
    steps, batch, rate, seed = 9, 2, 3e-3, 11
    expected, losses = plain_loop(kind, optimiser, accumulation, steps, batch, rate, seed)
    result = trained(
        kind, torch.float64, steps=steps, batch_size=batch, accumulation=accumulation, seed=seed,
        learning_rate=rate, optimiser=optimiser, clip_norm=0.05, loss_weight=P2,
    )  # fmt: skip
    assert set(expected) == set(result.state)
    for name, tensor in expected.items():
        assert torch.allclose(result.state[name], tensor, rtol=0, atol=1e-12), name
    assert result.losses == pytest.approx(losses, rel=1e-12)


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_the_held_out_loss_falls(kind: str) -> None:
    result = trained(
        kind, steps=150, batch_size=3, learning_rate=2e-2, schedule="cosine", warmup=10, ema_decay=0.9,
        held_out=toy_data(4, seed=9), log_every=50,
    )  # fmt: skip
    (first, before), (last, after) = result.held_out
    assert (first, last) == (0, 150)
    assert sum(b.loss for b in after) < 0.8 * sum(b.loss for b in before)
    assert len(result.losses) == 150


def test_accumulation_is_a_larger_batch() -> None:
    large = trained(dtype=torch.float64, batch_size=4, dropout=0.0, loss_weight=P2)
    small = trained(dtype=torch.float64, batch_size=1, accumulation=4, loss_weight=P2)
    for name, tensor in large.state.items():
        assert torch.allclose(small.state[name], tensor, rtol=0, atol=1e-12)


def test_one_seed_gives_one_result_whatever_runs_between_the_steps() -> None:
    def disturb(progress: Progress) -> None:
        torch.manual_seed(progress.step)
        torch.randn(3)

    options = {
        "dropout": 0.3,
        "condition_dropout": 0.4,
        "empty_conditioning": torch.zeros(TEXT),
        "ema_decay": 0.9,
    }
    torch.manual_seed(77)
    expected = torch.randn(4)
    torch.manual_seed(77)
    first = trained(**options)
    assert torch.equal(torch.randn(4), expected), "the caller's dice moved"
    second = trained(
        on_step=disturb, held_out=toy_data(2, seed=8), validate_every=3, log_every=1, **options
    )
    assert same_tensors(first.state, second.state)
    assert first.losses == second.losses
    assert not same_tensors(first.state, trained(seed=1, **options).state)
    for name in ("dropout", "condition_dropout", "ema_decay"):
        assert not same_tensors(first.state, trained(**{**options, name: 0.0}).state), (
            f"{name} does nothing"
        )


def test_buckets_masks_and_weights_take_part() -> None:
    generator = torch.Generator().manual_seed(1)
    mask = torch.zeros(6, 7)
    mask[:3] = 1
    examples = toy_data(6, (6, 8)).examples
    masked = [e._replace(mask=mask) if e.latent.shape[1] == 6 else e._replace(weight=0.5) for e in examples]
    data = Dataset(masked, buckets=True)
    assert all(math.isfinite(loss) for loss in trained(data=data).losses)
    denoiser = ToyDenoiser(dtype=torch.float64)
    batch = [data.buckets[2, 6, 7][:2]]
    (draw,) = draw_batches(denoiser, data, batch, torch.tensor([0.2, 0.9], dtype=torch.float64), generator)
    prediction = torch.randn(draw.x0.shape, generator=generator, dtype=torch.float64)
    expected = (prediction - draw.noise)[:, :, :3].square().mean((1, 2, 3))
    assert torch.allclose(image_losses(denoiser.objective, draw, prediction), expected, rtol=1e-12)


def test_an_image_of_weight_0_teaches_nothing() -> None:
    examples = toy_data(3).examples
    silent = [examples[0], examples[1]._replace(weight=0.0), examples[2]]
    changed = [examples[0], silent[1]._replace(latent=silent[1].latent + 5), examples[2]]
    results = [trained(data=Dataset(these), batch_size=3).state for these in (silent, changed)]
    assert same_tensors(*results)


@pytest.mark.parametrize("kind", ["eps", "v", "x0", "flow", "edm"])
def test_the_target_as_prediction_amounts_to_x0(kind: str) -> None:
    denoiser = ToyDenoiser(kind, torch.float64)
    u = torch.linspace(0.02, 0.98, 6, dtype=torch.float64)
    (draw,) = draw_batches(denoiser, toy_data(), [range(6)], u, torch.Generator().manual_seed(0))
    target = denoiser.objective.target(draw.x0, draw.noise, draw.sigma)
    assert torch.allclose(predicted_x0(denoiser.objective, draw, target), draw.x0, rtol=0, atol=1e-12)


def test_a_further_loss_is_added_and_gets_x0_and_its_snr() -> None:
    seen = []

    def brightness(x0: Tensor, snr: Tensor, generator: torch.Generator) -> Tensor:
        seen.append((x0.shape, snr.shape, snr.device.type, float(torch.rand((), generator=generator))))
        return 50 * x0.mean((1, 2, 3)).square()

    plain = trained(steps=40, kind="x0")
    pulled = trained(steps=40, kind="x0", extra_loss=brightness)
    assert seen[0][:3] == ((2, 2, 6, 7), (2,), "cpu")
    assert len({dice for *_, dice in seen}) == 40
    assert pulled.losses[0] > plain.losses[0]
    assert not same_tensors(plain.state, pulled.state)


def test_bf16_autocast_trains_and_stays_near() -> None:
    exact, rough = trained(steps=30), trained(steps=30, precision="bf16")
    assert exact.losses != rough.losses
    assert rough.losses == pytest.approx(exact.losses, rel=0.1)
    with pytest.raises(ValueError, match="bf16 does not work with torch.float64 on cpu: use fp32"):
        trained(dtype=torch.float64, precision="bf16")


def kept_bytes(recompute: bool) -> int:
    """Return what autograd keeps of one forward pass."""
    denoiser = ToyDenoiser()
    adapters = toy_adapters(denoiser)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    x, text = torch.randn(8, 2, 32, 32), [torch.randn(TEXT)] * 8
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with recomputed(denoiser.module) if recompute else torch.enable_grad(), hooks:
        denoiser.predict(x, torch.ones(8), text).sum()
    assert len(list(adapters.parameters())) > 0
    return sum(kept.values())


def test_recomputing_changes_no_bit_and_keeps_less() -> None:
    options = {"dropout": 0.2, "steps": 6}
    denoiser = ToyDenoiser()
    assert [type(block).__name__ for block in blocks_of(denoiser.module)] == ["Block", "Block"]
    assert same_tensors(trained(**options).state, trained(recompute=True, **options).state)
    assert kept_bytes(True) < 0.5 * kept_bytes(False)
    with pytest.raises(KeyError), recomputed(denoiser.module):
        raise KeyError
    assert not any("forward" in module.__dict__ for module in denoiser.module.modules())
    with pytest.raises(ValueError, match="recompute: this model has no repeated blocks"):
        recomputed(torch.nn.Linear(2, 2)).__enter__()


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device, the optimiser's own count of steps on the CPU aside."""

    OPERATORS = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "_unique2")

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.counts: Counter = Counter()
        self.optimisers: list = []
        make = state_module.make_optimiser

        def caught(*args):
            self.optimisers.append(make(*args))
            return self.optimisers[-1]

        patch.setattr(state_module, "make_optimiser", caught)
        for name in ("tolist", "numpy", "cpu"):
            patch.setattr(Tensor, name, self._counted(name, getattr(Tensor, name)))

    def _counted(self, name: str, method):
        def call(tensor, *args, **kwargs):
            self.counts[name] += 1
            return method(tensor, *args, **kwargs)

        return call

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in self.OPERATORS and not self._is_step_count(args[0]):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))

    def _is_step_count(self, tensor: Tensor) -> bool:
        return any(
            state.get("step") is not None and state["step"].data_ptr() == tensor.data_ptr()
            for optimiser in self.optimisers
            for state in optimiser.state.values()
            if isinstance(state.get("step"), Tensor)
        )


def waits(patch: pytest.MonkeyPatch, steps: int, log_every: int, **options) -> Counter:
    counts: list[Counter] = []
    with pytest.MonkeyPatch.context() as inner:
        mode = Waits(inner)
        moments = []

        def on_step(progress: Progress) -> None:
            moments.append(Counter(mode.counts))

        with mode:
            trained(steps=steps, log_every=log_every, on_step=on_step, **options)
        counts = [later - earlier for earlier, later in zip(moments, moments[1:], strict=False)]
    return [sum(count.values()) for count in counts]


@pytest.mark.parametrize("optimiser", ["adamw", "adafactor", "sgd"])
def test_the_host_waits_only_when_it_looks_at_the_losses(optimiser: str, monkeypatch) -> None:
    options = {
        "optimiser": optimiser, "accumulation": 2, "ema_decay": 0.9, "loss_weight": LossWeight("min_snr"),
        "condition_dropout": 0.5, "empty_conditioning": torch.zeros(TEXT), "data": toy_data(6, (6, 8)),
    }  # fmt: skip
    counts = waits(monkeypatch, 12, 4, **options)
    assert counts == [0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1], counts
    assert waits(monkeypatch, 6, 1, **options) == [1] * 5


def test_a_wait_in_every_step_would_be_noticed(monkeypatch) -> None:
    """The counter's own check."""
    honest = draws_module.image_losses

    def curious(objective, draw, prediction):
        losses = honest(objective, draw, prediction)
        assert losses.sum().item() >= 0
        return losses

    monkeypatch.setattr("realism_core.training.loop.image_losses", curious)
    assert min(waits(monkeypatch, 8, 4)) >= 1


BAD = {
    "steps is 0: it must be 1 or more": {"steps": 0},
    "batch_size is 0": {"batch_size": 0},
    "batch_size is 7, but there are only 6 images": {"batch_size": 7},
    "accumulation is 0": {"accumulation": 0},
    "learning_rate is 0.*nothing would be learned": {"learning_rate": 0},
    "learning_rate is nan": {"learning_rate": float("nan")},
    "learning_rate is -1": {"learning_rate": -1},
    "warmup is 12 of 12 steps": {"warmup": 12},
    "warmup is -1": {"warmup": -1},
    "clip_norm is -1": {"clip_norm": -1},
    "weight_decay is 1": {"weight_decay": 1},
    "ema_decay is 1": {"ema_decay": 1},
    "condition_dropout is 1": {"condition_dropout": 1},
    "condition_dropout needs an empty conditioning": {"condition_dropout": 0.1},
    "checkpoint_every needs a checkpoint file": {"checkpoint_every": 5},
    "validate_every needs held-out images": {"validate_every": 5},
    "optimiser is 'adam'; use one of adamw": {"optimiser": "adam"},
    "schedule is 'linear'; use one of constant": {"schedule": "linear"},
    "precision is 'fp8'; use one of fp32": {"precision": "fp8"},
    "log_every is 0": {"log_every": 0},
}


@pytest.mark.parametrize("text", BAD)
def test_settings_that_do_not_fit_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        trained(**BAD[text])


def test_latents_of_another_model_are_refused() -> None:
    denoiser = ToyDenoiser()
    adapters = toy_adapters(denoiser)
    honest = denoiser.predict
    denoiser.predict = lambda *args: honest(*args)[:, :1]
    with pytest.raises(ValueError, match="model: it predicts the shape .* not of this model's kind"):
        train(denoiser, adapters, toy_data(), TrainSettings(steps=1))


def test_adapters_of_another_model_are_refused() -> None:
    denoiser, other = ToyDenoiser(), ToyDenoiser()
    adapters = toy_adapters(other)
    denoiser.module.requires_grad_(False)
    with pytest.raises(ValueError, match="adapters: the model does not call them"):
        train(denoiser, adapters, toy_data(), TrainSettings(steps=1))


def test_one_image_is_enough() -> None:
    result = trained(data=Dataset([LatentExample(torch.ones(2, 5, 5), torch.zeros(TEXT))]), batch_size=1)
    assert result.steps == len(result.losses) == 12
    assert not result.stopped
