"""Canny edges, bit for bit those of cv2.Canny(grey, low, high) with aperture 3 and the L1 gradient."""

from __future__ import annotations

import torch
from torch import Tensor

TAN_22 = 13573  # round(tan(22.5 degrees) * 2^15), OpenCV's constant
ROUNDS_PER_CHECK = 4


def canny_edges(grey: Tensor, low: int = 100, high: int = 200) -> Tensor:
    """Return the edge map bool [B,H,W] of uint8 grey [B,H,W].

    low, high: thresholds on |Gx| + |Gy| in grey levels, low <= high. The steps are OpenCV's: integer Sobel with a replicated border, suppression of non-maxima
    by the fixed-point tangent test, 8-connected hysteresis.
    """
    gx, gy, magnitude = _sobel(grey)
    stride = magnitude.shape[2]
    flat = magnitude.flatten()
    where = torch.nonzero(flat > low).squeeze(1)
    strength = flat[where]
    step, diagonal = _gradient_step(gx.flatten()[where], gy.flatten()[where], stride)
    # along a row or column a plateau keeps its last pixel (>=), on a diagonal none: OpenCV's rule
    before, after = flat[where - step], flat[where + step]
    peak = (strength > before) & torch.where(diagonal, strength > after, strength >= after)
    where = where[peak]
    kept = _hysteresis(where, strength[peak] > high, magnitude.shape)
    edges = torch.zeros_like(flat, dtype=torch.bool)
    edges[where[kept]] = True
    return edges.view_as(magnitude)[:, 1:-1, 1:-1]


def _sobel(grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Gx, Gy and |Gx| + |Gy| as int16 [B,H+2,W+2]; the outer frame is zero."""
    batch, height, width = grey.shape
    padded = torch.empty(batch, height + 2, width + 2, dtype=torch.int16, device=grey.device)
    padded[:, 1:-1, 1:-1] = grey
    padded[:, 0, 1:-1], padded[:, -1, 1:-1] = grey[:, 0], grey[:, -1]
    padded[:, :, 0], padded[:, :, -1] = padded[:, :, 1], padded[:, :, -2]

    above, centre, below = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
    gx, gy = torch.zeros_like(padded), torch.zeros_like(padded)
    smooth = (above + below).add_(centre, alpha=2)
    torch.sub(smooth[:, :, 2:], smooth[:, :, :-2], out=gx[:, 1:-1, 1:-1])
    slope = below - above
    torch.add(slope[:, :, :-2], slope[:, :, 2:], out=gy[:, 1:-1, 1:-1]).add_(slope[:, :, 1:-1], alpha=2)
    return gx, gy, gx.abs() + gy.abs()


def _gradient_step(gx: Tensor, gy: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return each pixel's flat offset to the next pixel along its gradient, and whether that is a diagonal.

    OpenCV compares y * 2^15 with x * TAN_22 and x * (TAN_22 + 2^16); with whole x and y that is y <= q and y > 2x + q,
    where q = floor(x * TAN_22 / 2^15).
    """
    x, y = gx.abs().int(), gy.abs().int()
    quotient = (x * TAN_22) >> 15
    horizontal, vertical = y <= quotient, y > 2 * x + quotient
    slant = torch.where((gx ^ gy) < 0, stride - 1, stride + 1)
    step = torch.where(horizontal, 1, torch.where(vertical, stride, slant))
    return step, ~(horizontal | vertical)


def _hysteresis(where: Tensor, strong: Tensor, shape: torch.Size) -> Tensor:
    """Return which of the candidate pixels hang together with a strong one; flat sorted positions in `shape`."""
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
