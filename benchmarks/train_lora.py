"""Time and memory of a training step: Realism Train LoRA against ComfyUI's own Train LoRA.

    python dev.py bench train_lora [-- MODEL ... --rounds 3 --steps 10 --batch 1 --recompute --no-diffs]

Each training runs in a fresh process of its own: ComfyUI without its HTTP server, but with its own loader,
executor and caches and with the real nodes (_train_child.py). Within a round the sides take turns, another
one first each time. Models: two levels of SD 1.5's UNet, KOALA's (SDXL's family, v prediction) and SD3 with
one block, random weights; latents of 32 x 32 for the UNets and 128 x 128 for SD3, four images, one prompt of
77 tokens.

All sides have the same model, latents, prompt, steps, rank 4 and alpha 1 (Train LoRA knows no other alpha),
batch size, fp32, AdamW at 1e-4, and none of them gradient checkpointing (all of them with --recompute).
`default` and `bypass` are Train LoRA's two modes. It adapts every Linear and Conv2d; ours does too here
(targets: all), and the benchmark stops unless the names of the adapted layers agree. Train LoRA also trains
an offset on every bias and norm, which ours does not have; nothing is patched, the table has the count of
numbers that each side trains, and --no-diffs takes the offsets out of Train LoRA. Losses differ as the nodes
do: ours on the model's own prediction with weight 1, Train LoRA's on x0, both mean squares; ours also clips
gradients, as it does unless told otherwise.

A step is timed between two moves of the node's progress bar, the first three left out; a run gives its
median, the table the medians of the runs with the least and the most. Ratios compare within a round. CPU
time counts all cores and hardly depends on what else runs. Memory is the process's (RSS): its peak during
the training less what it had with model and data in place, and the peak as such, in which ComfyUI and torch
by themselves take half a gigabyte.

--batch 2 shows that Train LoRA puts every image of a batch through the network with every prompt of it: 4
images a step for 2, 16 for 4. The default of 1 spares it that.

Found on a quiet machine (2 cores Intel Xeon, 24 GB; 3 rounds of 10 steps), ours against Train LoRA on the
same layers: a step takes 0.63 (sd15), 0.68 (koala) and 0.61 (sd3) of the better mode's; memory beyond model
and data 0.38, 0.18 and 0.32 of default, 0.43, 0.34 and 0.29 of bypass; the whole process 0.64, 0.50 and 0.75
of default, 0.69, 0.69 and 0.72 of bypass. Train LoRA copies the model, default mode also materialises every
changed weight and its gradient, and both keep the attention matrices. Tables: docs/speed.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._rounds import in_turn, machine, print_table, spread, versus
from benchmarks._train_runs import (
    ATTENTION,
    BYPASS,
    DEFAULT,
    MODELS,
    OURS,
    PEERS,
    SIDES,
    WARM,
    Ran,
    Setting,
    trained,
)  # fmt: skip
from devtools.comfyui import ensure_install
from devtools.environment import cache_folder

HEAD = ["side", "step ms", "CPU ms", "MiB more", "MiB in all", "trains"]
RATIOS = ["model", "step", "CPU", "more, default", "more, bypass", "all, default", "all, bypass"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = _parse(arguments)
    setting = Setting(
        batch=options.batch, steps=options.steps, recompute=options.recompute, diffs=options.diffs,
        threads=options.threads,
    )  # fmt: skip
    print(machine(), flush=True)
    print(f"{options.rounds} rounds, {setting}", flush=True)
    install = ensure_install()
    found: dict[str, dict[str, list[Ran]]] = {}
    with TemporaryDirectory(dir=cache_folder(), prefix="bench-train-") as base:
        for model in options.models or MODELS:
            sides = {side: partial(_run, install, Path(base), model, side, setting) for side in SIDES}
            runs = in_turn(sides, options.rounds, warm=0)
            found[model] = runs
            _check(model, runs)
            layers, seen = runs[OURS][0].layers[1], runs[DEFAULT][0].rows
            print(f"\n{model}: {layers} layers adapted on every side; images through the network at once: "
                  f"{runs[OURS][0].rows}, Train LoRA {seen}")  # fmt: skip
            print_table(HEAD, [_row(side, runs[side]) for side in SIDES])
    for side, told in ((OURS, "the same layers"), (ATTENTION, "our default targets, all of Train LoRA's")):
        print(f"\n{side} / Train LoRA, {told}: time of the better mode, memory of each")
        print_table(RATIOS, [_ratios(model, side, runs) for model, runs in found.items()])


def _run(install, base: Path, model: str, side: str, setting: Setting, number: int) -> Ran:
    return trained(install, base, model, side, setting)


def _check(model: str, runs: Mapping[str, Sequence[Ran]]) -> None:
    """Raise RuntimeError unless the sides that are compared adapted the same layers."""
    layers = {ran.layers for side in (OURS, *PEERS) for ran in runs[side]}
    if len(layers) != 1:
        raise RuntimeError(f"{model}: the sides did not adapt the same layers: {sorted(layers)}")


def _row(side: str, runs: Sequence[Ran]) -> list[str]:
    step = spread([1e3 * ran.step for ran in runs], ".0f")
    cpu = spread([1e3 * ran.cpu for ran in runs], ".0f")
    more, whole = (spread([getattr(ran, field) for ran in runs], ".0f") for field in ("more", "whole"))
    return [side, step, cpu, more, whole, str(runs[0].trained)]


def _ratios(model: str, side: str, runs: Mapping[str, Sequence[Ran]]) -> list[str]:
    """Return a line of what a side takes of what Train LoRA takes, round by round."""

    def over(field: str, peers: Sequence[str]) -> str:
        least = [min(getattr(ran, field) for ran in rans) for rans in zip(*map(runs.get, peers), strict=True)]
        own = [getattr(ran, field) for ran in runs[side]]
        return spread(versus(own, least, lambda one, other: one / other), ".2f")

    memory = [over(field, [mode]) for field in ("more", "whole") for mode in (DEFAULT, BYPASS)]
    return [model, over("step", PEERS), over("cpu", PEERS), *memory]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(MODELS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each side (default: 3)")
    parser.add_argument("--steps", type=int, default=10, help="steps of a training (default: 10)")
    parser.add_argument("--batch", type=int, default=1, help="images a step (default: 1, at most 4)")
    parser.add_argument("--recompute", action="store_true", help="gradient checkpointing on all sides")
    parser.add_argument(
        "--no-diffs", dest="diffs", action="store_false", help="no offsets of biases and norms in Train LoRA"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch (default: its own choice)")
    options = parser.parse_args(arguments)
    unknown = set(options.models) - set(MODELS)
    if unknown:
        parser.error(f"there is no model {', '.join(sorted(unknown))}; use {', '.join(MODELS)}.")
    if min(options.rounds, options.batch) < 1 or options.steps < WARM + 1:
        parser.error(f"--rounds and --batch must be 1 or more, --steps {WARM + 1} or more.")
    return options


if __name__ == "__main__":
    main()
