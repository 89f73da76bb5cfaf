"""Pictures made smaller or larger with Pillow's kernels."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .shared import check_choice, check_number, checked, scaled_sides

KERNELS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}


def resize(images: Tensor, factor: float, kernel: str = "bicubic") -> Tensor:
    """Return the pictures with both sides times a factor, rounded half up to whole pixels.

    images: [B,H,W,C], float 0..1 or uint8, the same out. factor: above 0; below 1 makes smaller.
    kernel: nearest, bilinear, bicubic, lanczos or area, which widen with the factor when making smaller
    (except nearest), as Pillow does. Alpha is resized like a colour, and colours are not weighted by it.
    Floats are computed as float32 without rounding to 8 bits. Raises ValueError, also below 3 x 3
    pixels, or TypeError.
    """
    images = checked(images)
    check_choice("kernel", kernel, KERNELS)
    if check_number("factor", factor, 0, math.inf) == 0:
        raise ValueError("factor is 0: use a number above 0.")
    height, width = scaled_sides(images, factor, f"resized by {factor:g}")
    small = images if images.dtype == torch.uint8 else images.float()
    planes = small.movedim(-1, 1).cpu().numpy()
    sized = np.empty((*planes.shape[:2], height, width), planes.dtype)
    for index in np.ndindex(*planes.shape[:2]):
        sized[index] = Image.fromarray(planes[index]).resize((width, height), KERNELS[kernel])
    result = torch.from_numpy(sized).to(images.device).movedim(1, -1).contiguous().to(images.dtype)
    return result.clamp(0, 1) if images.is_floating_point() else result
