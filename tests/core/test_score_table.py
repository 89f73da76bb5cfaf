"""The score table: immutable, sliced, joined, written as JSON; its columns and its report."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.evidence import Column, ScoreTable, report, score_table
from realism_core.evidence.columns import COLUMNS
from realism_core.irs import Measures, Profile, score
from tests.core.textures import scenes

A = Column("a", "share", "higher", 0.0, 1.0)
B = Column("b", "ratio", "middle", -math.inf, math.inf)


def table(*rows: tuple[float, float]) -> ScoreTable:
    return ScoreTable(
        (A, B), torch.tensor(rows or [(0.5, 2.0)], dtype=torch.float64), {"definition": "reference"}
    )


def same(left: ScoreTable, right: ScoreTable) -> bool:
    equal = torch.equal(left.values.nan_to_num(-1e9), right.values.nan_to_num(-1e9))
    return equal and torch.equal(left.values.isnan(), right.values.isnan()) and left.columns == right.columns


def test_a_table_cannot_be_changed() -> None:
    scores = table()
    for name in ("values", "columns", "about"):
        with pytest.raises(FrozenInstanceError):
            setattr(scores, name, None)
    longer = scores.with_column(Column("c", "x", "none", 0.0, 1.0), torch.tensor([0.25]))
    assert scores.names == ("a", "b") and scores.values.shape == (1, 2)
    assert longer.names == ("a", "b", "c") and longer["c"].tolist() == [0.25] and longer.about == scores.about


def test_rows_and_columns_are_reached_by_name_number_slice_and_mask() -> None:
    scores = table((0.1, 1.0), (0.2, math.nan), (0.3, 3.0))
    assert scores["a"].tolist() == [0.1, 0.2, 0.3] and len(scores) == 3
    assert scores[1:]["a"].tolist() == [0.2, 0.3]
    assert scores[-1]["a"].tolist() == [0.3] and scores[0]["b"].tolist() == [1.0]
    assert scores[torch.tensor([True, False, True])]["b"].tolist() == [1.0, 3.0]
    assert scores[[2, 0]]["a"].tolist() == [0.3, 0.1]
    assert len(scores[torch.zeros(3, dtype=torch.bool)]) == 0
    assert scores.applies("b").tolist() == [True, False, True]
    assert scores[1:].about == scores.about
    with pytest.raises(IndexError):
        scores[3]
    with pytest.raises(ValueError, match=r"there is no column 'z' in these scores; they have: a, b\."):
        scores["z"]


def test_wrong_shapes_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values has shape \(3,\) for 2 columns: give \[B, columns\]"):
        ScoreTable((A, B), torch.zeros(3))
    with pytest.raises(ValueError, match=r"values has shape \(3, 1\) for 2 columns"):
        ScoreTable((A, B), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="a column name appears twice among a, a: rename one"):
        ScoreTable((A, A), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="column 'c' has 2 values for 1 pictures: give one for each"):
        table().with_column(Column("c", "x", "none", 0.0, 1.0), torch.zeros(2))
    with pytest.raises(ValueError, match="appears twice"):
        table().with_column(A, torch.zeros(1))


def test_tables_are_joined_only_if_their_columns_agree() -> None:
    first, second = table((0.1, 1.0)), table((0.2, 2.0), (0.3, math.nan))
    joined = ScoreTable.concat([first, second])
    assert same(joined, table((0.1, 1.0), (0.2, 2.0), (0.3, math.nan)))
    assert same(ScoreTable.concat([joined[:1], joined[1:]]), joined)
    with pytest.raises(
        ValueError, match="columns b, a cannot follow scores with a, b: score all pictures with the same"
    ):
        ScoreTable.concat([first, ScoreTable((B, A), torch.zeros(1, 2, dtype=torch.float64))])
    with pytest.raises(ValueError):
        ScoreTable.concat([])


def test_tables_made_with_another_definition_are_not_joined() -> None:
    """A number under `paper` is not comparable with one under `reference`, though columns share names."""
    other = ScoreTable((A, B), table().values, {"definition": "paper"})
    with pytest.raises(ValueError, match="definition|profile|same node"):
        ScoreTable.concat([table(), other])


WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
ENDS = st.one_of(st.just(math.inf), st.floats(-1e9, 1e9))


@st.composite
def tables(draw: st.DrawFn) -> ScoreTable:
    names = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
    directions = st.sampled_from(("higher", "lower", "middle", "none"))
    real = st.one_of(st.none(), st.tuples(st.floats(-9, 0), st.floats(1, 9)))
    columns = tuple(
        Column(name, draw(WORDS), draw(directions), -draw(ENDS), draw(ENDS), draw(WORDS), draw(real))
        for name in names
    )
    numbers = st.floats(allow_nan=True, allow_infinity=False)
    rows = draw(st.lists(st.lists(numbers, min_size=len(names), max_size=len(names)), max_size=5))
    values = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(names))
    return ScoreTable(
        columns, values, draw(st.dictionaries(WORDS, st.one_of(WORDS, st.integers(), st.none())))
    )


@settings(deadline=None)
@given(tables())
def test_json_round_trip(scores: ScoreTable) -> None:
    text = scores.to_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    again = ScoreTable.from_json(text)
    assert same(again, scores) and again.about == scores.about
    assert again.to_json() == text


def test_json_has_null_where_a_score_does_not_apply() -> None:
    scores = table((math.nan, 1.0), (0.5, math.inf))
    assert json.loads(scores.to_json())["rows"] == [{"a": None, "b": 1.0}, {"a": 0.5, "b": None}]
    assert scores.rows() == [{"a": None, "b": 1.0}, {"a": 0.5, "b": None}]
    assert ScoreTable.from_json(scores.to_json()).applies("b").tolist() == [True, False]


def with_real(data: dict, real: object) -> dict:
    return {**data, "columns": [{**data["columns"][0], "real": real}, data["columns"][1]]}


def test_tables_written_before_columns_had_a_band_are_read() -> None:
    data = json.loads(table().to_json())
    for column in data["columns"]:
        assert column.pop("real") is None
    assert same(ScoreTable.from_json(json.dumps(data)), table())
    assert ScoreTable.from_json(json.dumps(with_real(data, [0.25, 2.0]))).columns[0].real == (0.25, 2.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: "no json", "the scores are no JSON"),
        (lambda data: "[]", "are not of format realism-scores version 1: score the pictures again"),
        (lambda data: {**data, "format": "x"}, "are not of format"),
        (lambda data: {**data, "version": 2}, "are not of format"),
        (lambda data: {key: value for key, value in data.items() if key != "rows"}, "the scores are damaged"),
        (
            lambda data: {key: value for key, value in data.items() if key != "columns"},
            "the scores are damaged",
        ),
        (lambda data: {**data, "rows": [{"a": 1.0}]}, "the scores are damaged"),
        (lambda data: {**data, "rows": [{"a": "much", "b": 1.0}]}, "the scores are damaged"),
        (lambda data: {**data, "rows": 7}, "the scores are damaged"),
        (lambda data: {**data, "columns": [{"name": "a"}]}, "the scores are damaged"),
        (lambda data: {**data, "columns": data["columns"][:1] * 2}, "twice|damaged"),
        (lambda data: with_real(data, "much"), "the scores are damaged"),
        (lambda data: with_real(data, [1.0]), "the scores are damaged"),
        (lambda data: with_real(data, ["a", 1.0]), "the scores are damaged"),
        (lambda data: with_real(data, 7), "the scores are damaged"),
        (lambda data: {**data, "about": 3}, "the scores are damaged"),
        (lambda data: {**data, "about": []}, "the scores are damaged"),
        (lambda data: {**data, "rows": [{"a": [1.0], "b": 1.0}]}, "the scores are damaged"),
        (lambda data: "[" * 100_000, "the scores are no JSON"),
    ],
)
def test_damaged_json_is_refused(change, words: str) -> None:
    changed = change(json.loads(table().to_json()))
    with pytest.raises(ValueError, match=words):
        ScoreTable.from_json(changed if isinstance(changed, str) else json.dumps(changed))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    crops = torch.from_numpy(scenes(4, 96, 110))
    crops[2] = 77
    crops[3] = crops[3, ..., :1]
    return crops


@pytest.fixture(scope="module")
def profile() -> Profile:
    return Profile.fit(torch.from_numpy(scenes(12, 96, 110, seed=2)), name="crops")


def test_the_columns_hold_what_score_found(images: torch.Tensor, profile: Profile) -> None:
    scores, found = score_table(images, profile=profile), score(images, profile=profile)
    assert scores.names == tuple(COLUMNS) and len(scores) == 4
    np.testing.assert_array_equal(scores["irs"], found.irs)
    np.testing.assert_array_equal(scores["typicality"], found.typicality)
    for place, name in enumerate(Measures._fields):
        np.testing.assert_array_equal(scores[f"radius_{name}"], found.radii[:, place])
        np.testing.assert_array_equal(scores[f"percentile_{name}"], found.percentiles[:, place])
        if name != "mean_spectrum":
            np.testing.assert_array_equal(scores[name], found.measures[place])
    about = {"definition": "reference", "profile": "crops", "profile_count": 12, "detector": "shipped"}
    assert scores.about == about
    for column in scores.columns:
        known = scores[column.name][scores.applies(column.name)]
        assert ((known >= column.low) & (known <= column.high)).all(), column.name


def test_what_does_not_apply_is_nan_and_said_in_words(images: torch.Tensor, profile: Profile) -> None:
    scores = score_table(images, profile=profile)
    assert scores.applies("irs").tolist() == [True, True, False, False]
    assert scores.applies("mean_spectrum").tolist() == [True, True, False, False]
    assert scores.applies("typicality").tolist() == [True, True, False, False]
    found = report(scores)
    json.dumps(found, allow_nan=False)
    assert "no detector" in found["reading"] and found["profile"] == "crops"
    assert [picture["index"] for picture in found["pictures"]] == [0, 1, 2, 3]
    assert any("flat" in note for note in found["pictures"][2]["notes"])
    assert any("colourless" in note for note in found["pictures"][3]["notes"])
    assert not any("colourless" in note or "flat:" in note for note in found["pictures"][0]["notes"])
    assert any("typicality" in note for note in found["pictures"][0]["notes"])


def test_columns_are_chosen_and_ordered_by_name(images: torch.Tensor, profile: Profile) -> None:
    scores = score_table(images, ["typicality", "irs"], profile)
    assert scores.names == ("typicality", "irs")
    np.testing.assert_array_equal(scores["irs"], score_table(images, profile=profile)["irs"])
    with pytest.raises(ValueError, match="columns: there is no beauty; known are irs, typicality"):
        score_table(images, ["irs", "beauty"], profile)
    report(scores)
