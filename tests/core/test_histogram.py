"""The histogram and the contact sheet: every picture is counted once, and drawn where it should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realism_core.gate import Choices, Decision, decide
from realism_core.plots import histogram, sheet, stack
from realism_core.plots.canvas import ALARM, BACKGROUND, MUTED, PICTURE, REAL, TEXT, Canvas
from realism_core.plots.histogram import BOTTOM, LEFT, RIGHT, TOP, _spread, _written, count_bars

NUMBER = st.one_of(
    st.floats(-5, 5),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 1.0, 1.0, 2.0, math.inf, -math.inf, math.nan, 1.7e308, -1.7e308, 5e-324]),
)
CUTS = st.lists(NUMBER, max_size=2)


def decided(scores: torch.Tensor, cut: float = 0.0, on_unknown: str = "reject") -> Decision:
    return decide(scores, "threshold", cut, on_unknown=on_unknown)


def share_of(picture: torch.Tensor, colour: tuple) -> float:
    """Return the share of pixels that have a colour, nearly."""
    distance = (picture * 255 - torch.tensor(colour)).abs().amax(-1)
    return (distance < 16).double().mean().item()


@settings(deadline=None, max_examples=200)
@given(st.lists(NUMBER, min_size=1, max_size=40), CUTS, st.data())
def test_every_score_is_in_one_bar(scores: list[float], cuts: list[float], data: st.DataObject) -> None:
    values = np.array(scores)
    passed = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    known = ~np.isnan(values)
    if not known.any():
        return
    bars = count_bars(values, passed, cuts)
    assert bars.low < bars.high and math.isfinite(bars.high - bars.low)
    assert len(bars.passed) == len(bars.rejected) and 9 <= len(bars.passed) <= 47
    assert bars.passed.sum() == (passed & known).sum() and bars.rejected.sum() == (~passed & known).sum()
    assert bars.below == (values < bars.low).sum() and bars.above == (values > bars.high).sum()
    edges = np.linspace(bars.low, bars.high, len(bars.passed) + 1)
    counts = bars.passed + bars.rejected
    # a score on an edge may round into either bar: how many are up to each, with and without it
    slack = 1e-9 * (bars.high - bars.low)
    inside = np.clip(values[known], bars.low, bars.high)
    for edge, reached in zip(edges[1:-1], counts.cumsum(), strict=False):
        assert (inside < edge - slack).sum() <= reached <= (inside <= edge + slack).sum()


def test_bars_are_as_wide_as_freedman_and_diaconis_say() -> None:
    values = np.random.default_rng(0).uniform(0, 10, 1000)
    low, high = values.min(), values.max()
    expected = (high - low) / (2 * np.subtract(*np.quantile(values, (0.75, 0.25))) / 10)
    assert expected - 1 <= len(count_bars(values, values > 3).passed) <= expected + 2
    many = count_bars(np.random.default_rng(0).normal(size=50_000), np.ones(50_000, dtype=bool))
    assert len(many.passed) == 47 and len(count_bars(np.arange(3.0), np.ones(3, dtype=bool)).passed) == 9


def test_what_is_far_out_does_not_press_the_rest_together() -> None:
    values = np.concatenate([np.linspace(0, 1, 200), [1e6, 5e8, math.inf, -math.inf]])
    bars = count_bars(values, values > 0.5)
    assert -2 < bars.low <= 0 and 1 <= bars.high < 3 and (bars.below, bars.above) == (1, 3)
    assert bars.rejected[0] >= 1 and bars.passed[-1] == 3
    assert np.count_nonzero(bars.passed + bars.rejected) > 5


def test_the_axis_reaches_to_cuts_that_are_not_far() -> None:
    values = np.linspace(0.5, 0.9, 30)
    passed = values > 0
    assert count_bars(values, passed, [0.4]).low < 0.4 and count_bars(values, passed, [1.2]).high > 1.2
    far = count_bars(values, passed, [40.0, -40.0, math.nan, math.inf])
    assert far[:2] == count_bars(values, passed)[:2]


@settings(deadline=None, max_examples=60)
@given(st.lists(NUMBER, min_size=1, max_size=12), CUTS, CUTS, st.sampled_from(["reject", "pass", "block"]))
def test_any_scores_give_a_picture(scores: list, cuts: list, suggested: list, on_unknown: str) -> None:
    values = torch.tensor(scores, dtype=torch.float64)
    decision = decided(values, on_unknown=on_unknown)
    picture = histogram(values, decision, "a score", cuts, suggested)
    assert picture.shape == (1, 220, 512, 3) and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1
    area = picture[0, TOP:BOTTOM, LEFT:RIGHT]
    known = ~torch.isnan(values)
    # a bar of one picture has at least its width by its height
    for colour, side in ((REAL, decision.passed), (ALARM, decision.rejected)):
        assert (share_of(area, colour) > 1e-3) == bool((side & known).any())
    assert torch.equal(picture, histogram(values, decision, "a score", cuts, suggested))


def test_bars_have_the_height_of_their_counts() -> None:
    """Four passed and two rejected with the same score: one bar, two thirds green below a third of red."""
    scores = torch.full((6,), 2.0)
    passed = torch.tensor([True, True, False, True, False, True])
    picture = histogram(scores, Decision(passed, ~passed, torch.zeros(6, dtype=torch.bool)), "score")[0]
    column = picture[:, (LEFT + RIGHT) // 2] * 255
    green, red = (
        [row for row in range(220) if (column[row] - torch.tensor(colour)).abs().max() < 4]
        for colour in (REAL, ALARM)
    )
    height = BOTTOM - TOP
    # the edges are smoothed
    assert abs(len(green) - height * 2 / 3) <= 4 and abs(len(red) - height / 3) <= 4
    assert max(red) < min(green) and abs(min(red) - TOP) <= 2


def test_cuts_are_lines_at_their_numbers_and_suggestions_are_dashed() -> None:
    scores = torch.linspace(0, 10, 41, dtype=torch.float64)
    bars = count_bars(scores.numpy(), np.ones(41, dtype=bool))
    assert (bars.low, bars.high) == (0.0, 10.0)
    picture = histogram(scores, decided(scores, 5.0), "score", [2.5], [7.5])[0] * 255
    rows = slice(TOP + 2, BOTTOM - 2)

    def lit(x: float, colour: tuple) -> float:
        part = picture[rows, round(x) - 1 : round(x) + 2]
        return ((part - torch.tensor(colour)).abs().amax(-1) < 50).any(1).double().mean().item()

    cut, suggested = LEFT + 0.25 * (RIGHT - LEFT), LEFT + 0.75 * (RIGHT - LEFT)
    assert lit(cut, TEXT) == 1 and lit(suggested, TEXT) == 0
    assert 0.35 < lit(suggested, PICTURE) < 0.75 and lit(cut, PICTURE) == 0
    without = histogram(scores, decided(scores, 5.0), "score")[0] * 255
    assert (without[rows] - torch.tensor(PICTURE)).abs().amax(-1).min() > 50


@settings(deadline=None)
@given(st.lists(st.floats(LEFT, RIGHT), min_size=1, max_size=3), st.data())
def test_labels_neither_overlap_nor_leave_the_picture(places: list[float], data: st.DataObject) -> None:
    canvas, places = Canvas(512, 220), sorted(places)
    labels = [data.draw(st.sampled_from(["7", "cut 0.05", "suggested 100000003.25"])) for _ in places]
    middles = _spread(canvas, labels, places)
    halves = [canvas.width_of(label) / 2 for label in labels]
    ends = [(x - half, x + half) for x, half in zip(middles, halves, strict=True)]
    assert ends[0][0] >= 7.9 and ends[-1][1] <= 504.1
    assert all(after[0] - before[1] > 11.9 for before, after in zip(ends, ends[1:], strict=False))


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(1e-9, 1e3))
def test_numbers_are_written_near_enough(number: float, near: float) -> None:
    text = _written(number, near)
    assert abs(float(text) - number) <= near * (1 + 1e-9)
    assert "e" not in text or not 1e-4 <= abs(float(text)) < 1e9


def test_numbers_are_written_short() -> None:
    numbers = ((0.05, 1e-4), (100000003.25, 1e-3), (2.0, 1e-3), (0.0, 1e-3), (1e12, 1.0))
    assert [_written(*number) for number in numbers] == ["0.05", "100000003.25", "2", "0", "1e+12"]


def pictures(count: int, high: int = 40, wide: int = 40) -> torch.Tensor:
    """Return flat pictures, each of its own grey, no two alike."""
    return torch.linspace(0.3, 0.7, count).reshape(-1, 1, 1, 1).expand(-1, high, wide, 3)


def test_a_sheet_frames_each_picture_in_the_colour_of_its_side() -> None:
    scores = torch.tensor([0.9, 0.1, math.nan, 0.2], dtype=torch.float64)
    decision = decided(scores, 0.5, "block")
    result = sheet([pictures(2), pictures(2, 20, 60)], ["aa", "bb", "cc", "dd"], scores, decision)
    assert result.shape == (1, 174, 500, 3) and result.dtype == torch.float32
    cells = [result[0, :124, 6 + 122 * place : 6 + 122 * (place + 1)] for place in range(4)]
    for cell, colour in zip(cells, (REAL, ALARM, MUTED, ALARM), strict=True):
        assert share_of(cell, colour) > 0.03
        assert all(share_of(cell, other) < 0.01 for other in {REAL, ALARM, MUTED} - {colour})
    # the picture itself, square or 3 : 1 within 104 pixels
    for place, cell in enumerate(cells):
        grey, pixels = (0.3, 0.7)[place % 2], 104 * (104 if place < 2 else 34.7)
        found = ((cell - round(grey * 255) / 255).abs().amax(-1) < 0.01).sum().item()
        assert pixels * 0.85 < found <= pixels * 1.02
    assert not any(share_of(cell, PICTURE) for cell in cells)


def test_choices_by_hand_are_marked() -> None:
    scores = torch.tensor([0.9, 0.1, 0.2], dtype=torch.float64)
    result = sheet([pictures(3)], ["aa", "bb", "cc"], scores, decided(scores, 0.5), Choices((0,), (2,)))
    cells = [result[0, :, 6 + 122 * place : 128 + 122 * place] for place in range(3)]
    assert [share_of(cell, PICTURE) > 0.02 for cell in cells] == [True, False, True]


@pytest.mark.parametrize(
    ("count", "shape"),
    [(1, (174, 134)), (4, (174, 500)), (16, (660, 500)), (17, (498, 744)), (48, (984, 988))],
)
def test_a_sheet_grows_with_its_pictures(count: int, shape: tuple) -> None:
    scores = torch.ones(count)
    assert sheet([pictures(count)], ["kobali"] * count, scores, decided(scores)).shape[1:3] == shape


def test_a_stack_is_as_wide_as_its_widest_picture() -> None:
    wide, narrow = torch.ones(1, 2, 5, 3), torch.full((1, 3, 2, 3), 0.5)
    result = stack([wide, narrow])
    assert result.shape == (1, 5, 5, 3)
    assert torch.equal(result[:, :2], wide) and torch.equal(result[:, 2:, :2], narrow)
    assert share_of(result[0, 2:, 2:], BACKGROUND) == 1


def test_of_many_pictures_the_first_of_the_order_are_shown() -> None:
    scores = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = (scores - 0.5).abs().argsort().tolist()
    codes = [f"code{place}" for place in range(60)]
    whole = sheet([pictures(60)[:25], pictures(60)[25:]], codes, scores, decided(scores, 0.5), order=order)
    assert whole.shape == (1, 1008, 988, 3)
    first = order[:48]
    chosen = Decision(*(side[first] for side in decided(scores, 0.5)))
    alone = sheet([pictures(60)[first]], [codes[place] for place in first], scores[first], chosen)
    # the same but for the line that says how many there are
    assert torch.equal(whole[:, :980], alone[:, :980])
    assert share_of(whole[0, 980:], BACKGROUND) < 1 and share_of(alone[0, 980:], BACKGROUND) == 1


@pytest.mark.parametrize("size", [(3, 3), (3, 500), (500, 3), (900, 700)])
def test_pictures_of_any_shape_fit(size: tuple[int, int]) -> None:
    images = torch.rand(1, *size, 4, generator=torch.Generator().manual_seed(0))
    for channels in (1, 3, 4):
        result = sheet([images[..., :channels]], ["kobali"], torch.ones(1), decided(torch.ones(1)))
        assert result.shape == (1, 174, 134, 3) and share_of(result[0], REAL) > 0.005
