"""Faults while a gate places files: no file is lost, overwritten or half written, and the fix is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from realism_core.gate import files
from realism_core.gate.files import PART
from realism_core.gate.folders import FolderGate
from realism_core.gate.record import PlaceError, read_record
from realism_core.pictures import PictureError
from tests.core.gated import content, gate, put, scores


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    put(tmp_path / "passed/0.png", b"other")
    scored = scores(tmp_path, 1.0)
    list(gate(tmp_path, mode=mode).place(scored))
    assert content(tmp_path / "passed") == {"0.png": b"other", "0 (2).png": b"picture 0"}


def test_a_name_taken_while_copying_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = scores(tmp_path, 1.0)
    copy = files.verified_copy

    def meanwhile(source: Path, *rest) -> str:
        if not (tmp_path / "passed/0.png").exists():
            put(tmp_path / "passed/0.png", b"of another program")
        return copy(source, *rest)

    monkeypatch.setattr("realism_core.gate.folders.verified_copy", meanwhile)
    list(gate(tmp_path, mode="move").place(scored))
    assert content(tmp_path / "passed") == {"0.png": b"of another program", "0 (2).png": b"picture 0"}


def test_a_copy_that_does_not_verify_leaves_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = scores(tmp_path, 1.0, 0.9)
    sync = os.fsync

    def damage(handle: int) -> None:
        """Turn one byte of the first copy after it was written, as a bad disk does."""
        sync(handle)
        if (part := tmp_path / f"passed/0.png{PART}").exists():
            part.write_bytes(b"pictura 0")

    monkeypatch.setattr(files.os, "fsync", damage)
    placed = list(gate(tmp_path, mode="move").place(scored))
    assert [p.action for p in placed] == ["left", "moved"]
    assert "changed while it was copied" in placed[0].reason
    assert content(tmp_path / "in") == {"0.png": b"picture 0"}
    assert content(tmp_path / "passed") == {"1.png": b"picture 1"}


@pytest.mark.parametrize("mode", ["copy", "move", "link"])
def test_unreadable_and_vanished_files_are_left_and_named(tmp_path: Path, mode: str) -> None:
    scored = [*scores(tmp_path, 1.0), (tmp_path / "in/gone.png", 0.9)]
    broken = put(tmp_path / "in/broken.png", b"?")
    scored.insert(1, (broken, PictureError(f"{broken} is broken: mend it.")))
    placed = list(gate(tmp_path, mode=mode).place(scored))
    assert [p.decision for p in placed] == ["passed", "unreadable", "unreadable"]
    assert [p.action for p in placed[1:]] == ["left", "left"]
    assert "gone.png" in placed[2].reason
    assert broken.read_bytes() == b"?"
    assert [row["decision"] for row in read_record(tmp_path / "realism-gate.csv")] == [
        p.decision for p in placed
    ]


@pytest.mark.parametrize("blocked", ["passed", "rejected", "passed/sub", "realism-gate.csv"])
def test_something_in_the_way_of_a_folder_stops_before_any_loss(tmp_path: Path, blocked: str) -> None:
    path = put(tmp_path / "in/sub/a.png", b"a")
    if blocked == "realism-gate.csv":
        (tmp_path / blocked).mkdir()
    else:
        put(tmp_path / blocked, b"a file in the way")
    with pytest.raises(PlaceError, match=r"cannot be (made|written).*choose"):
        list(gate(tmp_path, mode="move").place([(path, 1.0)]))
    assert path.read_bytes() == b"a"


def test_a_torn_record_is_continued_on_a_new_line(tmp_path: Path) -> None:
    scored = scores(tmp_path, 1.0)
    list(gate(tmp_path).place(scored))
    with open(tmp_path / "realism-gate.csv", "a") as file:
        file.write("in/torn.png,pass")
    assert [p.action for p in gate(tmp_path).place([*scored, (put(tmp_path / "in/1.png", b"1"), 0.0)])] == [
        "already there", "copied"
    ]  # fmt: skip
    rows = list(read_record(tmp_path / "realism-gate.csv"))
    assert [(Path(row["path"]).name, row["action"]) for row in rows] == [
        ("0.png", "copied"), ("torn.png", None), ("1.png", "copied")
    ]  # fmt: skip


def test_leftovers_of_a_killed_run_are_cleared_without_harm(tmp_path: Path) -> None:
    scored = scores(tmp_path, 1.0)
    done = put(tmp_path / "passed/0.png", b"picture 0")
    os.link(done, tmp_path / f"passed/0.png{PART}")  # killed between naming and clearing
    put(tmp_path / "passed/0.png.part", b"somebody's download")
    list(gate(tmp_path).place(scored))
    assert content(tmp_path / "passed") == {"0.png": b"picture 0", "0.png.part": b"somebody's download"}


@pytest.mark.parametrize("what", ["vanishes", "grows", "is replaced", "shrinks"])
@pytest.mark.parametrize("mode", ["copy", "move"])
def test_a_source_that_gives_way_while_it_is_copied(
    tmp_path: Path, monkeypatch, what: str, mode: str
) -> None:
    first, second = (put(tmp_path / "in" / name, name.encode() * 500_000) for name in ("0.png", "1.png"))
    read = files._read

    def meanwhile(reader, source: Path) -> bytes:
        chunk = read(reader, source)
        if source == first and len(chunk) == files._CHUNK:
            if what == "vanishes":
                first.unlink(missing_ok=True)
            elif what == "is replaced":
                put(tmp_path / "in/other", b"other")
                os.replace(tmp_path / "in/other", first)
            else:
                with open(first, "r+b") as file:
                    file.truncate(10 if what == "shrinks" else 0)
                    file.write(b"new" * (10 if what == "shrinks" else 10**6))
        return chunk

    monkeypatch.setattr(files, "_read", meanwhile)
    placed = list(gate(tmp_path, mode=mode).place([(first, 1.0), (second, 1.0)]))
    monkeypatch.undo()
    assert placed[1].decision == "passed"
    assert content(tmp_path / "passed")["1.png"] == b"1.png" * 500_000
    if what in ("vanishes", "is replaced") and placed[0].target:
        # what was opened was read to its end; a source that is another file now is not removed
        assert placed[0].target.read_bytes() == b"0.png" * 500_000
        assert placed[0].action == "copied" and (placed[0].reason or mode == "copy")
        assert first.exists() == (what == "is replaced")
    else:
        assert (placed[0].decision, placed[0].action) == ("unreadable", "left")
        assert "changed while it was copied" in placed[0].reason
        assert "0.png" not in content(tmp_path / "passed") and first.exists()
    if first.exists():
        now = first.read_bytes()
        list(gate(tmp_path, mode=mode).place([(first, 1.0)]))
        assert now in content(tmp_path / "passed").values()


def test_a_source_that_changes_after_its_copy_is_kept(tmp_path: Path) -> None:
    ((path, _),) = scored = scores(tmp_path, 1.0)
    made = gate(tmp_path, mode="move", log=lambda *_: path.write_bytes(b"edited since"))
    (placed,) = made.place(scored)
    assert placed.action == "copied" and "changed after it was copied" in placed.reason
    assert path.read_bytes() == b"edited since"
    assert content(tmp_path / "passed") == {"0.png": b"picture 0"}


def test_a_decision_that_cannot_be_logged_leaves_the_source(tmp_path: Path) -> None:
    def full(*_) -> None:
        raise ValueError("the log is full: make room.")

    scored = scores(tmp_path, 1.0)
    with pytest.raises(ValueError, match="the log is full"):
        list(gate(tmp_path, mode="move", log=full).place(scored))
    assert content(tmp_path / "in") == content(tmp_path / "passed") == {"0.png": b"picture 0"}


@pytest.mark.skipif(os.name != "posix", reason="file locks of POSIX systems")
@pytest.mark.parametrize("shared", ["both", "rejected"])
def test_a_second_run_at_once_is_refused(tmp_path: Path, shared: str) -> None:
    scored = scores(tmp_path, 0.9, 0.1, 0.8)
    first = gate(tmp_path, mode="move").place(scored)
    assert next(first).action == "moved"
    passed = "passed" if shared == "both" else "elsewhere"
    other = FolderGate([tmp_path / "in"], tmp_path / passed, tmp_path / "rejected", "threshold", 0.5)
    with pytest.raises(PlaceError, match="another run is placing pictures in .*wait until it has ended"):
        list(other.place(scored))
    assert [placed.action for placed in first] == ["moved", "moved"]
    assert [placed.action for placed in other.place(scores(tmp_path, 0.1))] == ["copied"]
