"""How large a picture is, and how much of it is an even border."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .table import Column

COLUMNS = (
    Column(
        "short_side", "pixels", "none", 1.0, math.inf,
        "The shorter side: below about 128 pixels the other evidence is thin.",
    ),
    Column(
        "megapixels", "million pixels", "none", 0.0, math.inf,
        "How many pixels there are to measure; it says nothing of the picture's origin.",
    ),
    Column(
        "border_share", "share of pixels", "none", 0.0, 1.0,
        "The even border, letterbox or canvas around the picture, which tells nothing of its origin and "
        "can be left out; 1 for a picture of one colour.",
    ),
)


def measure_size(planes: Tensor) -> Tensor:
    """Return the size of each picture and the share of the even border around it.

    planes: uint8 [B,3,H,W], any device and size. Returns float64 [B,3] in the order of `COLUMNS`,
    never NaN.
    """
    height, width = planes.shape[2:]
    area = height * width
    top, bottom, left, right = content_box(planes).double().unbind(1)
    border = 1 - (bottom - top) * (right - left) / area
    sides = torch.tensor([min(height, width), area / 1e6], dtype=torch.float64, device=planes.device)
    return torch.cat((sides.expand(len(planes), 2), border[:, None]), 1)


def content_box(planes: Tensor) -> Tensor:
    """Return what an even border leaves of each picture, int64 [B,4]: top, bottom, left, right (half-open).

    planes: uint8 [B,3,H,W]. A border is made of rows and columns from an edge on that hold one colour all
    along, and each edge may have another colour: rows are taken first, then columns between those rows.
    The box of a picture of one colour is empty.
    """
    low, high = planes.amin(3), planes.amax(3)
    even = (low == high).all(1)
    # a border keeps one colour from its edge on
    top = _run(even & (low == low[..., :1]).all(1))
    bottom = planes.shape[2] - _run((even & (low == low[..., -1:]).all(1)).flip(1))
    boxes = []
    for picture, first, last in zip(planes, top.tolist(), bottom.tolist(), strict=True):
        inside = picture[:, first:last]
        if not inside.shape[1]:
            boxes.append(top.new_zeros(4))
            continue
        low, high = inside.amin(1), inside.amax(1)
        even = (low == high).all(0)
        left = _run((even & (low == low[:, :1]).all(0))[None])[0]
        right = planes.shape[3] - _run((even & (low == low[:, -1:]).all(0)).flip(0)[None])[0]
        # rows of one colour between borders of others are all border: the box is empty, not turned inside out
        right = torch.maximum(left, right)
        boxes.append(torch.stack((top.new_tensor(first), top.new_tensor(last), left, right)))
    return torch.stack(boxes)


def _run(even: Tensor) -> Tensor:
    """How many leading entries of bool [B,N] are true."""
    return even.long().cumprod(1).sum(1)
