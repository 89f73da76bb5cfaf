"""The audit log where things go wrong for real: killed writers, full disks, sealed folders."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realism_core.gate.audit import AuditError, AuditLog, read, verify
from tests.core.audit_logs import (
    anchor,
    assert_whole,
    fresh,
    hold,
    keep_writing,
    leave_unfinished,
    open_to_all,
    processes,
    raw,
    record,
    rows,
    snapshot,
    tampering,
    without_rights,
    write_some,
    write_with_limit,
)

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def child(target, *args, pipe: bool = True, **options) -> Iterator[tuple]:
    """Run a function in a process of its own; yields it and our end of the pipe to it."""
    context = processes()
    ours, theirs = context.Pipe()
    process = context.Process(
        target=target, args=(*args, theirs) if pipe else args, kwargs=options, daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        ours.close()


def received(ours) -> list:
    """Everything a dead process had sent."""
    found = []
    with contextlib.suppress(EOFError):
        while True:
            found.append(ours.recv())
    return found


def logged(path: Path) -> list[tuple]:
    return [(entry.parsed["by"], entry.parsed["number"]) for entry in read(path) if "by" in entry.parsed]


def kill_a_writer(path: Path, name: str, delay: float, at_work: bool = False) -> list[tuple]:
    """Start a writer and kill it after a delay; returns what it was told is logged.

    at_work: count the delay from its first entry, not from when it opens the log.
    """
    with child(keep_writing, path, name=name) as (process, ours):
        assert ours.recv() == "up"
        batches = [ours.recv()] if at_work else []
        time.sleep(delay)
        process.kill()
        process.join()
        return [entry for batch in (*batches, *received(ours)) for entry in batch]


def assert_kept(path: Path, told: list[tuple]) -> None:
    """Check after a kill: all that was told is there, in order, and at most one batch that was not."""
    verdict = verify(path)
    assert verdict.problems == () and len(verdict.notes) <= 1
    found = logged(path)
    kept = [entry for entry in found if entry in set(told)]
    assert kept == told
    assert len(found) - len(told) <= 3


def test_twenty_kills_of_a_writer_lose_nothing_that_was_told_to_be_logged(tmp_path: Path) -> None:
    path, dice = tmp_path / "audit.sqlite", random.Random(20)
    told: list[tuple] = []
    for kill in range(20):
        told += kill_a_writer(path, f"writer {kill}", dice.uniform(0.0, 0.06), at_work=kill % 3 > 0)
        if not path.exists():
            assert not told
            continue
        assert_kept(path, told)
        untold = [entry for entry in logged(path) if entry not in set(told)]
        with AuditLog(path) as log:
            log.append([{"by": "after", "number": kill}])
        assert_whole(path)
        told = logged(path)
        assert told[-1] == ("after", kill) and set(untold) <= set(told)
    assert len(told) > 60


def test_kills_while_the_log_is_made_leave_it_whole_or_not_there(tmp_path: Path) -> None:
    dice = random.Random(8)
    for kill in range(12):
        path = tmp_path / str(kill) / "audit.sqlite"
        told = kill_a_writer(path, f"writer {kill}", dice.uniform(0.0, 0.012))
        if path.exists():
            assert_kept(path, told)
        else:
            assert not told
        with AuditLog(path) as log:
            log.append([record(1)])
        assert_whole(path)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_that_write_at_once_lose_nothing(tmp_path: Path, count: int) -> None:
    path, context, batches = tmp_path / "new" / "audit.sqlite", processes(), 25
    barrier = context.Barrier(count)
    writers = [
        context.Process(target=write_some, args=(path, str(n), batches, barrier)) for n in range(count)
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert verify(path).problems == ()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * count
    found = logged(path)
    each = sum(1 + batch % 3 for batch in range(batches))
    for name in map(str, range(count)):
        assert [number for by, number in found if by == name] == list(range(each))
    assert len(found) == count * each
    assert_whole(path)
    assert sorted(snapshot(path.parent)) == ["audit.anchor", "audit.sqlite"]


def test_a_log_held_by_another_program_says_so_after_the_wait(tmp_path: Path) -> None:
    path = fresh(tmp_path, 2)
    with AuditLog(path, timeout=0.3) as log, child(hold, path) as (_, ours):
        assert ours.recv() == "held"
        started = time.monotonic()
        with pytest.raises(AuditError, match=re.escape(str(path)) + " is held by another program"):
            log.append([record(3)])
        assert 0.25 < time.monotonic() - started < 10
        with pytest.raises(AuditError, match="is held by another program"):
            AuditLog(path, timeout=0.1)
        assert verify(path).entries == 2
        ours.send("go on")
        log_again_until_free(log)
    assert_whole(path)
    assert len(rows(path)) == 3


def log_again_until_free(log: AuditLog) -> None:
    for _ in range(50):
        with contextlib.suppress(AuditError):
            return log.append([record(3)])
    raise AssertionError("the log stayed held")


# no room


def test_no_room_for_files_to_grow_is_said_and_it_goes_on_with_room(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    path = tmp_path / "audit.sqlite"
    with child(write_with_limit, path) as (_, ours):
        kept, error, problems = ours.recv()
        assert ours.recv() == "went on"
    assert str(path) in error and "make room" in error and problems == ()
    found = [entry.parsed for entry in read(path)]
    assert [entry["number"] for entry in found if "number" in entry] == list(range(kept))
    assert len(found) == kept + 2 and kept > 3
    assert_whole(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here; the test with a limit on file sizes runs instead")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Use up a disk, but for some bytes."""
    ballast = disk / "ballast"
    with open(ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    if leave:
        os.truncate(ballast, ballast.stat().st_size - leave)
    return ballast


def test_a_full_disk_is_said_and_it_goes_on_with_room(small_disk: Path) -> None:
    path = fresh(small_disk, 3)
    with AuditLog(path) as log:
        log.append([record(4)])
        for leave in (0, 4096, 20_000):
            count = len(rows(path))
            ballast = fill(small_disk, leave)
            with pytest.raises(AuditError, match="make room"):
                for _ in range(200):
                    log.append([{"text": "x" * 3000}])
            assert verify(path).problems == ()
            ballast.unlink()
            log.append([record(5)])
            assert_whole(path)
            assert len(rows(path)) > count
    assert_whole(path)


def test_a_full_disk_takes_no_new_log_and_leaves_nothing_torn(small_disk: Path) -> None:
    for leave in (0, 4096, 12_288, 20_480):
        ballast = fill(small_disk, leave)
        with pytest.raises(AuditError, match="make room"):
            AuditLog(small_disk / "logs" / "audit.sqlite")
        ballast.unlink()
        assert not list(small_disk.rglob("*.part*"))
        if (small_disk / "logs" / "audit.sqlite").exists():  # an empty log had room, entries had none
            assert_whole(small_disk / "logs" / "audit.sqlite")
    assert_whole(fresh(small_disk / "logs", 2))


def test_an_anchor_without_room_is_said_and_mended_by_the_next_entry(small_disk: Path) -> None:
    path = fresh(small_disk, 3)
    with AuditLog(path) as log:
        log.append([{"text": "x" * 60_000}])
        # the -wal file starts anew, so that entries fit and the anchor does not
        with raw(path) as connection:
            assert connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0] == 0
        ballast = fill(small_disk)
        with pytest.raises(
            AuditError, match=r"entries are in the audit log .* anchor .* is behind .* mends it"
        ):
            log.append([record(5)])
        verdict = verify(path)
        assert verdict.entries == 5 and verdict.problems == () and len(verdict.notes) == 1
        ballast.unlink()
        log.append([record(6)])
    assert_whole(path)
    assert len(rows(path)) == 6


def test_an_anchor_that_cannot_be_replaced_is_said_and_mended(tmp_path: Path) -> None:
    path = fresh(tmp_path, 2)
    obstacle = tmp_path / "audit.anchor.part"
    obstacle.mkdir()
    with AuditLog(path) as log:
        with pytest.raises(AuditError, match="entries are in the audit log"):
            log.append([record(3)])
        assert verify(path).intact and anchor(path)["seq"] == 2
        obstacle.rmdir()
        log.append([record(4)])
    assert_whole(path)


# no rights


def test_where_nothing_may_be_written_logs_can_be_checked_and_writing_is_refused() -> None:
    with open_to_all() as folder:
        (folder / "elsewhere").mkdir()
        path = fresh(folder / "sealed", 3)
        before = snapshot(path.parent)
        path.parent.chmod(0o555)
        path.chmod(0o444)
        with child(without_rights, path, folder / "elsewhere") as (_, ours):
            verdict, error = ours.recv()
        assert (verdict.entries, verdict.problems) == (3, ())
        assert str(path) in error and "read-only" in error
        assert snapshot(path.parent) == before
        path.parent.chmod(0o755)


def test_a_sealed_folder_takes_no_new_log() -> None:
    with open_to_all() as folder:
        (folder / "elsewhere").mkdir()
        (folder / "sealed").mkdir(mode=0o555)
        path = folder / "sealed" / "audit.sqlite"
        with child(without_rights, path, folder / "elsewhere") as (_, ours):
            unread, error = ours.recv()
        assert "there is no audit log" in unread
        assert str(path) in error and "another place" in error
        assert list((folder / "sealed").iterdir()) == []


def test_entries_that_wait_in_the_wal_of_a_sealed_folder_are_read_or_it_is_said_how_to() -> None:
    with open_to_all() as folder:
        (folder / "elsewhere").mkdir()
        path = folder / "sealed" / "audit.sqlite"
        with child(leave_unfinished, path, 3, pipe=False) as (process, _):
            process.join()
        Path(f"{path}-shm").unlink()
        path.parent.chmod(0o555)
        with child(without_rights, path, folder / "elsewhere") as (_, ours):
            said, error = ours.recv()
        assert "audit.sqlite-wal" in str(said) and "into a folder that can be written" in str(said)
        assert "read-only" in error
        path.parent.chmod(0o755)
        assert_whole(path)


# files that are none of ours, or not what they were


def newer(path: Path) -> None:
    fresh(path.parent, 2)
    with raw(path) as connection:
        connection.execute("PRAGMA user_version = 2")


def newer_beside_its_writer(path: Path) -> None:
    newer(path)
    path.with_suffix(".anchor").unlink()


def foreign(path: Path) -> None:
    with raw(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE bookmarks (x)")


def cut(path: Path) -> None:
    fresh(path.parent, 40)
    os.truncate(path, path.stat().st_size // 8192 * 4096)


def half_a_page(path: Path) -> None:
    fresh(path.parent, 3)
    os.truncate(path, 2000)


def overwritten(path: Path) -> None:
    fresh(path.parent, 40)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (newer, "is of version 2, .*update Realism Kit. Nothing was changed"),
        (newer_beside_its_writer, "update Realism Kit"),
        (foreign, "is a database of another program"),
        (
            lambda path: path.write_bytes(b"\x89PNG" + bytes(range(256)) * 100),
            "is damaged, or no audit log",
        ),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + b"\1" * 5000), "is damaged, or no audit log"),
        (lambda path: path.write_text("time,decision\n"), "is damaged, or no audit log"),
        (lambda path: path.write_bytes(b""), "is empty and no audit log"),
        (lambda path: path.mkdir(), "is a folder, no audit log"),
        (cut, "is damaged, or no audit log"),
        (half_a_page, "is damaged, or no audit log"),
        (overwritten, "is damaged, or no audit log"),
    ],
)
def test_files_that_are_no_log_are_refused_by_name_and_left_alone(tmp_path: Path, make, words: str) -> None:
    path = tmp_path / "audit.sqlite"
    make(path)
    before = snapshot(tmp_path)
    for action in (AuditLog, verify, lambda path: list(read(path))):
        with pytest.raises(AuditError, match=words) as caught:
            action(path)
        assert str(path) in str(caught.value)
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before


def test_a_log_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    for action in (verify, lambda path: list(read(path))):
        with pytest.raises(AuditError, match="there is no audit log"):
            action(tmp_path / "audit.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_a_log_taken_away_is_not_begun_anew_while_its_anchor_is_there(tmp_path: Path) -> None:
    path = fresh(tmp_path, 2)
    with AuditLog(path) as log:
        path.rename(tmp_path / "away.sqlite")
        for name in ("-wal", "-shm"):
            Path(f"{path}{name}").unlink()
        with pytest.raises(AuditError, match="is gone, but .*audit.anchor of it is left"):
            log.append([record(3)])
        assert not path.exists()
        (tmp_path / "away.sqlite").rename(path)
        log.append([record(3)])
        assert_whole(path)
        path.unlink()
        path.with_suffix(".anchor").unlink()
        for name in ("-wal", "-shm"):
            Path(f"{path}{name}").unlink(missing_ok=True)
        log.append([record(1)])  # both gone together: a new log
    assert_whole(path)
    assert len(rows(path)) == 1


def test_an_older_copy_put_in_its_place_is_found_and_not_written_to(tmp_path: Path) -> None:
    path = fresh(tmp_path, 2)
    shutil.copy(path, tmp_path / "copy")
    with AuditLog(path) as log:
        log.append([record(3)])
    shutil.copy(tmp_path / "copy", tmp_path / "copy2")
    os.replace(tmp_path / "copy2", path)
    assert "the log ends at entry 2" in verify(path).problems[0]
    with pytest.raises(AuditError, match="ends at entry 2, but .* knows of entry 3"):
        AuditLog(path)
    assert len(rows(path)) == 2


def test_entries_lost_with_the_wal_of_a_killed_writer_are_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    with child(leave_unfinished, path, 5, pipe=False) as (process, _):
        process.join()
    wal = Path(f"{path}-wal")
    Path(f"{path}-shm").unlink()
    content = wal.read_bytes()
    wal.write_bytes(content[: len(content) * 3 // 5])
    assert "its tail was cut off" in verify(path).problems[0]
    wal.write_bytes(content)
    assert verify(path).entries == 5 and verify(path).intact
    wal.unlink()
    assert "the log ends at entry 0" in verify(path).problems[0]


def test_an_interrupt_while_rows_are_written_leaves_all_or_nothing(tmp_path: Path) -> None:
    path = fresh(tmp_path, 2)

    class Interrupting(dict):
        def __iter__(self):
            raise KeyboardInterrupt

    with AuditLog(path) as log:
        with pytest.raises(KeyboardInterrupt):
            log.append([record(3), Interrupting(a=1)])
        with tampering(path) as connection:  # a trigger that fails in the middle of a batch
            connection.execute(
                "CREATE TRIGGER entries_x BEFORE INSERT ON entries WHEN NEW.seq = 5 "
                "BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        with pytest.raises(AuditError, match="cannot be used: no"):
            log.append([record(number) for number in range(3, 9)])
        with raw(path) as connection:
            connection.execute("DROP TRIGGER entries_x")
        assert len(rows(path)) == 2
        log.append([record(3)])
    assert_whole(path)


FORKED = """
import os, sys
from realism_core.gate.audit import AuditError, AuditLog
log = AuditLog(sys.argv[1])
log.append([{"by": "parent"}])
if os.fork() == 0:
    try:
        log.append([{"by": "child"}])
    except AuditError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
log.append([{"by": "parent"}])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_to_open_the_log_itself(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", FORKED, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "was opened before this process was forked off" in done.stdout
    assert [entry.parsed["by"] for entry in read(path)] == ["parent", "parent"]
    assert_whole(path)


def test_a_damaged_page_in_the_middle_says_how_far_it_can_be_read(tmp_path: Path) -> None:
    path = fresh(tmp_path)
    with AuditLog(path) as log:
        log.append([record(number) for number in range(200)])
    with sqlite3.connect(path) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    content = bytearray(path.read_bytes())
    content[-3 * size : -2 * size] = b"\xff" * size
    path.write_bytes(content)
    with pytest.raises(AuditError, match=r"is damaged.* Entry [1-9]\d* was the last to be read\.$"):
        verify(path)


def test_a_log_killed_while_its_wal_was_moved_into_it_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    with child(leave_unfinished, path, 60, pipe=False) as (process, _):
        process.join()
    wal = Path(f"{path}-wal")
    content = wal.read_bytes()
    with raw(path) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (60,)
    assert not wal.exists()  # the last to close it moved everything
    whole = path.stat().st_size
    for pages in (1, 2, 3):
        os.truncate(path, whole - pages * 4096)
        with pytest.raises(AuditError, match="is damaged"):
            verify(path)
        wal.write_bytes(content)
        assert verify(path).entries == 60 and verify(path).intact
        with AuditLog(path) as log:
            log.append([record(0)] if pages == 3 else [])
        assert path.stat().st_size >= whole
    assert_whole(path)
