"""A semantic mask in colour, with a legend of the classes that are there."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..conditioning.mask_pictures import to_colours
from ..conditioning.masks import SemanticMask
from ..conditioning.vocabulary import MASK_CLASSES
from .canvas import GRID, MUTED, SCALE, TEXT, Canvas

# the longer side of the picture, and the least of the shorter one
LONG, SHORT = 448, 24
GAP, ROW, SWATCH = 14, 19, 13
# of a row of the legend: a swatch, a title and a percentage
COLUMN = 142
# colours that would sink into the dark surface get a frame, so all do
_FRAME = 1
# of classes that other pictures of the batch have: readable, but behind the others
_FAINT = (120, 125, 136)


def mask_preview(mask: SemanticMask) -> Tensor:
    """Return pictures [B,H,W,3] of a mask in CelebAMask-HQ's colours, float32 0..1, of one readable size.

    Beside each stand the classes that any picture of the batch has, with the share of this picture that each
    covers; below it where the mask is wide. Soft shares mix the colours.
    """
    height, width = mask.size
    factor = LONG / max(height, width)
    size = (max(SHORT, round(width * factor)), max(SHORT, round(height * factor)))
    coverage = mask.coverage()
    shown = (coverage > 0).any(0).nonzero().flatten().tolist()
    beside = size[1] >= size[0] * 0.75
    rows = max(1, (size[1] - 2 * ROW) // ROW) if beside else math.ceil(len(shown) / (size[0] // COLUMN))
    columns = math.ceil(len(shown) / rows)
    if beside:
        whole = (size[0] + 3 * GAP + columns * COLUMN, size[1] + 2 * GAP)
        corner = (size[0] + 2 * GAP, GAP)
    else:
        whole = (size[0] + 2 * GAP, size[1] + 3 * GAP + (rows + 1) * ROW)
        corner = (GAP, size[1] + 2 * GAP)
    pictures = []
    for place, picture in enumerate(to_colours(mask).cpu()):
        canvas = Canvas(*whole)
        _paste(canvas, picture, size)
        kind = "hard" if mask.is_hard else "soft"
        canvas.text(corner[0], corner[1] + ROW / 2, f"{width} x {height}, {kind}", 12, MUTED, "lm")
        for number, label in enumerate(shown):
            x = corner[0] + number // rows * COLUMN
            y = corner[1] + (1 + number % rows) * ROW
            _entry(canvas, x, y, label, float(coverage[place, label]))
        pictures.append(canvas.finish())
    return torch.stack(pictures)


def _paste(canvas: Canvas, picture: Tensor, size: tuple[int, int]) -> None:
    drawn = Image.fromarray((picture.numpy() * 255).round().astype(np.uint8))
    enlarged = size[0] * SCALE >= drawn.width
    # enlarged pixels stay pixels
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    canvas.image.paste(drawn.resize((size[0] * SCALE, size[1] * SCALE), method), (GAP * SCALE, GAP * SCALE))
    left, top, right, bottom = (edge - 0.5 for edge in (GAP, GAP, GAP + size[0] + 1, GAP + size[1] + 1))
    canvas.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], outline=GRID, width=_FRAME)


def _entry(canvas: Canvas, x: float, y: float, label: int, share: float) -> None:
    middle = y + ROW / 2
    box = [(x, middle - SWATCH / 2), (x + SWATCH, middle - SWATCH / 2)]
    box += [(x + SWATCH, middle + SWATCH / 2), (x, middle + SWATCH / 2)]
    canvas.polygon(box, fill=MASK_CLASSES[label].colour, outline=MUTED, width=_FRAME)
    colour = TEXT if share > 0 else _FAINT
    canvas.text(x + SWATCH + 7, middle, MASK_CLASSES[label].title, 13, colour, "lm")
    canvas.text(x + COLUMN - GAP, middle, percentage(share), 12, MUTED if share > 0 else _FAINT, "rm")


def percentage(share: float) -> str:
    """Return a share as people read it, such as 12 %, 0.3 % or < 0.1 %."""
    if share == 0:
        return "none"
    if share < 0.001:
        return "< 0.1 %"
    return f"{share:.1%}".replace("%", " %") if share < 0.0995 else f"{share:.0%}".replace("%", " %")
