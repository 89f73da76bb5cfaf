"""The robustness plots: marks land where their numbers say, gaps stay gaps, and no column is left out."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks import _panels, robustness
from benchmarks._clean_pictures import in_turn
from benchmarks._panels import Head, Row, Series, axis_for, mark_text, panel_grid, panel_width
from realism_core.degrade import KINDS, degrade
from realism_core.evidence.columns import COLUMNS

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
FULL = (1.0,) * 5
NONE = (math.nan,) * 5
HEADS = [Head("blur", "sigma … px", ("as is", "2", "4"))] * 2
FINITE = st.floats(-1e9, 1e9, allow_nan=False)


def grid(*rows: Row) -> np.ndarray:
    return np.asarray(panel_grid("Title", rows, HEADS, STRENGTHS, ("one", "two")).convert("RGB")).astype(
        int
    )


def flat(value: float, share: tuple[float, ...] = FULL) -> Series:
    return Series((value,) * 5, (value,) * 5, (value,) * 5, share)


def place_of(column: int, strength: float, height: float) -> tuple[int, int]:
    """The pixel (y, x) of a value at `height` of 0..1 in the first row of plots."""
    left = _panels.LEFT + column * (panel_width(2) + _panels.GAP) + _panels.INSET
    x = left + strength * (panel_width(2) - 2 * _panels.INSET)
    y = _panels.TOP + _panels.HEAD + _panels.TITLE + (1 - height) * _panels.PLOT
    return round(y), round(x)


def is_side(pixels: np.ndarray, side: int) -> np.ndarray:
    return np.abs(pixels - np.array(_panels.COLOURS[side])).max(-1) < 40


def test_series_are_drawn_at_their_values_and_nowhere_else() -> None:
    row = Row("p_photo", "probability", "share", [[flat(0.75), flat(0.25)], [flat(1.0), flat(0.0)]])
    pixels = grid(row)
    for column, heights in enumerate([(0.75, 0.25), (1.0, 0.0)]):
        for side, height in enumerate(heights):
            for strength in STRENGTHS:
                y, x = place_of(column, strength, height)
                assert is_side(pixels[y - 2 : y + 3, x - 2 : x + 3], side).any()
    top, foot = place_of(0, 0, 1)[0], place_of(0, 0, 0)[0]
    x = place_of(0, 0.6, 0)[1]
    seen = [np.flatnonzero(is_side(pixels[top : foot + 1, x], side)) for side in (0, 1)]
    assert abs(seen[0].mean() / _panels.PLOT - 0.25) < 0.03 and len(seen[0]) <= 3
    assert abs(seen[1].mean() / _panels.PLOT - 0.75) < 0.03 and len(seen[1]) <= 4


def test_a_line_stops_where_a_value_is_missing() -> None:
    values = (0.5, 0.5, math.nan, 0.5, 0.5)
    row = Row("a", "b", "share", [[Series(NONE, values, NONE, FULL), flat(1.0)], [flat(1.0), flat(1.0)]])
    pixels = grid(row)
    y, _ = place_of(0, 0, 0.5)
    drawn = {
        s: is_side(pixels[y - 2 : y + 3, place_of(0, s, 0)[1]], 0).any() for s in (0.12, 0.4, 0.6, 0.9)
    }
    assert drawn == {0.12: True, 0.4: False, 0.6: False, 0.9: True}


def test_the_band_lies_between_low_and_high() -> None:
    wide = Series((0.2,) * 5, (0.5,) * 5, (0.8,) * 5, FULL)
    nothing = Series(NONE, NONE, NONE, FULL)
    pixels = grid(Row("a", "b", "share", [[wide, nothing], [flat(1.0), flat(0.0)]]))
    brightness = [pixels[place_of(0, 0.3, height)].sum() for height in (0.1, 0.3, 0.7, 0.9)]
    assert brightness[0] == brightness[3] and brightness[1] == brightness[2]
    assert brightness[1] > brightness[0] + 60


def test_bars_show_the_share_that_applies_and_only_where_some_does_not() -> None:
    whole = Row("a", "b", "share", [[flat(1.0), flat(0.5)]] * 2)
    part = Row("a", "b", "share", [[flat(1.0, (1, 1, 0.5, 0, 0)), flat(0.5)]] * 2)
    without, pixels = grid(whole), grid(part)
    assert without.shape[1] == pixels.shape[1] == 1600
    assert pixels.shape[0] == without.shape[0] + _panels.BARS
    assert grid(whole, whole).shape[0] - without.shape[0] == _panels.TITLE + _panels.PLOT + _panels.SPACE
    top = place_of(0, 0, 0)[0] + 4
    tall = [
        is_side(pixels[top : top + _panels.BARS, place_of(0, s, 0)[1] - 3], 0).sum() for s in (0, 0.5, 0.75)
    ]
    assert tall[0] == pytest.approx(_panels.BARS - 10, abs=1.5)
    assert tall[1] == pytest.approx(tall[0] / 2, abs=1.5) and tall[2] == 0


def test_the_picture_is_small() -> None:
    picture = panel_grid(
        "Title", [Row("a", "b", "ratio", [[flat(3.0)]] * 2)], HEADS, STRENGTHS, ("one", "two")
    )
    assert picture.mode == "P" and len(picture.getcolors()) <= _panels.COLOURS_KEPT


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 panels for 2 heads"):
        grid(Row("a", "b", "share", [[flat(1.0)]]))
    with pytest.raises(ValueError, match="not 5 values long"):
        grid(Row("a", "b", "share", [[Series((1.0,), (1.0,), (1.0,), (1.0,))]] * 2))


@example([5e-324, 1e9], "ratio")
@given(st.lists(FINITE | st.just(math.nan), max_size=8), st.sampled_from(["share", "ratio", "linear"]))
def test_an_axis_holds_its_values_and_marks(values: list[float], scale: str) -> None:
    if scale == "share":
        values = [abs(value) / 1e9 for value in values]
    axis = axis_for(values, scale)
    places = [axis.place(value) for value in sorted(filter(math.isfinite, values))]
    assert all(-1e-6 <= place <= 1 + 1e-6 for place in places)
    assert places == sorted(places)
    marks = [axis.place(mark) for mark in axis.marks]
    assert 2 <= len(marks) <= 8 and marks == sorted(marks)
    assert marks[0] >= -1e-6 and marks[-1] <= 1 + 1e-6


def test_axes_of_known_values() -> None:
    assert axis_for([0.1, 0.6], "share").marks == (0, 0.5, 1)
    assert axis_for([0.0, 30.0], "ratio") == (0, 30, False, (0, 10, 20, 30))
    decades = axis_for([1.0, 1000.0], "ratio")
    assert decades.decades and decades.marks == (1, 10, 100, 1000)
    assert decades.place(100) - decades.place(10) == pytest.approx(decades.place(10) - decades.place(1))
    assert not axis_for([1.0, 1000.0], "linear").decades
    assert axis_for([0.0, 0.0], "share").marks[0] == 0
    clipped = axis_for([0.0, 1e-9, 10.0], "ratio")
    assert clipped.place(0.0) == clipped.place(1e-9) == 0 and clipped.place(0.01) > 0.2
    assert [mark_text(v) for v in (0.0, 0.25, 2000, 20000, 3e6)] == ["0", "0.25", "2000", "20k", "3M"]


def test_every_column_is_in_one_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(name for _, names in robustness.grouped().values() for name in names) == sorted(COLUMNS)
    monkeypatch.setitem(COLUMNS, "new_column", COLUMNS["irs"])
    with pytest.raises(ValueError, match="new_column"):
        robustness.grouped()


def test_summary_leaves_out_what_does_not_apply() -> None:
    random = np.random.default_rng(1)
    values = random.normal(size=(12, 2, 3, len(COLUMNS)))
    values[random.random(values.shape) < 0.3] = np.nan
    values[2:, 0, 0, 0] = np.nan
    found = robustness.summary(torch.from_numpy(values)).numpy()
    known = np.isfinite(values)
    assert np.array_equal(found[3], known.mean(0))
    expected = np.nanquantile(values, [0.1, 0.5, 0.9], axis=0)
    expected[:, known.sum(0) < 3] = np.nan
    verdict = list(COLUMNS).index("verdict")
    others = np.arange(len(COLUMNS)) != verdict
    np.testing.assert_allclose(found[:3][..., others], expected[..., others])
    np.testing.assert_allclose(found[1, ..., verdict], np.nanmean(values[..., verdict], 0))
    assert np.isnan(found[:3, 0, 0, 0]).all() and np.isnan(found[[0, 2]][..., verdict]).all()


def test_states_are_every_kind_at_every_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_and_height(images: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(values=torch.tensor([[images.double().mean(), images.shape[1]]]))

    monkeypatch.setattr(robustness, "score_table", mean_and_height)
    picture = torch.randint(
        0, 256, (24, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    found = robustness.states(picture, 5)
    assert found.shape == (len(KINDS), len(robustness.STRENGTHS), 2)
    for row, kind in enumerate(KINDS):
        for place, strength in enumerate(robustness.STRENGTHS):
            expected = mean_and_height(degrade(picture[None], kind, strength, 5)).values[0]
            assert torch.equal(found[row, place], expected)


def test_pictures_are_taken_from_all_groups_in_turn() -> None:
    groups = [
        [Path(f"{letter}{n}") for n in range(size)] for letter, size in (("a", 9), ("b", 2), ("c", 0))
    ]
    chosen = in_turn(groups, 6)
    assert [path.name for path in chosen] == ["a1", "a3", "a5", "a7", "b0", "b1"]
    assert len(set(in_turn(groups, 99))) == 11


def test_heads_name_the_settings() -> None:
    heads = {head.name: head for head in robustness.heads()}
    assert list(heads) == list(KINDS)
    assert heads["jpeg"] == ("jpeg", "quality …", ("as is", "55", "10"))
    assert heads["blur"] == ("blur", "sigma … px", ("as is", "2", "4"))
    assert heads["sharpen"].marks == ("as is", "150%", "300%")
