"""A gate on files: right place, right record, and no file is ever overwritten."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.gate.files import PART
from realism_core.gate.folders import FolderGate
from realism_core.gate.places import base_folders, is_numbered, numbered, place_below
from realism_core.gate.record import HEADER, PlaceError, read_record
from realism_core.pictures import PictureError, find_pictures
from tests.core.gated import content, gate, put, scores


def test_threshold_copies_each_to_its_side(tmp_path: Path) -> None:
    scored = scores(tmp_path, 0.9, 0.1, 0.5, math.nan)
    placed = list(gate(tmp_path).place(scored))
    assert [p.decision for p in placed] == ["passed", "rejected", "passed", "rejected"]
    assert content(tmp_path / "passed") == {"0.png": b"picture 0", "2.png": b"picture 2"}
    assert content(tmp_path / "rejected") == {"1.png": b"picture 1", "3.png": b"picture 3"}
    assert len(content(tmp_path / "in")) == 4
    rows = list(read_record(tmp_path / "realism-gate.csv"))
    assert tuple(rows[0]) == HEADER
    assert [row["value"] for row in rows] == ["0.9", "0.1", "0.5", ""]
    assert [Path(row["target"]) for row in rows] == [p.target for p in placed]


@pytest.mark.parametrize(
    ("rule", "options", "passes"),
    [
        ("band", {"value": None, "low": 0.2, "high": 0.6}, {"1.png", "2.png"}),
        ("threshold", {"value": 0.2, "keep": "low"}, {"1.png", "4.png"}),
        ("top_k", {"value": 2}, {"0.png", "2.png"}),
        ("top_k", {"value": 2, "keep": "low"}, {"1.png", "4.png"}),
        ("top_fraction", {"value": 0.5}, {"0.png", "2.png", "1.png"}),
        ("top_k", {"value": 99}, {"0.png", "1.png", "2.png", "4.png"}),
    ],
)
def test_each_rule(tmp_path: Path, rule: str, options: dict, passes: set[str]) -> None:
    scored = scores(tmp_path, 0.9, 0.2, 0.6, math.nan, 0.1)
    list(gate(tmp_path, rule=rule, **options).place(scored))
    assert set(content(tmp_path / "passed")) == passes
    assert set(content(tmp_path / "rejected")) == {f"{i}.png" for i in range(5)} - passes


def test_threshold_places_while_it_scores_and_top_k_after(tmp_path: Path) -> None:
    taken = []

    def stream():
        for pair in scores(tmp_path, 0.9, 0.1, 0.8):
            taken.append(pair)
            yield pair

    assert next(gate(tmp_path).place(stream())).decision == "passed"
    assert len(taken) == 1
    taken.clear()
    next(gate(tmp_path, rule="top_k", value=1).place(stream()))
    assert len(taken) == 3


def test_move_keeps_bytes_times_and_structure(tmp_path: Path) -> None:
    path = put(tmp_path / "in/deep/er/a.png", b"x" * 3_000_000)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    (placed,) = gate(tmp_path, mode="move").place([(path, 1.0)])
    assert placed.action == "moved"
    assert placed.target == tmp_path / "passed/deep/er/a.png"
    assert not path.exists()
    assert placed.target.read_bytes() == b"x" * 3_000_000
    assert placed.target.stat().st_mtime == 1_000_000_000


def test_link_leads_to_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in/a.png", b"a")
    monkeypatch.chdir(tmp_path)
    path = Path("in/a.png")
    (placed,) = FolderGate(["in"], "passed", "rejected", "threshold", 0.5, mode="link").place([(path, 1.0)])
    assert placed.target.is_symlink()
    assert os.path.samefile(placed.target, path)
    assert next(
        FolderGate(["in"], "passed", "rejected", "threshold", 0.5, mode="link").place([(path, 1.0)])
    ).action == ("already there")


def test_links_become_copies_and_moves_without_loss(tmp_path: Path) -> None:
    path = put(tmp_path / "in/a.png", b"a")
    for mode, action in (
        ("link", "linked"),
        ("copy", "copied"),
        ("link", "already there"),
        ("move", "already there"),
    ):
        (placed,) = gate(tmp_path, mode=mode).place([(path, 1.0)])
        assert placed.action == action
        assert content(tmp_path / "passed") == {"a.png": b"a"}
    assert not path.exists()


def test_a_move_onto_a_link_to_the_source_keeps_the_file(tmp_path: Path) -> None:
    path = put(tmp_path / "in/a.png", b"a")
    list(gate(tmp_path, mode="link").place([(path, 1.0)]))
    (placed,) = gate(tmp_path, mode="move").place([(path, 1.0)])
    assert not path.exists()
    assert not placed.target.is_symlink()
    assert placed.target.read_bytes() == b"a"


def test_a_move_never_removes_a_second_name_of_the_same_file(tmp_path: Path) -> None:
    path = put(tmp_path / "in/a.png", b"a")
    (tmp_path / "passed").mkdir()
    os.link(path, tmp_path / "passed/a.png")
    (placed,) = gate(tmp_path, mode="move").place([(path, 1.0)])
    assert placed.action == "already there"
    assert path.read_bytes() == b"a"


def test_a_link_that_is_not_allowed_says_use_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(PlaceError, match="use --copy"):
        list(gate(tmp_path, mode="link").place(scores(tmp_path, 1.0)))


def test_only_unreadable_files_with_a_ranking_rule(tmp_path: Path) -> None:
    placed = list(
        gate(tmp_path, rule="top_k", value=1).place([(tmp_path / "in/a.png", PictureError("broken"))])
    )
    assert [p.decision for p in placed] == ["unreadable"]


@pytest.mark.parametrize(
    ("roots", "passed", "rejected", "says"),
    [
        (["in"], "out", "out", "is or lies in the rejected folder"),
        (["in"], "out", "in/../out", "is or lies in the rejected folder"),
        (["in"], "out", "link", "is or lies in the rejected folder"),
        (["in"], "out/good", "out", "side by side"),
        (["in"], "out", "out/bad", "side by side"),
        (["in"], "in", "out", "in is to be scored but is or lies in the passed folder"),
        (["in"], "good", ".", "rejected folder"),
        (["in/a.png"], "in", "out", "passed folder"),
        (["in/*.png"], "in", "out", "passed folder"),
        (["*.png"], "good", "../{here}", "rejected folder"),
    ],
)
def test_folders_that_make_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: list[str], passed: str, rejected: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in/a.png", b"a")
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    with pytest.raises(ValueError, match=says):
        FolderGate(roots, passed, rejected.format(here=tmp_path.name), "threshold", 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "link", "out"]


def test_rule_and_mode_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode is 'steal'"):
        gate(tmp_path, mode="steal")
    with pytest.raises(ValueError, match="needs a value"):
        gate(tmp_path, value=None)
    with pytest.raises(ValueError, match="top_k keeps a whole number"):
        gate(tmp_path, rule="top_k", value=math.inf)


def test_long_and_strange_names(tmp_path: Path) -> None:
    names = ["é" * 120 + ".png", "a\nb.png", 'comma, "quote".png', "x" * 251 + ".png"]
    if os.name == "posix":
        names.append(os.fsdecode(b"\xff.png"))
    scored = [(put(tmp_path / "in" / name, name.encode("utf-8", "surrogateescape")), 1.0) for name in names]
    placed = list(gate(tmp_path, mode="move").place(scored))
    assert [p.target.name for p in placed] == names
    assert [Path(row["target"]).name for row in read_record(tmp_path / "realism-gate.csv")] == names


def test_numbers_go_in_front_of_the_suffix() -> None:
    names = numbered(Path("out/a.b.png"))
    first = [next(names) for _ in range(12)]
    assert [path.name for path in first[:3]] == ["a.b.png", "a.b (2).png", "a.b (3).png"]
    assert all(is_numbered(path, Path("out/a.b.png")) for path in first)
    for other in ("a.b (x).png", "a.b 2.png", "a.png", "a.b (2).jpg", "../a.b.png", "a.b ().png"):
        other = f"out/{other}"
        assert not is_numbered(Path(other), Path("out/a.b.png"))


def test_places_below_the_folder_that_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/x/1.png", "in/2.png", "top.png"):
        put(tmp_path / name, b"")
    (tmp_path / "here").mkdir()

    def places(*roots: str) -> list[str]:
        bases = base_folders(roots)
        return [place_below(path, bases).as_posix() for path in find_pictures(roots)]

    assert places("in") == ["2.png", "x/1.png"]
    assert places("in/x/..") == ["2.png", "x/1.png"]
    assert places(str(tmp_path / "in")) == ["2.png", "x/1.png"]
    assert places(".") == ["top.png", "in/2.png", "in/x/1.png"]
    assert places("in/2.png", "in/x/1.png") == ["2.png", "1.png"]
    assert places("*.png", "in/**/*.png", "in/x/*") == ["top.png", "2.png", "1.png"]
    monkeypatch.chdir(tmp_path / "here")
    assert places("..") == ["top.png", "in/2.png", "in/x/1.png"]
    assert places("../top.png", "../in/*/1.png") == ["top.png", "x/1.png"]


NAMES = st.sampled_from(["a.png", "a (2).png", "b.png", "s/a.png", "s/a (2).png", "s/b.png"])
BYTES = st.sampled_from([b"", b"one", b"two", b"six", b"longer"])
TREE = st.dictionaries(NAMES, BYTES, max_size=6)


@settings(max_examples=120, deadline=None)
@given(
    first=TREE, second=TREE, passed=TREE, rejected=TREE,
    mode=st.sampled_from(["copy", "move", "link"]),
    verdicts=st.lists(st.booleans(), min_size=12, max_size=12),
)  # fmt: skip
def test_no_file_is_lost_or_overwritten(first, second, passed, rejected, mode, verdicts) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder).resolve()
        there = {"passed": passed, "rejected": rejected}
        for name, tree in {"one": first, "two": second, **there}.items():
            (base / name).mkdir()
            for path, data in tree.items():
                put(base / name / path, data)
        sources = [base / "one" / path for path in first] + [base / "two" / path for path in second]
        before = {path: path.read_bytes() for path in sources}
        scored = [(path, float(verdict)) for path, verdict in zip(sources, verdicts, strict=False)]

        def run():
            return list(gate(base, [base / "one", base / "two"], mode=mode).place(scored))

        placed = run()
        assert [p.path for p in placed] == sources
        for p in placed:
            assert p.target.read_bytes() == before[p.path]
            assert p.target.is_relative_to(base / p.decision)
            assert p.path.exists() == (mode != "move")
            assert mode == "move" or p.path.read_bytes() == before[p.path]
        for name, tree in there.items():
            assert {path: (base / name / path).read_bytes() for path in tree} == tree
        after = {name: content(base / name) for name in there}
        made = {p.target for p in placed if p.action != "already there"}
        assert len(made) == sum(len(tree) for tree in after.values()) - len(passed) - len(rejected)
        assert not any(path.endswith(PART) for tree in after.values() for path in tree)
        if mode != "move":
            assert {p.action for p in run()} <= {"already there"}
            assert {name: content(base / name) for name in there} == after
