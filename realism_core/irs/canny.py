"""Canny edges, bit for bit those of cv2.Canny(grey, low, high) with aperture 3 and the L1 gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ..blocks import Block, map_blocks

TAN_22 = 13573  # round(tan(22.5 degrees) * 2^15), OpenCV's constant
ROUNDS_PER_CHECK = 4


def canny_edges(grey: Tensor, low: int = 100, high: int = 200) -> Tensor:
    """Return the edge map bool [B,H,W] of uint8 grey [B,H,W].

    low, high: thresholds on |Gx| + |Gy| in grey levels, low <= high. The steps are OpenCV's: integer Sobel
    with a replicated border, suppression of non-maxima by the fixed-point tangent test, 8-connected
    hysteresis.
    """
    batch, height, width = grey.shape
    framed = torch.Size((batch, height + 2, width + 2))
    found = map_blocks(
        lambda block: _candidates(grey, block, low, high), (batch, height, width), grey.device
    )
    where, strong = (torch.cat(parts) for parts in zip(*found, strict=True))
    kept = _hysteresis(where, strong, framed)
    edges = torch.zeros(framed, dtype=torch.bool, device=grey.device)
    edges.view(-1)[where[kept]] = True
    return edges[:, 1:-1, 1:-1]


def _candidates(grey: Tensor, block: Block, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Return a block's gradient maxima above `low`: flat framed positions, and which exceed `high`.

    A maximum exceeds the larger of its two neighbours along the gradient; on a row or column the one behind
    may be equal (OpenCV's >=), so 1 is taken off it. Selections are bit masks, since torch compares far
    slower than it adds.
    """
    gx, gy, framed = _sobel(grey, block)
    height, width = gx.shape[1:]
    lowered = framed - 1

    def beside(down: int, right: int, magnitude: Tensor = framed) -> Tensor:
        return magnitude[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    horizontal, vertical, rising = _directions(gx, gy)
    rival = torch.maximum(beside(-1, -1), beside(1, 1))
    _replace(rival, torch.maximum(beside(-1, 1), beside(1, -1)), rising)
    _replace(rival, torch.maximum(beside(-1, 0), beside(1, 0, lowered)), vertical)
    _replace(rival, torch.maximum(beside(0, -1), beside(0, 1, lowered)), horizontal)

    peak = torch.zeros(framed.shape, dtype=torch.bool, device=grey.device)
    torch.gt(beside(0, 0), rival.clamp_min_(low), out=peak[:, 1:-1, 1:-1])
    where = _positions(peak)
    offset = (block.images.start * (grey.shape[1] + 2) + block.rows.start) * framed.shape[2]
    return where + offset, framed.view(-1)[where] > high


def _directions(gx: Tensor, gy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return int16 masks (-1 = yes, 0 = no): nearly horizontal gradient, nearly vertical, opposite signs.

    OpenCV compares y * 2^15 with x * TAN_22 and x * (TAN_22 + 2^16); with whole x and y that is y <= q and y
    > 2x + q, where q = floor(x * TAN_22 / 2^15). A shift by 15 spreads the sign of an int16 over all its
    bits.
    """
    x, y = gx.abs(), gy.abs()
    above = y.sub_((x.int() * TAN_22).bitwise_right_shift_(15).to(torch.int16))
    horizontal = (above - 1).bitwise_right_shift_(15)
    vertical = x.mul_(2).sub_(above).bitwise_right_shift_(15)
    return horizontal, vertical, (gx ^ gy).bitwise_right_shift_(15)


def _replace(values: Tensor, others: Tensor, mask: Tensor) -> None:
    """Put others where the mask is -1, in place."""
    values ^= others.bitwise_xor_(values).bitwise_and_(mask)


def _positions(mask: Tensor) -> Tensor:
    """Return the flat positions of what is true; by numpy on a CPU, where it takes a quarter of the time."""
    if mask.device.type != "cpu":
        return torch.nonzero(mask.view(-1)).squeeze(1)
    import numpy as np

    return torch.from_numpy(np.flatnonzero(mask.numpy()))


def _sobel(grey: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """Return Gx and Gy [b,h,w] of a block, and |Gx| + |Gy| with a frame of one pixel [b,h+2,w+2]; int16.

    The border is replicated for the gradients; outside the picture the magnitude is zero.
    """
    height = grey.shape[1]
    top, bottom = block.rows.start, block.rows.stop
    slab = grey[block.images, max(0, top - 2) : bottom + 2].to(torch.int16)
    above, below = max(0, 2 - top), max(0, bottom + 2 - height)
    slab = torch.cat((slab[:, :1].expand(-1, above, -1), slab, slab[:, -1:].expand(-1, below, -1)), 1)
    padded = torch.cat((slab[:, :, :1], slab, slab[:, :, -1:]), 2)

    upper, centre, lower = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
    smooth = (upper + lower).add_(centre, alpha=2)
    gx = smooth[:, :, 2:] - smooth[:, :, :-2]
    slope = lower - upper
    gy = (slope[:, :, :-2] + slope[:, :, 2:]).add_(slope[:, :, 1:-1], alpha=2)
    shape = (gx.shape[0], gx.shape[1], gx.shape[2] + 2)
    magnitude = torch.zeros(shape, dtype=torch.int16, device=grey.device)
    torch.add(gx.abs(), gy.abs(), out=magnitude[:, :, 1:-1])
    if top == 0:
        magnitude[:, 0] = 0
    if bottom == height:
        magnitude[:, -1] = 0
    return gx[:, 1:-1], gy[:, 1:-1], magnitude


def _hysteresis(where: Tensor, strong: Tensor, shape: torch.Size) -> Tensor:
    """Return which of the candidate pixels hang together with a strong one; sorted flat positions."""
    if where.device.type == "cpu":
        return _label_hysteresis(where, strong, shape)
    return _pointer_hysteresis(where, strong, shape)


def _label_hysteresis(where: Tensor, strong: Tensor, shape: torch.Size) -> Tensor:
    """Connected components by scipy's sequential labelling, for the whole batch at once."""
    import numpy as np
    from scipy import ndimage

    # stacked on top of each other: the empty frame around every image keeps them apart
    field = np.zeros((shape[0] * shape[1], shape[2]), dtype=bool)
    positions = where.numpy()
    field.reshape(-1)[positions] = True
    labels, count = ndimage.label(field, np.ones((3, 3), dtype=bool))
    label = labels.reshape(-1)[positions]
    alive = np.zeros(count + 1, dtype=bool)
    alive[label[strong.numpy()]] = True
    return torch.from_numpy(alive[label])


def _pointer_hysteresis(where: Tensor, strong: Tensor, shape: torch.Size) -> Tensor:
    """Connected components by minimum labels and pointer jumping: few rounds, on any device.

    Strong pixels share the root 0. The host asks whether anything changed once in ROUNDS_PER_CHECK rounds.
    """
    count, stride = where.numel(), shape[2]
    if count == 0:
        return strong
    index_of = torch.full((shape.numel(),), count + 1, dtype=torch.int64, device=where.device)
    index_of[where] = torch.arange(1, count + 1, device=where.device)
    offsets = torch.tensor(
        [-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1], device=where.device
    )
    neighbours = index_of[where[None] + offsets[:, None]]
    # node 0 is the root of all strong pixels, 1..count are the candidates, count + 1 is "no neighbour"
    parent = torch.arange(count + 2, device=where.device)
    parent[1:-1][strong] = 0
    while True:
        before = parent.clone()
        for _ in range(ROUNDS_PER_CHECK):
            lowest = torch.minimum(parent[neighbours].amin(0), parent[1:-1])
            # hook the old root as well as the pixel itself, so that whole trees move at once
            parent = parent.scatter_reduce(0, parent[1:-1], lowest, "amin")
            parent[1:-1] = torch.minimum(parent[1:-1], lowest)
            parent = parent[parent[parent]]
        if torch.equal(before, parent):
            return parent[1:-1] == 0
