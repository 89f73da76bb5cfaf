"""The loss of a training, live, and what it did to images that were held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..training.validation import BandLoss
from .canvas import GRID, MUTED, PICTURE, REAL, TEXT, Canvas

WIDTH, LEFT, RIGHT = 640, 76, 620
MAIN = (60, 250)
HELD_OUT = (328, 448)
DOTS = 545
# the running median goes over so many steps, or this share of all, whichever is more
WINDOW, SHARE = 20, 0.1

HeldOut = Sequence[tuple[int, Sequence[BandLoss]]]


class Axis(NamedTuple):
    """Where values lie: top and bottom in pixels, values there (logarithmic), and the end of the x axis."""

    top: float
    bottom: float
    low: float
    high: float
    end: float

    def x(self, place: float) -> float:
        return LEFT + (RIGHT - LEFT) * place / self.end

    def y(self, value: float) -> float:
        share = math.log(max(value, 1e-30) / self.low) / math.log(self.high / self.low)
        return self.bottom - (self.bottom - self.top) * min(1.0, max(0.0, share))


def loss_plot(losses: Sequence[float], steps: int, held_out: HeldOut = ()) -> Tensor:
    """Return a plot [1,H,640,3], float32 0..1, of a training's losses by step, and their running median.

    losses: one a step, from the first on. steps: that were asked for; the plot shows these, or twice those
    made if that is less. held_out: the validations so far, as `train` reports them; the first and the latest
    are drawn below by noise level.
    """
    canvas = Canvas(WIDTH, 500 if held_out else 300)
    values = np.asarray(losses, dtype=float)
    places = np.unique(np.linspace(1, len(values), min(len(values), DOTS)).round().astype(int))
    smooth = _running_medians(values, places)
    done = f"step {len(values)} of {steps}"
    canvas.text(LEFT, 22, "Loss", 16, anchor="lm")
    told = f"{done}, running median {smooth[-1]:.3g}" if np.isfinite(smooth[-1:]).any() else done
    canvas.text(LEFT, 42, told, 12, MUTED, "lm")
    end = min(steps, 2 * len(values)) or steps
    axis = Axis(*MAIN, *_range(values), end)
    _grid(canvas, axis)
    _curves(canvas, values, places, smooth, axis)
    for place in dict.fromkeys((0, end // 2, end)):
        anchor = "rm" if place == end else "mm"
        canvas.text(axis.x(place), MAIN[1] + 16, f"{place}", 12, MUTED, anchor)
    canvas.text(RIGHT, MAIN[1] + 34, "step", 12, MUTED, "rm")
    if held_out:
        _held_out(canvas, held_out)
    return canvas.finish()[None]


def _curves(canvas: Canvas, losses: np.ndarray, places: np.ndarray, smooth: np.ndarray, axis: Axis) -> None:
    for place in places:
        if math.isfinite(losses[place - 1]):
            canvas.dot(axis.x(place), axis.y(losses[place - 1]), 1.4, fill=(*MUTED, 110))
    points = [
        (axis.x(place), axis.y(value))
        for place, value in zip(places, smooth, strict=True)
        if math.isfinite(value)
    ]
    if len(points) > 1:
        canvas.line(points, PICTURE, 2.4)
    elif points:
        canvas.dot(*points[0], 2.4, fill=PICTURE)


def _held_out(canvas: Canvas, held_out: HeldOut) -> None:
    first, latest = held_out[0], held_out[-1]
    canvas.text(LEFT, HELD_OUT[0] - 28, "Held-out loss by noise level", 14, anchor="lm")
    values = np.asarray([band.loss for _, bands in (first, latest) for band in bands])
    axis = Axis(*HELD_OUT, *_range(values), 1)
    _grid(canvas, axis)
    drawn = [(first, MUTED, 1.6), (latest, REAL, 2.4)] if len(held_out) > 1 else [(first, REAL, 2.4)]
    x = RIGHT
    for (step, bands), colour, width in reversed(drawn):
        points = [
            (axis.x((band.low + band.high) / 2), axis.y(band.loss))
            for band in bands
            if math.isfinite(band.loss)
        ]
        if len(points) > 1:
            canvas.line(points, colour, width)
        label = f"after step {step}" if step else "before training"
        canvas.text(x, HELD_OUT[0] - 28, label, 12, colour, "rm")
        x -= canvas.width_of(label, 12) + 16
    for share, name in ((0, "clean"), (1, "noise")):
        canvas.text(axis.x(share), HELD_OUT[1] + 16, name, 12, MUTED)
    pairs = [(one.loss, other.loss) for one, other in zip(first[1], latest[1], strict=True)]
    before, after = (sum(losses) for losses in zip(*pairs, strict=True))
    if len(held_out) > 1 and before > 0 and math.isfinite(before + after):
        change = after / before - 1
        canvas.text(LEFT, HELD_OUT[1] + 36, f"mean {change:+.1%} since step {first[0]}", 12, TEXT, "lm")


def _running_medians(losses: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the median of the finite losses around each place: they jump with the noise drawn."""
    half = max(WINDOW, round(SHARE * len(losses))) // 2
    around = (losses[max(0, place - half) : place + half] for place in places)
    finite = (part[np.isfinite(part)] for part in around)
    return np.asarray([np.median(part) if len(part) else math.nan for part in finite])


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of a logarithmic axis that shows all but a hundredth of the values at each end."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return 0.1, 1.0
    low, high = np.quantile(positive, (0.01, 0.99))
    middle = math.sqrt(low * high)
    return min(low * 0.9, middle / 1.2), max(high * 1.1, middle * 1.2)


def _grid(canvas: Canvas, axis: Axis) -> None:
    for share in (0, 0.5, 1):
        value = axis.low * (axis.high / axis.low) ** share
        canvas.line([(LEFT, axis.y(value)), (RIGHT, axis.y(value))], GRID)
        canvas.text(LEFT - 8, axis.y(value), f"{value:.3g}", 12, MUTED, "rm")
