"""The trainings of benchmarks/p2.py: one start, then adapters by weighting, rate and seed; each is kept.

A finished run is a file in the user's cache, named by a hash of all that it depends on: sizes, pictures, and
what the code does. The start, the longest, goes on from its checkpoint where it was cut off.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks._p2_data import Parts
from benchmarks._p2_model import SIDE, SmallDenoiser, WholeNetwork, sample
from realism_core.training.data import Dataset, LatentExample
from realism_core.training.loop import train
from realism_core.training.lora import LoraAdapters, LoraConfig, attach
from realism_core.training.seeds import generator_of
from realism_core.training.settings import TrainSettings
from realism_core.training.validation import validate
from realism_core.training.weighting import LossWeight

WEIGHTINGS = {
    "constant": LossWeight("constant"),
    "P2": LossWeight("p2"),
    "min-SNR": LossWeight("min_snr"),
    # a plain squared error of x0 is 1 / SNR on that of eps: debiased twice
    "ComfyUI's x0": LossWeight("debiased", times=(("debiased", {}),)),
}

@dataclass(frozen=True)
class Plan:
    """The sizes of the comparison.

    width: of the network. start_steps, start_rate: of the common start, on `crops` of each of its pictures.
    steps, rank, rates, seeds: of the adapters' trainings. Held-out pictures are predicted `draws` times in
    each of `bands`. samples: pictures a run, made in sampling_steps.
    """

    width: int = 32
    start_steps: int = 1500
    start_rate: float = 2e-3
    steps: int = 200
    batch: int = 16
    rank: int = 16
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    seeds: tuple[int, ...] = (0, 1, 2)
    crops: int = 24
    draws: int = 1
    bands: int = 8
    samples: int = 256
    sampling_steps: int = 20


QUICK = Plan(
    width=8, start_steps=20, steps=5, rank=2, rates=(1e-3, 3e-3), seeds=(0, 1), crops=2, bands=4, samples=12,
    sampling_steps=3,
)
TINY = replace(QUICK, start_steps=2, steps=3, batch=4, rates=(1e-3,), samples=2, sampling_steps=2, bands=2)


class Runs:
    """All trainings of a plan on pictures; what is not in the folder is trained when it is asked for."""

    def __init__(self, plan: Plan, parts: Parts, folder: Path, code: str, told: bool = True) -> None:
        """Keep the runs in a folder; code: `fingerprint`. told: whether finished trainings are told of."""
        folder.mkdir(parents=True, exist_ok=True)
        self.plan, self.parts, self.folder, self.told = plan, parts, folder, told
        self.seconds: dict[str, float] = {}
        self._state = repr((code, parts.start.digest, parts.mean, parts.deviation))

    @cached_property
    def start(self) -> dict[str, Tensor]:
        """The network's weights that every run starts from, and `losses` of its training."""
        return self.kept("start", self._started, self._train_start)

    def losses_before(self) -> Tensor:
        """Return the held-out losses of the start: [test people, bands]."""

        def measure(_: Path) -> dict[str, Tensor]:
            return {"test": self._losses(self._denoiser(), self.parts.test)}

        return self.kept("losses of the start", (*self._started, *self._held_out), measure)["test"]

    def run(self, weighting: str, rate: float, seed: int) -> dict[str, Tensor]:
        """Return a run: `validation` and `test`, the losses [people, bands], and the adapters.

        Runs of one seed differ in the weighting and the rate alone: adapters begin alike, and every step
        draws the same crops, noise and timesteps.
        """
        title = f"{weighting}, learning rate {rate:g}, seed {seed}"
        told = (*self._which(weighting, rate, seed), *self._held_out)
        return self.kept(title, told, lambda _: self._train(weighting, rate, seed))

    def samples(self, weighting: str, rate: float, seed: int) -> Tensor:
        """Return what a run's model makes of the seed's noise: uint8 [samples,3,32,32]."""
        run, plan = self.run(weighting, rate, seed), self.plan

        def make(_: Path) -> dict[str, Tensor]:
            denoiser = self._denoiser()
            with self._attach(denoiser, seed) as adapters:
                adapters.load_state_dict({name: run[name] for name in adapters.state_dict()})
                return {"samples": self._sampled(denoiser, seed)}

        told = (*self._which(weighting, rate, seed), plan.samples, plan.sampling_steps)
        return self.kept(f"samples of {weighting}, seed {seed}", told, make)["samples"]

    def samples_before(self, seed: int) -> Tensor:
        """Return what the start makes of the seed's noise: uint8 [samples,3,32,32]."""

        def make(_: Path) -> dict[str, Tensor]:
            return {"samples": self._sampled(self._denoiser(), seed)}

        told = (*self._started, seed, self.plan.samples, self.plan.sampling_steps)
        return self.kept(f"samples of the start, seed {seed}", told, make)["samples"]

    def kept(self, title: str, told: tuple, make: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors of a file in the folder, made first where it is missing; takes down the
        processor's seconds.
        """
        if title != "start":
            _ = self.start  # so that no other file's seconds hold its own
        key = hashlib.sha256(repr((self._state, title, told)).encode()).hexdigest()[:20]
        file = self.folder / f"{key}.safetensors"
        if not file.is_file():
            began = time.process_time()
            tensors = {name: value.contiguous() for name, value in make(file).items()}
            tensors["seconds"] = torch.tensor(time.process_time() - began)
            part = file.with_suffix(f".{os.getpid()}.part")
            save_file(tensors, part)
            os.replace(part, file)
            if self.told:
                print(f"  {title}: {tensors['seconds']:.0f} s of a processor", file=sys.stderr, flush=True)
        found = load_file(file)
        self.seconds[title] = float(found.pop("seconds"))
        return found

    @property
    def _started(self) -> tuple:
        plan = self.plan
        return plan.width, plan.start_steps, plan.start_rate, plan.batch

    def _which(self, weighting: str, rate: float, seed: int) -> tuple:
        plan, weight = self.plan, WEIGHTINGS[weighting].to_dict()
        return *self._started, plan.steps, plan.rank, self.parts.training.digest, weight, rate, seed

    @property
    def _held_out(self) -> tuple:
        digests = [data.digest for data in (*self.parts.validation, *self.parts.test)]
        return self.plan.draws, self.plan.bands, digests

    def _train_start(self, file: Path) -> dict[str, Tensor]:
        plan, denoiser = self.plan, SmallDenoiser(self.plan.width)
        settings = TrainSettings(
            plan.start_steps, plan.batch, learning_rate=plan.start_rate, schedule="cosine",
            warmup=plan.start_steps // 20, checkpoint_every=500, log_every=100,
        )  # fmt: skip
        checkpoint = file.with_suffix(".checkpoint")
        result = train(
            denoiser, WholeNetwork(denoiser.module), self.parts.start, settings, WEIGHTINGS["constant"],
            checkpoint=checkpoint, resume=checkpoint if checkpoint.is_file() else None,
        )  # fmt: skip
        checkpoint.unlink()
        return {**result.state, "losses": torch.tensor(result.losses)}

    def _train(self, weighting: str, rate: float, seed: int) -> dict[str, Tensor]:
        plan, denoiser = self.plan, self._denoiser()
        settings = TrainSettings(
            plan.steps, plan.batch, learning_rate=rate, schedule="cosine", warmup=plan.steps // 20,
            clip_norm=0, seed=seed, log_every=100,
        )  # fmt: skip
        with self._attach(denoiser, seed) as adapters:
            result = train(denoiser, adapters, self.parts.training, settings, WEIGHTINGS[weighting])
            return {
                **result.state,
                "validation": self._losses(denoiser, self.parts.validation),
                "test": self._losses(denoiser, self.parts.test),
            }

    def _denoiser(self) -> SmallDenoiser:
        denoiser = SmallDenoiser(self.plan.width)
        denoiser.module.load_state_dict({name: self.start[name] for name in denoiser.module.state_dict()})
        return denoiser

    def _attach(self, denoiser: SmallDenoiser, seed: int) -> LoraAdapters:
        config = LoraConfig(rank=self.plan.rank, alpha=self.plan.rank, targets="all", clamp_rank=True)
        return attach(denoiser.module, config, seed)

    def _losses(self, denoiser: SmallDenoiser, people: list[Dataset]) -> Tensor:
        """Return the plain eps losses [people, bands], each person with noise of its own."""
        return torch.tensor(
            [
                [band.loss for band in validate(denoiser, data, self.plan.bands, self.plan.draws, 32, number)]
                for number, data in enumerate(people)
            ],
            dtype=torch.float64,
        )

    def _sampled(self, denoiser: SmallDenoiser, seed: int) -> Tensor:
        shape = (self.plan.samples, 3, SIDE, SIDE)
        noise = torch.randn(shape, generator=generator_of(seed, "samples", 0))
        return self.parts.pixels(sample(denoiser, noise, self.plan.sampling_steps))


def fingerprint() -> str:
    """Return a hash of what tiny trainings come to, bit by bit: of code, torch and processor at once."""
    generator = torch.Generator().manual_seed(0)
    data = [
        Dataset([LatentExample(torch.randn(3, SIDE, SIDE, generator=generator)) for _ in range(4)])
        for _ in range(4)
    ]
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(data[0], data[1], data[2:3], data[3:], 0.5, 0.25)
        runs = Runs(TINY, parts, Path(folder), code="", told=False)
        for weighting in WEIGHTINGS:
            run, made = (of(weighting, TINY.rates[0], 0) for of in (runs.run, runs.samples))
            found = {**run, "made": made}
            for name in sorted(found):
                digest.update(found[name].numpy().tobytes())
    return digest.hexdigest()
