"""What all degradations share: checks, and a way through a batch that keeps its alpha and type."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

import torch
from torch import Tensor

from ..images import MIN_SIDE, check_finite, check_images


def checked(images: Tensor) -> Tensor:
    """Return a batch [B,H,W,C] without gradient, floats clamped to 0..1; raises ValueError with the fix."""
    images = check_images(images).detach()
    check_finite(images)
    return images.clamp(0, 1) if images.is_floating_point() else images


def map_colours(images: Tensor, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return a `checked` batch with change(colours, index) applied to each picture; alpha stays as it is.

    colours: [H,W,1 or 3], 0..1, float64 if the pictures are and float32 otherwise. What comes back is
    clamped to 0..1 and takes the pictures' type; uint8 is rounded half up.
    """
    changed = images.clone()
    for index, picture in enumerate(images):
        colours = picture[..., :3]
        if images.dtype == torch.uint8:
            values = change(colours.float() / 255, index).clamp(0, 1).mul(255).add(0.5)
        else:
            wide = torch.float64 if images.dtype == torch.float64 else torch.float32
            values = change(colours.to(wide), index).clamp(0, 1)
        changed[index, ..., :3] = values.to(images.dtype)
    return changed


def scaled_sides(images: Tensor, factor: float, how: str) -> tuple[int, int]:
    """Return (height, width) times a factor, rounded half up; raises ValueError below 3 pixels.

    how: what makes the pictures smaller, for the message.
    """
    height, width = images.shape[1:3]
    sides = math.floor(height * factor + 0.5), math.floor(width * factor + 0.5)
    if min(sides) < MIN_SIDE:
        raise ValueError(
            f"images is {width} x {height} pixels and would become {sides[1]} x {sides[0]} when {how}; at "
            f"least {MIN_SIDE} x {MIN_SIDE} are needed: use larger pictures, or lower the strength (a "
            "factor nearer to 1)."
        )
    return sides


def check_number(name: str, value: float, low: float, high: float) -> float:
    """Return value as a float within low..high; raises ValueError or TypeError naming it and the range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is a {type(value).__name__}: give a number from {low:g} to {high:g}.")
    if not low <= value <= high or math.isinf(value):
        raise ValueError(f"{name} is {value}: use a number from {low:g} to {high:g}.")
    return float(value)


def check_whole(name: str, value: int) -> int:
    """Return value as an int; raises TypeError unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}: give a whole number.")
    return int(value)


def check_choice(name: str, value: str, choices: object) -> str:
    """Return value if it is one of the choices; raises ValueError listing them."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: use one of {', '.join(choices)}.")
    return value
