"""Integer grey conversions, to the last bit those of OpenCV and Pillow."""

from __future__ import annotations

import torch
from torch import Tensor

from ..blocks import Block, map_blocks

OPENCV = (9798, 19235, 3735)
PILLOW = (19595, 38470, 7471)


def opencv_grey(planes: Tensor, swapped: bool = False) -> Tensor:
    """Return cv2's 8-bit grey [B,H,W] of uint8 RGB planes [B,3,H,W].

    (9798 R + 19235 G + 3735 B + 16384) >> 15, as in cv2.cvtColor; `swapped` exchanges R and B, as the
    research code of the IRS does when it hands RGB pixels to COLOR_BGR2GRAY.
    """
    red, green, blue = OPENCV
    return _weighted(planes, (blue, green, red) if swapped else (red, green, blue), 15)


def pillow_grey(planes: Tensor) -> Tensor:
    """Return Pillow's convert("L") [B,H,W] of uint8 RGB planes.

    (19595 R + 38470 G + 7471 B + 32768) >> 16
    """
    return _weighted(planes, PILLOW, 16)


def _weighted(planes: Tensor, weights: tuple[int, int, int], bits: int) -> Tensor:
    # float32 holds every integer below 2^24 and these sums stay under it, so the arithmetic is exact and
    # vectorises.
    half = float(1 << (bits - 1))
    batch, _, height, width = planes.shape
    grey = torch.empty(batch, height, width, dtype=torch.uint8, device=planes.device)

    def weigh(block: Block) -> None:
        red, green, blue = planes[block.images, :, block.rows].to(torch.float32).unbind(1)
        total = red.mul_(weights[0]).add_(half)
        total.add_(green, alpha=weights[1]).add_(blue, alpha=weights[2])
        grey[block.images, block.rows] = total.mul_(2.0**-bits).to(torch.uint8)

    map_blocks(weigh, grey.shape, grey.device)
    return grey
