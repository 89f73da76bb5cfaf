"""The record of a gate on files: a CSV row a picture, written before the next one is touched."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

HEADER = ("path", "decision", "metric", "value", "action", "target")


class PlaceError(ValueError):
    """A target that cannot be written; it ends the run, and nothing is half written."""


class Record:
    """A CSV file that rows are appended to, made with a header when missing.

    metric: the name of the scores. Raises PlaceError, saying what to do, where the file cannot be written.
    """

    def __init__(self, path: Path, metric: str) -> None:
        self.path, self.metric = path, metric
        self._unknown: set[str] | None = None
        try:
            # unbuffered: each row is one write, so that a killed run leaves whole rows
            self._file: IO[bytes] = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
            if self._file.tell() == 0:
                self._write(HEADER)
            elif not _ends_with_newline(path):
                self._file.write(b"\n")
        except OSError as error:
            raise PlaceError(
                f"the record {path} cannot be written ({error.strerror}): choose a passed folder elsewhere."
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def add(self, placed) -> None:
        """Append what became of a picture, a `Placed`; one that was unknown last time too adds no row."""
        value = "" if math.isnan(placed.value) else repr(float(placed.value))
        target = "" if placed.target is None else os.fspath(placed.target)
        try:
            if self._stands_as_unknown(placed):
                return
            self._write((os.fspath(placed.path), placed.decision, self.metric, value, placed.action, target))
        except OSError as error:
            raise PlaceError(
                f"the record {self.path} cannot be written ({error.strerror}): make room and run "
                "the command again; pictures placed already are recognised."
            ) from None

    def _stands_as_unknown(self, placed) -> bool:
        """Tell whether a picture's last row says unknown already, and keep track of the one to come."""
        path = os.fspath(placed.path)
        if placed.decision == "unknown":
            if self._unknown is None:  # read only when needed: most records hold none
                self._unknown = _unknown_paths(self.path, self.metric)
            if path in self._unknown:
                return True
            self._unknown.add(path)
        elif self._unknown is not None:
            self._unknown.discard(path)
        return False

    def _write(self, row: tuple[str, ...]) -> None:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(row)
        self._file.write(line.getvalue().encode("utf-8", "surrogateescape"))


def read_record(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a record, as text by column."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield from csv.DictReader(file)


def _unknown_paths(path: Path, metric: str) -> set[str]:
    """Return the pictures whose last row for this metric says unknown."""
    last: dict[str, bool] = {}
    # a torn row may swallow what follows it; all that can come of that is a row that stands there twice
    with contextlib.suppress(csv.Error):
        for row in read_record(path):
            if row.get("path") and row.get("metric") == metric:
                last[row["path"]] = row.get("decision") == "unknown"
    return {name for name, unknown in last.items() if unknown}


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as reader:
        reader.seek(-1, os.SEEK_END)
        return reader.read(1) == b"\n"
