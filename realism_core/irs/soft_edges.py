"""Canny's edge density with every decision softened."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

# between Canny's thresholds 100 and 200, since which weak edges hang on strong ones is not followed; where
# the edges of photographs are as dense as Canny's (150 gives 10 % fewer)
THRESHOLD = 140.0
THRESHOLD_WIDTH = 10.0
RIVAL_WIDTH = 10.0
# keeps roots and quotients smooth at 0, far below any gradient that counts
SMALL = 1.0
# the two neighbours across an edge, by the gradient's direction: horizontal, vertical, both diagonals
RIVALS = (((0, -1), (0, 1)), ((-1, 0), (1, 0)), ((-1, -1), (1, 1)), ((-1, 1), (1, -1)))


def soft_edge_density(grey: Tensor) -> Tensor:
    """Return the mean soft edge strength [B] in 0..1 of grey levels 0..255 [B,H,W].

    A pixel's strength is sigmoid((|Gx| + |Gy| - 140) / 10), times how clearly it exceeds its two neighbours
    across the edge: without that, blur widens an edge and would raise the density. Gx, Gy: Sobel with a
    replicated border; the neighbours fade into one another with the gradient's direction.
    """
    gx, gy = _sobel(grey)
    magnitude = (gx.square() + SMALL).sqrt() + (gy.square() + SMALL).sqrt()
    framed = pad(magnitude, (1, 1, 1, 1))
    height, width = magnitude.shape[1:]

    def exceeds(down: int, right: int) -> Tensor:
        rival = framed[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        return torch.sigmoid((magnitude - rival) / RIVAL_WIDTH)

    peak = sum(
        share * exceeds(*first) * exceeds(*second)
        for share, (first, second) in zip(_direction_shares(gx, gy), RIVALS, strict=True)
    )
    return (torch.sigmoid((magnitude - THRESHOLD) / THRESHOLD_WIDTH) * peak).mean((1, 2))


def _direction_shares(gx: Tensor, gy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return how much the gradient points along each pair of RIVALS; they sum to 1 where there is one.

    The squared cosine and sine of the doubled angle, split by sign: smooth, and 1 along a pair's own axis.
    """
    power = gx.square() + gy.square() + SMALL
    cosine, sine = (gx.square() - gy.square()) / power, 2 * gx * gy / power
    return tuple(part.relu().square() for part in (cosine, -cosine, sine, -sine))


def _sobel(grey: Tensor) -> tuple[Tensor, Tensor]:
    padded = pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    upper, centre, lower = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
    smooth = upper + 2 * centre + lower
    slope = lower - upper
    return smooth[:, :, 2:] - smooth[:, :, :-2], slope[:, :, :-2] + 2 * slope[:, :, 1:-1] + slope[:, :, 2:]
