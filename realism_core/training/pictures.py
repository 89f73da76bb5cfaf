"""Pictures with captions on disk, cut to a few sizes of about the same area."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# of a size's sides, in pixels: deep UNets halve latents of an eighth three times more
STEP = 64
# the longer side of a size at most, as a multiple of the resolution
_LONGEST = 2


class Cut(NamedTuple):
    """A picture as it is trained on, uint8 [H,W,3]; original: height and width before it was scaled; corner:
    top and left that were cut off after; grown: whether it had to be scaled up.
    """

    picture: Tensor
    original: tuple[int, int]
    corner: tuple[int, int]
    grown: bool


def bucket_sizes(resolution: int, one: bool = False) -> list[tuple[int, int]]:
    """Return the sizes (height, width) that pictures are cut to: sides in steps of STEP, area at most the
    resolution's square, each as high as its width allows. one: the square alone.

    Raises ValueError for a resolution that is no multiple of STEP.
    """
    if resolution < STEP or resolution % STEP:
        raise ValueError(f"resolution is {resolution}: use a multiple of {STEP}, such as 512.")
    if one:
        return [(resolution, resolution)]
    widths = range(STEP, _LONGEST * resolution + 1, STEP)
    heights = [min(resolution**2 // width // STEP, _LONGEST * resolution // STEP) * STEP for width in widths]
    return [
        (height, width)
        for height, width in zip(heights, widths, strict=True)
        if height >= STEP and width * _LONGEST >= resolution and height * _LONGEST >= resolution
    ]


def cut(picture: Tensor, sizes: Sequence[tuple[int, int]]) -> Cut:
    """Return a picture, uint8 [H,W,3], scaled and cut from its middle to the size nearest in shape.

    It is scaled (Lanczos) until it just covers the size.
    """
    height, width = picture.shape[:2]
    wanted = math.log(width / height)
    high, wide = min(sizes, key=lambda size: abs(math.log(size[1] / size[0]) - wanted))
    scale = max(high / height, wide / width)
    whole = (max(high, round(height * scale)), max(wide, round(width * scale)))
    image = Image.fromarray(picture.numpy())
    if whole != (height, width):
        image = image.resize((whole[1], whole[0]), Image.Resampling.LANCZOS)
    top, left = (whole[0] - high) // 2, (whole[1] - wide) // 2
    image = image.crop((left, top, left + wide, top + high))
    return Cut(torch.from_numpy(np.array(image)), (height, width), (top, left), scale > 1)


def captions_of(paths: Sequence[Path], caption: str | None) -> list[str]:
    """Return a caption for each picture: the text file of its name, or the one given for all.

    Raises ValueError where a file is missing or no UTF-8 text, naming it.
    """
    if caption is not None:
        return [caption] * len(paths)
    files = [path.with_suffix(".txt") for path in paths]
    missing = [path for path, file in zip(paths, files, strict=True) if not file.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"{missing[0]}{more} has no caption: write it into {missing[0].with_suffix('.txt').name} beside "
            "the picture, or give one for all with --caption."
        )
    return [_read(file) for file in files]


def _read(file: Path) -> str:
    try:
        return " ".join(file.read_text("utf-8-sig").split())
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no UTF-8 text: save it as UTF-8.") from None
