"""Every column of the score table against the strength of every degradation: python dev.py bench robustness

Photographs reduced to a short side of 512 pixels (so that no codec's trace is left) and lossless generated
pictures at their own scale, both cropped to the middle 512 x 512, go through `realism_core.degrade` at seven
strengths. The plots go to docs/images/robustness/, the medians to the terminal. What was measured is kept in
the user's cache, for as long as neither the pictures nor the code that measures them change.

    python dev.py bench robustness [-- --pictures 24 --told 0 0.5 1]
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._clean_pictures import SIDE, made, photographic
from benchmarks._panels import Head, Row, Scale, Series, panel_grid
from devtools.environment import cache_folder
from realism_core.degrade import KINDS, degrade, setting
from realism_core.evidence import Column, score_table
from realism_core.evidence.columns import COLUMNS
from realism_core.irs import Measures

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "docs" / "images" / "robustness"
STRENGTHS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
TOLD = (0.0, 0.5, 1.0)
FEWEST = 3  # pictures that a median needs
SIDES = ("photographs", "generated")
MEANS = ("verdict",)  # of 0 and 1 a median says little
GROUPS = {
    "verdict": ("The verdict", ("p_photo", "reliability", "verdict", "lattice", "lattice_period")),
    "odds": ("What p_photo is made of", tuple(name for name in COLUMNS if name.startswith("odds_"))),
    "realism": ("The Image Realism Score and its five measures", ("irs", "typicality", *Measures._fields)),
    "radii": ("The five radii", tuple(f"radius_{name}" for name in Measures._fields)),
    "percentiles": ("The five percentiles", tuple(f"percentile_{name}" for name in Measures._fields)),
    "codec": ("Traces of compression", ("jpeg_grid", "jpeg_quality", "webp_grid", "video_levels")),
    "resampling": (
        "Traces of resizing", ("resample_peak", "resample_factor", "resample_factor_y", "spectral_cutoff"),
    ),
    "noise-and-size": (
        "Noise and size",
        ("noise_floor", "saturation_share", "flat_share", "short_side", "megapixels", "border_share"),
    ),
}  # fmt: skip
_MEASURING = ("irs", "evidence", "degrade", "images.py", "blocks.py", "saving.py")


def main() -> None:
    """Measure what is not in the cache, write the plots and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=24, help="pictures a side")
    parser.add_argument(
        "--told", type=float, nargs="+", choices=STRENGTHS, default=TOLD, help="strengths that are printed"
    )
    options = parser.parse_args()
    count = options.pictures
    if count < FEWEST:
        parser.error(f"--pictures is {count}: give at least {FEWEST}.")
    groups = grouped()
    began = time.monotonic()
    pictures = [photographic(count), made(count)]
    sides = f"{len(pictures[0])} {SIDES[0]}", f"{len(pictures[1])} {SIDES[1]}"
    print(f"{sides[0]} and {sides[1]}, {SIDE} x {SIDE} pixels, {len(COLUMNS)} columns", flush=True)
    values = measure(pictures[0] + pictures[1])
    found = [summary(values[: len(pictures[0])]), summary(values[len(pictures[0]) :])]
    print_table(found, options.told)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, (title, columns) in groups.items():
        file = OUTPUT / f"{name}.png"
        panel_grid(title, rows(columns, found), heads(), STRENGTHS, sides).save(file, optimize=True)
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB")
    print(f"{time.monotonic() - began:.0f} s")


def grouped() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return GROUPS, or raise ValueError where they are not exactly the columns of the score table."""
    named = [name for _, columns in GROUPS.values() for name in columns]
    wrong = set(named) ^ set(COLUMNS)
    if wrong or len(named) != len(set(named)):
        raise ValueError(f"GROUPS and the score table differ in {', '.join(sorted(wrong))}: edit GROUPS.")
    return GROUPS


def measure(pictures: Sequence[Tensor]) -> Tensor:
    """Return all columns of the pictures in all states: float64 [pictures, kinds, strengths, columns]."""
    folder = cache_folder() / "robustness" / code_state()
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(picture.numpy(), folder) for picture in pictures]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        found = []
        for values in pool.map(_measured, jobs):
            found.append(values)
            print(f"\r{len(found)} of {len(jobs)} pictures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return torch.stack([torch.from_numpy(values) for values in found])


def _measured(job: tuple[np.ndarray, Path]) -> np.ndarray:
    torch.set_num_threads(1)
    picture, folder = job
    name = hashlib.sha256(picture.tobytes()).hexdigest()[:24]
    file = folder / f"{name}.npy"
    if not file.is_file():
        part = folder / f"{name}.{os.getpid()}.part"
        with open(part, "wb") as opened:
            np.save(opened, states(torch.from_numpy(picture), int(name[:8], 16)).numpy())
        os.replace(part, file)
    return np.load(file)


def states(picture: Tensor, seed: int) -> Tensor:
    """Return all columns of a picture [H,W,3] by kind and strength: float64 [kinds, strengths, columns]."""
    unchanged = score_table(picture[None]).values[0]
    found = unchanged.repeat(len(KINDS), len(STRENGTHS), 1)
    for row, kind in enumerate(KINDS):
        for place, strength in enumerate(STRENGTHS[1:], 1):
            found[row, place] = score_table(degrade(picture[None], kind, strength, seed)).values[0]
    return found


def code_state() -> str:
    """Return a hash of the code and data that the measured numbers depend on."""
    digest = hashlib.sha256(repr((STRENGTHS, list(COLUMNS), torch.__version__)).encode())
    for name in _MEASURING:
        place = ROOT / "realism_core" / name
        files = [place] if place.is_file() else [*place.rglob("*.py"), *place.rglob("*.json")]
        for file in sorted(files):
            digest.update(file.relative_to(ROOT).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def summary(values: Tensor) -> Tensor:
    """Return 10 %, median, 90 % and the share that applies, [4, ...], of values [pictures, ...].

    NaN is left out; where fewer than three pictures are left the first three are NaN. Columns of MEANS (the
    last dimension is in the order of COLUMNS) have their mean in place of the median, and no band.
    """
    applies = ~values.isnan()
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=values.dtype)
    found = torch.nanquantile(values, levels, dim=0)
    for column in map(list(COLUMNS).index, MEANS):
        found[:, ..., column] = torch.nan
        found[1, ..., column] = values[..., column].nanmean(0)
    found = found.masked_fill(applies.sum(0) < FEWEST, torch.nan)
    return torch.cat((found, applies.double().mean(0, keepdim=True)))


def rows(columns: Sequence[str], found: Sequence[Tensor]) -> list[Row]:
    """Return the rows of a plot; found: the `summary` of each side, [4, kinds, strengths, columns]."""
    result = []
    for name in columns:
        column, place = COLUMNS[name], list(COLUMNS).index(name)
        panels = [
            [Series(*side[:, kind, :, place].tolist()) for side in found] for kind in range(len(KINDS))
        ]
        unit = f"{column.unit}; the mean of the verdicts given" if name in MEANS else column.unit
        unit = "no unit" if unit == "1" else unit
        result.append(Row(name, unit, _scale(column), panels))
    return result


def _scale(column: Column) -> Scale:
    if (column.low, column.high) == (0, 1):
        return "share"
    return "linear" if column.low < 0 or "log" in column.unit else "ratio"


def heads() -> list[Head]:
    """Return what stands above and below the columns of a plot: kinds, units and values."""
    found = []
    for name, kind in KINDS.items():
        before, number, after = re.fullmatch(r"(.*)(\{.*\})(.*)", kind.text).groups()
        marks = ("as is", *(number.format(kind.value(strength)) for strength in TOLD[1:]))
        found.append(Head(name, f"{before.strip()} … {after.strip()}".strip(), marks))
    return found


def print_table(found: Sequence[Tensor], told: Sequence[float]) -> None:
    """Print the medians at the told strengths and the share of pictures that the column applies to."""
    print(f"\nmedians (verdict: mean) at strength {', '.join(map(str, told))}; in brackets: applies to")
    for kind in KINDS:
        print(f"  {kind:<8} " + ", ".join(setting(kind, strength) for strength in told))
    places = [STRENGTHS.index(strength) for strength in told]
    for number, (name, column) in enumerate(COLUMNS.items()):
        print(f"\n{name} ({column.unit}): {SIDES[0]} | {SIDES[1]}")
        for row, kind in enumerate(KINDS):
            sides = [
                "".join(
                    f"{_number(side[1, row, place, number]):>9} ({side[3, row, place, number]:>4.0%})"
                    for place in places
                )
                for side in found
            ]
            print(f"  {kind:<8}" + "   |".join(sides))
    print()


def _number(value: Tensor) -> str:
    return "-" if math.isnan(value) else f"{float(value):.3g}"


if __name__ == "__main__":
    main()
