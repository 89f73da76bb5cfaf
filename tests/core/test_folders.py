"""A gate on files: right place, right record, and no file is ever lost, overwritten or half written."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.gate import files
from realism_core.gate.folders import PART, FolderGate, base_folders, numbered, place_below
from realism_core.gate.record import HEADER, PlaceError, read_record
from realism_core.pictures import PictureError, find_pictures

ROOT = Path(__file__).resolve().parents[2]


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def gate(tmp_path: Path, roots=None, rule="threshold", value=0.5, **options) -> FolderGate:
    roots = [tmp_path / "in"] if roots is None else roots
    return FolderGate(
        roots, tmp_path / "passed", tmp_path / "rejected", rule, value, metric="typicality", **options
    )


def scores(tmp_path: Path, *values: float) -> list[tuple[Path, float]]:
    return [(put(tmp_path / "in" / f"{i}.png", b"picture %d" % i), value) for i, value in enumerate(values)]


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

    def meanwhile(source: Path, part: Path) -> Path:
        if not (tmp_path / "passed/0.png").exists():
            put(tmp_path / "passed/0.png", b"of another program")
        return copy(source, part)

    monkeypatch.setattr("realism_core.gate.folders.verified_copy", meanwhile)
    list(gate(tmp_path, mode="move").place(scored))
    assert content(tmp_path / "passed") == {"0.png": b"of another program", "0 (2).png": b"picture 0"}


def test_a_copy_that_does_not_verify_leaves_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = scores(tmp_path, 1.0, 0.9)
    digest = files._digest
    monkeypatch.setattr(
        files, "_digest", lambda path: b"wrong" if path.name == f"0.png{PART}" else digest(path)
    )
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
    list(gate(tmp_path).place(scored))
    rows = list(read_record(tmp_path / "realism-gate.csv"))
    assert [row["action"] for row in rows] == ["copied", None, "already there"]


def test_leftovers_of_a_killed_run_are_cleared_without_harm(tmp_path: Path) -> None:
    scored = scores(tmp_path, 1.0)
    done = put(tmp_path / "passed/0.png", b"picture 0")
    os.link(done, tmp_path / f"passed/0.png{PART}")  # killed between naming and clearing
    put(tmp_path / "passed/0.png.part", b"somebody's download")
    list(gate(tmp_path).place(scored))
    assert content(tmp_path / "passed") == {"0.png": b"picture 0", "0.png.part": b"somebody's download"}


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
    assert [next(names).name for _ in range(3)] == ["a.b.png", "a.b (2).png", "a.b (3).png"]


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


KILLED = """
import os, signal, sys, time
from pathlib import Path
from realism_core.gate.folders import FolderGate
base = Path(sys.argv[1])
for line in sys.stdin:  # one run a line, in a process of its own that is killed after that many seconds
    if (child := os.fork()) == 0:
        paths = sorted((base / "in").rglob("*.png"))
        gate = FolderGate([base / "in"], base / "passed", base / "rejected", "threshold", 0.5, mode="move")
        for placed in gate.place((path, len(path.name) % 2) for path in paths):
            pass
        os._exit(0)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still its own
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_sigkill_at_any_moment_of_a_move_loses_nothing(tmp_path: Path) -> None:
    dice = random.Random(2)
    tree = {f"{'s/' * (i % 2)}{i}.png": dice.randbytes(dice.randrange(1, 400_000)) for i in range(80)}
    for name, data in tree.items():
        put(tmp_path / "in" / name, data)
    helper = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    killed = 0
    with helper:
        for patience in range(200):
            # longer and longer, so that the last run finishes on a slow machine too
            print(dice.uniform(0.002, 0.05) + 0.01 * max(0, patience - 30), file=helper.stdin, flush=True)
            status = int(helper.stdout.readline())
            killed += os.WIFSIGNALED(status)
            check_after_kill(tmp_path, tree)
            if os.WIFEXITED(status):
                assert os.WEXITSTATUS(status) == 0
                break
        helper.stdin.close()
    assert killed >= 3
    assert not content(tmp_path / "in")
    assert {**content(tmp_path / "passed"), **content(tmp_path / "rejected")} == tree


def check_after_kill(base: Path, tree: dict[str, bytes]) -> None:
    """Check that each picture is whole at its source, its target or both, and that the record agrees."""
    at_source = content(base / "in")
    out = [content(base / name) if (base / name).exists() else {} for name in ("passed", "rejected")]
    parts = [name for side in out for name in side if name.endswith(PART)]
    targets = {name: data for side in out for name, data in side.items() if not name.endswith(PART)}
    assert len(parts) <= 1
    assert len(targets) + len(parts) == sum(map(len, out))
    for name, data in tree.items():
        assert at_source.get(name, data) == data
        assert targets.get(name, data) == data
        assert name in at_source or name in targets
    if (base / "realism-gate.csv").exists():
        rows = list(read_record(base / "realism-gate.csv"))
        recorded = {Path(row["path"]).relative_to(base / "in").as_posix() for row in rows}
        assert set(targets) - recorded <= set(at_source)
        assert recorded <= set(targets)
