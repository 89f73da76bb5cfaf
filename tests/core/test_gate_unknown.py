"""Pictures without a score in a gate on files: where they go, and what is said of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realism_core.cli import main
from realism_core.gate.folders import FolderGate, Placed
from realism_core.gate.record import HEADER, read_record

NAN = math.nan
VALUES = (0.9, NAN, 0.1, NAN, 0.6)


def scores(base: Path, *values: float) -> list[tuple[Path, float]]:
    (base / "in").mkdir(exist_ok=True)
    scored = [(base / "in" / f"{number}.png", value) for number, value in enumerate(values)]
    for path, _ in scored:
        path.write_bytes(path.name.encode())
    return scored


def place(base: Path, scored: list, metric: str = "typicality", **options) -> list[Placed]:
    options = {"rule": "threshold", "value": 0.5, "on_unknown": "block", **options}
    gate = FolderGate([base / "in"], base / "good", base / "odd", metric=metric, **options)
    return list(gate.place(scored))


def numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.iterdir())


def record(base: Path) -> list[tuple[str, str, str]]:
    rows = read_record(base / "realism-gate.csv")
    return [(Path(row["path"]).stem, row["decision"], row["action"]) for row in rows]


@pytest.mark.parametrize(
    ("rule", "value", "passes"),
    [("threshold", 0.5, [0, 4]), ("top_k", 1, [0]), ("top_fraction", 0.4, [0, 4])],
)
@pytest.mark.parametrize("on_unknown", ["reject", "pass", "block"])
def test_each_goes_where_it_belongs(
    tmp_path: Path, rule: str, value: float, passes: list[int], on_unknown: str
) -> None:
    """top_fraction: 0.4 of five pictures or of three are two, rounded up."""
    scored = scores(tmp_path, *VALUES)
    placed = place(tmp_path, scored, rule=rule, value=value, mode="move", on_unknown=on_unknown)
    sides = {"good": [*passes], "odd": [n for n in (0, 2, 4) if n not in passes], "in": []}
    sides[{"pass": "good", "reject": "odd", "block": "in"}[on_unknown]] += [1, 3]
    assert {name: numbers(tmp_path / name) for name in sides} == {
        name: sorted(held) for name, held in sides.items()
    }
    assert [p.path for p in placed] == [path for path, _ in scored]
    for path in (*(tmp_path / "good").iterdir(), *(tmp_path / "odd").iterdir()):
        assert path.read_bytes() == path.name.encode()


def test_a_blocked_picture_has_a_row_that_says_unknown(tmp_path: Path) -> None:
    placed = place(tmp_path, scores(tmp_path, *VALUES))
    assert placed[1][1:2] == ("unknown",) and math.isnan(placed[1].value)
    assert placed[1][3:] == ("left", None, "")
    assert record(tmp_path) == [
        ("0", "passed", "copied"), ("1", "unknown", "left"), ("2", "rejected", "copied"),
        ("3", "unknown", "left"), ("4", "passed", "copied"),
    ]  # fmt: skip
    row = list(read_record(tmp_path / "realism-gate.csv"))[1]
    assert tuple(row) == HEADER and (row["metric"], row["value"], row["target"]) == ("typicality", "", "")


@pytest.mark.parametrize("mode", ["copy", "move", "link"])
def test_a_run_that_goes_on_adds_no_second_row(tmp_path: Path, mode: str) -> None:
    scored = scores(tmp_path, *VALUES)
    stream = FolderGate(
        [tmp_path / "in"], tmp_path / "good", tmp_path / "odd", "threshold", 0.5, mode=mode,
        metric="typicality", on_unknown="block",
    ).place(scored)  # fmt: skip
    assert [next(stream).decision for _ in range(2)] == ["passed", "unknown"]
    stream.close()
    again = place(tmp_path, [pair for pair in scored if pair[0].exists()], mode=mode)
    assert [p.decision for p in again if p.path.stem in "13"] == ["unknown", "unknown"]
    names = [name for name, decision, _ in record(tmp_path) if decision == "unknown"]
    assert names == ["1", "3"]


def test_a_new_answer_is_recorded_and_the_old_one_again_after_it(tmp_path: Path) -> None:
    """Another metric, another choice for unknown pictures, a value at last: each is news."""
    (pair,) = scores(tmp_path, NAN)
    place(tmp_path, [pair])
    place(tmp_path, [pair], metric="irs")
    place(tmp_path, [pair], metric="irs")
    place(tmp_path, [pair])
    place(tmp_path, [pair], on_unknown="reject")
    place(tmp_path, [pair, (pair[0], 0.7), pair])
    rows = [(row["metric"], row["decision"]) for row in read_record(tmp_path / "realism-gate.csv")]
    judged = ["unknown", "irs", "rejected", "unknown", "passed", "unknown"]
    assert rows == [("irs" if word == "irs" else "typicality", "unknown" if word == "irs" else word)
                    for word in judged]  # fmt: skip


@pytest.mark.parametrize(
    "old",
    [
        "path,decision,metric,value,action,target\nin/0.png,rejected,typicality,,copied,odd/0.png\n",
        "path,decision,metric,value,action,target\nin/torn.png,rej",
        'path,decision,metric,value,action,target\n"in/torn',
        "",
    ],
)
def test_the_record_of_an_older_run_goes_on(tmp_path: Path, old: str) -> None:
    (tmp_path / "realism-gate.csv").write_text(old)
    scored = scores(tmp_path, NAN, 0.9)
    for _ in range(2):
        assert [p.decision for p in place(tmp_path, scored)] == ["unknown", "passed"]
    text = (tmp_path / "realism-gate.csv").read_text()
    assert text.startswith(old)
    assert text.count("0.png,unknown,typicality,,left,") == 1


def test_a_torn_row_without_end_costs_no_more_than_a_second_row(tmp_path: Path) -> None:
    """Its quote swallows all that follows, up to more than a field may hold."""
    header = ",".join(HEADER)
    (tmp_path / "realism-gate.csv").write_text(f'{header}\n"in/torn' + "x" * 200_000)
    (path,) = scores(tmp_path, NAN)
    assert [p.decision for p in place(tmp_path, [path, path])] == ["unknown", "unknown"]
    text = (tmp_path / "realism-gate.csv").read_text()
    assert text.count(",unknown,typicality,,left,") == 1


def test_another_word_for_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="on_unknown is 'leave'; use one of reject, pass, block"):
        place(tmp_path, [], on_unknown="leave")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three colour pictures and two grey ones, for which `reference` has no irs."""
    dice = np.random.default_rng(5)
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        colour = dice.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(colour).save(tmp_path / f"in/{name}.png")
    for name in ("g", "h"):
        Image.fromarray(dice.integers(0, 256, (40, 48), dtype=np.uint8)).save(tmp_path / f"in/{name}.png")
    return tmp_path / "in"


def command(folder: Path, capsys: pytest.CaptureFixture, *options: str) -> tuple[int, list[str]]:
    sides = ("--passed", str(folder.parent / "good"), "--rejected", str(folder.parent / "odd"))
    rule = ("--metric", "irs", "--rule", "threshold", "--value", "-1")
    code = main(["gate", str(folder), *rule, *sides, *options])
    out, err = capsys.readouterr()
    assert err == ""
    return code, out.splitlines()


@pytest.mark.parametrize(
    ("options", "good", "odd", "went"),
    [
        ((), "abc", "gh", "rejected"),
        (("--unknown", "reject"), "abc", "gh", "rejected"),
        (("--unknown", "pass"), "abcgh", "", "passed"),
        (("--unknown", "block"), "abc", "", "left in place"),
    ],
)
def test_the_command_sends_them_there_and_says_so(folder, capsys, options, good, odd, went) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, lines = command(folder, capsys, *options)
    assert code == 0
    assert f"2 pictures without irs (it says nothing there): {went}" in lines
    for side, names in (("good", good), ("odd", odd)):
        assert sorted(path.stem for path in (folder.parent / side).iterdir()) == list(names)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len([line for line in lines if "/in/" in line]) == 5


def test_a_move_leaves_blocked_files_and_the_next_run_finds_them_settled(folder: Path, capsys) -> None:
    for passed in (3, 0):
        code, lines = command(folder, capsys, "--unknown", "block", "--move")
        assert code == 0
        assert f"{passed} passed" in lines[passed + 2]
        assert [line.split() for line in lines[passed : passed + 2]] == [
            ["unknown", "-", str(folder / f"{name}.png"), "(left", "in", "place)"] for name in "gh"
        ]
        assert sorted(path.stem for path in folder.iterdir()) == ["g", "h"]
    assert [row[:2] for row in record(folder.parent)] == [
        ("a", "passed"), ("b", "passed"), ("c", "passed"), ("g", "unknown"), ("h", "unknown")
    ]  # fmt: skip
    code, _ = command(folder, capsys, "--unknown", "pass", "--move")
    assert code == 0 and not list(folder.iterdir())
    assert sorted(path.stem for path in (folder.parent / "good").iterdir()) == list("abcgh")


def test_the_command_refuses_other_choices(folder: Path, capsys) -> None:
    sides = ("--passed", str(folder.parent / "good"), "--rejected", str(folder.parent / "odd"))
    assert main(["gate", str(folder), "--rule", "top_k", "--value", "1", "--unknown", "keep", *sides]) == 2
    assert "--unknown" in capsys.readouterr().err
    assert [path.name for path in folder.parent.iterdir()] == ["in"]
