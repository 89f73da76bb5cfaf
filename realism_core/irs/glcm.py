"""Grey-level co-occurrence at distance 1, angle 0: contrast and energy."""

from __future__ import annotations

import torch
from torch import Tensor

from ..blocks import Block, map_blocks

LEVELS = 256


def cooccurrence(grey: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the counts [B,256,256] of horizontal neighbours (left, right) in uint8 grey [B,H,W].

    With a mask, only pairs whose two pixels are both in it count. The symmetric, normed matrix of scikit-
    image is (counts + counts^T) / (2 * pairs).
    """
    batch = grey.shape[0]
    pair = torch.empty(batch, grey.shape[1], grey.shape[2] - 1, dtype=torch.int32, device=grey.device)
    first_bin = torch.arange(batch, device=grey.device, dtype=torch.int32)[:, None, None] * LEVELS**2

    def join(block: Block) -> None:
        levels = grey[block.images, block.rows].to(torch.int32)
        joined = (levels[:, :, :-1] * LEVELS).add_(levels[:, :, 1:]).add_(first_bin[block.images])
        pair[block.images, block.rows] = joined

    map_blocks(join, grey.shape, grey.device)
    bins = batch * LEVELS**2
    if mask is not None:
        pair = torch.where(mask[:, :, :-1] & mask[:, :, 1:], pair, bins)
    # index_add_ of whole numbers: exact in any order, and unlike bincount it never asks the host for a size
    counts = torch.zeros(bins + 1, dtype=torch.int32, device=grey.device)
    ones = torch.ones(1, dtype=torch.int32, device=grey.device).expand(pair.numel())
    counts.index_add_(0, pair.flatten(), ones)
    return counts[:bins].view(batch, LEVELS, LEVELS)


def glcm_contrast(counts: Tensor) -> Tensor:
    """Return sum p_ij (i - j)^2 of each image, float64 [B].

    0 means flat; photographs lie between 10 and 2,000 squared grey levels.
    """
    level = torch.arange(LEVELS, device=counts.device, dtype=torch.float64)
    weight = (level[:, None] - level).square().flatten()
    return counts.flatten(1).double() @ weight / _pairs(counts)


def glcm_asm(counts: Tensor) -> Tensor:
    """Return the angular second moment sum p_ij^2 of the symmetric matrix, float64 [B] in 0..1 (1 = flat).

    scikit-image calls its square root `energy`.
    """
    # sum (C + C^T)^2 / (2N)^2, with both squares alike: (sum C^2 + sum C C^T) / (2 N^2)
    counts = counts.double()
    both = (counts + counts.transpose(1, 2)).mul_(counts).flatten(1).sum(1)
    return both / (2 * _pairs(counts) ** 2)


def _pairs(counts: Tensor) -> Tensor:
    return counts.flatten(1).sum(1).double()
