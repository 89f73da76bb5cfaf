"""`realism audit`: exit codes, what is printed, and exports that hold every entry with its hashes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from realism_core.cli import main
from realism_core.gate.audit import AuditLog, read
from tests.core.audit_logs import assert_whole, fresh, reference_hash, rows, snapshot, tampering

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Run `realism audit ...` in this process: (exit code, stdout lines, stderr)."""
    monkeypatch.delenv("REALISM_AUDIT_LOG", raising=False)

    def command(*words: object) -> tuple[int, list[str], str]:
        code = main(["audit", *map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out.splitlines(), err

    return command


def test_verify_prints_what_can_be_noted_and_checked_against_later(run, tmp_path: Path) -> None:
    path = fresh(tmp_path, 3)
    first, last = rows(path)[0], rows(path)[-1]
    code, lines, err = run("verify", path)
    assert (code, err) == (0, "")
    assert lines == [f"intact: 3 entries, {first[1]} to {last[1]}", f"head 3:{last[4]}"]
    with AuditLog(path) as log:
        log.append([{"kind": "decision"}])
    assert run("verify", path, "--expect", lines[1].removeprefix("head "))[0] == 0
    code, lines, err = run("verify", path, "--expect", "3:" + "ab" * 32)
    assert code == 1 and lines[0].startswith("CHANGED: 4 entries") and "entry 3 is not the one" in err
    assert run("verify", fresh(tmp_path / "empty"))[:2] == (0, ["intact: 0 entries", f"head 0:{'0' * 64}"])


def test_verify_names_each_change_on_a_line_and_exits_with_1(run, tmp_path: Path) -> None:
    path = fresh(tmp_path, 6)
    with tampering(path) as connection:
        connection.execute("DELETE FROM entries WHERE seq = 3")
        connection.execute("UPDATE entries SET body = replace(body, 'rejected', 'passed') WHERE seq = 6")
    code, lines, err = run("verify", path)
    assert code == 1 and lines[0].startswith("CHANGED: 5 entries")
    assert err.splitlines() == [
        f"realism: {path}: entry 3 is missing: removed, or renumbered.",
        f"realism: {path}: entry 6 was edited: its hash is not that of what it holds.",
    ]


def test_a_note_is_no_change(run, tmp_path: Path) -> None:
    path = fresh(tmp_path, 1)
    anchor = path.with_suffix(".anchor").read_bytes()
    fresh(tmp_path, 1)
    path.with_suffix(".anchor").write_bytes(anchor)
    code, lines, err = run("verify", path)
    assert code == 0 and lines[0].startswith("intact: 2 entries")
    assert err.startswith("realism: note: the anchor is at entry 1, the log at 2")


@pytest.mark.parametrize("action", [["verify"], ["show"], ["export", "-o", "out.csv"]])
def test_what_cannot_be_read_is_a_usage_error(run, tmp_path: Path, monkeypatch, action: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.sqlite").write_text("no log")
    for name, words in (("none.sqlite", "there is no audit log"), ("text.sqlite", "no audit log")):
        code, lines, err = run(*action, name)
        assert (code, lines) == (2, []) and words in err and str(tmp_path / name) in err
    code, _, err = run(*action)
    assert code == 2 and "which log? Name its file, or set REALISM_AUDIT_LOG" in err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["text.sqlite"]


def test_wrong_options_are_usage_errors(run, tmp_path: Path) -> None:
    path = fresh(tmp_path, 1)
    for words in (
        ["verify", path, "--expect", "1"], ["show", path, "--last", "0"], ["show", path, "--last", "x"],
        ["export", path], ["export", path, "-o", tmp_path / "out.txt"], [], ["forge", path],
        ["export", path, "-o", tmp_path / "no folder" / "out.csv"],
    ):  # fmt: skip
        code, lines, err = run(*words)
        assert (code, lines) == (2, []) and err, words


def test_show_prints_a_line_an_entry_for_people(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    path = tmp_path / "audit.sqlite"
    picture = "0123456789abcdef" * 4
    with AuditLog(path) as log:
        log.append(
            [
                {"kind": "decision", "decision": "passed", "metric": "irs", "value": 0.123456,
                 "by_hand": True, "rule": {"rule": "band", "low": 0.1, "high": None}, "picture": picture,
                 "purpose": "advert"},
                {"kind": "decision", "decision": "rejected", "metric": "irs", "value": float("nan"),
                 "rule": "threshold", "picture": picture, "file": "out/ü.png", "purpose": "a\n\x1b[31mb"},
                {"decision": ["odd"], "metric": 1, "value": 10**400}, {}, {"kind": "note"},
            ]
        )  # fmt: skip
    stamp = rows(path)[0][1]
    hour = (int(stamp[11:13]) + 9) % 24
    code, lines, err = run("show", path)
    assert (code, err, len(lines)) == (0, "", 5)
    assert f" {hour:02}:{stamp[14:19]}  " in lines[0]
    assert lines[0].startswith("     1  ")
    assert lines[0].endswith("  passed    irs=0.1235  band low=0.1  by hand  0123456789ab  for: advert")
    assert lines[1].endswith("  rejected  irs=-  threshold  out/ü.png  for: a\\n\\x1b[31mb")
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5"]
    monkeypatch.undo()
    time.tzset()


def test_show_chooses_the_last_ones_and_those_with_a_decision(run, tmp_path: Path) -> None:
    path = fresh(tmp_path, 50)
    assert [int(line.split()[0]) for line in run("show", path)[1]] == list(range(31, 51))
    assert [int(line.split()[0]) for line in run("show", path, "--last", 3)[1]] == [48, 49, 50]
    rejected = run("show", path, "--decision", "rejected", "--last", 4)[1]
    assert [int(line.split()[0]) for line in rejected] == [39, 42, 45, 48]
    found = [json.loads(line) for line in run("show", path, "--json", "--last", 2)[1]]
    assert [one["record"] for one in found] == [entry.parsed for entry in read(path)][-2:]
    code, lines, err = run("show", path, "--decision", "none")
    assert (code, lines) == (0, []) and "no such entry" in err
    assert "the log is empty" in run("show", fresh(tmp_path / "empty"))[2]


def test_exports_hold_every_entry_and_can_be_checked_on_their_own(run, tmp_path: Path) -> None:
    path = fresh(tmp_path, 30)
    code, lines, err = run("export", path, "-o", tmp_path / "all.jsonl")
    assert (code, err) == (0, "") and lines[0] == f"30 entries -> {tmp_path / 'all.jsonl'}"
    assert "holds what the log holds" in lines[1]
    previous = "0" * 64
    texts = (tmp_path / "all.jsonl").read_text("utf-8").splitlines()
    for text, row in zip(texts, rows(path), strict=True):
        found = json.loads(text)
        body = text.partition('"record":')[2][:-1]
        assert reference_hash(previous, found["seq"], found["time"], body) == found["hash"] == row[4]
        assert found["previous"] == previous
        previous = found["hash"]
    assert run("export", path, "-o", tmp_path / "all.csv")[0] == 0
    with open(tmp_path / "all.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [
        (int(row["seq"]), row["time"], row["body"], row["previous"], row["hash"]) for row in table
    ] == rows(path)
    assert [(row["decision"], float(row["value"]), row["file"]) for row in table] == [
        (entry.parsed["decision"], entry.parsed["value"], entry.parsed["file"]) for entry in read(path)
    ]
    assert_whole(path)


def test_an_export_never_overwrites_and_leaves_nothing_half_written(run, tmp_path: Path) -> None:
    path = fresh(tmp_path, 200)
    (tmp_path / "there.csv").write_text("mine")
    code, _, err = run("export", path, "-o", tmp_path / "there.csv")
    assert code == 2 and "is there already" in err and (tmp_path / "there.csv").read_text() == "mine"
    content = path.read_bytes()
    path.write_bytes(
        content[: len(content) - 3 * 4096] + b"\xff" * 4096 + content[len(content) - 2 * 4096 :]
    )
    before = snapshot(tmp_path)
    code, lines, err = run("export", path, "-o", tmp_path / "out.jsonl")
    assert (code, lines) == (2, []) and "is damaged" in err
    assert snapshot(tmp_path) == before


def test_a_damaged_entry_is_shown_and_exported_as_what_it_is(run, tmp_path: Path) -> None:
    path = fresh(tmp_path, 3)
    with tampering(path) as connection:
        connection.execute("UPDATE entries SET body = CAST(x'7bff' AS TEXT), time = 'now' WHERE seq = 2")
    code, lines, _ = run("show", path)
    assert code == 0 and "     2  now  (damaged" in lines[1]
    assert run("export", path, "-o", tmp_path / "out.jsonl")[0] == 0
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8").splitlines()[1])["damaged"] == "{\udcff"
    assert run("export", path, "-o", tmp_path / "out.csv")[0] == 0
    assert run("verify", path)[0] == 1


def test_the_log_is_found_by_the_variable_or_beside_comfyui(run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("REALISM_AUDIT_LOG", str(fresh(tmp_path / "named", 2)))
    assert run("verify")[1][0].startswith("intact: 2 entries")
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "realism"
    pack.mkdir(parents=True)
    shutil.copytree(
        ROOT / "realism_core", pack / "realism_core", ignore=shutil.ignore_patterns("__pycache__")
    )
    fresh(tmp_path / "ComfyUI" / "user" / "realism", 5)
    environment = {key: value for key, value in os.environ.items() if key != "REALISM_AUDIT_LOG"}
    done = subprocess.run(
        [sys.executable, "-m", "realism_core", "audit", "verify"],
        cwd=pack, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("intact: 5 entries"), done.stderr
