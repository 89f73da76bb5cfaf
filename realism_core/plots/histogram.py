"""The histogram of a gate: how the scores lie, which pictures pass, and where the cut is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..gate import Decision
from .canvas import ALARM, BACKGROUND, GRID, MUTED, PICTURE, REAL, TEXT, Canvas

SIZE = (512, 220)
LEFT, RIGHT, TOP, BOTTOM = 40, 496, 76, 184
# an odd number, so that pictures with one score stand in the middle
BINS = (9, 47)
# scores further than this many times the middle 90 % from them are collected at the ends
REACH = 1.5
# beyond this numbers are drawn as infinite ones are
HUGE = 1e300


class Bars(NamedTuple):
    """Counts over equal bins from low to high; the end ones also hold what is further out."""

    low: float
    high: float
    passed: np.ndarray
    rejected: np.ndarray
    below: int
    above: int


def histogram(
    scores: Tensor,
    decision: Decision,
    metric: str,
    cuts: Sequence[float] = (),
    suggested: Sequence[float] = (),
) -> Tensor:
    """Return a histogram of scores [B] as a picture [1,220,512,3], float32 0..1.

    Bars are stacked: what passed below, what did not above. cuts: where the rule cuts, drawn as lines with
    their numbers; suggested: the same for a suggestion, dashed. Pictures without a score (NaN) are counted
    in the headline. Scores far from all others are collected in bars at the ends, with their range written.
    """
    values = scores.detach().double().cpu().numpy()
    passed = decision.passed.cpu().numpy()
    canvas = Canvas(*SIZE)
    _headline(canvas, metric, decision, int(np.isnan(values).sum()))
    if np.isnan(values).all():
        canvas.line([(LEFT, BOTTOM), (RIGHT, BOTTOM)], fill=GRID)
        canvas.text((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2, "no picture has a value here", 15, MUTED)
        return canvas.finish()[None]
    bars = count_bars(values, passed, [*cuts, *suggested])
    _draw_bars(canvas, bars)
    _draw_axis(canvas, bars, values)
    rows = ((cuts, TEXT, 42, "cut ", BOTTOM), (suggested, PICTURE, 60, "suggested ", 3))
    for numbers, colour, row, _, dash in rows:
        _draw_cuts(canvas, bars, numbers, colour, row, dash)
    for numbers, colour, row, word, _ in rows:
        _label_cuts(canvas, bars, numbers, colour, row, word)
    return canvas.finish()[None]


def count_bars(values: np.ndarray, passed: np.ndarray, cuts: Sequence[float] = ()) -> Bars:
    """Return the bars of values [B], of which at least one is a number; the end ones hold what is far out.

    Their width is Freedman and Diaconis' (1981), with 9 to 47 bars. Cuts that are not far out are inside.
    """
    known = ~np.isnan(values)
    values, passed = values[known], passed[known]
    finite = values[np.abs(values) < HUGE]
    low, high = _range(finite, [cut for cut in cuts if abs(cut) < HUGE])
    inside = finite[(finite >= low) & (finite <= high)]
    quarters = np.quantile(inside, (0.25, 0.75)) if len(inside) else (0.0, 0.0)
    width = 2 * float(quarters[1] - quarters[0]) / max(1, len(inside)) ** (1 / 3)
    bins = math.ceil(min(BINS[1], max(BINS[0], (high - low) / width if width > 0 else 0))) | 1
    places = np.clip((np.clip(values, low, high) - low) / (high - low) * bins, 0, bins - 1).astype(int)
    counts = [np.bincount(places[side], minlength=bins) for side in (passed, ~passed)]
    return Bars(low, high, *counts, int((values < low).sum()), int((values > high).sum()))


def _range(finite: np.ndarray, cuts: list[float]) -> tuple[float, float]:
    """Return the ends of the axis: of all values, or without those that are far out, and with near cuts."""
    if len(finite) == 0:
        return -1.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    fifth, last = np.quantile(finite, (0.05, 0.95), method="closest_observation")
    if last > fifth:
        low = max(low, float(fifth - REACH * (last - fifth)))
        high = min(high, float(last + REACH * (last - fifth)))
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, 1e-290):
        # numbers that cannot be told apart: a bar in the middle
        low, high = low - (0.1 * size or 1.0), high + (0.1 * size or 1.0)
        span = size
    else:
        span = high - low
    near = [cut for cut in cuts if low - span <= cut <= high + span]
    reached = min(near, default=low) < low, max(near, default=high) > high
    low, high = min([low, *near]), max([high, *near])
    margin = 0.04 * (high - low)
    return low - margin * reached[0], high + margin * reached[1]


def _draw_bars(canvas: Canvas, bars: Bars) -> None:
    highest = int((bars.passed + bars.rejected).max())
    scale, width = (BOTTOM - TOP) / highest, (RIGHT - LEFT) / len(bars.passed)
    canvas.line([(LEFT, TOP), (RIGHT, TOP)], fill=GRID, width=0.5)
    canvas.text(LEFT - 6, TOP, _short(highest), 12, MUTED, "rm")
    canvas.text(LEFT - 6, BOTTOM - 2, "0", 12, MUTED, "rm")
    for place, counts in enumerate(zip(bars.passed.tolist(), bars.rejected.tolist(), strict=True)):
        left, right = LEFT + place * width + 0.5, LEFT + (place + 1) * width - 0.5
        foot = BOTTOM
        for count, colour in zip(counts, (REAL, ALARM), strict=True):
            if count:
                # one picture among thousands is still a line
                top = max(TOP - 3, foot - max(1.5, count * scale))
                canvas.polygon([(left, foot), (right, foot), (right, top), (left, top)], fill=colour)
                foot = top
    canvas.line([(LEFT, BOTTOM), (RIGHT, BOTTOM)], fill=MUTED)


def _draw_axis(canvas: Canvas, bars: Bars, values: np.ndarray) -> None:
    """Write what the end bars collect, and round numbers where there is room."""
    left, right, row = 0.0, float(SIZE[0]), BOTTOM + 18
    known = values[~np.isnan(values)]
    if bars.below:
        text = f"{_short(bars.below)} below, from {known.min():.4g}"
        canvas.text(LEFT, row, text, 12, MUTED, "lm")
        left = LEFT + canvas.width_of(text, 12) + 10
    if bars.above:
        text = f"{_short(bars.above)} above, to {known.max():.4g}"
        canvas.text(RIGHT, row, text, 12, MUTED, "rm")
        right = RIGHT - canvas.width_of(text, 12) - 10
    step = _round_step((bars.high - bars.low) / 6)
    for number in range(math.ceil(bars.low / step - 1e-9), math.floor(bars.high / step + 1e-9) + 1):
        text = _written(number * step, step / 100)
        x, half = _place(bars, number * step), canvas.width_of(text, 12) / 2
        canvas.line([(x, BOTTOM), (x, BOTTOM + 4)], fill=MUTED)
        middle = min(max(x, 4 + half), SIZE[0] - 4 - half)
        if left <= middle - half and middle + half <= right:
            canvas.text(middle, row, text, 12, MUTED)
            left = middle + half + 10


def _draw_cuts(
    canvas: Canvas, bars: Bars, cuts: Sequence[float], colour, row: float, dash: float
) -> None:
    for number in filter(math.isfinite, cuts):
        x, y = _place(bars, number), row
        while y < BOTTOM:
            canvas.line([(x, y), (x, min(y + dash, BOTTOM))], fill=colour, width=1.5)
            y += 2 * dash


def _label_cuts(canvas: Canvas, bars: Bars, cuts: Sequence[float], colour, row: float, word: str) -> None:
    numbers = sorted(filter(math.isfinite, cuts))
    labels = []
    for number in numbers:
        beyond = " (left of here)" * (number < bars.low) + " (right of here)" * (number > bars.high)
        first = word if not labels else ""
        labels.append(f"{first}{_written(number, (bars.high - bars.low) / 1e4)}{beyond}")
    places = [_place(bars, number) for number in numbers]
    for label, x in zip(labels, _spread(canvas, labels, places), strict=True):
        half = canvas.width_of(label) / 2 + 3
        box = [(x - half, row - 9), (x + half, row - 9), (x + half, row + 9), (x - half, row + 9)]
        canvas.polygon(box, fill=BACKGROUND)
        canvas.text(x, row, label, 13, colour)


def _spread(canvas: Canvas, labels: Sequence[str], places: Sequence[float]) -> list[float]:
    """Return the middles of labels in a row, near their places but neither overlapping nor outside."""
    halves = [canvas.width_of(label) / 2 for label in labels]
    middles, edge = [], 8.0
    for half, place in zip(halves, places, strict=True):
        middles.append(max(place, edge + half))
        edge = middles[-1] + half + 12
    edge = SIZE[0] - 8.0
    for index in reversed(range(len(middles))):
        middles[index] = min(middles[index], edge - halves[index])
        edge = middles[index] - halves[index] - 12
    return middles


def _headline(canvas: Canvas, metric: str, decision: Decision, unknown: int) -> None:
    right = SIZE[0] - 16
    parts = [
        (f"{unknown} without a value", MUTED, unknown),
        (f"{int(decision.rejected.sum())} rejected", ALARM, True),
        (f"{int(decision.passed.sum())} passed", REAL, True),
    ]
    for text, colour, shown in parts:
        if shown:
            canvas.text(right, 20, text, 14, colour, "rm")
            right -= canvas.width_of(text, 14) + 14
    name = metric
    while name and canvas.width_of(name, 16) > right - 20:
        name = name[:-4] + "..." if name.endswith("...") else name[:-3] + "..."
    canvas.text(16, 20, name, 16, TEXT, "lm")


def _place(bars: Bars, number: float) -> float:
    share = (min(max(number, bars.low), bars.high) - bars.low) / (bars.high - bars.low)
    return LEFT + share * (RIGHT - LEFT)


def _round_step(step: float) -> float:
    """Return 1, 2 or 5 times a power of ten, at least the step."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _written(number: float, near: float) -> str:
    """Return a number with the fewest digits that are at most `near` from it."""
    for digits in range(1, 18):
        rounded = float(f"{number:.{digits}g}")
        if abs(rounded - number) <= near:
            break
    if rounded and not 1e-4 <= abs(rounded) < 1e9:
        return f"{rounded:.{digits}g}"
    return np.format_float_positional(rounded + 0.0, trim="-")


def _short(count: int) -> str:
    return f"{count / 1000:.3g}k" if count >= 10_000 else str(count)
