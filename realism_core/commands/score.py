"""`realism score`: realism of each picture, as a line, as JSON or as CSV."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..evidence import verdict_of
from ..evidence.columns import COLUMNS
from ..irs import Measures
from ..pictures import SUFFIXES, PictureError, find_pictures
from .common import Row, add_paths, add_scoring, complain, load_profile, plural, scored_rows

# short names of the five measures, in the order of Measures
TITLES = ("edges", "contrast", "energy", "variance", "spectrum")
HEAD = (
    f"{'verdict':<10} {'p_photo':>7} {'irs':>8} {'typicality':>10}  "
    + " ".join(f"{title:>8}" for title in TITLES)
    + "  picture"
)
ABOUT = (
    "verdict: 'decoder' = the finest detail carries an image decoder's trace, 'photograph' = it carries "
    "none, 'unknown' = it cannot tell (compressed, resized, small, or undecided); p_photo: its probability. "
    "irs: area of the five radii; it grows with sharpness and grain, more is not more real. typicality: "
    "0..1, 1 = in the middle of the profile's photographs, under 0.05 = unlike them. Then the share of "
    "the photographs that have a smaller radius, for each measure: near 0% or 100% is unusual. A dash: "
    "the number does not apply (a grey or a flat picture)."
)


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "score", help="score pictures", description=__doc__, epilog=ABOUT, allow_abbrev=False
    )
    add_paths(parser)
    add_scoring(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="write one JSON object a line, with all numbers")
    output.add_argument("--csv", metavar="FILE", help="write all numbers to a CSV file (- is stdout)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score the pictures, each written out as soon as it is scored."""
    profile = load_profile(args)
    paths = find_pictures(args.paths)
    about = {"definition": args.definition, "profile": profile.name}
    scored = unusable = 0
    with _csv_file(args.csv) as file:
        table = csv.writer(file, lineterminator="\n") if file else None
        if table:
            table.writerow(("path", *COLUMNS, *about))
        elif not args.json:
            print(HEAD, file=sys.stderr)
        try:
            for path, row in scored_rows(paths, args.definition, profile):
                if isinstance(row, PictureError):
                    unusable += 1
                    complain(row)
                    continue
                scored += 1
                if table:
                    numbers = ("" if row[name] is None else repr(row[name]) for name in COLUMNS)
                    table.writerow((path, *numbers, *about.values()))
                    file.flush()
                elif args.json:
                    print(json.dumps({"path": str(path), **row, **about}, ensure_ascii=False), flush=True)
                else:
                    print(line(path, row), flush=True)
        except KeyboardInterrupt:
            print(f"\nrealism: stopped after {plural(scored)}; all lines written are whole.", file=sys.stderr)
            return 130
    if unusable:
        print(f"realism: {plural(scored)} scored, {unusable} could not be.", file=sys.stderr)
    return 1 if unusable else 0


def line(path: Path, row: Row) -> str:
    """Return the line of one picture, under HEAD."""
    shares = (_number(row[f"percentile_{name}"], ".0%") for name in Measures._fields)
    numbers = " ".join(f"{share:>8}" for share in shares)
    return (
        f"{verdict_of(row):<10} {_number(row['p_photo'], '.2f'):>7} {_number(row['irs'], '.3f'):>8} "
        f"{_number(row['typicality'], '.3f'):>10}  {numbers}  {path}"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


@contextmanager
def _csv_file(name: str | None) -> Iterator[TextIO | None]:
    if name is None or name == "-":
        yield None if name is None else sys.stdout
        return
    if name.lower().endswith(SUFFIXES):
        raise ValueError(f"--csv {name} is a picture's name: give the CSV file first, then the pictures.")
    with open(name, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file
