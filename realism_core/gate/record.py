"""The record of a gate on files: a CSV row a picture, written before the next one is touched."""

from __future__ import annotations

import csv
import errno
import io
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .files import Mark

FIRST_HEADER = ("path", "decision", "metric", "value", "action", "target")
HEADER = (*FIRST_HEADER, "size", "mtime_ns", "scored_by", "sha256")
# what is said of a picture whose score stands beside it
JUDGED = ("scored", "passed", "rejected", "unknown")


class PlaceError(ValueError):
    """A target that cannot be written; it ends the run, and nothing is half written."""


class Record:
    """A CSV file that rows are appended to, made with a header when missing, and read to go on from there.

    metric: the name of the scores. scorer: what computed them; scores of another one are not given back.
    A record that an earlier version began is continued in its own columns; it holds nothing to go on from
    (`resumes` is False). A score whose picture is not decided on yet has the decision "scored"; two rows
    without a path stand around the moves of a ranking. Of each picture only the place of its last row is
    held in memory. Raises PlaceError, saying what to do, where the file cannot be written or is something
    else.
    """

    def __init__(self, path: Path, metric: str, scorer: str = "") -> None:
        self.path, self.metric, self.scorer = path, metric, scorer
        self.header = HEADER
        # hash of a path -> where its last row begins; two paths with one hash are told apart by the row
        self._places: dict[int, int] = {}
        self._seen: tuple[int, dict[str, str]] = -1, {}  # the row that was read last: it is asked for thrice
        # what a ranking that has not ended has placed, and which ranking that is
        self._ranking, self._ranked = "", array("q")
        try:
            # unbuffered: each row is one write, so that a killed run leaves whole rows
            self._file: IO[bytes] = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
            self._reader: IO[bytes] = open(path, "rb")  # noqa: SIM115
            try:
                self._begin()
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise PlaceError(
                f"the record {path} cannot be written ({error.strerror}): choose a passed folder elsewhere, "
                "or make room."
            ) from None

    @property
    def resumes(self) -> bool:
        """Whether its rows hold what a later run needs to go on."""
        return self.header == HEADER

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._reader.close()

    def last(self, path: Path) -> dict[str, str] | None:
        """Return the last row of a picture for this metric, None if there is none."""
        name = os.fspath(path.absolute())
        place = self._places.get(hash(name))
        if place is None:
            return None
        row = self._at(place)
        return row if row.get("path") == name else None

    def score_of(self, path: Path, mark: Mark) -> float | None:
        """Return the score (NaN: unknown) that the same scorer gave to this very file, None if it did not."""
        row = self.last(path) if self.scorer and self.resumes else None
        if row is None or row["scored_by"] != self.scorer or not is_of(row, mark):
            return None
        try:
            return float(row["value"] or "nan") if row["decision"] in JUDGED else None
        except ValueError:
            return None

    def add(self, placed, mark: Mark | None = None, sha256: str = "", repeat: bool = False) -> None:
        """Append what became of a picture, a `Placed`; unless with `repeat`, no news add no row."""
        row = (
            os.fspath(placed.path.absolute()),
            placed.decision,
            self.metric,
            "" if math.isnan(placed.value) else repr(float(placed.value)),
            placed.action,
            "" if placed.target is None else os.fspath(placed.target.absolute()),
            *(("", "") if mark is None else map(str, mark)),
            self.scorer,
            sha256,
        )[: len(self.header)]
        if not repeat and placed.action in ("left", "already there"):
            before = self.last(placed.path)
            if before and {**before, "action": ""} == {**dict(zip(self.header, row)), "action": ""}:  # noqa: B905
                return
        self._places[hash(row[0])] = self._try_to_write(row)

    def begin_ranking(self, run: str) -> array:
        """Note that a ranking begins to move its files, and return the scores of those that are gone already.

        run: a SHA-256 in hex of what the ranking is told. If it was begun before and did not end, the scores
        are of the files that it moved, in their order; otherwise there are none.
        """
        moved = array("d")
        if not self.resumes:
            return moved
        if run == self._ranking:
            for place in self._ranked:
                row = self._at(place)
                # a move that was stopped before its end and then finished has two rows
                if self._places[hash(row["path"])] == place and not os.path.lexists(row["path"]):
                    moved.append(float(row["value"] or "nan"))
        else:
            self._mark_ranking("begun", run)
        return moved

    def end_ranking(self) -> None:
        """Note that all files of the ranking are in their places."""
        if self.resumes:
            self._mark_ranking("ended", "")

    def _mark_ranking(self, word: str, run: str) -> None:
        self._try_to_write(("", word, self.metric, *[""] * (len(HEADER) - 4), run))

    def _begin(self) -> None:
        first = self._reader.readline()
        header = ",".join(HEADER).encode()
        if header.startswith(first):  # empty, or killed while writing it
            self._file.truncate(0)
            self._reader.seek(0)
            self._write(HEADER)
            return
        self.header = tuple(first.decode("utf-8-sig", "replace").rstrip("\r\n").split(","))
        if self.header not in (HEADER, FIRST_HEADER):
            raise PlaceError(
                f"{self.path} is no record of this gate, judging by its first line: rename it, or choose a "
                "passed folder elsewhere."
            )
        row = first
        for place, row in _rows(self._reader):
            fields = _fields(row)
            # a torn row has fewer fields, or ends within the last one
            if len(fields) == len(self.header) and fields[2] == self.metric:
                if self.resumes and len(fields[-1]) not in (0, 64):
                    continue
                self._places[hash(fields[0])] = place
                self._follow_ranking(place, fields)
        if row.count(b'"') % 2:
            self._append(b'"\n')  # or the torn row would swallow all that follows
        elif not row.endswith(b"\n"):
            self._append(b"\n")

    def _follow_ranking(self, place: int, fields: list[str]) -> None:
        path, decision, target = fields[0], fields[1], fields[5]
        if not path and decision in ("begun", "ended"):
            self._ranking, self._ranked = fields[-1], array("q")
        elif self._ranking and target:
            self._ranked.append(place)

    def _at(self, place: int) -> dict[str, str]:
        if place != self._seen[0]:
            self._reader.seek(place)
            row = _fields(next(_rows(self._reader), (0, b""))[1])
            self._seen = place, dict(zip(self.header, row, strict=False))
        return self._seen[1]

    def _try_to_write(self, row: tuple[str, ...]) -> int:
        try:
            return self._write(row)
        except OSError as error:
            raise PlaceError(
                f"the record {self.path} cannot be written ({error.strerror}): make room and run "
                "the command again; pictures placed already are recognised."
            ) from None

    def _write(self, row: tuple[str, ...]) -> int:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(row)
        return self._append(line.getvalue().encode("utf-8", "surrogateescape"))

    def _append(self, line: bytes) -> int:
        """Write a line at the end and return where it begins."""
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.tell() - len(line)


def is_of(row: dict[str, str], mark: Mark) -> bool:
    """Tell whether a row is about the file with this mark."""
    return (row.get("size"), row.get("mtime_ns")) == tuple(map(str, mark))


def read_record(path: Path) -> Iterator[dict[str, str | None]]:
    """Yield the rows of a record as text by column; a torn row lacks some (None)."""
    with open(path, "rb") as file:
        rows = _rows(file)
        header = _fields(next(rows, (0, b""))[1].removeprefix(b"\xef\xbb\xbf"))
        for _, row in rows:
            if fields := _fields(row):
                yield dict(zip(header, fields + [None] * (len(header) - len(fields)), strict=False))


def _rows(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield each row and where it begins; a row goes on over line ends that stand in quotes."""
    place, lines, quotes = file.tell(), [], 0
    for line in iter(file.readline, b""):
        lines.append(line)
        quotes += line.count(b'"')
        if quotes % 2 == 0:
            row = b"".join(lines)
            yield place, row
            place, lines, quotes = place + len(row), [], 0
    if lines:
        yield place, b"".join(lines)


def _fields(row: bytes) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(row.decode("utf-8", "surrogateescape"), newline="")), [])
    except csv.Error:  # a torn row can be of any length
        return []
