"""The contact sheet of a gate: the pictures with their codes, scores and sides."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from ..gate import Choices, Decision
from ..saving import to_pillow
from .canvas import ALARM, BACKGROUND, MUTED, PICTURE, REAL, SCALE, TEXT, Canvas

MOST = 48
# up to so many pictures, in so many columns: four are as wide as the histogram above them
COLUMNS = {16: 4, 24: 6, MOST: 8}
THUMBNAIL = 104
FRAME = 3
GAP = 12
# as in a decision
SIDES = (("passed", REAL), ("rejected", ALARM), ("blocked", MUTED))
CELL = (THUMBNAIL + 2 * FRAME, THUMBNAIL + 2 * FRAME + 40)


def sheet(
    images: Sequence[Tensor],
    codes: Sequence[str],
    scores: Tensor,
    decision: Decision,
    choices: Choices = Choices(),  # noqa: B008 - a tuple
    order: Sequence[int] | None = None,
) -> Tensor:
    """Return a contact sheet [1,H,W,3], float32 0..1, of all pictures of a list of batches [B,H,W,C].

    Each has a frame of its side's colour, its code, and its score with the side below; those on that side
    by hand are marked. At most 48 are shown: the first of `order` (positions; default: as they come), with a
    line that says so. codes, scores and decision: one of each a picture.
    """
    batches = {}
    for number, batch in enumerate(images):
        batches |= {len(batches) + place: (number, place) for place in range(len(batch))}
    shown = list(range(len(batches)) if order is None else order)[:MOST]
    columns = min(len(shown), next(wide for count, wide in COLUMNS.items() if len(shown) <= count))
    rows = math.ceil(len(shown) / columns)
    foot = 24 if len(shown) < len(batches) else 0
    canvas = Canvas(columns * (CELL[0] + GAP) + GAP, rows * (CELL[1] + GAP) + GAP + foot)
    values = scores.detach().cpu().tolist()
    sides = [side.tolist() for side in decision]
    for cell, place in enumerate(shown):
        number, row = batches[place]
        x = GAP + cell % columns * (CELL[0] + GAP)
        y = GAP + cell // columns * (CELL[1] + GAP)
        word, colour = SIDES[[side[place] for side in sides].index(True)]
        by_hand = place in choices.keep or place in choices.reject
        _draw_picture(canvas, x, y, images[number][row : row + 1], colour, by_hand)
        score = "no value," if math.isnan(values[place]) else f"{values[place]:.4g}"
        middle, below = x + CELL[0] / 2, y + THUMBNAIL + 2 * FRAME
        canvas.text(middle, below + 12, codes[place], 15, TEXT)
        canvas.text(middle, below + 30, f"{score} {word}", 12, colour)
    if foot:
        text = f"{len(shown)} of {len(batches)} pictures"
        canvas.text(GAP, canvas.size[1] - GAP - 6, text, 12, MUTED, "lm")
    return canvas.finish()[None]


def _draw_picture(canvas: Canvas, x: float, y: float, image: Tensor, colour, by_hand: bool) -> None:
    picture = to_pillow(image[0]).convert("RGB")
    # the mean of whole blocks first, which is much faster and looks the same
    picture = picture.reduce(max(1, int(max(picture.size) / (1.5 * THUMBNAIL * SCALE))))
    factor = THUMBNAIL * SCALE / max(picture.size)
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    # enlarged pixels stay pixels
    method = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
    picture = picture.resize(size, method)
    width, height = (side / SCALE for side in size)
    left = x + (CELL[0] - width) / 2
    top = y + (CELL[0] - height) / 2
    _box(canvas, left - FRAME, top - FRAME, width + 2 * FRAME, height + 2 * FRAME, colour)
    canvas.image.paste(picture, (round(left * SCALE), round(top * SCALE)))
    if by_hand:
        wide = canvas.width_of("by hand", 12) + 10
        _box(canvas, x, y, wide + 1, 19, BACKGROUND)
        _box(canvas, x, y, wide, 18, PICTURE)
        canvas.text(x + wide / 2, y + 9, "by hand", 12, BACKGROUND)


def _box(canvas: Canvas, x: float, y: float, width: float, height: float, fill) -> None:
    canvas.polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], fill=fill)
