"""Two kinds of synthetic pictures: with even grain, and with a decoder's lattice in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_LATTICE = np.random.default_rng(5).normal(0, 2, (8, 8, 3))


def photo(seed: int, side: int = 112) -> np.ndarray:
    """A soft picture with independent grain."""
    dice = np.random.default_rng(seed)
    return _bytes(_soft(dice, side) + dice.normal(0, 6, (side, side, 3)))


def decoded(seed: int, side: int = 112) -> np.ndarray:
    """A soft picture with independent grain and a faint fixed pattern that repeats every 8 pixels."""
    dice = np.random.default_rng(seed)
    soft, cells = _soft(dice, side), -(-side // 8)
    lattice = np.tile(_LATTICE, (cells, cells, 1))[:side, :side]
    return _bytes(soft + lattice + dice.normal(0, 6, soft.shape))


def jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG compression."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def batches(pictures: Iterable[np.ndarray]) -> Iterator[Tensor]:
    """Each picture as a batch [1,H,W,3]."""
    return (torch.from_numpy(picture)[None] for picture in pictures)


def _soft(dice: np.random.Generator, side: int) -> np.ndarray:
    small = Image.fromarray(dice.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8))
    soft = np.array(small.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    top, left = dice.integers(side // 8, side // 2, 2)
    soft[top : top + side // 4, left:] = 230  # an edge that scaling up keeps
    return soft


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)
