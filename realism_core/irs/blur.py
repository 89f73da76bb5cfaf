"""The variance blur measure, in both circulating forms."""

from __future__ import annotations

import torch
from torch import Tensor

from ..blocks import Block, map_blocks


def grey_variance(grey: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the population variance of uint8 grey [B,H,W], float64 [B], in squared grey levels."""
    return _variance(grey, mask)


def laplacian_variance(grey: Tensor) -> Tensor:
    """Return the variance of the Laplacian [[0,1,0],[1,-4,1],[0,1,0]] of uint8 grey [B,H,W], float64 [B].

    The border is mirrored without repeating the edge pixel, as cv2.Laplacian(grey, CV_64F) does by default.
    """
    height = grey.shape[1]
    laplacian = torch.empty(grey.shape, dtype=torch.int16, device=grey.device)

    def convolve(block: Block) -> None:
        top, bottom = block.rows.start, block.rows.stop
        slab = grey[block.images, max(0, top - 1) : bottom + 1].to(torch.int16)
        if top == 0:
            slab = torch.cat((slab[:, 1:2], slab), 1)
        if bottom == height:
            slab = torch.cat((slab, slab[:, -2:-1]), 1)
        centre = slab[:, 1:-1]
        around = slab[:, :-2] + slab[:, 2:] - 4 * centre
        around[:, :, 1:] += centre[:, :, :-1]
        around[:, :, :-1] += centre[:, :, 1:]
        around[:, :, 0] += centre[:, :, 1]
        around[:, :, -1] += centre[:, :, -2]
        laplacian[block.images, block.rows] = around

    map_blocks(convolve, (len(grey), height, grey.shape[2]), grey.device)
    return _variance(laplacian, None)


def _variance(values: Tensor, mask: Tensor | None) -> Tensor:
    def moments(block: Block) -> Tensor:
        # whole numbers below 2^53, so float64 sums them exactly, and faster than int64
        part = values[block.images, block.rows].double()
        if mask is not None:
            part = part * mask[block.images, block.rows]
        # one sum a row, so that blocks of rows and blocks of pictures stack alike
        return torch.stack((part.sum(2), (part * part).sum(2)), 2).flatten(0, 1)

    batch, height, width = values.shape
    rows = torch.cat(map_blocks(moments, (batch, height, width), values.device)).view(batch, height, 2)
    total, squares = rows.sum(1).long().unbind(1)
    count = height * width if mask is None else mask.flatten(1).sum(1)
    whole = total.div(count, rounding_mode="floor")
    rest = total - whole * count
    # in integers up to the last, small term: a flat picture has exactly no variance, a nearly flat one all
    # its digits
    spread = squares - whole * whole * count - 2 * whole * rest
    return (spread.double() - rest.double() ** 2 / count) / count
