"""Seeded pictures of every kind, for the nodes in ComfyUI and for the tests that know what to expect."""

from __future__ import annotations

import math

import torch
from torch import Tensor

KINDS = ["noise", "soft", "index", "grey", "nan", "inf", "out_of_range", "rank3"]


def picture_batch(kind: str, batch: int, height: int, width: int, channels: int, seed: int) -> Tensor:
    """Return pictures [B,H,W,C]; the colour of picture i of kind "index" is (seed + i) / 100 everywhere."""
    random = torch.Generator().manual_seed(seed)
    if kind == "index":
        colours = (seed + torch.arange(batch, dtype=torch.float32)) / 100
        return colours[:, None, None, None].expand(-1, height, width, channels).clone()
    images = torch.rand(batch, height, width, channels, generator=random)
    if kind == "soft":
        images = images.cumsum(1).cumsum(2) / (height * width)
    elif kind == "grey":
        images = images[..., :1].expand(-1, -1, -1, channels).clone()
    elif kind == "out_of_range":
        images = images * 3 - 1
    elif kind in ("nan", "inf"):
        images[-1, height // 2, width // 2, 0] = math.nan if kind == "nan" else math.inf
    return images[0] if kind == "rank3" else images
