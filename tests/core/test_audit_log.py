"""The audit log: what it keeps, and that every change made behind it is found."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.gate.audit import AuditError, AuditLog, read, verify
from realism_core.gate.audit.chain import canonical
from tests.core.audit_logs import (
    anchor,
    assert_whole,
    chained,
    fresh,
    raw,
    record,
    reference_hash,
    rows,
    snapshot,
    tampering,
)

ROOT = Path(__file__).resolve().parents[2]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**40, 10**41) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.dictionaries(TEXTS, VALUES, max_size=5)


def expected(value: object) -> object:
    """What JSON makes of a value: no NaN, no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: expected(part) for key, part in value.items()}
    return [expected(part) for part in value] if isinstance(value, list) else value


@given(batches=st.lists(st.lists(RECORDS, max_size=4), max_size=4))
@settings(max_examples=25, deadline=None)
def test_every_record_comes_back_and_the_chain_is_that_of_the_reference(tmp_path_factory, batches) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.sqlite"
    logged = 0
    with AuditLog(path) as log:
        for batch in batches:
            log.append(batch)
            logged += len(batch)
            assert anchor(path)["seq"] == logged
    found = list(read(path))
    assert [repr(entry.parsed) for entry in found] == [
        repr(json.loads(json.dumps(expected(one), sort_keys=True))) for batch in batches for one in batch
    ]
    for entry, row in zip(found, rows(path), strict=True):
        assert (entry.seq, entry.time, entry.body, entry.previous, entry.hash) == row
        text = json.dumps(expected(entry.parsed), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert entry.body == text
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.time)
    assert_whole(path)


def test_names_that_are_no_utf8_and_sentences_of_every_script(tmp_path: Path) -> None:
    texts = ["\udcff.png", "日本語 العربية 👩‍👩‍👧 e\u0301", "a\nb\0c\u2028\x1b[31m", '"\\', "\ud83d x"]
    with AuditLog(tmp_path / "audit.sqlite") as log:
        log.append([{"file": text, text: 1} for text in texts])
    assert [entry.parsed for entry in read(tmp_path / "audit.sqlite")] == [
        {"file": text, text: 1} for text in texts
    ]
    assert_whole(tmp_path / "audit.sqlite")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.zeros(1, 8, 8, 3), "record.picture is torch.Tensor"),
        (np.zeros(3), "record.picture is numpy.ndarray"),
        (np.float32(1), "numpy.float32"),
        (b"\x89PNG", "record.picture is bytes"),
        (bytearray(4), "is bytearray"),
        ([{"deep": {1, 2}}], r"record.picture\[0\].deep is set"),
        (Path("a.png"), "Path"),
        ({1: 2}, "has the key 1"),
        (1j, "is complex"),
        ([10**5000], "as JSON"),
    ],
)
def test_pictures_and_what_is_no_json_are_refused_and_nothing_is_logged(tmp_path, value, words) -> None:
    with AuditLog(tmp_path / "audit.sqlite") as log:
        with pytest.raises(AuditError, match=words) as caught:
            log.append([record(1), {"picture": value}])
        assert "Traceback" not in str(caught.value) and str(caught.value).endswith(".")
        for wrong in ([record(1), "text"], record(1), [None]):
            with pytest.raises(AuditError, match="is a dictionary"):
                log.append(wrong)
        endless: dict = {}
        endless["again"] = endless
        with pytest.raises(AuditError, match="holds itself"):
            log.append([endless])
        log.append([])
        log.append([record(1)])
    assert len(rows(tmp_path / "audit.sqlite")) == 1


def test_the_order_of_keys_does_not_matter() -> None:
    assert canonical({"b": (1, 2.0), "a": None}) == '{"a":null,"b":[1,2.0]}'
    assert canonical({"a": None, "b": [1, 2.0]}) == '{"a":null,"b":[1,2.0]}'


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = '{}' WHERE seq = 2",
        "UPDATE entries SET hash = hash",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE seq = 5",
        "INSERT OR REPLACE INTO entries VALUES (5, 'x', 'x', 'x', 'x')",
        "REPLACE INTO entries VALUES (1, 'x', 'x', 'x', 'x')",
        "INSERT INTO entries VALUES (7, 'x', 'x', 'x', 'x')",
    ],
)
def test_the_database_itself_refuses_changes(tmp_path: Path, statement: str) -> None:
    path = fresh(tmp_path, 5)
    before = rows(path)
    with raw(path) as connection, pytest.raises(sqlite3.IntegrityError, match="audit log"):
        connection.execute(statement)
    assert rows(path) == before
    assert_whole(path)


def test_any_single_changed_byte_of_an_entry_is_found(tmp_path: Path) -> None:
    path = fresh(tmp_path, 3)
    original = {row[0]: row for row in rows(path)}
    dice = random.Random(4)
    tried = 0
    with raw(path) as connection:
        for name in ("entries_no_update", "entries_no_delete", "entries_in_order"):
            connection.execute(f"DROP TRIGGER {name}")
        for column, at in (("time", 1), ("body", 2), ("previous", 3), ("hash", 4)):
            content = original[2][at].encode()
            for position in range(len(content)):
                changed = bytearray(content)
                changed[position] ^= dice.randrange(1, 256)
                change = f"UPDATE entries SET {column} = CAST(? AS TEXT) WHERE seq = 2"
                connection.execute(change, (bytes(changed),))
                problems = verify(path).problems[3:]  # the missing triggers come first
                assert any("entry 2" in problem for problem in problems), (column, position, problems)
                tried += 1
            connection.execute(change, (content,))
        assert verify(path).problems[3:] == ()
    assert tried > 350


def test_a_byte_of_a_record_changed_in_the_file_itself_is_found(tmp_path: Path) -> None:
    path = fresh(tmp_path, 4)
    content = path.read_bytes()
    for seq, _, body, *_ in rows(path):
        start = content.index(body.encode())
        for position in range(start, start + len(body.encode()), 7):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            assert f"entry {seq} was edited" in verify(path).problems[0]
    path.write_bytes(content)
    assert_whole(path)


def change_rows(path: Path, change) -> None:
    """Write the rows anew after a change."""
    found = change(rows(path))
    with tampering(path) as connection:
        connection.execute("DELETE FROM entries")
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", found)


def swapped(found: list, one: int, other: int, whole: bool) -> list:
    """Exchange two rows: all but their numbers, or only what was logged."""
    start = 1
    stop = 5 if whole else 3
    first, second = list(found[one]), list(found[other])
    first[start:stop], second[start:stop] = second[start:stop], first[start:stop]
    result = list(found)
    result[one], result[other] = tuple(first), tuple(second)
    return result


def rehashed(found: list) -> list:
    """Change an entry and calculate its own hash anew, not those behind it."""
    seq, time, _, previous, _ = found[3]
    row = (seq, time, '{"nice":1}', previous, reference_hash(previous, seq, time, '{"nice":1}'))
    return [*found[:3], row, *found[4:]]


def inserted(found: list) -> list:
    """Put an entry before the fourth, the others one further."""
    moved = [(row[0] + 1, *row[1:]) for row in found[3:]]
    return [*found[:3], (4, found[3][1], "{}", found[2][4], "0" * 64), *moved]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: [*found[:3], *found[4:]], "entry 4 is missing"),
        (lambda found: [*found[:3], *found[7:]], "entries 4 to 7 are missing"),
        (lambda found: found[1:], "entry 1 is missing"),
        (lambda found: [(row[0] - 3, *row[1:]) for row in found[3:]], "entry 1 does not follow"),
        (lambda found: swapped(found, 3, 4, True), "entry 4 does not follow"),
        (lambda found: swapped(found, 3, 8, True), "entry 4 does not follow"),
        (lambda found: swapped(found, 3, 4, False), "entry 4 was edited"),
        (inserted, "entry 4 was edited"),
        (lambda found: [(0, *found[0][1:]), *found], "entry 0 was inserted"),
        (rehashed, "entry 5 does not follow"),
        (lambda found: found[:-1], "the log ends at entry 9, but the anchor .*anchor knows of entry 10"),
        (lambda found: found[:4], "the log ends at entry 4"),
        (lambda found: [], "the log ends at entry 0"),
        (lambda found: chained(rehashed(found)), "entry 10 is not the one"),
    ],
)  # fmt: skip
def test_rows_changed_behind_the_triggers_are_found_and_nothing_is_logged_over_it(
    tmp_path, change, words
) -> None:
    path = fresh(tmp_path, 10)
    noted = verify(path).head
    change_rows(path, change)
    verdict = verify(path)
    assert not verdict.intact
    assert re.search(words, verdict.problems[0]), verdict.problems
    assert not verify(path, expect=noted).intact
    before = rows(path)
    if before[-1:] != [] and before[-1][4] == noted[3:]:
        return  # the end of the chain is as it was, and verify alone looks further
    with pytest.raises(AuditError, match="was changed"), AuditLog(path) as log:
        log.append([record(11)])
    assert rows(path) == before and not verify(path).intact


def test_an_insertion_that_keeps_the_numbers_in_a_rebuilt_table_is_found(tmp_path: Path) -> None:
    path = fresh(tmp_path, 4)
    with raw(path) as connection:
        found = connection.execute("SELECT * FROM entries").fetchall()
        connection.execute("DROP TABLE entries")
        connection.execute("CREATE TABLE entries (seq, time, body, previous, hash)")
        connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", [*found, found[1]])
    problems = verify(path).problems
    assert "the table entries is not as it was made: somebody changed it" in problems
    assert any("entry 2 was inserted" in problem for problem in problems)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TRIGGER entries_no_update", "the trigger entries_no_update is missing"),
        ("DROP TRIGGER entries_no_delete", "the trigger entries_no_delete is missing"),
        ("DROP TRIGGER entries_in_order", "the trigger entries_in_order is missing"),
        ("DROP TABLE files", "the table files is missing"),
        ("DROP TABLE entries", "the table entries is missing"),
        ("CREATE TRIGGER x AFTER INSERT ON entries BEGIN DELETE FROM files; END", "'x' in the database"),
        ("ALTER TABLE entries ADD COLUMN more TEXT", "the table entries is not as it was made"),
    ],
)
def test_a_changed_schema_is_a_problem(tmp_path: Path, statement: str, words: str) -> None:
    path = fresh(tmp_path, 2)
    with raw(path) as connection:
        connection.execute(statement)
    assert any(words in problem for problem in verify(path).problems)


def test_a_log_written_anew_with_its_anchor_is_found_only_by_what_was_noted_elsewhere(
    tmp_path: Path,
) -> None:
    path = fresh(tmp_path, 6)
    noted = verify(path).head
    change_rows(path, lambda found: chained([(1, found[0][1], "{}", "", ""), *found[1:]]))
    data = anchor(path)
    path.with_suffix(".anchor").write_text(json.dumps({**data, "hash": rows(path)[-1][4]}))
    assert verify(path).intact  # as docs/audit.md says: the chain has no secret
    assert "entry 6 is not the one that what was noted elsewhere" in verify(path, noted).problems[0]
    assert "its tail was cut off" in verify(path, "7:" + "a" * 64).problems[0]
    assert verify(path, "0:" + "0" * 64).intact and not verify(path, "0:" + "1" * 64).intact
    for wrong in ("6", "six:" + "a" * 64, "6:abc", ":", "-1:" + "a" * 64, noted + "0"):
        with pytest.raises(AuditError, match="is not SEQ:HASH"):
            verify(path, wrong)


def anchored(seq: object, hash: str, version: int = 1) -> bytes:
    data = {"format": "realism-audit-anchor", "version": version, "seq": seq, "hash": hash}
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is missing"),
        (b"", "holds no anchor"),
        (b"{", "holds no anchor"),
        (b"\xff\xfe", "holds no anchor"),
        pytest.param(b"[" * 100_000, "holds no anchor", id="deep"),
        (anchored(True, "0" * 64), "holds no anchor"),
        (anchored(-1, "0" * 64), "holds no anchor"),
        (anchored(3, "A" * 64), "holds no anchor"),
        (anchored(3, "a" * 64, version=2), "newer version: update Realism Kit"),
        (anchored(2, "a" * 64), "is not the one"),
        (anchored(9, "a" * 64), "tail was cut off"),
    ],
)
def test_an_anchor_that_is_gone_or_wrong_is_a_problem_and_stops_the_log(tmp_path, content, words) -> None:
    path = fresh(tmp_path, 3)
    beside = path.with_suffix(".anchor")
    before = rows(path)
    with AuditLog(path) as log:
        beside.unlink() if content is None else beside.write_bytes(content)
        assert any(words in problem for problem in verify(path).problems)
        with pytest.raises(AuditError, match=r"audit\.anchor"):
            log.append([record(4)])
    with pytest.raises(AuditError, match=r"audit\.anchor"):
        AuditLog(path)
    assert rows(path) == before
    assert content is None or beside.read_bytes() == content


def test_an_anchor_behind_is_a_note_and_the_next_entry_mends_it(tmp_path: Path) -> None:
    path = fresh(tmp_path, 3)
    old = path.with_suffix(".anchor").read_bytes()
    with AuditLog(path) as log:
        log.append([record(4), record(5)])
    path.with_suffix(".anchor").write_bytes(old)
    verdict = verify(path)
    assert verdict.intact and "the anchor is at entry 3, the log at 5" in verdict.notes[0]
    with AuditLog(path) as log:
        log.append([record(6)])
    assert_whole(path)


def test_of_many_problems_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    path = fresh(tmp_path)
    with AuditLog(path) as log:
        log.append([record(number) for number in range(200)])
    with tampering(path) as connection:
        connection.execute("UPDATE entries SET body = '{}'")
    problems = verify(path).problems
    assert len(problems) == 21 and problems[-1] == "180 more problems like these"
    assert problems[0].startswith("entry 1 was edited")


def test_checking_and_reading_change_nothing(tmp_path: Path) -> None:
    path = fresh(tmp_path, 5)
    before, written = snapshot(tmp_path), path.stat().st_mtime_ns
    assert verify(path).intact and len(list(read(path))) == 5
    assert next(read(path, newest_first=True)).seq == 5
    assert snapshot(tmp_path) == before
    assert path.stat().st_mtime_ns == written


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / str(count) / "audit.sqlite"
        with AuditLog(path) as log:
            log.append([{"n": number} for number in range(count)])
        verify(path)
        tracemalloc.start()
        try:
            assert verify(path).entries == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(100), peak(6000)
    assert many < few + 100_000


def test_threads_share_one_log(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "audit.sqlite") as log:

        def work(name: int) -> None:
            for number in range(10):
                log.append([{"by": name, "number": number}])

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [tuple(entry.parsed.values()) for entry in read(tmp_path / "audit.sqlite")]
    assert sorted(found) == [(by, number) for by in range(4) for number in range(10)]
    assert_whole(tmp_path / "audit.sqlite")


def test_a_closed_log_says_so_and_links_lead_to_one_anchor(tmp_path: Path) -> None:
    path = fresh(tmp_path / "ü #?% x", 1)
    (tmp_path / "link.sqlite").symlink_to(path)
    log = AuditLog(tmp_path / "link.sqlite")
    log.append([record(2)])
    log.close()
    log.close()
    with pytest.raises(AuditError, match="is closed"):
        log.append([record(3)])
    assert_whole(path)
    assert not list(tmp_path.glob("*.anchor"))
    assert sorted(snapshot(path.parent)) == ["audit.anchor", "audit.sqlite"]
    fresh(tmp_path, 2, "one.db"), fresh(tmp_path, 1, "one.sqlite")
    assert verify(tmp_path / "one.db").intact and verify(tmp_path / "one.sqlite").intact


def test_a_file_is_hashed_once_and_again_after_it_changed(tmp_path: Path) -> None:
    model = tmp_path / "model \udcff.safetensors"
    content = np.random.default_rng(0).bytes(2_500_000)
    model.write_bytes(content)
    long_ago = time.time() - 100
    os.utime(model, (long_ago, long_ago))
    steps: list[int] = []
    with AuditLog(tmp_path / "audit.sqlite") as log:
        assert log.file_sha256(model, steps.append) == hashlib.sha256(content).hexdigest()
        assert steps == [1 << 20, 2 << 20, 2_500_000]
        assert log.file_sha256(str(model), steps.append) == hashlib.sha256(content).hexdigest()
        assert len(steps) == 3
        for changed, moment in ((content[::-1], long_ago + 1), (content + b"x", long_ago + 1)):
            model.write_bytes(changed)
            os.utime(model, (moment, moment))
            assert log.file_sha256(model) == hashlib.sha256(changed).hexdigest()
        model.write_bytes(b"just written")
        assert [log.file_sha256(model, steps.append) for _ in range(2)] == [
            hashlib.sha256(b"just written").hexdigest()
        ] * 2
        assert len(steps) == 5  # a file that may still change within its time stamp is read again
        with pytest.raises(KeyboardInterrupt):
            log.file_sha256(model, lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(AuditError, match="changed while its hash"):
            log.file_sha256(model, lambda _: model.write_bytes(b"other bytes"))
        for missing in (tmp_path / "none.safetensors", tmp_path):
            with pytest.raises(AuditError, match="cannot be read for its hash"):
                log.file_sha256(missing)
        log.append([record(1)])
    assert_whole(tmp_path / "audit.sqlite")


def test_nothing_pays_for_the_database_before_a_log_is_opened() -> None:
    code = "import sys, realism_core.cli, realism_core.gate.audit; print('sqlalchemy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
