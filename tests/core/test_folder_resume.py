"""A gate on files that is started again: no score and no copy is made twice, and no stale one is used."""

from __future__ import annotations

import contextlib
import math
import os
import random
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from realism_core.gate import folders
from realism_core.gate.files import mark_of
from realism_core.gate.folders import FolderGate, Placed, Scored
from realism_core.gate.record import FIRST_HEADER, HEADER, PlaceError, Record, read_record
from realism_core.pictures import find_pictures
from tests.core.gated import content, gate, put

VALUES = {"0.png": 0.9, "1.png": math.nan, "2.png": 0.1, "s/3.png": math.inf, "s/4.png": 0.5}


def fill(base: Path) -> None:
    for name in VALUES:
        put(base / "in" / name, f"picture {name}".encode())


def stream(gate: FolderGate, base: Path, fresh: list[str], values: dict) -> Iterator[Scored]:
    for path in find_pictures([base / "in"]):
        mark = mark_of(path)
        value = gate.recorded_score(path, mark)
        if reused := value is not None:
            yield Scored(path, value, mark, reused)
        else:
            fresh.append(path.relative_to(base / "in").as_posix())
            yield Scored(path, values[fresh[-1]], mark)


def run(base: Path, stop: int | None = None, values: dict | None = None, **options):
    """Place the pictures, `stop` of them, and return (what became of them, names scored anew)."""
    fresh: list[str] = []
    made = gate(base, **{"scorer": "abc", **options})
    placing = made.place(stream(made, base, fresh, values or VALUES))
    placed = list(islice(placing, stop))
    placing.close()
    return placed, fresh


def rows(base: Path) -> list[dict]:
    return list(read_record(base / "realism-gate.csv"))


@pytest.mark.parametrize("mode", ["copy", "link"])
@pytest.mark.parametrize("on_unknown", ["reject", "pass", "block"])
def test_nothing_is_scored_or_hashed_twice(tmp_path: Path, monkeypatch, mode: str, on_unknown: str) -> None:
    fill(tmp_path)
    first, fresh = run(tmp_path, mode=mode, on_unknown=on_unknown)
    assert fresh == list(VALUES)
    size = (tmp_path / "realism-gate.csv").stat().st_size
    for work in ("common_digest", "verified_copy"):
        monkeypatch.setattr(folders, work, lambda *_: pytest.fail("a placed file was read again"))
    again, fresh = run(tmp_path, mode=mode, on_unknown=on_unknown)
    assert fresh == []
    assert (tmp_path / "realism-gate.csv").stat().st_size == size
    for one, other in zip(first, again, strict=True):
        assert other.action == ("left" if one.action == "left" else "already there")
        assert repr(one._replace(action="")) == repr(other._replace(action=""))


def interrupt(*_) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("mode", ["copy", "move", "link"])
@pytest.mark.parametrize(("rule", "value"), [("threshold", 0.5), ("top_k", 3), ("top_fraction", 0.5)])
def test_runs_that_are_stopped_end_where_one_run_does(tmp_path: Path, mode: str, rule: str, value) -> None:
    dice = random.Random(f"{mode}{rule}")
    fill(tmp_path / "whole")
    run(tmp_path / "whole", mode=mode, rule=rule, value=value)
    for number in range(6):
        base = tmp_path / str(number)
        fill(base)
        scored: list[str] = []
        for stop in (*(dice.randrange(1, 3) for _ in range(3)), None):
            if content(base / "in"):
                scored += run(base, stop, mode=mode, rule=rule, value=value)[1]
            if content(base / "in") and stop:  # another one ends after the copy, before the source goes
                with contextlib.suppress(KeyboardInterrupt):
                    run(base, mode=mode, rule=rule, value=value, log=interrupt)
        assert len(set(scored)) == len(scored)
        for side in ("in", "passed", "rejected"):
            assert content(base / side) == content(tmp_path / "whole" / side)


def test_scores_survive_a_ranking_that_is_stopped_before_its_end(tmp_path: Path) -> None:
    fill(tmp_path)
    fresh: list[str] = []
    made = gate(tmp_path, rule="top_k", value=1, scorer="abc")

    def broken() -> Iterator[Scored]:
        for item in stream(made, tmp_path, fresh, VALUES):
            yield item
            if len(fresh) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(made.place(broken()))
    assert not content(tmp_path / "passed") and not content(tmp_path / "rejected")
    assert [row["decision"] for row in rows(tmp_path)] == ["scored"] * 3
    assert run(tmp_path, rule="top_k", value=1)[1] == list(VALUES)[3:]
    assert content(tmp_path / "passed") == {"s/3.png": b"picture s/3.png"}


def test_a_finished_ranking_has_no_part_in_the_next(tmp_path: Path) -> None:
    fill(tmp_path)
    run(tmp_path, 3, mode="move", rule="top_k", value=2)
    for turn, stop in enumerate((None, None)):
        placed, _ = run(tmp_path, stop, mode="move", rule="top_k", value=2)
        assert len(content(tmp_path / "passed")) == 2 * (turn + 1)
        assert not content(tmp_path / "in")
        fill(tmp_path)
        for name in VALUES:  # other pictures of the same names
            put(tmp_path / "in" / name, b"new " + name.encode())
    run(tmp_path, 3, mode="move", rule="top_k", value=2)
    assert len(run(tmp_path, mode="move", rule="top_k", value=1)[0]) == 2
    words = [row["decision"] for row in rows(tmp_path) if not row["path"]]
    assert words == ["begun", "ended", "begun", "ended", "begun", "begun", "ended"]


def test_another_rule_decides_anew_from_the_same_scores(tmp_path: Path) -> None:
    fill(tmp_path)
    run(tmp_path)
    placed, fresh = run(tmp_path, value=0.05, keep="low", on_unknown="block")
    assert fresh == []
    assert [p.decision for p in placed] == ["rejected", "unknown", "rejected", "rejected", "rejected"]
    assert [p.action for p in placed] == ["copied", "left", "already there", "copied", "copied"]


@pytest.mark.parametrize("change", ["bytes", "time", "scorer", "metric", "no scorer"])
def test_a_score_of_something_else_is_not_used(tmp_path: Path, change: str) -> None:
    fill(tmp_path)
    run(tmp_path)
    path = tmp_path / "in/0.png"
    mark = mark_of(path)
    if change == "bytes":
        path.write_bytes(b"longer than it was")
        os.utime(path, ns=(mark.mtime_ns, mark.mtime_ns))
    elif change == "time":
        os.utime(path, ns=(mark.mtime_ns, mark.mtime_ns + 1000))
    options = {"scorer": {"scorer": "abd"}, "no scorer": {"scorer": ""}}.get(change, {})
    made = gate(tmp_path, **options)
    made.metric = "irs" if change == "metric" else made.metric
    made.scorer = made.scorer or ("" if change == "no scorer" else "abc")
    fresh: list[str] = []
    list(made.place(stream(made, tmp_path, fresh, VALUES)))
    assert fresh == (["0.png"] if change in ("bytes", "time") else list(VALUES))


def test_a_file_changed_after_it_was_scored_is_left_and_scored_again(tmp_path: Path) -> None:
    fill(tmp_path)
    path = tmp_path / "in/0.png"
    made = gate(tmp_path, mode="move", scorer="abc")
    (placed,) = made.place([Scored(path, 0.9, mark_of(path)._replace(size=1))])
    assert (placed.decision, placed.action) == ("unreadable", "left")
    assert "changed after it was scored" in placed.reason
    assert path.exists() and not content(tmp_path / "passed")
    assert run(tmp_path)[1] == list(VALUES)


@pytest.mark.parametrize("harm", ["gone", "other bytes", "other time", "a link", "a folder"])
def test_a_copy_is_taken_for_done_only_if_it_is(tmp_path: Path, harm: str) -> None:
    fill(tmp_path)
    run(tmp_path)
    target = tmp_path / "passed/0.png"
    mark = mark_of(target)
    if harm == "other time":
        os.utime(target, ns=(1, 1))
    else:
        target.unlink()
        if harm == "other bytes":
            target.write_bytes(b"other")
        elif harm == "a link":
            target.symlink_to(tmp_path / "in/2.png")
        elif harm == "a folder":
            target.mkdir()
    (placed, *_), fresh = run(tmp_path)
    assert fresh == []
    assert placed.target.read_bytes() == b"picture 0.png"
    assert placed.action == ("already there" if harm == "other time" else "copied")
    assert (placed.target == target) == (harm in ("gone", "other time"))
    assert harm == "other time" or mark_of(placed.target) == mark


def test_a_move_verifies_the_copy_whatever_the_record_says(tmp_path: Path) -> None:
    fill(tmp_path)
    run(tmp_path)
    target = tmp_path / "passed/0.png"
    mark = mark_of(target)
    target.write_bytes(b"picture X.png")
    os.utime(target, ns=(mark.mtime_ns, mark.mtime_ns))
    assert mark_of(target) == mark
    placed, fresh = run(tmp_path, mode="move")
    assert fresh == [] and not content(tmp_path / "in")
    assert placed[0].target.name == "0 (2).png"
    assert content(tmp_path / "passed")["0 (2).png"] == b"picture 0.png"
    assert target.read_bytes() == b"picture X.png"


def test_the_record_of_an_earlier_version_goes_on_in_its_columns(tmp_path: Path) -> None:
    fill(tmp_path)
    old = (
        ",".join(FIRST_HEADER)
        + f"\n{tmp_path}/in/0.png,passed,typicality,0.2,copied,{tmp_path}/passed/0.png\n"
    )
    record = tmp_path / "realism-gate.csv"
    record.write_text(old)
    for _ in range(2):
        assert run(tmp_path)[1] == list(VALUES)
    assert record.read_text().startswith(old)
    assert len(rows(tmp_path)) == 1 + len(VALUES)
    assert all(len(line.split(",")) == len(FIRST_HEADER) for line in record.read_text().splitlines())


@pytest.mark.parametrize(
    "text", ["my diary\n", "path,decision\n", "path;decision\n", "\n", "path,x", "\0\xff"]
)
def test_a_file_that_is_no_record_is_never_written_to(tmp_path: Path, text: str) -> None:
    fill(tmp_path)
    (tmp_path / "realism-gate.csv").write_text(text)
    with pytest.raises(PlaceError, match="is no record of this gate.*rename it, or choose"):
        run(tmp_path, mode="move")
    assert (tmp_path / "realism-gate.csv").read_text() == text
    assert set(content(tmp_path / "in")) == set(VALUES)


def test_a_record_cut_off_at_any_byte_loses_one_row_at_most(tmp_path: Path) -> None:
    """The last row is torn at each of its bytes; its path needs quotes and holds a line end."""
    values = {"a.png": 0.7, "b.png": math.nan, 'z,"\n".png': 0.25}
    for name in values:
        put(tmp_path / "in" / name, name.encode())
    run(tmp_path, values=values)
    record = tmp_path / "realism-gate.csv"
    whole = record.read_bytes()
    last = whole.rindex(b'"', 0, whole.index(b'z,""'))
    for end in range(last, len(whole)):
        record.write_bytes(whole[:end])
        for turn in range(2):
            placed, fresh = run(tmp_path, values=values)
            # only the SHA-256 that ends the row may be missing without a trace
            assert set(fresh) <= ({'z,"\n".png'} if turn == 0 and end < len(whole) - 1 else set())
            assert [p.action for p in placed] == ["already there"] * 3
        good = [row for row in rows(tmp_path) if None not in row.values() and len(row["sha256"]) in (0, 64)]
        assert {Path(row["path"]).name for row in good} == set(values)
    for end in range(len(whole[: whole.index(b"\n")]) + 1):
        record.write_bytes(whole[:end])
        assert run(tmp_path, values=values)[1] == list(values)
        assert tuple(rows(tmp_path)[0]) == HEADER and len(rows(tmp_path)) == 3


def test_what_is_held_of_a_record_is_small(tmp_path: Path) -> None:
    count = 20_000
    folder = tmp_path / "a-folder-with-a-name-of-some-length" / "and-one-below-it"
    path = tmp_path / "realism-gate.csv"
    mark = mark_of(put(folder / "0.png", b"?"))
    record = Record(path, "typicality", "abc")
    for number in range(count):
        name = folder / f"{number}.png"
        record.add(Placed(name, "passed", number / 7, "copied", name), mark, "0" * 64)
    record.close()
    tracemalloc.start()
    record = Record(path, "typicality", "abc")
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / count < 150 and peak / count < 300
    assert all(record.score_of(folder / f"{n}.png", mark) == n / 7 for n in range(0, count, 997))
    record.close()


def test_pictures_are_placed_before_all_folders_are_listed(tmp_path: Path, monkeypatch) -> None:
    for number in range(30):
        put(tmp_path / "in" / f"{number // 10}/{number}.png", b"%d" % number)
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    made = gate(tmp_path)
    placing = made.place((path, 1.0) for path in find_pictures([tmp_path / "in"]))
    assert next(placing).target == tmp_path / "passed/0/0.png"
    listed = [path for path in listed if path.startswith(str(tmp_path / "in"))]
    assert [Path(path).name for path in listed] == ["in", "0"]
    assert len(list(placing)) == 29
