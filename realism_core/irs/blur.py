"""The variance blur measure, in both circulating forms."""

from __future__ import annotations

import torch
from torch import Tensor


def grey_variance(grey: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the population variance of uint8 grey [B,H,W], float64 [B], in squared grey levels."""
    return _variance(grey, mask)


def laplacian_variance(grey: Tensor) -> Tensor:
    """Return the variance of the Laplacian [[0,1,0],[1,-4,1],[0,1,0]] of uint8 grey [B,H,W], float64 [B].

    The border is mirrored without repeating the edge pixel, as cv2.Laplacian(grey, CV_64F) does by default.
    """
    centre = grey.to(torch.int16)
    rows = torch.cat((centre[:, 1:2], centre, centre[:, -2:-1]), 1)
    sides = torch.cat((centre[:, :, 1:2], centre, centre[:, :, -2:-1]), 2)
    laplacian = rows[:, :-2] + rows[:, 2:] + sides[:, :, :-2] + sides[:, :, 2:] - 4 * centre
    return _variance(laplacian, None)


def _variance(values: Tensor, mask: Tensor | None) -> Tensor:
    values = values.flatten(1).to(torch.int32)
    square = values * values
    if mask is None:
        count = values.shape[1]
    else:
        mask = mask.flatten(1)
        values, square, count = values * mask, square * mask, mask.sum(1)
    total = values.sum(1, dtype=torch.int64)
    whole = total.div(count, rounding_mode="floor")
    rest = total - whole * count
    # in integers up to the last, small term: a flat picture has exactly no variance, a nearly flat one all its digits
    spread = square.sum(1, dtype=torch.int64) - whole * whole * count - 2 * whole * rest
    return (spread.double() - rest.double() ** 2 / count) / count
