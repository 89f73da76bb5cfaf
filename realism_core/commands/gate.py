"""`realism gate`: sort pictures into a passed and a rejected folder by a score."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from ..evidence.columns import COLUMNS
from ..gate import RULES, UNKNOWN, real_of
from ..gate.files import Mark, mark_of
from ..gate.folders import FolderGate, Placed, Scored
from ..irs import Profile, real_bands
from ..pictures import PictureError, find_pictures
from .common import (
    add_paths,
    add_scoring,
    clear_progress,
    complain,
    load_profile,
    plural,
    scored_rows,
    scorer_digest,
    show_progress,
)
from .gate_log import DecisionLog

ABOUT = (
    "rules: threshold keeps scores of at least VALUE (at most, with --keep low); band keeps --low to "
    "--high; profile_band keeps what lies within the middle 90 percent of the profile's photographs; top_k "
    "keeps the VALUE best pictures; top_fraction the best share VALUE. A picture is unknown if the metric "
    "says nothing about it (grey or flat, or the evidence is gone): it is rejected unless --unknown says "
    "otherwise. With --unknown pass or block the rules look at the other pictures only, and top_k and "
    "top_fraction count only those. Files that cannot be read stay where they are. Nothing is overwritten: "
    "names that are taken get a number. Each decision is a row of realism-gate.csv beside the passed "
    "folder; a run that was stopped goes on when it is started again, with the scores recorded there for "
    "files that have not changed. Example: realism gate renders --rule threshold --value 0.05 --passed good "
    "--rejected odd"
)
# what each rule is told
TAKES = {
    "threshold": ("value", "keep"), "band": ("low", "high"), "profile_band": (), "top_k": ("value", "keep"),
    "top_fraction": ("value", "keep"),
}  # fmt: skip


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
    parser.add_argument(
        "--rescore", action="store_true", help="score every picture anew, also those whose score is recorded"
    )
    parser.add_argument("--audit", metavar="FILE", help="log each decision in this audit log as well")
    parser.add_argument("--purpose", metavar="TEXT", help="what the pictures are for, for the audit log")
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
        real=real_of(args.metric, real_bands(profile)) if args.rule == "profile_band" else None,
        scorer=scorer_digest(args.definition, profile),
    )  # fmt: skip
    paths = find_pictures(args.paths, skip=(args.passed, args.rejected))
    with contextlib.ExitStack() as stack:
        if args.audit is not None:
            gate.log = DecisionLog(args.audit, _rule(args, gate), args.metric, args.purpose or "")
            stack.callback(gate.log.close)
        return _place(args, gate, _scored(paths, gate, profile, args))


def _place(args: argparse.Namespace, gate: FolderGate, scored: Iterable[Scored]) -> int:
    tally = Tally(args.metric, args.unknown)
    try:
        for placed in gate.place(tally.counted(scored)):
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
    older = "" if gate.record.resumes else (
        " (begun by an older version, so no scores can be reused from it: rename it, and a new one begins)"
    )  # fmt: skip
    print(f"{tally.summary(args.passed, args.rejected)}\nrecord: {gate.record_path}{older}")
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
        self.total = self.complaints = self.without = self.reused = 0
        self.decisions: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.lowest, self.highest = math.inf, -math.inf

    def counted(self, scored: Iterable[Scored]) -> Iterator[Scored]:
        """Hand the scores on, and show how many there are while nothing is placed yet."""
        for number, item in enumerate(scored, 1):
            self.reused += item.reused
            if not self.total:
                show_progress(f"{plural(number)} scored")
            yield item

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
        if self.reused:
            lines.append(f"{plural(self.reused, 'score')} reused from the record")
        if left := self.decisions["unreadable"]:
            lines.append(f"{plural(left, 'file')} could not be used and stayed in place")
        return "\n".join(lines)


def _scored(
    paths: Iterable[Path], gate: FolderGate, profile: Profile, args: argparse.Namespace
) -> Iterator[Scored]:
    """Yield the pictures with their scores in their order: the record's where it has one, else new ones."""
    known = ((path, *_recorded(path, gate, args.rescore)) for path in paths)
    for fresh, group in groupby(known, key=lambda item: item[2] is None):
        if fresh:
            yield from _newly_scored(group, profile, args)
        else:
            yield from (Scored(path, value, mark, reused=True) for path, mark, value in group)


def _recorded(path: Path, gate: FolderGate, rescore: bool) -> tuple[Mark | None, float | None]:
    try:
        mark = mark_of(path)
    except PictureError:  # reading it will tell
        return None, None
    return mark, None if rescore else gate.recorded_score(path, mark)


def _newly_scored(
    group: Iterable[tuple[Path, Mark | None, None]], profile: Profile, args: argparse.Namespace
) -> Iterator[Scored]:
    marks: deque[Mark | None] = deque()  # of the files that are being read ahead

    def paths() -> Iterator[Path]:
        for path, mark, _ in group:
            marks.append(mark)
            yield path

    for path, row in scored_rows(paths(), args.definition, profile, columns=[args.metric]):
        if not isinstance(row, PictureError):
            row = math.nan if row[args.metric] is None else row[args.metric]
        yield Scored(path, row, marks.popleft())


def _rule(args: argparse.Namespace, gate: FolderGate) -> dict[str, object]:
    """Return the rule with all it was told, for the audit log."""
    told = {name: vars(args)[name] for name in TAKES[args.rule]}
    if "keep" in told:
        told["keep"] = args.keep or "high"
    if args.rule == "profile_band":
        told["low"], told["high"] = gate.limits[-1]
    return {"name": args.rule, **told, "on_unknown": args.unknown, "scored_by": gate.scorer}


def _check_options(args: argparse.Namespace) -> None:
    if args.metric not in COLUMNS:
        raise ValueError(f"--metric {args.metric} is no score; use one of {', '.join(COLUMNS)}.")
    for option in ("value", "keep", "low", "high"):
        if option not in TAKES[args.rule] and vars(args)[option] is not None:
            raise ValueError(
                f"--{option} has no effect with --rule {args.rule}: leave it out, or change the rule."
            )
    if args.purpose is not None and args.audit is None:
        raise ValueError("--purpose has no effect without --audit: name a log as well, or leave it out.")
