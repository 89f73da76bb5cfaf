"""Several plots in one picture."""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import BACKGROUND


def stack(pictures: list[Tensor]) -> Tensor:
    """Return pictures [1,H,W,3] below each other in one, narrow ones with a dark margin at the right."""
    width = max(picture.shape[2] for picture in pictures)
    colour = torch.tensor(BACKGROUND) / 255
    rows = []
    for picture in pictures:
        row = colour.to(picture.dtype).expand(1, picture.shape[1], width, 3).clone()
        row[:, :, : picture.shape[2]] = picture
        rows.append(row)
    return torch.cat(rows, 1)
