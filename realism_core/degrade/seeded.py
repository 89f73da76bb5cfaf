"""The degradations with chance in them: Gaussian grain, and a crop at a random place.

Picture i of a batch with seed s gets what the first picture of a batch with seed s + i gets; seeds
count modulo 2**64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .shared import check_number, check_whole, checked, map_colours, scaled_sides


def gaussian_noise(images: Tensor, sigma: float, seed: int) -> Tensor:
    """Return the pictures with independent Gaussian noise on every pixel and colour, clamped to the range.

    images: [B,H,W,C], float 0..1 or uint8, the same out. sigma: in levels of 255, 0..255. seed: a whole
    number; the same one gives the same noise at every sigma, only scaled. Alpha stays as it is.
    Raises ValueError or TypeError.
    """
    images = checked(images)
    check_number("sigma", sigma, 0, 255)
    seed = check_whole("seed", seed)

    def grain(colours: Tensor, index: int) -> Tensor:
        noise = torch.randn(colours.shape, generator=_generator(seed + index))
        return colours + noise.to(colours) * (sigma / 255)

    return map_colours(images, grain)


def random_crop(images: Tensor, keep: float, seed: int) -> Tensor:
    """Return a part of each picture, at a random place, with `keep` of each side, rounded half up.

    images: [B,H,W,C], float 0..1 or uint8, the same out. keep: 0..1. seed: a whole number; a smaller part
    lies inside the larger one of the same seed. Alpha is cropped too. Raises ValueError, also below 3 x 3
    pixels, or TypeError.
    """
    images = checked(images)
    check_number("keep", keep, 0, 1)
    seed = check_whole("seed", seed)
    height, width = scaled_sides(images, keep, f"cropped to {keep:g} of each side")
    spare = torch.tensor([images.shape[1] - height + 1, images.shape[2] - width + 1])
    parts = []
    for index, picture in enumerate(images):
        draw = torch.rand(2, generator=_generator(seed + index), dtype=torch.float64)
        top, left = (draw * spare).long().tolist()
        parts.append(picture[top : top + height, left : left + width])
    return torch.stack(parts)


def _generator(seed: int) -> torch.Generator:
    # on the CPU, so that all devices see the same numbers; its generator heeds only the lower 32 bits of a
    # seed, so the upper ones are mixed into them
    return torch.Generator().manual_seed((seed + (seed >> 32) * 0x9E3779B1) & 0xFFFFFFFF)
