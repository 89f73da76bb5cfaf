"""Numbers from elsewhere as columns of a score table, and their weighted sum."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from realism_core.evidence import Column, ScoreTable
from realism_core.evidence.joining import COMBINED, checked_name, flat_values, join_column
from realism_core.gate import best, decide

FLOATS = st.floats(width=64)  # NaN and the infinities too
MODERATE = st.floats(-1e6, 1e6) | st.just(math.nan)
WEIGHTS = st.floats(-1e3, 1e3).filter(bool)
SIDES = st.sampled_from(["higher", "lower"])
ABOUT = {"definition": "reference", "profile": "photos"}


def table(*typicality: float) -> ScoreTable:
    column = Column("typicality", "p-value", "higher", 0.0, 1.0, "how usual")
    return ScoreTable((column,), torch.tensor(typicality, dtype=torch.float64)[:, None], dict(ABOUT))


def cut(values: list[float], sizes: list[int]) -> list[list[float]]:
    ends = np.cumsum(sizes)
    return [values[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def equal(left: ScoreTable, right: ScoreTable) -> bool:
    same = np.array_equal(left.values.numpy(), right.values.numpy(), equal_nan=True)
    return same and left.columns == right.columns and left.about == right.about


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.data())
def test_values_are_shared_out_in_order(sizes: list[int], data: st.DataObject) -> None:
    values = data.draw(st.lists(FLOATS, min_size=sum(sizes), max_size=sum(sizes)))
    tables = [table(*[0.5] * size) for size in sizes]
    joined = join_column(tables, " taste ", values, "lower")
    for part, expected in zip(joined, cut(values, sizes), strict=True):
        np.testing.assert_array_equal(part["taste"].numpy(), expected)
        assert part.names == ("typicality", "taste") and part.about == ABOUT
    assert joined[0].columns[-1] == Column(
        "taste", "score", "lower", -math.inf, math.inf, "given by another node"
    )
    assert all(before.names == ("typicality",) for before in tables)
    whole = join_column([table(*[0.5] * sum(sizes))], "taste", values, "lower")[0]
    assert equal(ScoreTable.concat(joined), whole)


@settings(deadline=None)
@given(st.lists(st.tuples(MODERATE, MODERATE, MODERATE), min_size=1, max_size=6), st.data())
def test_combined_is_the_weighted_sum_whatever_the_order(rows: list, data: st.DataObject) -> None:
    columns = dict(zip(("typicality", "noise", "taste"), zip(*rows, strict=True), strict=True))
    weights = {name: data.draw(WEIGHTS) for name in columns}
    sides = {name: data.draw(SIDES) for name in columns}
    results = []
    for order in (list(columns), data.draw(st.permutations(list(columns)))):
        (scores,) = (table(*columns["typicality"]),)
        for name in order:
            values = None if name == "typicality" else list(columns[name])
            (scores,) = join_column([scores], name, values, sides[name], weights[name])
        results.append(scores)
    signed = {name: weights[name] * (-1 if sides[name] == "lower" else 1) for name in columns}
    for index, row in enumerate(zip(*columns.values(), strict=True)):
        found = results[0][COMBINED][index].item()
        if any(math.isnan(value) for value in row):
            assert math.isnan(found)
            continue
        parts = [Fraction(signed[name]) * Fraction(value) for name, value in zip(columns, row, strict=True)]
        room = 4 * 2**-53 * float(sum(map(abs, parts))) + 1e-300
        assert abs(Fraction(found) - sum(parts)) <= room
    np.testing.assert_array_equal(results[0][COMBINED].numpy(), results[1][COMBINED].numpy())
    assert results[0].about == results[1].about == {**ABOUT, COMBINED: signed}
    assert results[0].names[-1] == COMBINED and results[0].columns[-1].direction == "higher"
    assert equal(ScoreTable.from_json(results[0].to_json()), results[0])


@settings(deadline=None)
@given(st.lists(MODERATE, min_size=1, max_size=5), WEIGHTS, WEIGHTS, SIDES, SIDES)
def test_a_later_weight_replaces_and_zero_takes_it_out(
    values: list[float], first: float, second: float, side: str, later: str
) -> None:
    plain = join_column([table(*values)], "taste", values)[0]
    both = join_column([plain], "taste", None, side, first)
    replaced = join_column(both, "taste", None, later, second)[0]
    assert equal(replaced, join_column([plain], "taste", None, later, second)[0])
    assert equal(join_column([replaced], "taste", None, later, 0.0)[0], plain)
    other = join_column([replaced], "typicality", None, side, first)
    left = join_column(other, "taste", None, "none", 0)[0]
    assert equal(left, join_column([plain], "typicality", None, side, first)[0])


@settings(deadline=None)
@given(st.lists(MODERATE, min_size=2, max_size=8), WEIGHTS)
def test_one_picture_gets_what_it_gets_in_a_batch(values: list[float], weight: float) -> None:
    together = join_column([table(*values)], "taste", values[::-1], "higher", weight)
    together = join_column(together, "typicality", None, "lower", 0.25)[0]
    for index, value in enumerate(values):
        alone = join_column([table(value)], "taste", values[::-1][index], "higher", weight)
        assert equal(join_column(alone, "typicality", None, "lower", 0.25)[0], together[index])


def test_the_meaning_lists_the_parts() -> None:
    scores = join_column([table(0.4)], "noise", [2.0], "lower", 0.1)
    assert scores[0].columns[-1].meaning == "-0.1 x noise"
    scores = join_column(scores, "typicality", None, "higher", 1)
    assert scores[0].columns[-1].meaning == "-0.1 x noise + 1 x typicality"
    assert scores[0].columns[-1].unit == "weighted sum"
    assert scores[0][COMBINED].tolist() == pytest.approx([0.4 - 0.2])
    negative = join_column([table(0.4)], "typicality", None, "lower", -2.0)[0]
    assert negative.columns[-1].meaning == "2 x typicality" and negative[COMBINED].tolist() == [0.8]


@pytest.mark.parametrize(
    ("rule", "value", "passed"),
    [
        ("threshold", 2.5, [1, 4]),
        ("band", None, [0, 4]),
        ("top_k", 2, [1, 4]),
        ("top_fraction", 0.4, [1, 4]),
    ],
)
def test_a_gate_takes_infinities_and_unknown_ones(rule: str, value: float, passed: list[int]) -> None:
    scores = join_column(None, "taste", [1.0, math.inf, math.nan, -math.inf, 3.0], "higher", 2.0)[0]
    for name in ("taste", COMBINED):
        chosen = decide(scores[name], rule, value, 0.0, 9.0)
        assert chosen.passed.nonzero().flatten().tolist() == passed
    assert best(scores["taste"], "top_k") == 1 and best(scores["taste"], "top_k", keep="low") == 3
    again = ScoreTable.from_json(scores.to_json())["taste"]
    assert again.isnan().tolist() == [False, True, True, True, False]
    both = join_column([scores], "other", [0.0, -math.inf, 0.0, 0.0, 0.0], "higher", 1.0)[0]
    assert both[COMBINED].isnan().tolist() == [False, True, True, False, False]


def test_without_scores_a_table_is_made() -> None:
    (scores,) = join_column(None, "taste", [0.5, 0.25])
    assert scores.names == ("taste",) and scores.about == {} and scores["taste"].tolist() == [0.5, 0.25]
    (weighted,) = join_column(None, "taste", 0.5, "lower", 2)
    assert weighted[COMBINED].tolist() == [-1.0] and weighted.about == {COMBINED: {"taste": -2}}


def test_tables_of_other_weights_are_not_joined() -> None:
    plain, one = table(0.5), join_column([table(0.5)], "typicality", None, "higher", 1)[0]
    two = join_column([table(0.5)], "typicality", None, "higher", 2)[0]
    with pytest.raises(ValueError, match="combined {'typicality': 2} cannot follow"):
        ScoreTable.concat([one, two])
    assert len(ScoreTable.concat([one, one])) == 2
    with pytest.raises(ValueError, match="combined is 2 x typicality cannot go with scores where it is 1"):
        join_column([one, two], "taste", [1.0, 2.0])
    with pytest.raises(ValueError, match="combined is 1 x typicality cannot go with .* missing"):
        join_column([plain, one], "taste", [1.0, 2.0])


LEAVES = st.floats(width=32) | st.integers(-(2**60), 2**60) | st.booleans()


@settings(deadline=None)
@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4), max_leaves=20))
def test_any_nesting_is_flattened(nested: object) -> None:
    def flat(item: object) -> list[float]:
        return [float(item)] if not isinstance(item, list) else [x for part in item for x in flat(part)]

    def depth(item: object) -> int:
        return 1 + max(map(depth, item), default=0) if isinstance(item, list) else 0

    expected = flat(nested)
    assume(expected and depth(nested) <= 16)
    np.testing.assert_array_equal(flat_values(nested), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "uint8", "bool"])
def test_tensors_and_arrays_are_flattened(dtype: str) -> None:
    tensor = torch.tensor([0, 1, 1]).to(getattr(torch, dtype))
    found = flat_values([tensor, [tensor[1]]])
    assert found == [0, 1, 1, 1] and {type(number) for number in found} == {float}
    if dtype != "bfloat16":
        array = tensor.numpy()
        assert flat_values([(array, array[1]), array[2:]]) == [0, 1, 1, 1, 1]
    assert flat_values(torch.nn.Parameter(torch.tensor([0.5]))) == [0.5]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["0.5"], "values holds the text '0.5' where number 1 should be: connect a FLOAT list"),
        ([0.5, None], "holds None where number 2"),
        ([0.1, [0.2, {}]], "of type dict that is no FLOAT where number 3"),
        ([torch.zeros(1, 8, 8, 3)], r"an array of shape \(1, 8, 8, 3\) and type torch.float32"),
        ([np.zeros((2, 1))], r"an array of shape \(2, 1\)"),
        ([torch.tensor([1j])], "an array of shape"),
        ([np.array(["a"])], "an array of shape"),
        ([np.array([None])], "an array of shape"),
        ([1j], "of type complex that is no FLOAT"),
        ([10**400], "of type int that is no FLOAT where number 1"),
        ([], "values holds no number"),
        ([[], torch.zeros(0)], "values holds no number"),
    ],
)
def test_what_is_no_number_is_refused(values: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        join_column([table(0.1, 0.2, 0.3)], "taste", values)


def test_lists_nested_too_deep_end_with_an_error() -> None:
    deep: list = [0.5]
    for _ in range(15):
        deep = [deep]
    assert flat_values(deep) == [0.5]
    with pytest.raises(ValueError, match="nested too deep"):
        flat_values([deep])
    endless: list = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested too deep"):
        flat_values(endless)


@settings(deadline=None)
@given(st.text(max_size=70))
def test_names_are_stripped_or_refused(name: str) -> None:
    try:
        found = checked_name(name)
    except ValueError as error:
        assert re.match(r"name (is|has) ", str(error))
        stripped = name.strip()
        odd = not stripped.isprintable() or "," in stripped
        assert not stripped or len(stripped) > 64 or odd or stripped == COMBINED
    else:
        assert found == name.strip() and 0 < len(found) <= 64 and "," not in found
        assert len(found.splitlines()) == 1 and found.encode()
        made = join_column(None, found + "x", [1.0], "higher", 1)[0]
        assert equal(ScoreTable.from_json(made.to_json()), made)


GIVEN = [1.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("typicality", GIVEN), "name is 'typicality', and the scores have that column already: choose"),
        (("combined", GIVEN), "name is 'combined', which is the weighted sum itself"),
        (("combined", None, "higher", 1.0), "name is 'combined', which is the weighted sum itself"),
        (("file", GIVEN), "name is 'file', which manifests use"),
        (("  ", GIVEN), "name is empty"),
        (("a,b", GIVEN), "leave out commas"),
        (("a\nb", GIVEN), "leave out commas, line breaks"),
        (("a\u2028b", GIVEN), "leave out commas, line breaks"),
        (("a\u2029b", GIVEN), "leave out commas, line breaks"),
        (("a\ud800b", GIVEN), "leave out commas, line breaks"),
        (("a\x1bb", GIVEN), "leave out commas, line breaks"),
        (("x" * 65, GIVEN), "name has 65 characters: use at most 64"),
        (("taste", [1.0]), "values holds 1 numbers but scores holds 2 pictures"),
        (("taste", [1.0] * 3), "values holds 3 numbers but scores holds 2 pictures"),
        (("taste", None, "higher", 1.0), "no such column; they have: typicality. Choose one of them, or"),
        (("typicality", None), "weight is 0 and values is not connected"),
        (("typicality", None, "none", 1.0), "weight is 1 but direction is 'none'"),
        (("taste", GIVEN, "none", -1.0), "weight is -1 but direction is 'none'"),
        (("taste", GIVEN, "middle"), "direction is 'middle'; use one of higher, lower, none"),
        (("taste", GIVEN, "lower", math.nan), "weight is nan: use a finite number"),
        (("taste", GIVEN, "lower", math.inf), "weight is inf: use a finite number"),
    ],
)
def test_wrong_input_is_named_with_its_fix(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        join_column([table(0.25, 0.75)], *arguments)


def test_nothing_connected_and_damaged_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="neither scores nor values is connected"):
        join_column(None, "taste")
    with pytest.raises(ValueError, match="there are no scores to add a column to"):
        join_column([], "taste", [1.0])
    weighted = join_column(None, "taste", [1.0], "higher", 1)[0]
    for damaged in (
        ScoreTable(weighted.columns[1:], weighted.values[:, 1:], weighted.about),
        ScoreTable(weighted.columns[:1], weighted.values[:, :1], weighted.about),
        ScoreTable(weighted.columns, weighted.values, {}),
    ):
        with pytest.raises(ValueError, match="the scores are damaged"):
            join_column([damaged], "other", [1.0])
