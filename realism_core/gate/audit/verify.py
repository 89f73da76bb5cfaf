"""Reading an audit log, and finding what was changed in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .anchor import HASH, Anchor, anchor_path, read_anchor
from .chain import FIRST, Entry, entry_hash
from .database import log_path, reading
from .errors import AuditError, translated
from .schema import entries, has_entries, schema_problems

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_PROBLEMS_NAMED = 20


class Verdict(NamedTuple):
    """What a check of a log found.

    entries: how many it holds. first, last: the times of the first and the last one, None without. head:
    "SEQ:HASH" of the last one, worth noting elsewhere. problems: what was changed, a sentence each, the
    first 20 of them. notes: what is worth knowing but no sign of a change.
    """

    entries: int
    first: str | None
    last: str | None
    head: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """Whether no change was found."""
        return not self.problems


def verify(path: str | os.PathLike, expect: str | None = None) -> Verdict:
    """Check every entry of a log, in constant memory, and change nothing.

    Finds entries that were edited, removed, inserted or reordered, a tail that was cut off (by the anchor),
    and triggers that were removed. expect: "SEQ:HASH" of an entry as noted elsewhere, which must still be
    there: that also finds a log that was written anew, anchor included. Raises AuditError for a file that
    is no log, is newer than this version or cannot be read.
    """
    noted = _noted(expect)
    log = log_path(path)
    walk = _Walk()
    # before the log: an anchor read after it could know entries that were not there yet
    try:
        anchor = read_anchor(log)
        if anchor is None:
            walk.problem(
                f"the anchor {anchor_path(log)} is missing: whether entries were cut off at the end cannot "
                "be told; put a copy of it back, or move the log away, and a new one begins"
            )
    except AuditError as error:
        anchor = None
        walk.problem(str(error).rstrip("."))
    known = [(anchor, f"the anchor {anchor_path(log)}"), (noted, "what was noted elsewhere")]
    marks = {name: mark for mark, name in known if mark is not None}
    with reading(log) as connection:
        for problem in schema_problems(connection):
            walk.problem(problem)
        try:
            with translated(log):
                for entry in entries(connection) if has_entries(connection) else ():
                    walk.add(entry, marks)
        except AuditError as error:
            raise AuditError(f"{error} Entry {walk.head.seq} was the last to be read.") from None
    walk.end(marks)
    if anchor is not None and walk.count and not walk.problems and anchor.seq < walk.head.seq:
        walk.notes.append(
            f"the anchor is at entry {anchor.seq}, the log at {walk.head.seq}: a program was stopped while "
            "it wrote, or is writing now; the next entry mends it"
        )
    return walk.verdict()


def read(path: str | os.PathLike, newest_first: bool = False) -> Iterator[Entry]:
    """Yield the entries of a log as they stand there at one moment, unchecked, in constant memory.

    Raises AuditError for a file that is no log, is newer than this version or cannot be read.
    """
    log = log_path(path)
    with reading(log) as connection:
        yield from entries(connection, newest_first)


class _Walk:
    """Follows the chain from its first entry, and keeps what is wrong with it."""

    def __init__(self) -> None:
        self.count = 0
        self.head = Anchor(0, FIRST)
        self.first: str | None = None
        self.last: str | None = None
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._unnamed = 0

    def problem(self, text: str) -> None:
        """Keep a problem; of many, only how many there are."""
        if len(self.problems) < _PROBLEMS_NAMED:
            self.problems.append(text)
        else:
            self._unnamed += 1

    def add(self, entry: Entry, marks: Mapping[str, Anchor]) -> None:
        """Take in the next entry."""
        due = self.head.seq + 1
        if entry.seq > due:
            missing = f"entry {due} is" if entry.seq == due + 1 else f"entries {due} to {entry.seq - 1} are"
            self.problem(f"{missing} missing: removed, or renumbered")
        elif entry.seq < due:
            self.problem(f"entry {entry.seq} was inserted: none has that number")
        elif entry.previous != self.head.hash:
            self.problem(f"entry {entry.seq} does not follow the one before it: replaced, or moved")
        own = entry_hash(entry.previous, entry.seq, entry.time, entry.body)
        if own != entry.hash or not re.fullmatch(_TIME, entry.time):
            self.problem(f"entry {entry.seq} was edited: its hash is not that of what it holds")
        for name, mark in marks.items():
            if mark.seq == entry.seq and mark.hash != entry.hash:
                self.problem(
                    f"entry {entry.seq} is not the one that {name} knows: the log was written anew"
                )
        self.count += 1
        self.head = Anchor(entry.seq, entry.hash)
        self.first, self.last = self.first or entry.time, entry.time

    def end(self, marks: Mapping[str, Anchor]) -> None:
        """Compare the last entry with what should be there."""
        for name, mark in marks.items():
            if mark.seq > self.head.seq:
                self.problem(
                    f"the log ends at entry {self.head.seq}, but {name} knows of entry {mark.seq}: "
                    "its tail was cut off"
                )
            elif mark.seq == 0 and mark.hash != FIRST:
                self.problem(f"{name} gives entry 0 another hash than 64 zeros: it was changed")

    def verdict(self) -> Verdict:
        """Return what was found."""
        more = (f"{self._unnamed} more problems like these",) if self._unnamed else ()
        return Verdict(
            self.count, self.first, self.last, str(self.head), (*self.problems, *more), tuple(self.notes)
        )


def _noted(expect: str | None) -> Anchor | None:
    if expect is None:
        return None
    seq, _, hash = expect.strip().partition(":")
    if not (re.fullmatch(r"[0-9]{1,18}", seq) and re.fullmatch(HASH, hash.lower())):
        raise AuditError(f"{expect!r} is not SEQ:HASH: give it as `realism audit verify` printed it.")
    return Anchor(int(seq), hash.lower())
