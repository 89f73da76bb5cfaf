"""Work on a batch in blocks of pixels: of the size of a cache on a CPU, one large block elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

# on a CPU temporaries of this size stay in the cache and are not given back to the system after every
# operator; smaller blocks lose more to the operators' overhead than they win
CPU_PIXELS = 1 << 18
DEVICE_PIXELS = 1 << 26

Result = TypeVar("Result")


class Block(NamedTuple):
    """Some rows of one picture, or some whole pictures."""

    images: slice
    rows: slice


def cut_blocks(shape: tuple[int, int, int], device: torch.device) -> list[Block]:
    """Return blocks that cover a batch of shape (B, H, W), in order; each has at least one row."""
    batch, height, width = shape
    limit = CPU_PIXELS if device.type == "cpu" else DEVICE_PIXELS
    if height * width <= limit:
        step = limit // (height * width)
        return [Block(slice(i, min(i + step, batch)), slice(0, height)) for i in range(0, batch, step)]
    step = max(1, limit // width)
    return [
        Block(slice(i, i + 1), slice(top, min(top + step, height)))
        for i in range(batch)
        for top in range(0, height, step)
    ]


def map_blocks(
    function: Callable[[Block], Result], shape: tuple[int, int, int], device: torch.device
) -> list[Result]:
    """Return function(block) for all blocks of a batch of shape (B, H, W), in order."""
    return [function(block) for block in cut_blocks(shape, device)]
