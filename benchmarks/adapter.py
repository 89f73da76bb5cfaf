"""What the token adapter adds: attributes and masks asked for, and found in what is made, on drawn faces.

    python dev.py bench adapter [-- --seeds 3 --sheet adapter.png]

A network in SD3's layout (two blocks, 128 numbers wide) and an adapter learn together to draw faces, from
random weights on and by the pack's own loop on ComfyUI's classes: with tokens; with the published baselines,
a pooled vector of attributes and mask tokens without a place; with one of the two conditions alone. Each then
makes pictures of the attributes and masks of faces that nothing learned from, with ComfyUI's sampler; judges
trained on yet other faces (benchmarks/faces.py) find the classes and attributes in them. What true faces are
given shows the most that right pictures get, and the true faces of others what is had by chance.

Prints mean and 95 % interval (Student's t over the seeds of the trainings) of each measure, and the
differences, seed by seed. The held-out faces and the judges are the same for all: the intervals do not tell
how much others would change. A training of 8,000 steps takes 10 to 21 minutes of one core; one that was
broken off goes on. Three seeds on a 2-core Xeon: tokens 78.4 mIoU and 93.4 % accuracy, pooled 69.4 and 88.3,
attributes only 36.6 and 88.3, mask only 78.5 and 83.2; what there is to say of them is in docs/adapter.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks._adapter_codec import SIDE, codec
from benchmarks._adapter_runs import ARMS, ATTRIBUTES, MASK, POOLED, TOKENS, Plan, Runs
from benchmarks._faces_judges import Judges, Measured, down, judges
from benchmarks._rounds import machine, mean_interval, print_table
from devtools.environment import cache_folder
from devtools.pip import SetupError

COLUMNS = 12
MEASURES = ("mIoU", "accuracy")  # in the order of the judges
PAIRS = (  # what the first is to have over the second, in which measure
    (TOKENS, POOLED, "mIoU"),
    (TOKENS, POOLED, "accuracy"),
    (TOKENS, MASK, "mIoU"),
    (TOKENS, ATTRIBUTES, "accuracy"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, print the tables and write a sheet of pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="adapters an arm (default: 3)")
    parser.add_argument("--sheet", type=Path, help="where to write the sheet (default: into the cache)")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error("--seeds: an interval needs 2 or more")
    torch.set_num_threads(1)
    try:
        folder = cache_folder() / "adapter"
        runs = Runs(Plan(), codec(), folder)
        report(runs, judges(), range(options.seeds), options.sheet or folder / "sheet.png")
    except (SetupError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def report(runs: Runs, able: Judges, seeds: Sequence[int], sheet: Path) -> None:
    """Print what each arm reaches, and write its pictures beside the true ones."""
    faces = runs.held_out
    print(f"{machine()}\n{runs.plan}\n{len(faces.images)} held-out faces, {len(seeds)} seeds an arm\n")

    def judged(images: Tensor) -> tuple[Measured, Measured]:
        return able.measured(images, faces.mask, faces.attributes)

    bounds = {
        "true faces": judged(faces.images),
        "through the autoencoder": judged(runs.codec.decode(runs.codec.encode(faces.images))),
        "true faces, each that of another": judged(faces.images.roll(1, 0)),
    }
    rows = [[title, *(f"{100 * one.mean:.1f}" for one in found)] for title, found in bounds.items()]
    told = {arm: [judged(runs.made(arm, seed)) for seed in seeds] for arm in ARMS}
    for arm, found in told.items():
        rows.append([arm.name, *(_interval(_points(found, name)) for name in MEASURES)])
    print_table(["", *MEASURES], rows)
    print()
    rows = []
    for one, other, name in PAIRS:
        pairs = zip(_points(told[one], name), _points(told[other], name), strict=True)
        rows.append([f"{name}: {one.name} over {other.name}", _interval([a - b for a, b in pairs])])
    print_table(["points", ""], rows)
    print()
    each = [[arm.name, *(_each_seed(_points(told[arm], name)) for name in MEASURES)] for arm in ARMS]
    print_table(["seed by seed", *MEASURES], each)
    print()
    columns = {**{title: [bounds[title]] for title in list(bounds)[:2]}, TOKENS.name: told[TOKENS]}
    print_table(["class or attribute", *columns], _each(list(columns.values())))
    _write_sheet(runs, seeds[0], sheet)
    print(f"\nsheet, from the top: true, {', '.join(arm.name for arm in ARMS)}: {sheet}")


def _each(columns: Sequence[Sequence[tuple[Measured, Measured]]]) -> list[list[str]]:
    """Return a row for each class and attribute that occurs, with each column's mean."""
    rows = []
    for place in range(len(MEASURES)):
        for name, value in columns[0][0][place].each.items():
            if not math.isnan(value):
                means = (statistics.fmean(found[place].each[name] for found in column) for column in columns)
                rows.append([name, *(f"{100 * mean:.0f}" for mean in means)])
    return rows


def _write_sheet(runs: Runs, seed: int, path: Path) -> None:
    pictures = [runs.held_out.images[:COLUMNS], *(runs.made(arm, seed)[:COLUMNS] for arm in ARMS)]
    lines = [torch.cat([*down(line, SIDE)], 2) for line in pictures]
    whole = (torch.cat(lines, 1).movedim(0, -1) * 255).round().to(torch.uint8)
    Image.fromarray(whole.numpy()).resize((2 * whole.shape[1], 2 * whole.shape[0])).save(path)


def _points(found: Sequence[tuple[Measured, Measured]], name: str) -> list[float]:
    return [100 * one[MEASURES.index(name)].mean for one in found]


def _each_seed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def _interval(values: Sequence[float]) -> str:
    mean, half = mean_interval(values)
    return f"{mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
