"""P2, min-SNR, constant and ComfyUI's x0 loss against one another: python dev.py bench p2

    python dev.py bench p2 [-- --quick | --start-steps 1500 --steps 200]

A small U-Net (_p2_model.py, eps prediction, Stable Diffusion's schedule, pixels of 32 x 32) learns crops of
photographs with constant weights; LoRA on all its layers then learn faces, by the product's own loop, once by
each weighting. Between two weightings nothing differs but the weight: same start and adapters, same faces,
noise and timesteps in the same order, same number of steps, AdamW without clipping. Every weight has mean 1
over the timesteps, so that a learning rate means the same to all; each weighting gets the best of three
rates by the faces of six validation people. It is tested on fourteen other people, who were never seen.

An interval is the wider of two: Student's t over three seeds (adapters, order, noise), and a bootstrap over
people. The feature distance is `_p2_features`. Finished runs are kept in the user's cache for as long as
sizes, pictures and what the code computes stay the same, so that a second call only prints.

On a 2-core Intel Xeon, one thread, 24 GiB, torch 2.13 CPU; 10 minutes of processor time. Held-out loss over
constant's: P2 1.11 at SNR 6.3 and above, 0.98 at 0.87 to 2.1, 0.85 at 0.019 and below; geometric mean over
the bands 0.961 [0.956, 0.966], min-SNR 0.973 [0.969, 0.976], ComfyUI's x0 1.052 [1.044, 1.061]; P2 over x0
0.913 [0.906, 0.920], in no band worse. Plain mean, which constant minimises: P2 1.024 [1.019, 1.029]. No
samples are faces after so few steps, and by the feature distance P2's are further from them than constant's,
by 1.5 %. The tables, and what they do not say: docs/loss-weights.md.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import _p2_features
from benchmarks._p2_data import Parts, Pictures, cut, read_pictures
from benchmarks._p2_runs import QUICK, WEIGHTINGS, Plan, Runs, fingerprint
from benchmarks._p2_statistics import Distances, Estimate, loss_ratios
from benchmarks._rounds import machine, print_table
from devtools.environment import cache_folder
from devtools.pip import SetupError
from realism_core.training.timesteps import stable_diffusion_sigmas

REFERENCE = "constant"
PAIRS = [("P2", REFERENCE), ("min-SNR", REFERENCE), ("ComfyUI's x0", REFERENCE), ("P2", "ComfyUI's x0")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is not in the cache and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny trainings: does it run?")
    parser.add_argument("--start-steps", type=int, help=f"of the start (default: {Plan.start_steps})")
    parser.add_argument("--steps", type=int, help=f"of each weighting (default: {Plan.steps})")
    options = parser.parse_args(arguments)
    sizes = {"start_steps": options.start_steps, "steps": options.steps}
    plan = replace(QUICK if options.quick else Plan(), **{k: v for k, v in sizes.items() if v is not None})
    torch.set_num_threads(1)
    folder = cache_folder() / "p2"
    try:
        pictures = read_pictures(folder)
        print(machine(), flush=True)
        report(plan, pictures, folder, _p2_features.features)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def report(plan: Plan, pictures: Pictures, folder: Path, features: Callable[[Tensor], Tensor]) -> None:
    """Make all runs of a plan and print what came out; features: of uint8 pictures [N,3,H,W]."""
    parts = cut(pictures, plan.crops)
    runs = Runs(plan, parts, folder, fingerprint())
    rates = {name: chosen_rate(runs, name) for name in WEIGHTINGS}
    print(
        f"{plan.steps} steps of {plan.batch} on {len(parts.training)} faces, LoRA of rank {plan.rank} on all "
        f"layers; seeds {', '.join(map(str, plan.seeds))}; tested on {len(parts.test)} other people"
    )
    print_losses(runs, rates)
    print_rates(runs, rates)
    print_distances(runs, rates, features)
    print(f"\n{sum(runs.seconds.values()) / 60:.1f} min of one processor went into the runs, now or before")


def chosen_rate(runs: Runs, weighting: str) -> float:
    """Return the learning rate with the least validation loss at the first seed, all bands counting alike."""
    return min(runs.plan.rates, key=lambda rate: score(runs, weighting, rate))


def score(runs: Runs, weighting: str, rate: float) -> float:
    """Return the geometric mean over bands of the validation loss at the first seed."""
    found = runs.run(weighting, rate, runs.plan.seeds[0])["validation"]
    return math.exp(found.mean(0).log().mean())


def print_losses(runs: Runs, rates: dict[str, float]) -> None:
    """Print the held-out loss by band: of the start and constant as it is, of the others against constant."""
    tested = {
        name: torch.stack([runs.run(name, rates[name], seed)["test"] for seed in runs.plan.seeds])
        for name in WEIGHTINGS
    }
    start, constant = runs.losses_before().mean(0), tested[REFERENCE].mean((0, 1))
    ratios = [loss_ratios(tested[name], tested[other]) for name, other in PAIRS]
    print("\nheld-out loss of eps, and ratios of it with 95 % intervals (* excludes 1)")
    rows = [
        [band, f"{start[number]:.4f}", f"{constant[number]:.4f}", *(_cell(r[number], 1) for r in ratios)]
        for number, band in enumerate(bands(runs.plan.bands))
    ]
    both = (start, constant)
    for place, name, means in (
        (-2, "geometric mean", [losses.log().mean().exp() for losses in both]),
        (-1, "plain mean", [losses.mean() for losses in both]),
    ):
        rows.append([name, *(f"{mean:.4f}" for mean in means), *(_cell(r[place], 1) for r in ratios)])
    print_table(["SNR", "start", REFERENCE, *(f"{name} / {other} " for name, other in PAIRS)], rows)


def print_rates(runs: Runs, rates: dict[str, float]) -> None:
    """Print every learning rate of the first seed: its validation score and its test loss by band."""
    seed = runs.plan.seeds[0]
    reference = runs.run(REFERENCE, rates[REFERENCE], seed)["test"].mean(0)
    print(f"\nseed {seed} at every learning rate (> is the one chosen): validation loss, geometric mean over")
    print(f"the bands; then the held-out loss by band over that of {REFERENCE} at its chosen rate")
    rows = []
    for name in WEIGHTINGS:
        for rate in runs.plan.rates:
            ratio = runs.run(name, rate, seed)["test"].mean(0) / reference
            mark = "> " if rate == rates[name] else "  "
            told = [f"{score(runs, name, rate):.4f}", *(f"{value:.3f}" for value in ratio)]
            rows.append([f"{mark}{name} {rate:g}", *told])
    print_table(["", "validation", *bands(runs.plan.bands)], rows)


def print_distances(runs: Runs, rates: dict[str, float], features: Callable[[Tensor], Tensor]) -> None:
    """Print how far the samples of every model lie from the faces of the test."""
    parts, seeds = runs.parts, runs.plan.seeds

    def kept(title: str, pictures: Tensor) -> Tensor:
        shown = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()
        told = (features.__module__, features.__qualname__, shown)
        return runs.kept(f"features of {title}", told, lambda _: {"features": features(pictures)})["features"]

    shown = [_faces(parts, [data]) for data in parts.test]
    people = torch.repeat_interleave(torch.arange(len(shown)), torch.tensor([len(some) for some in shown]))
    distances = Distances(kept("the test", torch.cat(shown)), people)
    made = {
        name: [kept(f"{name}, seed {seed}", runs.samples(name, rates[name], seed)) for seed in seeds]
        for name in WEIGHTINGS
    }
    start = [kept(f"the start, seed {seed}", runs.samples_before(seed)) for seed in seeds]
    training = distances.plain(kept("the training", _faces(parts, [parts.training])))
    print(f"\nkernel distance of {runs.plan.samples} samples a seed to the faces of the test, times 1000:")
    print("mean (least..most of the seeds), then differences with 95 % intervals (* excludes 0)")
    rows = [
        [name, _spread([distances.plain(some) for some in sets])]
        for name, sets in [("start", start), *made.items()]
    ]
    rows.append(["the training's faces", f"{1000 * training:.2f}"])
    for name, other in PAIRS:
        rows.append([f"{name} less {other}", _cell(distances.less(made[name], made[other]), 0, 1000, "+.2f")])
    print_table(["", "distance"], rows)


def bands(count: int) -> list[str]:
    """Return the range of SNR of each band of timesteps, the cleanest first."""
    sigmas = stable_diffusion_sigmas(torch.linspace(0, 1, count + 1, dtype=torch.float64))
    edges = [f"{value:.2g}" if value < 100 else f"{value:.0f}" for value in (sigmas**-2).tolist()]
    return [f"{high}..{low}" for high, low in zip(edges, edges[1:], strict=False)]


def _faces(parts: Parts, people: Sequence) -> Tensor:
    return parts.pixels(torch.stack([example.latent for data in people for example in data.examples]))


def _cell(found: Estimate, none: float, factor: float = 1, form: str = ".3f") -> str:
    mark = " " if found.low <= none <= found.high else "*"
    value, low, high = (f"{number * factor:{form}}" for number in found)
    return f"{value} [{low}, {high}]{mark}"


def _spread(values: Sequence[float]) -> str:
    low, mean, high = (1000 * x for x in (min(values), sum(values) / len(values), max(values)))
    return f"{mean:.2f} ({low:.2f}..{high:.2f})"


if __name__ == "__main__":
    sys.exit(main())
