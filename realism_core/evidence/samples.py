"""What the codec, resize and noise columns look at: luma, windows, and where pixels step along lines."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import avg_pool1d

WINDOW = 1024
WINDOWS = 5
_ROWS = (2, 0, 4, 1, 3)
_LINES = 512
_DEVICE_PIXELS = 1 << 25


def luma(planes: Tensor) -> Tensor:
    """Return the unrounded BT.601 luma 0..255 of planes [...,3,H,W] as float32 [...,H,W]."""
    red, green, blue = planes.unbind(-3)
    return red.mul(0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def groups(planes: Tensor) -> Iterator[slice]:
    """Return slices of a batch [B,3,H,W] that keep temporaries small (a gigabyte off the CPU)."""
    pixels = min(planes.shape[2], WINDOW) * min(planes.shape[3], WINDOW)
    limit = WINDOW * WINDOW if planes.device.type == "cpu" else _DEVICE_PIXELS
    step = max(1, limit // pixels)
    return (slice(start, start + step) for start in range(0, planes.shape[0], step))


def windows(planes: Tensor) -> list[Tensor]:
    """Return the picture itself up to two windows' pixels, else five windows of at most 1024 x 1024 pixels.

    planes: [B,3,H,W]. The windows are views at native resolution, each in its own fifth of the height and
    of the width as far as they reach; they start at multiples of 16, so that block grids keep their phase.
    """
    height, width = planes.shape[2:]
    if height * width <= 2 * WINDOW * WINDOW and max(height, width) <= 4 * WINDOW:
        return [planes]
    places = {(_start(height, row), _start(width, column)) for column, row in enumerate(_ROWS)}
    return [planes[:, :, top : top + WINDOW, left : left + WINDOW] for top, left in sorted(places)]


def line_activity(grey: Tensor) -> Tensor:
    """Return where neighbouring pixels along the rows step more than the pixels around them do.

    grey: [B,H,W] with W >= 4. Returns [B,lines,W-3]: absolute third differences (place i lies between the
    pixels i + 1 and i + 2) over their own mean of 17 places, cut at 3, so that texture and edges weigh no
    more than smooth areas; 0 where nothing varies. At most 512 rows, evenly spread, are looked at.
    """
    grey = grey[:, :: -(-grey.shape[1] // _LINES)]
    steps = (grey[..., 1:-2] - grey[..., 2:-1]).mul_(3).add_(grey[..., 3:]).sub_(grey[..., :-3]).abs_()
    around = avg_pool1d(steps, 17, 1, 8, count_include_pad=False)
    return steps.div_(around.add_(0.5)).clamp_(max=3)


def _start(length: int, number: int) -> int:
    room = max(0, length - WINDOW)
    return int(room * number / (WINDOWS - 1)) // 16 * 16
