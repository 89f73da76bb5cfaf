"""Audit logs as an attacker, another program and an independent reader see them: raw SQLite and hashlib."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from realism_core.gate.audit import AuditError, AuditLog, verify


def fresh(folder: Path, count: int = 0, name: str = "audit.sqlite") -> Path:
    """Make a log, or go on with it, by so many entries; returns its path."""
    with AuditLog(folder / name) as log:
        log.append([record(number) for number in range(1, count + 1)])
    return folder / name


def record(number: int) -> dict:
    """A record like a gate's."""
    return {
        "kind": "decision", "decision": "passed" if number % 3 else "rejected", "metric": "typicality",
        "value": number / 7, "rule": {"rule": "threshold", "value": 0.5, "low": None}, "seeds": [number],
        "picture": hashlib.sha256(b"%d" % number).hexdigest(), "file": f"bild {number} ü😀.png",
        "purpose": "",
    }  # fmt: skip


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The database without the pack: what is done there is committed."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def rows(path: Path) -> list[tuple]:
    """Every entry as (seq, time, body, previous, hash)."""
    with raw(path) as connection:
        query = "SELECT seq, time, body, previous, hash FROM entries ORDER BY seq"
        return connection.execute(query).fetchall()


@contextlib.contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    """Write without the triggers, and put them back as they were, as an attacker would."""
    with raw(path) as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        yield connection
        for _, statement in triggers:
            connection.execute(statement)


def reference_hash(previous: str, seq: int, time: str, body: str) -> str:
    """The hash of an entry as docs/audit.md describes it."""
    sha = hashlib.sha256()
    for part in (previous, "\n", str(seq), "\n", time, "\n", body):
        sha.update(part.encode("utf-8"))
    return sha.hexdigest()


def chained(entries: list[tuple]) -> list[tuple]:
    """The entries with every hash calculated anew, as a patient attacker would."""
    previous, result = "0" * 64, []
    for seq, time, body, *_ in entries:
        own = reference_hash(previous, seq, time, body)
        result.append((seq, time, body, previous, own))
        previous = own
    return result


def anchor(path: Path) -> dict:
    return json.loads(path.with_suffix(".anchor").read_text())


def assert_whole(path: Path, notes: bool = False) -> None:
    """Check a log with the reference: numbers, hashes, anchor; and that `verify` agrees."""
    found = rows(path)
    assert [row[0] for row in found] == list(range(1, len(found) + 1))
    assert chained(found) == found
    verdict = verify(path)
    assert verdict.problems == () and verdict.entries == len(found)
    assert notes or verdict.notes == ()
    head = (len(found), found[-1][4]) if found else (0, "0" * 64)
    assert verdict.head == f"{head[0]}:{head[1]}"
    if not verdict.notes:
        assert (anchor(path)["seq"], anchor(path)["hash"]) == head


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its bytes; only while nothing has a log there open."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


@contextlib.contextmanager
def open_to_all() -> Iterator[Path]:
    """A folder that other users can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="realism-audit-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def processes() -> multiprocessing.context.BaseContext:
    """Real processes that start at once, forked off one that has imported all but opened no log."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.core.audit_logs", "sqlalchemy.dialects.sqlite"])
    return context


# What runs in other processes


def keep_writing(path: Path, pipe, name: str) -> None:
    """Append for ever; tell what stands in the log as soon as append has returned."""
    pipe.send("up")
    number = 0
    with AuditLog(path) as log:
        while True:
            batch = [{"by": name, "number": number + step} for step in range(1 + number % 3)]
            log.append(batch)
            number += len(batch)
            pipe.send([(name, entry["number"]) for entry in batch])


def write_some(path: Path, name: str, batches: int, barrier) -> None:
    """Open the log and append, both at the same moment as the others."""
    barrier.wait(30)
    with AuditLog(path) as log:
        number = 0
        for batch in range(batches):
            log.append([{"by": name, "number": number + step} for step in range(1 + batch % 3)])
            number += 1 + batch % 3


def leave_unfinished(path: Path, count: int) -> None:
    """Append and end without closing: the entries stay in the -wal file."""
    log = AuditLog(path)
    for number in range(count):
        log.append([record(number)])
    os._exit(0)


def hold(path: Path, pipe) -> None:
    """Hold the log until told otherwise."""
    with raw(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        pipe.send("held")
        pipe.recv()


def write_with_limit(path: Path, pipe) -> None:
    """Append until no file may grow any more, then after room was made."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = 0
    with AuditLog(path) as log:
        wal = Path(f"{path}-wal")
        log.append([record(0)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(wal.stat().st_size, 40_000) + 60_000, limits[1]))
        try:
            while kept < 1000:
                log.append([{"number": kept, "text": "x" * 5000}])
                kept += 1
            pipe.send(None)
        except AuditError as error:
            pipe.send((kept, str(error), verify(path).problems))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log.append([record(1)])
    pipe.send("went on")


def without_rights(path: Path, elsewhere: Path, pipe) -> None:
    """Try everything where nothing may be written."""
    fresh(elsewhere, 1)  # imports what is imported late
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    said = []
    for action in (lambda: verify(path), lambda: AuditLog(path).append([record(9)])):
        try:
            said.append(action())
        except AuditError as error:
            said.append(str(error))
    pipe.send(said)
