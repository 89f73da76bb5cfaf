"""What the cells of tables and the values of JSON files say of a face."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.conditioning.vocabulary import NAMES
from realism_core.training.faces_attributes import (
    is_number,
    read_attribute_file,
    read_json,
    to_attributes,
    to_strengths,
)
from realism_core.training.faces_entry import FaceFile
from realism_core.training.faces_read import Task, read_face
from tests.core import face_trees as trees

CELLS = {"1": 1, "0": None, "-0": None, "-": "bad", "": 0, "-1": -1, "no": -1}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states") / "a.csv"


@settings(deadline=None)
@given(cells=st.lists(st.sampled_from(list(CELLS)), min_size=1, max_size=5), late=st.booleans())
def test_only_a_minus_one_makes_zero_dont_care(path: Path, cells: list[str], late: bool) -> None:
    """Wherever it stands: also behind thousands of rows."""
    rows = [f"p{number},{cell}" for number, cell in enumerate(cells)]
    rows += [f"q{number},1" for number in range(300)] + ["late,-1"] * late
    path.write_text("\n".join(["image,Bald", *rows, ""]))
    zero = 0 if late or "-1" in cells else -1
    found, problems = read_attribute_file(path)
    bald = {name: to_strengths(states)[NAMES.index("Bald")] for name, states in found.items()}
    for number, cell in enumerate(cells):
        state = CELLS[cell]
        assert bald.get(f"p{number}", "bad") == (zero if state is None else state)
    assert len(problems) == cells.count("-")


@pytest.mark.parametrize("first", ["²", "9" * 5000, "１２"])
def test_a_first_line_that_is_no_count_is_told(path: Path, first: str) -> None:
    path.write_text(f"{first}\nBald\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no columns in its first line: give CelebA's list"):
        read_attribute_file(path)
    assert not is_number(first)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.floats(-2, 2)


@settings(deadline=None)
@given(states=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
def test_json_is_read_or_refused(path: Path, states: dict) -> None:
    """What is read comes back from float32 with the same names and signs."""
    path.write_text(json.dumps(states))
    try:
        read = read_json(path).strengths
    except ValueError as error:
        assert str(error)
        return
    back = to_attributes(read_json(path).values().tolist()).strengths
    assert back == pytest.approx(read, abs=1e-6)
    for name, state in states.items():
        sign = 0 if state is None else -1 if state is False else state
        assert (sign > 0) == (back.get(name, 0) > 0) and (sign < 0) == (back.get(name, 0) < 0)


@pytest.mark.parametrize(
    ("value", "told"),
    [("1" + "0" * 400, "a number that is too large"), ("1" + "0" * 5000, "no JSON object"),
     ("0.0000001", "has 1e-07 for Smiling: use 0"), ("-1e-300", "has -1e-300 for Smiling"),
     ("1e999", "Smiling is inf"), ("NaN", "Smiling is nan")],
)  # fmt: skip
def test_numbers_that_cannot_be_kept_are_wrong_attributes_of_that_face(
    tmp_path: Path, value: str, told: str
) -> None:
    root = trees.own(tmp_path / "own", 1, apart=False)
    (root / "p0.json").write_text(f'{{"Smiling": {value}}}')
    face = FaceFile(
        0, "p0.png", str(root / "p0.png"), str(root / "p0.mask.png"), None, str(root / "p0.json")
    )
    (problem,) = read_face(Task(face, 32, 16)).problems
    assert (problem.kind, problem.file) == ("wrong attributes", "p0.json") and told in problem.about


def test_strengths_of_old_shards_that_round_to_nothing_are_dont_care() -> None:
    assert to_attributes([1e-7, 1.0, *[0.0] * 38]).strengths == {NAMES[1]: 1.0}
