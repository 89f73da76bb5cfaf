"""The plot of per-image training weights, from the image that counts most to the one that counts least."""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import ALARM, GRID, MUTED, PICTURE, TEXT, Canvas

SIZE = (512, 220)
LEFT, RIGHT, TOP, BOTTOM = 48, 496, 64, 180
COLUMNS = 2 * (RIGHT - LEFT)


def score_weight_plot(weights: Tensor, unknown: int, metric: str) -> Tensor:
    """Return a plot [1,220,512,3], float32 0..1, of weights [B] in falling order, with the line of mean 1.

    unknown: how many images have no score. metric: the column's name, for the headline.
    """
    falling = torch.sort(weights.detach().double().cpu(), descending=True).values
    highest = float(falling[0])
    canvas = Canvas(*SIZE)
    _headline(canvas, falling, unknown, metric)
    # no more columns than can be told apart; of each the middle image
    columns = min(len(falling), COLUMNS)
    width = (RIGHT - LEFT) / columns
    outline = [(LEFT, BOTTOM)]
    for column in range(columns):
        weight = float(falling[int((column + 0.5) * len(falling) / columns)])
        y = BOTTOM - weight / highest * (BOTTOM - TOP)
        outline += [(LEFT + column * width, y), (LEFT + (column + 1) * width, y)]
    canvas.polygon([*outline, (RIGHT, BOTTOM)], fill=PICTURE)
    mean = BOTTOM - (BOTTOM - TOP) / highest
    canvas.line([(LEFT, mean), (RIGHT, mean)], TEXT)
    canvas.line([(LEFT, TOP), (RIGHT, TOP)], GRID, 0.5)
    canvas.line([(LEFT, BOTTOM), (RIGHT, BOTTOM)], MUTED)
    canvas.text(LEFT - 6, BOTTOM, "0", 12, MUTED, "rm")
    # weights that are nearly alike leave no room for both numbers
    if mean - TOP > 14:
        canvas.text(LEFT - 6, TOP, f"{highest:.3g}", 12, MUTED, "rm")
    if BOTTOM - mean > 14:
        canvas.text(LEFT - 6, mean, "1", 12, TEXT, "rm")
    canvas.text(LEFT, BOTTOM + 18, "counts most", 12, MUTED, "lm")
    canvas.text(RIGHT, BOTTOM + 18, "counts least", 12, MUTED, "rm")
    return canvas.finish()[None]


def _headline(canvas: Canvas, falling: Tensor, unknown: int, metric: str) -> None:
    right = SIZE[0] - 16
    without = int((falling == 0).sum())
    parts = [
        (f"{unknown} without a value", MUTED, unknown),
        (f"{without} with weight 0", ALARM, without),
        (f"{len(falling) - without} learned from", PICTURE, True),
    ]
    for text, colour, shown in parts:
        if shown:
            canvas.text(right, 40, text, 13, colour, "rm")
            right -= canvas.width_of(text, 13) + 14
    name = f"weight of each image by {metric}"
    while canvas.width_of(name, 14) > SIZE[0] - 32:
        name = name.removesuffix("...")[:-1] + "..."
    canvas.text(16, 18, name, 14, TEXT, "lm")
