"""Where in a picture the decoder lattice is found."""

from __future__ import annotations

import torch
from torch import Tensor

from ..images import to_planes
from ..irs.tiles import map_tiles
from .lattice import MIN_SIDE, PERIODS, SOFT, decoder_lattice, fold_lattice
from .samples import luma

# what tiles of noise stay under, and what decoded pictures reach
NOTHING, CLEAR = 1.0, 4.0


def lattice_map(images: Tensor, tile: int = 128, stride: int = 64) -> Tensor:
    """Return how clear the picture's own lattice is in each place, [B,H,W] in 0..1; NaN where tiles are
    flat.

    images: as for `realism_core.irs.measure`. tile, stride: side (at least 104) and step of the tiles,
    pixels. A tile's value is ln((z_p + 0.3) / (median z + 0.3)) at the period p that wins on the whole
    picture, from 1 (0 on the map: noise) to 4 (1 on the map). Raises ValueError with the fix.
    """
    if tile < MIN_SIDE:
        raise ValueError(f"tile is {tile} pixels, too small for a lattice: use at least {MIN_SIDE}.")
    return torch.cat([_map_one(planes[None], tile, stride) for planes in to_planes(images)])


def _map_one(planes: Tensor, tile: int, stride: int) -> Tensor:
    period = decoder_lattice(planes).period.nan_to_num(PERIODS[0]).long() - PERIODS[0]

    def judge(tiles: Tensor) -> Tensor:
        ratios = fold_lattice(luma(tiles)).ratios
        at_period = ratios[:, period[0]]
        strength = ((at_period + SOFT) / (ratios.median(1).values + SOFT)).log()
        return ((strength - NOTHING) / (CLEAR - NOTHING)).clamp(0, 1)

    return map_tiles(planes, tile, stride, judge)
