"""What the realism term does to a training, on a small latent diffusion: python dev.py bench realism_term

LoRAs are trained from one start, on the same crops, noise and timesteps, with the term at several weights,
with the published 1 / IRS, and with neither; then the held-out diffusion loss and how typical the samples
are of the photographs trained on (hard measures of 8-bit pictures, not those that the term sees).

Measured (3 seeds, mean and 95 % interval): the published form gives bit for bit
the LoRA without a term. Held-out loss and typicality (0.069 without) change by +0.40 % +- 0.17 and +0.010
+- 0.011 at weight 0.1, by +1.53 % +- 0.81 and +0.022 +- 0.017 at 0.2, by +3.25 % +- 2.13 and +0.031
+- 0.021 at 0.3. All figures and what limits them: docs/realism-term.md.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks._p2_model import WholeNetwork, sample
from benchmarks._realism_model import CELLS, CHANNELS, SIDE, LatentDenoiser, Material, read_material
from benchmarks._rounds import mean_interval
from devtools.environment import cache_folder
from realism_core.irs.distribution import features
from realism_core.irs.measures import measure
from realism_core.training.data import Dataset
from realism_core.training.loop import ExtraLoss, train
from realism_core.training.lora import LoraConfig, attach
from realism_core.training.realism_term import RealismLoss, published_term, realism_term
from realism_core.training.seeds import generator_of
from realism_core.training.settings import TrainSettings
from realism_core.training.validation import validate
from realism_core.training.weighting import LossWeight

VERSION = 1  # of the trainings, for the cache
PLAIN, PUBLISHED = "without a term", "published 1 / IRS, weight 1"


@dataclass(frozen=True)
class Plan:
    """The sizes: of network and start, of the adapters' trainings, and of what is measured."""

    width: int = 48
    start_steps: int = 1200
    steps: int = 200
    batch: int = 8
    rank: int = 8
    rate: float = 1e-3
    weights: tuple[float, ...] = (0.03, 0.1, 0.2, 0.3)
    seeds: tuple[int, ...] = (0, 1, 2)
    crops: int = 24
    held_out_crops: int = 8
    samples: int = 384
    sampling_steps: int = 30


QUICK = Plan(
    width=16, start_steps=20, steps=6, rank=2, weights=(0.1,), seeds=(0, 1), crops=2, held_out_crops=1,
    samples=8, sampling_steps=4,
)  # fmt: skip


class Figures(NamedTuple):
    """Of one run: the held-out loss; the mean typicality of samples, their share below 0.05, the median of
    their squared distance from the profile, and the term itself on them.
    """

    loss: float
    typicality: float
    untypical: float
    distance: float
    term: float


class Runs:
    """The trainings of a plan; each is kept in the folder under a hash of what it depends on."""

    def __init__(self, plan: Plan, material: Material, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.plan, self.material, self.folder = plan, material, folder
        self.reference = material.profile.soft_reference(SIDE)
        self._started = (plan.width, plan.start_steps, material.start.digest)
        self._which = (*self._started, plan.steps, plan.batch, plan.rank, plan.rate, material.training.digest)
        self.start = self._kept("start", self._started, self._train_start)

    def lora(self, term: str, seed: int) -> dict[str, Tensor]:
        """Return the adapters that a run trains, `seconds` a step among them."""
        title = f"{term}, seed {seed}"
        return self._kept(title, self._which, lambda: self._train(self._extra(term), seed))

    def figures(self, term: str, seed: int) -> Figures:
        """Return what a run comes to."""
        lora, plan, material = self.lora(term, seed), self.plan, self.material

        def judge() -> dict[str, Tensor]:
            denoiser = self._denoiser()
            with attach(denoiser.module, self._config, seed) as adapters:
                adapters.load_state_dict({name: lora[name] for name in adapters.state_dict()})
                loss = mean_loss(denoiser, material.held_out)
                noise = torch.randn(
                    plan.samples, CHANNELS, CELLS, CELLS, generator=generator_of(seed, "samples", 0)
                )
                made = material.pictures(sample(denoiser, noise, plan.sampling_steps))
            return {"figures": torch.tensor([loss, *self.judged(made)], dtype=torch.float64)}

        told = (*self._which, material.held_out.digest, plan.samples, plan.sampling_steps)
        return Figures(*self._kept(f"figures of {term}, seed {seed}", told, judge)["figures"].tolist())

    def judged(self, pictures: Tensor) -> tuple[float, float, float, float]:
        """Return the figures of pictures, uint8 [n,3,64,64], but for the loss."""
        profile = self.material.profile.tile_distribution(SIDE)
        table = features(measure(pictures.movedim(1, -1)))
        typicality = profile.typicality(table)
        term = realism_term(pictures.float() / 255, self.reference)
        return (
            float(typicality.nanmean()),
            float((typicality < 0.05).double().mean()),
            float(profile.distance(table).nanmedian()),
            float(term.mean()),
        )

    def _extra(self, term: str) -> ExtraLoss | None:
        decode = self.material.decode
        if term == PLAIN:
            return None
        if term == PUBLISHED:
            return lambda x0, snr, generator: published_term(decode(x0).clamp(0, 1)).nan_to_num(0.0)
        return RealismLoss(decode, self.reference, CELLS, float(term))

    def _train_start(self) -> dict[str, Tensor]:
        plan, denoiser = self.plan, LatentDenoiser(self.plan.width)
        settings = TrainSettings(
            plan.start_steps, 16, learning_rate=1e-3, schedule="cosine", warmup=plan.start_steps // 20,
            log_every=100,
        )  # fmt: skip
        return train(denoiser, WholeNetwork(denoiser.module), self.material.start, settings).state

    def _train(self, extra: ExtraLoss | None, seed: int) -> dict[str, Tensor]:
        plan, denoiser = self.plan, self._denoiser()
        settings = TrainSettings(
            plan.steps, plan.batch, learning_rate=plan.rate, schedule="cosine", warmup=plan.steps // 20,
            seed=seed, log_every=100,
        )  # fmt: skip
        began = time.process_time()
        with attach(denoiser.module, self._config, seed) as adapters:
            result = train(
                denoiser, adapters, self.material.training, settings, LossWeight("constant"),
                extra_loss=extra,
            )  # fmt: skip
        return {**result.state, "seconds": torch.tensor((time.process_time() - began) / plan.steps)}

    @property
    def _config(self) -> LoraConfig:
        return LoraConfig(rank=self.plan.rank, alpha=self.plan.rank, targets="all", clamp_rank=True)

    def _denoiser(self) -> LatentDenoiser:
        denoiser = LatentDenoiser(self.plan.width)
        denoiser.module.load_state_dict(self.start)
        return denoiser

    def _kept(self, title: str, told: tuple, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        of = repr((VERSION, torch.__version__, told, title))
        file = self.folder / f"{hashlib.sha256(of.encode()).hexdigest()[:20]}.safetensors"
        if not file.is_file():
            print(f"  {title}", flush=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            save_file({name: value.contiguous() for name, value in make().items()}, part)
            os.replace(part, file)
        return load_file(file)


def mean_loss(denoiser: LatentDenoiser, held_out: Dataset) -> float:
    """Return the plain squared error of the noise, the mean of eight bands of noise levels."""
    bands = validate(denoiser, held_out, bands=8, draws=2, batch_size=32)
    return sum(band.loss for band in bands) / len(bands)


def report(runs: Runs) -> None:
    """Print the tables; train what is missing."""
    plan, material = runs.plan, runs.material
    latents = torch.stack([example.latent for example in material.held_out.examples])
    print(f"{len(material.training)} crops trained on, {len(latents)} held out, profile of "
          f"{material.profile.count}; {plan.steps} steps, seeds {plan.seeds}\n")  # fmt: skip
    print(f"{'':34s} typicality  below 0.05  distance    term")
    for title, pictures in (
        ("held-out photographs", material.real),
        ("the same through the autoencoder", material.pictures(latents)),
    ):
        print(f"{title:34s} {'{:10.3f}  {:10.3f}  {:8.2f}  {:6.3f}'.format(*runs.judged(pictures))}")
    plain = [runs.figures(PLAIN, seed) for seed in plan.seeds]
    about = [mean_interval([run[place] for run in plain])[0] for place in range(5)]
    row = "{:10.3f}  {:10.3f}  {:8.2f}  {:6.3f}".format(*about[1:])
    print(f"{PLAIN:34s} {row}   loss {about[0]:.5f}\n")
    print("change against the same seed without a term, mean of the seeds and 95 % interval")
    heads = f"{'loss, %':>16s} {'typicality':>18s} {'below 0.05':>18s} {'distance':>16s} {'term':>16s}"
    print(f"{'':28s} {heads}")
    for term in (PUBLISHED, *map(str, plan.weights)):
        found = [runs.figures(term, seed) for seed in plan.seeds]
        pairs = list(zip(found, plain, strict=True))
        parts = [mean_interval([100 * (a.loss / b.loss - 1) for a, b in pairs])]
        parts += [mean_interval([a[place] - b[place] for a, b in pairs]) for place in range(1, 5)]
        name = term if term == PUBLISHED else f"term, weight {term}"
        digits = (2, 3, 3, 2, 3)
        cells = [f"{mean:+.{n}f} +- {half:.{n}f}" for (mean, half), n in zip(parts, digits, strict=True)]
        print(f"{name:28s} {cells[0]:>16s} {cells[1]:>18s} {cells[2]:>18s} {cells[3]:>16s} {cells[4]:>16s}")
    same = [_same(runs.lora(PUBLISHED, seed), runs.lora(PLAIN, seed)) for seed in plan.seeds]
    print(f"\nLoRA of the published form bit for bit that without a term: {sum(same)} of {len(same)} seeds")
    for term in (PLAIN, PUBLISHED, str(plan.weights[-1])):
        cost = min(float(runs.lora(term, seed)["seconds"]) for seed in plan.seeds)
        print(f"{term:34s} {1000 * cost:6.0f} ms of a processor a step")


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one if name != "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="dev.py bench realism_term --")
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    plan = QUICK if parser.parse_args().quick else Plan()
    torch.set_num_threads(1)
    report(Runs(plan, read_material(plan.crops, plan.held_out_crops), cache_folder() / "realism-term"))


if __name__ == "__main__":
    main()
