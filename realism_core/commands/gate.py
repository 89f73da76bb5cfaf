"""`realism gate`: sort pictures into a passed and a rejected folder by a score."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..evidence.columns import COLUMNS
from ..gate import RULES, UNKNOWN
from ..gate.folders import FolderGate, Placed
from ..pictures import PictureError, find_pictures
from .common import (
    Row,
    add_paths,
    add_scoring,
    clear_progress,
    complain,
    load_profile,
    plural,
    scored_rows,
    show_progress,
)

ABOUT = (
    "rules: threshold keeps scores of at least VALUE (at most, with --keep low); band keeps --low to "
    "--high; top_k keeps the VALUE best pictures; top_fraction the best share VALUE. A picture is unknown "
    "if the metric says nothing about it (grey or flat, or the evidence is gone): it is rejected unless "
    "--unknown says otherwise. With --unknown pass or block the rules look at the other pictures only, and "
    "top_k and top_fraction count only those. Files that cannot be read stay where they are. Nothing is "
    "overwritten: names "
    "that are taken get a number, and a run that was stopped goes on when it is started again. Each "
    "decision is a row of realism-gate.csv beside the passed folder. Example: realism gate renders --rule "
    "threshold --value 0.05 --passed good --rejected odd"
)


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "gate", help="sort pictures into two folders", description=__doc__, epilog=ABOUT, allow_abbrev=False
    )
    add_paths(parser)
    parser.add_argument("--rule", choices=RULES, required=True, help="how pictures are chosen, see below")
    parser.add_argument("--metric", default="typicality", help="which score decides (default: typicality)")
    parser.add_argument(
        "--value", type=float, metavar="V", help="the number of threshold, top_k or top_fraction"
    )
    parser.add_argument("--low", type=float, metavar="V", help="the lower end of the band")
    parser.add_argument("--high", type=float, metavar="V", help="the upper end of the band")
    parser.add_argument("--keep", choices=("high", "low"), help="which end is the better one (default: high)")
    parser.add_argument(
        "--unknown", choices=UNKNOWN, default="reject",
        help="what to do with pictures the metric says nothing about: reject them (default), let them "
        "pass, or leave them where they are (block)",
    )  # fmt: skip
    parser.add_argument("--passed", required=True, metavar="DIR", help="folder for what passes")
    parser.add_argument("--rejected", required=True, metavar="DIR", help="folder for the rest")
    modes = parser.add_mutually_exclusive_group()
    for mode, text in (
        ("copy", "copy the files (default)"),
        ("move", "move them; each is removed only after its copy was checked"),
        ("link", "make symbolic links to them"),
    ):
        modes.add_argument(
            f"--{mode}", dest="mode", action="store_const", const=mode, default="copy", help=text
        )
    add_scoring(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Place the pictures, a line each, and sum up."""
    _check_options(args)
    profile = load_profile(args)
    gate = FolderGate(
        args.paths, args.passed, args.rejected, args.rule,
        value=args.value, low=args.low, high=args.high, keep=args.keep or "high",
        mode=args.mode, metric=args.metric, on_unknown=args.unknown,
    )  # fmt: skip
    paths = find_pictures(args.paths, skip=(args.passed, args.rejected))
    rows = scored_rows(paths, args.definition, profile, columns=[args.metric])
    tally = Tally(args.metric, args.unknown)
    try:
        for placed in gate.place(_values(rows, args)):
            tally.add(placed)
            clear_progress()
            if placed.reason:
                complain(placed.reason)
            if placed.target or placed.decision == "unknown":
                print(line(placed, args.mode), flush=True)
    except KeyboardInterrupt:
        clear_progress()
        print(
            f"\nrealism: stopped after {plural(tally.total)}; nothing is half written or lost. "
            "Start the same command again to go on.",
            file=sys.stderr,
        )
        return 130
    except (ValueError, OSError):
        clear_progress()
        if tally.total:
            print(
                f"realism: {plural(tally.total)} placed before this; see {gate.record_path}.",
                file=sys.stderr,
            )
        raise
    print(f"{tally.summary(args.passed, args.rejected)}\nrecord: {gate.record_path}")
    return 1 if tally.complaints else 0


def line(placed: Placed, mode: str) -> str:
    """Return the line of one picture."""
    value = "-" if math.isnan(placed.value) else f"{placed.value:.4g}"
    if placed.target is None:
        return f"{placed.decision:<8} {value:>8}  {placed.path} (left in place)"
    note = (
        f"  ({placed.action}{', source removed' * (mode == 'move')})"
        if placed.action == "already there"
        else ""
    )
    return f"{placed.decision:<8} {value:>8}  {placed.path} -> {placed.target}{note}"


class Tally:
    """Counts what became of the pictures, for the summary."""

    def __init__(self, metric: str, on_unknown: str) -> None:
        self.metric = metric
        self.on_unknown = {"reject": "rejected", "pass": "passed", "block": "left in place"}[on_unknown]
        self.total = self.complaints = self.without = 0
        self.decisions: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.lowest, self.highest = math.inf, -math.inf

    def add(self, placed: Placed) -> None:
        """Take in one picture."""
        self.total += 1
        self.complaints += bool(placed.reason)
        self.decisions[placed.decision] += 1
        self.actions[placed.action] += 1
        if not math.isnan(placed.value):
            self.lowest, self.highest = min(self.lowest, placed.value), max(self.highest, placed.value)
        elif placed.decision != "unreadable":
            self.without += 1

    def summary(self, passed: str, rejected: str) -> str:
        """Return the lines that end a run."""
        done = (
            ", ".join(f"{count} {action}" for action, count in self.actions.items() if action != "left")
            or "none"
        )
        passes, rejects = self.decisions["passed"], self.decisions["rejected"]
        lines = [f"{passes} passed -> {passed}, {rejects} rejected -> {rejected} ({done})"]
        if self.highest >= self.lowest:
            lines.append(f"{self.metric} ran from {self.lowest:.4g} to {self.highest:.4g}")
        if self.without:
            lines.append(
                f"{plural(self.without)} without {self.metric} (it says nothing there): {self.on_unknown}"
            )
        if left := self.decisions["unreadable"]:
            lines.append(f"{plural(left, 'file')} could not be used and stayed in place")
        return "\n".join(lines)


def _values(
    rows: Iterable[tuple[Path, Row | PictureError]], args: argparse.Namespace
) -> Iterator[tuple[Path, float | PictureError]]:
    for number, (path, row) in enumerate(rows, 1):
        if args.rule.startswith("top"):
            show_progress(f"{plural(number)} scored")
        if isinstance(row, PictureError):
            yield path, row
        else:
            yield path, math.nan if row[args.metric] is None else row[args.metric]


def _check_options(args: argparse.Namespace) -> None:
    if args.metric not in COLUMNS:
        raise ValueError(f"--metric {args.metric} is no score; use one of {', '.join(COLUMNS)}.")
    unused = ("value", "keep") if args.rule == "band" else ("low", "high")
    for option in unused:
        if vars(args)[option] is not None:
            raise ValueError(
                f"--{option} has no effect with --rule {args.rule}: leave it out, or change the rule."
            )
