"""Entries a second of the audit log, beside the same rows in plain SQLite and in a file of JSON lines."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._rounds import in_turn, print_table, spread
from devtools.environment import cache_folder
from realism_core.gate.audit import AuditLog, verify

MANY = 100
VERIFIED = 20_000
HEX = "0123456789abcdef" * 4
RECORD = {
    "kind": "decision", "decision": "passed", "rule": {"name": "threshold", "value": 0.15, "keep": "high"},
    "metric": "typicality", "value": 0.3141592653589793,
    "scores": {f"column_{number}": number / 7 for number in range(30)}, "seeds": [1234567890123],
    "models": [{"name": "model.safetensors", "sha256": HEX}], "workflow": HEX, "prompt": HEX,
    "picture": HEX, "file": "picture_00001_.png", "purpose": "product photographs", "by_hand": False,
    "pack": "0.1.0",
}  # fmt: skip
Append = Callable[[list[dict]], None]


class PlainTable:
    """Rows in SQLite, WAL, synchronous=FULL: as durable as the log, without chain and anchor."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        for line in (
            "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL",
            "CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, time TEXT, body TEXT)",
        ):  # fmt: skip
            self._connection.execute(line)

    def append(self, records: list[dict]) -> None:
        """Add records in one transaction."""
        rows = [(time.time(), json.dumps(record)) for record in records]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO entries (time, body) VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class JsonLines:
    """Lines at the end of a file, brought to disk at each call."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def append(self, records: list[dict]) -> None:
        """Add records in one write."""
        lines = (json.dumps({"time": time.time(), **record}) + "\n" for record in records)
        self._file.write("".join(lines).encode())
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


KINDS = {"audit log": AuditLog, "plain SQLite": PlainTable, "JSON lines": JsonLines}


def write(kind: str, path: str, calls: int, records: int) -> float:
    """Return the seconds that so many calls of append take, each with so many records, warm."""
    with closing(KINDS[kind](Path(path))) as log:
        log.append([RECORD] * records)
        start = time.perf_counter()
        for _ in range(calls):
            log.append([RECORD] * records)
        return time.perf_counter() - start


def writer(kind: str, path: str, calls: int) -> None:
    """Write in step with another process: say "ready", wait for a line, write, print begin and end."""
    with closing(KINDS[kind](Path(path))) as log:
        log.append([RECORD])
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.monotonic()
        for _ in range(calls):
            log.append([RECORD])
        print(start, time.monotonic(), flush=True)


def measure(script: str, repeats: int) -> None:
    """Print entries a second, and how many `verify` reads. script: the file that runs `writer` for us."""
    with TemporaryDirectory(dir=cache_folder(), prefix="bench-audit-") as folder:
        size = len(json.dumps(RECORD))
        print(
            f"\naudit, entries of {size} bytes, {repeats} rounds: entries a second, median (least..most); "
            "all on disk when a call returns"
        )
        ways = {"1 a call": (200, 1), f"{MANY} a call": (10, MANY), "2 processes, 1 a call": (100, 0)}
        columns = []
        for calls, records in ways.values():
            sides = {kind: partial(_rate, script, kind, Path(folder), calls, records) for kind in KINDS}
            columns.append(in_turn(sides, repeats))
        rows = [[kind, *(spread(column[kind], ".0f") for column in columns)] for kind in KINDS]
        print_table(["entries a second", *ways], rows)
        _measure_verify(Path(folder, "verified.sqlite"), repeats)


def _rate(script: str, kind: str, folder: Path, calls: int, records: int, number: int) -> float:
    """Return entries a second; records 0: two processes, one entry a call each."""
    path = str(folder / f"{kind}-{calls}-{records}-{number}.sqlite")
    if records:
        return calls * records / write(kind, path, calls, records)
    return 2 * calls / _two_writers(script, kind, path, calls)


def _two_writers(script: str, kind: str, path: str, calls: int) -> float:
    command = [sys.executable, script, "--writer", kind, path, str(calls)]
    pipe = subprocess.PIPE
    writers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in writers:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"a process that writes the {kind} did not begin")
    for process in writers:
        process.stdin.write("go\n")
        process.stdin.flush()
    spans = [[float(word) for word in process.communicate()[0].split()] for process in writers]
    return max(end for _, end in spans) - min(begin for begin, _ in spans)


def _measure_verify(path: Path, repeats: int) -> None:
    with AuditLog(path) as log:
        for _ in range(VERIFIED // MANY):
            log.append([RECORD] * MANY)
    rates = []
    for number in range(-1, repeats):
        start = time.perf_counter()
        verdict = verify(path)
        seconds = time.perf_counter() - start
        if not verdict.intact or verdict.entries != VERIFIED:
            raise RuntimeError(f"the log of the benchmark is not intact: {verdict.problems}")
        if number >= 0:
            rates.append(VERIFIED / seconds)
    each = _bytes(path) / VERIFIED
    told = spread(rates, ".0f")
    print(f"verify, {VERIFIED} entries of {each:.0f} bytes on disk: {told} entries a second")


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
