"""The plot of a loss weight over the timesteps, beside what others would give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..training.objective import LABELS, Objective
from ..training.weighting import LossWeight
from .canvas import BACKGROUND, GRID, MUTED, PICTURE, REAL, TEXT, Canvas

SIZE = (640, 400)
LEFT, RIGHT, TOP, BOTTOM = 76, 620, 92, 328
POINTS = 545
BINS = 62
# height of the most often drawn timesteps, of the whole plot
DRAWN_HEIGHT = 0.2
DECADES = 6
TICKS = (0, 0.25, 0.5, 0.75, 1)


class Curve(NamedTuple):
    """A weight in eps terms at the u of `weight_curves`."""

    label: str
    values: np.ndarray
    colour: tuple[int, int, int]
    width: float


def weight_plot(
    loss_weight: LossWeight, objective: Objective, sigmas: Callable[[Tensor], Tensor], model: str = ""
) -> Tensor:
    """Return a plot [1,400,640,3], float32 0..1, of a loss weight against the timesteps u, clean to noise.

    Drawn is what the weight amounts to on the squared error of the noise prediction, whatever the model
    predicts, so that curves of different models and modes can be compared; beside it the model's own loss
    without a weight, and min-SNR with gamma 5. The three are normalised alike. The grey hills below show how
    often timesteps are drawn. sigmas: the model's sigma (t for flow) at u; model: what to call it.
    Raises the ValueError of `Objective.prepare` for a weight that the model cannot be trained with.
    """
    u, curves = weight_curves(loss_weight, objective, sigmas)
    low, high = value_range(curves)
    canvas = Canvas(*SIZE)
    _draw_hills(canvas, loss_weight)
    _draw_grid(canvas, low, high)
    for curve in curves[::-1]:
        points = [(_x(place), _y(value, low, high)) for place, value in zip(u, curve.values, strict=True)]
        canvas.line(points, curve.colour, curve.width)
    # curves may leave the frame: what is outside is painted over
    for top, bottom in ((0, TOP - 1), (BOTTOM + 1, SIZE[1])):
        canvas.polygon([(0, top), (SIZE[0], top), (SIZE[0], bottom), (0, bottom)], fill=BACKGROUND)
    _draw_values(canvas, low, high)
    _draw_axis(canvas, objective, sigmas)
    _headline(canvas, loss_weight, curves, model or LABELS[objective.kind])
    return canvas.finish()[None]


def weight_curves(
    loss_weight: LossWeight, objective: Objective, sigmas: Callable[[Tensor], Tensor]
) -> tuple[np.ndarray, list[Curve]]:
    """Return (u, curves) in eps terms: the weight, the unweighted loss of the model, and min-SNR 5."""
    u = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    sigma = sigmas(u).double()
    plain = replace(loss_weight, kind="constant", numbers={}, times=(), mode="factor")
    others = replace(loss_weight, kind="min_snr", numbers={}, times=(), mode="exact")
    named = (
        (loss_weight.label(), loss_weight, PICTURE, 3.0),
        ("unweighted", plain, MUTED, 1.6),
        ("min-SNR 5", others, REAL, 1.6),
    )
    curves = []
    for label, weight, colour, width in named:
        values = objective.weights(objective.prepare(weight, sigmas), sigma)
        curves.append(Curve(label, objective.in_eps_terms(values, sigma).cpu().numpy(), colour, width))
    return u.numpy(), curves


def value_range(curves: Sequence[Curve]) -> tuple[float, float]:
    """Return the logarithms (base 10) at the foot and the head of the plot, at most DECADES apart.

    The first curve counts, and of the others what does not lead away from it by more than a hundred.
    """
    first = np.log10(np.maximum(curves[0].values, 1e-300))
    low, high = first.min(), first.max()
    others = np.log10(np.maximum(np.concatenate([curve.values for curve in curves]), 1e-300))
    low, high = max(others.min(), low - 2), min(others.max(), high + 2)
    low = max(low, high - DECADES)
    margin = max(0.06 * (high - low), 0.08)
    return low - margin, high + margin


def _x(u: float) -> float:
    return LEFT + u * (RIGHT - LEFT)


def _y(value: float, low: float, high: float) -> float:
    share = (math.log10(max(value, 1e-300)) - low) / (high - low)
    # far outside is as good as further outside
    return BOTTOM - min(max(share, -1), 2) * (BOTTOM - TOP)


def _draw_hills(canvas: Canvas, loss_weight: LossWeight) -> None:
    """Draw how often timesteps are drawn, as a filled outline at the foot."""
    share = (torch.arange(100 * BINS, dtype=torch.float64) + 0.5) / (100 * BINS)
    counts, edges = np.histogram(loss_weight.timesteps.quantile(share).numpy(), BINS, (0, 1))
    height = DRAWN_HEIGHT * (BOTTOM - TOP) / counts.max()
    outline = [(LEFT, BOTTOM)]
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        outline += [(_x(left), BOTTOM - count * height), (_x(right), BOTTOM - count * height)]
    canvas.polygon([*outline, (RIGHT, BOTTOM)], fill=(*GRID, 120))


def _steps(low: float, high: float) -> list[tuple[float, bool]]:
    """Return (value, whether it is labelled) of the grid: powers of ten, with 2 and 5 where few fit."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2.2 else (1,)
    every = 1 if high - low <= 5 else 2
    values = [(factor * 10.0**power, power % every == 0) for power in powers for factor in factors]
    return [(value, label) for value, label in values if low <= math.log10(value) <= high]


def _draw_grid(canvas: Canvas, low: float, high: float) -> None:
    for value, _ in _steps(low, high):
        y = _y(value, low, high)
        canvas.line([(LEFT, y), (RIGHT, y)], GRID, 0.5)


def _draw_values(canvas: Canvas, low: float, high: float) -> None:
    for value, label in _steps(low, high):
        if label:
            text = f"{value:.0f}" if value >= 1 else np.format_float_positional(value, precision=12, trim="-")
            canvas.text(LEFT - 7, _y(value, low, high), text, 12, MUTED, "rm")
    canvas.line([(LEFT, BOTTOM), (RIGHT, BOTTOM)], MUTED)


def _draw_axis(canvas: Canvas, objective: Objective, sigmas: Callable[[Tensor], Tensor]) -> None:
    reached = sigmas(torch.tensor(TICKS, dtype=torch.float64)).tolist()
    canvas.text(16, BOTTOM + 16, "u", 12, MUTED, "lm")
    canvas.text(16, BOTTOM + 34, "t" if objective.kind == "flow" else "sigma", 12, MUTED, "lm")
    for tick, sigma in zip(TICKS, reached, strict=True):
        x = _x(tick)
        canvas.line([(x, BOTTOM), (x, BOTTOM + 4)], MUTED)
        for row, number in ((16, f"{tick:g}"), (34, f"{sigma:.0f}" if sigma >= 100 else f"{sigma:.3g}")):
            half = canvas.width_of(number, 12) / 2
            canvas.text(min(x, SIZE[0] - 6 - half), BOTTOM + row, number, 12, MUTED)
    canvas.text(LEFT, BOTTOM + 56, "clean", 12, TEXT, "lm")
    canvas.text(RIGHT, BOTTOM + 56, "pure noise", 12, TEXT, "rm")
    canvas.text((LEFT + RIGHT) / 2, BOTTOM + 56, "grey hills: how often timesteps are drawn", 12, MUTED)


def _headline(canvas: Canvas, loss_weight: LossWeight, curves: Sequence[Curve], model: str) -> None:
    how = "exact" if loss_weight.mode == "exact" else "as a factor"
    canvas.text(16, 20, f"loss weight: {model}, {how}", 15, TEXT, "lm")
    level = "mean 1 over the draws" if loss_weight.normalise else "not normalised"
    canvas.text(16, 42, f"gradient weight of the noise error (eps), logarithmic; {level}", 12, MUTED, "lm")
    x = 16.0
    for curve in curves:
        label = curve.label
        while canvas.width_of(label, 13) > 330:
            label = label.removesuffix("...")[:-1] + "..."
        canvas.line([(x, 68), (x + 20, 68)], curve.colour, curve.width)
        canvas.text(x + 27, 68, label, 13, TEXT if curve is curves[0] else MUTED, "lm")
        x += 27 + canvas.width_of(label, 13) + 20
