"""Drawn faces with exact labels, the ground truth of the tests of attributes and masks: dev.py bench faces

    python dev.py bench faces [-- --count 48 --seed 2 --sheet faces.png --judges --side 64]

Avataaars' parts (python-avatars, MIT, fetched into the user's cache) are put together by a seed, so that the
attributes are known by construction: hair colours, straight and wavy hair, bangs, bald, glasses, hat, beard,
mustache, smile, open mouth, arched brows, nose, pale skin, necktie. The masks are the same drawings with
every part in the colour of its class: 15 of the 19, as there are no lips, earrings and necklaces. Eyes,
brows and ears are told apart by their side, the neck from the face by the circle of the chin; beards are
skin, and of glasses the lenses only where they are dark. Window, zoom and background vary too, so that a
mask says more than the attributes.

Prints how often classes and attributes occur and writes a sheet of pictures with their masks. --judges
trains the segmenter and the classifier of _faces_judges.py, or takes them from the cache, and prints what
they get right on faces that they never saw.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from benchmarks._faces_drawn import DrawnFaces, drawn_faces
from benchmarks._faces_judges import Measured, Plan, held_out, judges
from benchmarks._rounds import machine, print_table
from devtools.environment import cache_folder
from devtools.pip import SetupError
from realism_core.conditioning.mask_pictures import to_colours
from realism_core.conditioning.vocabulary import MASK_CLASSES, NAMES

COLUMNS = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw faces, print what they are, and judge the judges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=48, help="faces on the sheet (default: 48)")
    parser.add_argument("--seed", type=int, default=2, help="0 and 1 are the judges' own (default: 2)")
    parser.add_argument("--sheet", type=Path, help="where to write the sheet (default: into the cache)")
    parser.add_argument("--judges", action="store_true", help="train and measure the judges")
    parser.add_argument("--side", type=int, default=Plan.side, help="of the pictures they judge, in eights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        started = time.perf_counter()
        faces = drawn_faces(options.count, options.seed)
        print(f"{machine()}\n{options.count} faces in {time.perf_counter() - started:.1f} s")
        print_faces(faces)
        path = options.sheet or cache_folder() / "faces" / "sheet.png"
        Image.fromarray(sheet(faces).numpy()).save(path)
        print(f"\nsheet: {path}")
        if options.judges:
            print_judges(Plan(side=options.side))
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def print_faces(faces: DrawnFaces) -> None:
    """Print what each class covers, in how many faces it is, and how often each attribute is yes or no."""
    covered = faces.mask.coverage()
    rows = [
        [entry.title, f"{100 * covered[:, label].mean():.2f} %", f"{int((covered[:, label] > 0).sum())}"]
        for label, entry in enumerate(MASK_CLASSES)
    ]
    print_table(["class", "area", "faces"], rows)
    states = torch.stack([attributes.values() for attributes in faces.attributes])
    counts = [((states > 0).sum(0), "yes"), ((states < 0).sum(0), "no")]
    rows = [
        [name, *(f"{int(count[place])}" for count, _ in counts)]
        for place, name in enumerate(NAMES)
        if any(count[place] for count, _ in counts)
    ]
    print()
    print_table(["attribute", *(what for _, what in counts)], rows)


def sheet(faces: DrawnFaces) -> torch.Tensor:
    """Return the pictures in rows of 12, each row above its masks, uint8 [H,W,3]."""
    colours = (to_colours(faces.mask) * 255).round().to(torch.uint8)
    lines = []
    for start in range(0, len(faces.images), COLUMNS):
        for pictures in (faces.images, colours):
            row = torch.cat([*pictures[start : start + COLUMNS]], 1)
            missing = COLUMNS * pictures.shape[2] - row.shape[1]
            lines.append(torch.nn.functional.pad(row, (0, 0, 0, missing)))
    return torch.cat(lines)


def print_judges(plan: Plan) -> None:
    """Print what the judges get right on true faces that they never saw."""
    able, faces = judges(plan), held_out(plan)
    overlap, right = able.measured(faces.images, faces.mask, faces.attributes)
    print(f"\njudges of {plan.side} x {plan.side} pixels on {plan.tests} held-out faces")
    for title, found in (("mIoU", overlap), ("accuracy", right)):
        print()
        print_table([title, "%"], [["mean", _percent(found.mean)], *_rows(found)])


def _rows(found: Measured) -> list[list[str]]:
    return [[name, _percent(value)] for name, value in found.each.items() if value == value]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    sys.exit(main())
