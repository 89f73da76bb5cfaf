"""A gate on files: each picture goes to the passed or the rejected folder or stays, and none is lost."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch

from ..pictures import PictureError, fixed_part, is_inside
from .files import check_source, publish, same_bytes, same_file, sync_folder, verified_copy
from .record import PlaceError, Record
from .select import check_rule, decide

ACTIONS = {"copy": "copied", "move": "moved", "link": "linked"}
PART = ".realism.part"


class Placed(NamedTuple):
    """What became of a picture.

    decision: "passed", "rejected", "unknown" (without a score, and such are blocked) or "unreadable".
    value: its score, NaN if it has none. action: "copied", "moved", "linked", "already there" or "left"
    (where it was; `reason` says why if something is wrong with it). target: its new place, None if it was
    left.
    """

    path: Path
    decision: str
    value: float
    action: str
    target: Path | None
    reason: str = ""


class FolderGate:
    """Puts scored pictures into the folders `passed` and `rejected`, which are made if needed.

    roots: the files, folders and patterns that are scored; a picture keeps its place below its folder. rule,
    value, low, high, keep, on_unknown: as for `decide`; a blocked picture stays where it is. mode: "copy",
    "move" or "link" (symbolic). metric: the score's name, for the record `realism-gate.csv` beside the
    passed folder: one row a picture, not repeated while a picture stays blocked. A name that is taken
    by other bytes becomes "name (2).png"; one taken by the same bytes is done already, and a move then
    removes the source. Copies are checked (size, SHA-256) before they get their name, moves remove the
    source only after that. Raises ValueError if the folders and the rule make no sense, naming the fix.
    """

    def __init__(
        self,
        roots: Sequence[str | os.PathLike],
        passed: str | os.PathLike,
        rejected: str | os.PathLike,
        rule: str,
        value: float | None = None,
        low: float | None = None,
        high: float | None = None,
        keep: str = "high",
        mode: str = "copy",
        metric: str = "",
        on_unknown: str = "reject",
    ) -> None:
        check_rule(rule, value, low, high, keep, on_unknown)
        if mode not in ACTIONS:
            raise ValueError(f"mode is {mode!r}; use one of {', '.join(ACTIONS)}.")
        self.rule, self.limits, self.mode = rule, (value, low, high, keep, on_unknown), mode
        self.folders = {"passed": Path(passed), "rejected": Path(rejected)}
        _check_folders(roots, self.folders)
        self.bases = base_folders(roots)
        self.record_path, self.metric = self.folders["passed"].parent / "realism-gate.csv", metric

    def place(self, scored: Iterable[tuple[Path, float | PictureError]]) -> Iterator[Placed]:
        """Yield what became of each picture; give its score (NaN: unknown) or why it has none.

        threshold and band place each picture at once; top_k and top_fraction first take all scores in.
        Raises PlaceError if a target cannot be written; what was placed before stays placed and recorded.
        """
        for name, folder in self.folders.items():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PlaceError(
                    f"the {name} folder {folder} cannot be made ({error.strerror}): choose another place."
                ) from None
        self.record = Record(self.record_path, self.metric)
        with contextlib.closing(self.record):
            decisions = None
            if self.rule in ("top_k", "top_fraction"):
                scored = list(scored)
                values = [value for _, value in scored if not isinstance(value, PictureError)]
                decisions = iter(self._decide(values) if values else [])
            for path, value in scored:
                if isinstance(value, PictureError):
                    yield self._leave(path, "unreadable", str(value))
                    continue
                decision = self._decide([value])[0] if decisions is None else next(decisions)
                if decision == "unknown":
                    yield self._leave(path, decision)
                else:
                    yield self._place_one(path, value, decision)

    def _decide(self, values: list[float]) -> list[str]:
        decision = decide(torch.tensor(values, dtype=torch.float64), self.rule, *self.limits)
        # whoever reads the record wants to know why a file is still there, not what the gate did to it
        sides = zip(decision.passed.tolist(), decision.blocked.tolist(), strict=True)
        return ["passed" if passed else "unknown" if blocked else "rejected" for passed, blocked in sides]

    def _leave(self, path: Path, decision: str, reason: str = "") -> Placed:
        left = Placed(path, decision, math.nan, "left", None, reason)
        self.record.add(left)
        return left

    def _place_one(self, path: Path, value: float, decision: str) -> Placed:
        wanted = self.folders[decision] / place_below(path, self.bases)
        try:
            target, action = self._link(path, wanted) if self.mode == "link" else self._copy(path, wanted)
        except PictureError as error:
            return self._leave(path, "unreadable", str(error))
        except OSError as error:
            raise PlaceError(
                f"{error.filename2 or error.filename or wanted} cannot be written ({error.strerror}): "
                f"make room or choose another folder; {path} is where it was."
            ) from None
        placed = Placed(path, decision, value, action, target)
        # the record comes first: killed in between, the next run finds the copy and finishes the move
        self.record.add(placed)
        # a second name of the very same file (hard link, folder in other letter case) is no copy of it
        if self.mode == "move" and (path.is_symlink() or not same_file(path, target)):
            try:
                path.unlink()
            except OSError as error:
                reason = f"{path} was copied but cannot be removed ({error.strerror}): remove it yourself."
                return placed._replace(action="copied", reason=reason)
        return placed

    def _copy(self, source: Path, wanted: Path) -> tuple[Path, str]:
        """Copy a file to the first free name and return that and what was done."""
        wanted.parent.mkdir(parents=True, exist_ok=True)
        part = wanted.with_name(wanted.name[:60] + PART)
        try:
            for target in numbered(wanted):
                if target.is_symlink() and same_file(target, source):
                    target.unlink()  # of an earlier run with links: what it led to comes in its place
                if os.path.lexists(target):
                    if same_bytes(source, target):
                        return target, "already there"
                elif publish(verified_copy(source, part), target):
                    if self.mode == "move":
                        sync_folder(target.parent)
                    return target, ACTIONS[self.mode]
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise AssertionError("numbered() never ends")

    def _link(self, source: Path, wanted: Path) -> tuple[Path, str]:
        """Link to a file under the first free name and return that and what was done."""
        check_source(source)  # a link to a file that has gone helps nobody
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for target in numbered(wanted):
            if os.path.lexists(target):
                if same_file(target, source) or same_bytes(source, target):
                    return target, "already there"
                continue
            try:
                os.symlink(os.path.realpath(source), target)
            except FileExistsError:
                continue
            except OSError as error:
                raise PlaceError(
                    f"no symbolic link can be made at {target} ({error.strerror}): this file system or "
                    "account does not allow it; use --copy."
                ) from None
            return target, ACTIONS["link"]
        raise AssertionError("numbered() never ends")


def base_folders(roots: Iterable[str | os.PathLike]) -> list[str]:
    """Return the folders whose inner order is kept, innermost first: those named, and the fixed part of
    patterns.
    """
    named = [os.fspath(root) for root in roots]
    bases = {root if os.path.isdir(root) else fixed_part(root) for root in named if not os.path.isfile(root)}
    return sorted(bases, key=lambda base: (-len(Path(base).parts), base))


def place_below(path: Path, bases: Iterable[str]) -> Path:
    """Return where a picture belongs below a target folder: its path below the first base it lies in, else
    its name.
    """
    for base in bases:
        with contextlib.suppress(ValueError):
            below = path.relative_to(base)
            if below.parts and ".." not in below.parts:
                return below
    return Path(path.name)


def numbered(path: Path) -> Iterator[Path]:
    """Yield name.png, name (2).png, name (3).png ... without end."""
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")


def _check_folders(roots: Sequence[str | os.PathLike], folders: dict[str, Path]) -> None:
    real = {name: os.path.realpath(folder) for name, folder in folders.items()}
    for one, other in (("passed", "rejected"), ("rejected", "passed")):
        if is_inside(real[one], [real[other]]):
            raise ValueError(
                f"the {one} folder {folders[one]} is or lies in the {other} folder {folders[other]}: "
                "use two folders side by side."
            )
    for root in roots:
        base = root if os.path.lexists(root) else fixed_part(os.fspath(root)) or "."
        for name, folder in folders.items():
            if is_inside(base, [real[name]]):
                raise ValueError(
                    f"{root} is to be scored but is or lies in the {name} folder {folder}: "
                    f"choose another {name} folder."
                )
