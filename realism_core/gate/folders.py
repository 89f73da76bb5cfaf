"""A gate on files: each picture goes to the passed or the rejected folder or stays, and none is lost."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..pictures import PictureError
from .files import (
    PART,
    Mark,
    claimed,
    clear_parts,
    common_digest,
    mark_of,
    publish,
    same_file,
    sync,
    verified_copy,
)
from .places import base_folders, check_folders, is_numbered, numbered, place_below
from .record import PlaceError, Record, is_of
from .select import check_rule, decide

ACTIONS = {"copy": "copied", "move": "moved", "link": "linked"}


class Scored(NamedTuple):
    """A picture with its score (NaN: unknown), or why it has none.

    mark: the file's before it was read for scoring (default: the score is the file's as it is now).
    reused: the score is that of the record.
    """

    path: Path
    value: float | PictureError
    mark: Mark | None = None
    reused: bool = False


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
    value, low, high, keep, on_unknown, real: as for `decide`; a blocked picture stays where it is. mode:
    "copy", "move" or "link" (symbolic). metric: the score's name, for the record `realism-gate.csv` beside
    the passed folder: one row a picture, no second one while nothing changes. A name that is taken by other
    bytes becomes "name (2).png"; one taken by the same bytes is done already, and a move then removes the
    source. Copies are checked (size, SHA-256) before they get their name, moves remove the source only after
    that. scorer: a text that tells one way of scoring from another, for `recorded_score`. log: called with
    each decision, and the SHA-256 in hex of the file's bytes where it is known ("" if not), before a moved
    source is removed. Raises ValueError if the folders and the rule make no sense, naming the fix.
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
        real: tuple[float, float] | None = None,
        scorer: str = "",
        log: Callable[[Placed, str], None] | None = None,
    ) -> None:
        check_rule(rule, value, low, high, keep, on_unknown, real)
        if mode not in ACTIONS:
            raise ValueError(f"mode is {mode!r}; use one of {', '.join(ACTIONS)}.")
        self.rule, self.limits, self.mode = rule, (value, low, high, keep, on_unknown, real), mode
        self.folders = {"passed": Path(passed), "rejected": Path(rejected)}
        check_folders(roots, self.folders)
        self.roots, self.bases = list(roots), base_folders(roots)
        self.record_path, self.metric = self.folders["passed"].parent / "realism-gate.csv", metric
        self.scorer, self.log = scorer, log
        self.record: Record | None = None

    def place(self, scored: Iterable[Scored | tuple[Path, float | PictureError]]) -> Iterator[Placed]:
        """Yield what became of each picture; give its score (NaN: unknown) or why it has none.

        threshold and the bands place each picture at once; top_k and top_fraction first take all scores in
        (the record then holds them). Raises PlaceError if a target cannot be written or another run is at
        work in the folders; what was placed before stays placed and recorded.
        """
        with contextlib.ExitStack() as stack:
            for name, folder in self.folders.items():
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise PlaceError(
                        f"the {name} folder {folder} cannot be made ({error.strerror}): choose another place."
                    ) from None
                if not stack.enter_context(claimed(folder)):
                    raise PlaceError(
                        f"another run is placing pictures in {folder}: wait until it has ended, or choose "
                        f"another {name} folder."
                    )
                clear_parts(folder)
            self.record = Record(self.record_path, self.metric, self.scorer)
            stack.callback(self.record.close)
            items = (Scored(*item) for item in scored)
            yield from self._rank(items) if self.rule.startswith("top") else self._place_each(items)

    def recorded_score(self, path: Path, mark: Mark) -> float | None:
        """Return the score (NaN: unknown) that the record holds of this very file by this scorer, else None.

        For use while `place` takes its scores; before that there is none.
        """
        return None if self.record is None else self.record.score_of(path, mark)

    def _place_each(self, scored: Iterable[Scored]) -> Iterator[Placed]:
        for item in scored:
            if isinstance(item.value, PictureError):
                yield self._leave(item.path, "unreadable", reason=str(item.value))
            else:
                yield self._place_one(item.path, item.value, self._decide([item.value])[0], item.mark)

    def _rank(self, scored: Iterable[Scored]) -> Iterator[Placed]:
        paths, values, marks = [], array("d"), array("q")
        for item in scored:
            if isinstance(item.value, PictureError):
                yield self._leave(item.path, "unreadable", reason=str(item.value))
                continue
            paths.append(os.fspath(item.path))
            values.append(item.value)
            marks.extend(item.mark or (-1, -1))
            if item.mark and not item.reused:  # or a run that is killed before the last would lose them all
                self.record.add(Placed(item.path, "scored", item.value, "left", None), item.mark)
        # where sources are removed, a run that goes on no longer finds all that it ranked: it asks the record
        moved = self.record.begin_ranking(self._run_digest()) if self.mode == "move" else array("d")
        decisions = self._decide(moved + values)[len(moved) :] if paths else []
        for number, decision in enumerate(decisions):
            mark = Mark(*marks[2 * number : 2 * number + 2])
            yield self._place_one(
                Path(paths[number]), values[number], decision, None if mark.size < 0 else mark
            )
        if self.mode == "move":
            self.record.end_ranking()

    def _run_digest(self) -> str:
        """Return what tells the same command from another, in hex."""
        folders = [os.path.abspath(folder) for folder in (*self.roots, *self.folders.values())]
        told = repr((self.rule, self.limits, self.metric, self.scorer, folders))
        return hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()

    def _decide(self, values: Sequence[float]) -> list[str]:
        decision = decide(torch.tensor(values, dtype=torch.float64), self.rule, *self.limits)
        # whoever reads the record wants to know why a file is still there, not what the gate did to it
        sides = zip(decision.passed.tolist(), decision.blocked.tolist(), strict=True)
        return ["passed" if passed else "unknown" if blocked else "rejected" for passed, blocked in sides]

    def _leave(self, path: Path, decision: str, mark: Mark | None = None, reason: str = "") -> Placed:
        return self._note(Placed(path, decision, math.nan, "left", None, reason), mark)

    def _note(self, placed: Placed, mark: Mark | None, sha256: str = "") -> Placed:
        # no row is left out while sources are removed: each says that this one was
        self.record.add(placed, mark, sha256, repeat=self.mode == "move" and placed.target is not None)
        if self.log:
            self.log(placed, sha256)
        return placed

    def _place_one(self, path: Path, value: float, decision: str, mark: Mark | None) -> Placed:
        try:
            now = mark_of(path)
            if mark is not None and now != mark:
                raise PictureError(f"{path} changed after it was scored: run the command again.")
            if decision == "unknown":
                return self._leave(path, decision, now)
            wanted = self.folders[decision] / place_below(path, self.bases)
            target, action, sha256 = self._settle(path, wanted, decision, now)
        except PictureError as error:
            return self._leave(path, "unreadable", reason=str(error))
        except OSError as error:
            raise PlaceError(
                f"{error.filename2 or error.filename or wanted} cannot be written ({error.strerror}): "
                f"make room or choose another folder; {path} is where it was."
            ) from None
        # the record comes first: killed in between, the next run finds the copy and finishes the move
        placed = self._note(Placed(path, decision, value, action, target), now, sha256)
        # a second name of the very same file (hard link, folder in other letter case) is no copy of it
        if self.mode == "move" and (path.is_symlink() or not same_file(path, target)):
            try:
                if mark_of(path) != now:
                    reason = f"{path} changed after it was copied, so it was kept: run the command again."
                    return placed._replace(action="copied", reason=reason)
                path.unlink()
            except (OSError, PictureError) as error:
                why = getattr(error, "strerror", None) or "it is gone"
                reason = f"{path} was copied but cannot be removed ({why}): remove it yourself."
                return placed._replace(action="copied", reason=reason)
        return placed

    def _settle(self, path: Path, wanted: Path, decision: str, mark: Mark) -> tuple[Path, str, str]:
        """Bring a file to its place and return that, what was done and the SHA-256 if it is known."""
        if self.mode != "move" and (found := self._recognise(path, wanted, decision, mark)):
            return found
        wanted.parent.mkdir(parents=True, exist_ok=True)
        return self._link(path, wanted) if self.mode == "link" else self._copy(path, wanted, mark)

    def _recognise(self, path: Path, wanted: Path, decision: str, mark: Mark) -> tuple[Path, str, str] | None:
        """Return what `_settle` does if the record tells that this very file was placed, and it is there."""
        row = self.record.last(path)
        if row is None or row["decision"] != decision or not is_of(row, mark) or not row["target"]:
            return None
        target = wanted.with_name(Path(row["target"]).name)
        if not is_numbered(target, wanted) or os.fspath(target.absolute()) != row["target"]:
            return None
        try:
            status = os.lstat(target)
        except OSError:
            return None
        if self.mode == "link":
            there = stat.S_ISLNK(status.st_mode) and same_file(target, path)
        else:
            there = stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == mark
        return (target, "already there", row["sha256"]) if there else None

    def _copy(self, source: Path, wanted: Path, mark: Mark) -> tuple[Path, str, str]:
        part = wanted.with_name(wanted.name[:60] + PART)
        try:
            for target in numbered(wanted):
                if target.is_symlink() and same_file(target, source):
                    target.unlink()  # of an earlier run with links: what it led to comes in its place
                if os.path.lexists(target):
                    if digest := common_digest(source, target):
                        if self.mode == "move":  # whoever wrote it may not have waited for the disk
                            sync(target)
                            sync(target.parent)
                        return target, "already there", digest
                    continue
                digest = verified_copy(source, part, mark)
                if publish(part, target):
                    if self.mode == "move":
                        sync(target.parent)
                    return target, ACTIONS[self.mode], digest
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise AssertionError("numbered() never ends")

    def _link(self, source: Path, wanted: Path) -> tuple[Path, str, str]:
        for target in numbered(wanted):
            if os.path.lexists(target):
                if same_file(target, source):
                    return target, "already there", ""
                if digest := common_digest(source, target):
                    return target, "already there", digest
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
            return target, ACTIONS["link"], ""
        raise AssertionError("numbered() never ends")
