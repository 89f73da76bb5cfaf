"""The overlay of a map on its pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import MUTED, TEXT, Canvas

# dark violet, magenta, orange, pale yellow: even steps of lightness
_STOPS = ((0.14, 0.04, 0.33), (0.55, 0.14, 0.50), (0.95, 0.42, 0.28), (0.99, 0.93, 0.62))


def colour_ramp(values: Tensor) -> Tensor:
    """Return colours [...,3] in 0..1 for values in 0..1, dark violet to pale yellow."""
    stops = torch.tensor(_STOPS, dtype=values.dtype, device=values.device)
    place = values.clamp(0, 1) * (len(_STOPS) - 1)
    low = place.floor().long().clamp(max=len(_STOPS) - 2)
    part = (place - low)[..., None]
    return stops[low] * (1 - part) + stops[low + 1] * part


def overlay(
    images: Tensor,
    values: Tensor,
    floor: float = 0.8,
    ends: tuple[str, str] = ("typical", "unlike the profile"),
) -> Tensor:
    """Return pictures [B,H,W,3] with their map [B,H,W] laid over, float32 0..1; a legend if there is room.

    The picture is shown in grey; colour begins at `floor` (0.8 of typicality: a fifth of the profile's tiles
    are further out) and covers most at 1. Where the map is NaN the picture stays grey. ends: the legend's
    words.
    """
    images = images[..., :3].float().clamp(0, 1)
    grey = images.mean(-1, keepdim=True).expand(-1, -1, -1, 3) * 0.8
    strength = ((values.float() - floor) / (1 - floor)).nan_to_num(0.0).clamp(0, 1)
    alpha = (strength[..., None] * 1.4).clamp(max=0.8)
    result = grey * (1 - alpha) + colour_ramp(strength) * alpha
    height, width = result.shape[1:3]
    if height >= 160 and width >= 200:
        legend = _legend(*ends).to(result)
        result[:, height - legend.shape[0] :, : legend.shape[1]] = legend
    return result


def _legend(low: str, high: str) -> Tensor:
    canvas = Canvas(200, 34)
    legend = canvas.finish()
    legend[8:16, 10:190] = colour_ramp(torch.linspace(0, 1, 180)).expand(8, -1, -1)
    words = Canvas(200, 34)
    words.text(10, 25, low, 10, MUTED, "lm")
    words.text(190, 25, high, 10, TEXT, "rm")
    legend[18:] = words.finish()[18:]
    return legend
