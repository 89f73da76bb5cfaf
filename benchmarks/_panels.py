"""A grid of small line charts: one row a quantity, one column a way to change pictures, one line a side.

Every row has one vertical axis, so that its panels can be compared; the horizontal one is strength 0..1,
written in the units of each column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from PIL import Image

from realism_core.plots.canvas import GRID, MUTED, TEXT, Canvas
from realism_core.saving import to_pillow

WIDTH = 1600
LEFT, RIGHT, GAP = 70, 12, 14
TOP, HEAD, FOOT = 78, 56, 36
TITLE, PLOT, BARS, SPACE = 30, 104, 30, 8
COLOURS = ((165, 218, 255), (236, 108, 44))
LINES = (1.8, 2.6)  # the first side is drawn on top: where both agree, the second shows beside it
NAME, SMALL, TICK = 19, 16, 15
INSET = 7
PAPER = (255, 255, 255, 9)
LOGARITHMIC = 30.0  # a larger ratio of largest to smallest gets decades
MOST_DECADES = 4
COLOURS_KEPT = 96
Scale = Literal["share", "ratio", "linear"]


class Series(NamedTuple):
    """One side in one panel, a value a strength, NaN where none: band, middle, share that applies."""

    low: Sequence[float]
    middle: Sequence[float]
    high: Sequence[float]
    share: Sequence[float]


class Row(NamedTuple):
    """One quantity: its name and unit, the scale of its axis, and panels[column][side]."""

    name: str
    unit: str
    scale: Scale
    panels: Sequence[Sequence[Series]]


class Head(NamedTuple):
    """What stands above a column, and its three marks below: at strength 0, 0.5 and 1."""

    name: str
    unit: str
    marks: tuple[str, str, str]


class Axis(NamedTuple):
    """A vertical axis from low to high, in decades or not, with its marks."""

    low: float
    high: float
    decades: bool
    marks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return where a value lies, 0 at the foot and 1 at the top."""
        if self.decades:
            first, last = math.log(self.low), math.log(self.high)
            return (math.log(max(value, self.low)) - first) / (last - first)
        return (value - self.low) / (self.high - self.low)


class Panel(NamedTuple):
    """Where a panel lies on the canvas, in pixels, its axis, and the strengths it shows."""

    left: float
    top: float
    width: float
    axis: Axis
    strengths: Sequence[float]

    def across(self, strength: float) -> float:
        """Return the x of a strength 0..1."""
        return self.left + INSET + strength * (self.width - 2 * INSET)

    def point(self, strength: float, value: float) -> tuple[float, float]:
        """Return the x and y of a value at a strength."""
        return self.across(strength), self.top + (1 - self.axis.place(value)) * PLOT


def axis_for(values: Sequence[float], scale: Scale) -> Axis:
    """Return an axis for all finite values: 0..1 for shares above a half, decades for ratios that span much.

    At most four decades below the largest value: what is less, zero too, lies at the foot.
    """
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if scale == "share" and high > 0.5:
        return Axis(0.0, 1.0, False, (0.0, 0.5, 1.0))
    positive = [value for value in known if value > 0]
    if scale == "ratio" and low >= 0 and positive:
        least = max(min(positive), high / 10**MOST_DECADES)
        if high / least > LOGARITHMIC:
            return _decades(least / 1.15, high * 1.15)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        low, high = low - max(0.5, abs(low) / 2), high + max(0.5, abs(high) / 2)
        low = max(low, 0.0) if scale == "share" else low
    rough = (high - low) / 3
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return Axis(first * step, last * step, False, tuple(step * number for number in range(first, last + 1)))


def _decades(low: float, high: float) -> Axis:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marks = [10.0**power for power in range(first, last + 1) if low <= 10.0**power <= high]
    if len(marks) < 2:
        marks = [m * 10.0**p for p in range(first, last + 1) for m in (1, 3) if low <= m * 10.0**p <= high]
    return Axis(low, high, True, tuple(marks[:: math.ceil(len(marks) / 4)]))


def mark_text(value: float) -> str:
    """Return a number short enough for an axis: 20000 is 20k."""
    value = 0.0 if abs(value) < 1e-12 else value
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:g}{letter}"
    return f"{value:.4g}"


def panel_width(columns: int) -> float:
    """Return the width of one of so many panels side by side."""
    return (WIDTH - LEFT - RIGHT - GAP * (columns - 1)) / columns


def panel_grid(
    title: str, rows: Sequence[Row], heads: Sequence[Head], strengths: Sequence[float], sides: Sequence[str]
) -> Image.Image:
    """Return the drawn grid as a palette picture, 1600 pixels wide.

    A side's line runs through its middles with a band from low to high, and stops where a value is NaN. Rows
    with a share below 1 have a bar a side and strength below the plot, as high as the share. Raises
    ValueError where the panels of a row are not one a head, or a series is not one value a strength.
    """
    for row in rows:
        if len(row.panels) != len(heads):
            raise ValueError(
                f"{row.name} has {len(row.panels)} panels for {len(heads)} heads: give one a head."
            )
        if any(len(part) != len(strengths) for panel in row.panels for series in panel for part in series):
            raise ValueError(
                f"{row.name} has a series that is not {len(strengths)} values long: give one a strength."
            )
    height = TOP + HEAD + sum(_row_height(row) for row in rows) + FOOT
    canvas = Canvas(WIDTH, height)
    _legend(canvas, title, sides, any(map(_is_partial, rows)))
    width = panel_width(len(heads))
    lefts = [LEFT + number * (width + GAP) for number in range(len(heads))]
    for head, left in zip(heads, lefts, strict=True):
        canvas.text(left + width / 2, TOP + 14, head.name, NAME, TEXT)
        canvas.text(left + width / 2, TOP + 37, head.unit, SMALL, MUTED)
    top = TOP + HEAD
    for row in rows:
        _draw_row(canvas, row, top, lefts, width, strengths)
        top += _row_height(row)
    for head, left in zip(heads, lefts, strict=True):
        for place, mark, anchor in zip((0, 0.5, 1), head.marks, ("lm", "mm", "rm"), strict=True):
            x = left + place * width if place != 0.5 else left + width / 2
            canvas.text(x, top + 10, mark, TICK, MUTED, anchor)
    picture = to_pillow(canvas.finish())
    return picture.quantize(COLOURS_KEPT, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _row_height(row: Row) -> int:
    return TITLE + PLOT + SPACE + (BARS if _is_partial(row) else 0)


def _is_partial(row: Row) -> bool:
    return any(share < 1 for panel in row.panels for series in panel for share in series.share)


def _legend(canvas: Canvas, title: str, sides: Sequence[str], with_bars: bool) -> None:
    canvas.text(16, 26, title, 24, TEXT, "lm")
    x = 16
    for number, side in enumerate(sides):
        canvas.line([(x, 58), (x + 36, 58)], COLOURS[number], LINES[number])
        _marker(canvas, number, x + 18, 58)
        canvas.text(x + 46, 58, side, SMALL, TEXT, "lm")
        x += 46 + canvas.width_of(side, SMALL) + 34
    told = "line: median; band: the middle 80 % of the pictures"
    if with_bars:
        told += "; bars below: share of the pictures to which the column applies (full height = all)"
    canvas.text(x, 58, told, SMALL, MUTED, "lm")


def _draw_row(
    canvas: Canvas, row: Row, top: float, lefts: Sequence[float], width: float, strengths: Sequence[float]
) -> None:
    canvas.text(LEFT, top + 14, row.name, NAME, TEXT, "lm")
    canvas.text(LEFT + canvas.width_of(row.name, NAME) + 14, top + 15, row.unit, SMALL, MUTED, "lm")
    values = [value for panel in row.panels for series in panel for part in series[:3] for value in part]
    axis = axis_for(values, row.scale)
    for left, sides in zip(lefts, row.panels, strict=True):
        panel = Panel(left, top + TITLE, width, axis, strengths)
        right, foot = left + width, panel.top + PLOT
        canvas.polygon([(left, panel.top), (right, panel.top), (right, foot), (left, foot)], fill=PAPER)
        is_empty = not any(_runs(series.middle) for series in sides)
        for mark in axis.marks:
            y = panel.point(0, mark)[1]
            if not is_empty:
                canvas.line([(left, y), (left + width, y)], GRID, 1)
            if left == lefts[0]:
                canvas.text(left - 8, y, mark_text(mark), TICK, MUTED, "rm")
        for number, series in enumerate(sides):
            _draw_band(canvas, panel, series, COLOURS[number])
        for number, series in reversed(list(enumerate(sides))):
            _draw_line(canvas, panel, series, number)
        if is_empty:
            told = "too few pictures" if any(any(series.share) for series in sides) else "does not apply"
            canvas.text(left + width / 2, panel.top + PLOT / 2, told, SMALL, MUTED)
        if _is_partial(row):
            _draw_bars(canvas, panel, sides)


def _draw_band(canvas: Canvas, panel: Panel, series: Series, colour: tuple[int, int, int]) -> None:
    for run in _runs([low + high for low, high in zip(series.low, series.high, strict=True)]):
        upper = [panel.point(panel.strengths[i], series.high[i]) for i in run]
        lower = [panel.point(panel.strengths[i], series.low[i]) for i in reversed(run)]
        if len(run) == 1:
            x, reach = upper[0][0], INSET / 2
            upper = [(x - reach, upper[0][1]), (x + reach, upper[0][1])]
            lower = [(x + reach, lower[0][1]), (x - reach, lower[0][1])]
        canvas.polygon(upper + lower, fill=(*colour, 62))


def _draw_line(canvas: Canvas, panel: Panel, series: Series, number: int) -> None:
    for run in _runs(series.middle):
        points = [panel.point(panel.strengths[i], series.middle[i]) for i in run]
        if len(points) > 1:
            canvas.line(points, COLOURS[number], LINES[number])
        for x, y in points:
            _marker(canvas, number, x, y)


def _draw_bars(canvas: Canvas, panel: Panel, sides: Sequence[Series]) -> None:
    foot, full = panel.top + PLOT + BARS - 4, BARS - 10
    canvas.line([(panel.left, foot + 1), (panel.left + panel.width, foot + 1)], GRID, 1)
    for number, series in enumerate(sides):
        for strength, share in zip(panel.strengths, series.share, strict=True):
            x = panel.across(strength) + (-5.5 if number == 0 else 0.5)
            corners = [(x, foot), (x, foot - full * share), (x + 5, foot - full * share), (x + 5, foot)]
            if share > 0:
                canvas.polygon(corners, fill=COLOURS[number])


def _marker(canvas: Canvas, number: int, x: float, y: float) -> None:
    if number == 0:
        canvas.dot(x, y, 2.8, COLOURS[0])
    else:
        corners = [(x - 3.6, y - 3.6), (x + 3.6, y - 3.6), (x + 3.6, y + 3.6), (x - 3.6, y + 3.6)]
        canvas.polygon(corners, fill=COLOURS[number])


def _runs(values: Sequence[float]) -> list[list[int]]:
    """Return the indices of finite values, split where one is missing."""
    runs: list[list[int]] = [[]]
    for index, value in enumerate(values):
        if math.isfinite(value):
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
