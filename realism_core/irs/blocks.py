"""Work on a batch in blocks of pixels: of the size of a cache on a CPU, one large block elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple, TypeVar

import torch

# on a CPU temporaries of this size stay in the cache and are not given back to the system after every
# operator;
# smaller blocks lose more to the operators' overhead than they win (benchmarks/irs.py)
CPU_PIXELS = 1 << 18
DEVICE_PIXELS = 1 << 26
FEW_THREADS = 4
MANY_PIXELS = 1 << 20

Result = TypeVar("Result")
Left = TypeVar("Left")
Right = TypeVar("Right")


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


def side_by_side(
    first: Callable[[], Left], second: Callable[[], Right], shape: torch.Size, device: torch.device
) -> tuple[Left, Right]:
    """Return (first(), second()), run at the same time where few CPU cores make that the better way.

    shape: of the pixels [..., H, W] that they work on. On 2 to 4 threads and a million pixels each side runs
    on a thread of its own: that takes less time than sharing every operator, and does not stall when
    something else keeps a core busy. The calling thread's setting is put back at the end.
    """
    threads = torch.get_num_threads()
    large = shape.numel() >= MANY_PIXELS
    if device.type != "cpu" or not large or not 2 <= threads <= FEW_THREADS:
        return first(), second()
    inference = torch.is_inference_mode_enabled()

    def run() -> Right:
        # the mode belongs to a thread, and ComfyUI runs nodes in inference mode
        with torch.inference_mode(inference):
            return second()

    torch.set_num_threads(1)  # of this thread, and of the helper when it starts
    try:
        other = _helper().submit(run)
        return first(), other.result()
    finally:
        torch.set_num_threads(threads)


@cache
def _helper() -> ThreadPoolExecutor:
    """Return the one helper thread; kept, since a new one would get all its memory from the system anew."""
    return ThreadPoolExecutor(1, thread_name_prefix="realism-measures", initializer=torch.get_num_threads)
