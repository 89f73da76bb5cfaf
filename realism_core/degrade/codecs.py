"""JPEG and WebP: pictures encoded and decoded again, in memory, by Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..saving import to_pillow
from .shared import check_choice, check_number, check_whole, checked, map_colours

SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
# the largest side that a file of the format can hold
LONGEST = {"JPEG": 65500, "WEBP": 16383}


def encode_jpeg(images: Tensor, quality: int, subsampling: str = "4:2:0") -> Tensor:
    """Return the pictures as they look after being saved as JPEG.

    images: [B,H,W,C], float 0..1 or uint8, the same out; floats are rounded to the 8 bits of a file.
    quality: 1..100 on libjpeg's scale. subsampling: of the chroma, 4:4:4, 4:2:2 or 4:2:0 (the usual).
    Grey pictures become grey JPEGs, which have no chroma; alpha stays as it is.
    Raises ValueError or TypeError.
    """
    check_choice("subsampling", subsampling, SUBSAMPLINGS)

    def options(picture: Image.Image) -> dict:
        return {"subsampling": subsampling} if picture.mode == "RGB" else {}

    return _encode(images, "JPEG", quality, options)


def encode_webp(images: Tensor, quality: int) -> Tensor:
    """Return the pictures as they look after being saved as lossy WebP, at quality 100 too.

    images: [B,H,W,C], float 0..1 or uint8, the same out; floats are rounded to the 8 bits of a file.
    quality: 1..100 on libwebp's scale; chroma is always 4:2:0. Alpha stays as it is.
    Raises ValueError or TypeError.
    """
    return _encode(images, "WEBP", quality, lambda picture: {})


def _encode(images: Tensor, format: str, quality: int, options: Callable[[Image.Image], dict]) -> Tensor:
    images = checked(images)
    quality = check_whole("quality", quality)
    check_number("quality", quality, 1, 100)
    height, width = images.shape[1:3]
    if max(height, width) > LONGEST[format]:
        raise ValueError(
            f"images is {width} x {height} pixels, but {format} holds sides of at most {LONGEST[format]}: "
            "resize or crop the pictures before."
        )

    def through(colours: Tensor, index: int) -> Tensor:
        picture = to_pillow(colours)
        grey = colours.shape[-1] == 1
        if grey:
            picture = picture.convert("L")
        file = io.BytesIO()
        picture.save(file, format, quality=quality, **options(picture))
        with Image.open(file) as decoded:
            levels = np.array(decoded.convert("L" if grey else "RGB"))
        return torch.from_numpy(levels).reshape(colours.shape).to(colours) / 255

    return map_colours(images, through)
