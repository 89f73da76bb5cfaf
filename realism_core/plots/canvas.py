"""A dark drawing surface at twice the size, and the colours and fonts all plots share."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SCALE = 2
BACKGROUND = (24, 26, 31)
GRID = (62, 66, 76)
TEXT = (232, 234, 238)
MUTED = (158, 163, 174)
REAL = (92, 190, 148)
PICTURE = (255, 179, 71)
ALARM = (255, 107, 107)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own typeface at a size in output pixels."""
    return ImageFont.load_default(size * SCALE)


class Canvas:
    """A picture drawn at SCALE times its size and scaled down at the end, so that lines come out smooth.

    Coordinates and widths are output pixels.
    """

    def __init__(self, width: int, height: int, background: tuple[int, int, int] = BACKGROUND) -> None:
        self.size = (width, height)
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), background)
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def polygon(self, points: list[tuple[float, float]], fill=None, outline=None, width: float = 1) -> None:
        """Fill a polygon and draw its outline."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        if fill:
            self.draw.polygon(scaled, fill=fill)
        if outline:
            self.draw.line(
                [*scaled, scaled[0], scaled[1]], fill=outline, width=round(width * SCALE), joint="curve"
            )

    def line(self, points: list[tuple[float, float]], fill, width: float = 1) -> None:
        """Draw a line through points."""
        self.draw.line(
            [(x * SCALE, y * SCALE) for x, y in points], fill=fill, width=max(1, round(width * SCALE))
        )

    def dot(self, x: float, y: float, radius: float, fill, outline=None, width: float = 1) -> None:
        """Draw a filled circle."""
        box = [(x - radius) * SCALE, (y - radius) * SCALE, (x + radius) * SCALE, (y + radius) * SCALE]
        self.draw.ellipse(box, fill=fill, outline=outline, width=round(width * SCALE))

    def text(self, x: float, y: float, text: str, size: int = 13, fill=TEXT, anchor: str = "mm") -> None:
        """Write text; the anchor is Pillow's."""
        self.draw.text((x * SCALE, y * SCALE), text, font=font(size), fill=fill, anchor=anchor)

    def width_of(self, text: str, size: int = 13) -> float:
        """Return how many pixels wide a text is written."""
        return self.draw.textlength(text, font(size)) / SCALE

    def finish(self) -> Tensor:
        """Return the drawing as an image [H,W,3], float32 0..1."""
        small = self.image.resize(self.size, Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255)
