"""The Image Realism Score and what makes it readable: radii, percentiles, typicality against a profile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..images import to_planes
from .distribution import features
from .measures import (
    PAPER_SIDE,
    Measures,
    channels_equal,
    measure,
    measure_paper,
    measure_reference,
    resize,
)
from .pentagon import check_definition, pentagon_area, radii
from .profile import Profile
from .tiles import map_tiles

LONGEST = 8192


class Scores(NamedTuple):
    """One row an image, float64.

    irs [B]: pentagon area; NaN where a measure does not apply. radii [B,5] and measures in the order of
    Measures.
    typicality [B]: 0..1, 1 = in the middle of the profile's real pictures. percentiles [B,5]: each radius
    among theirs.
    flat, colourless: bool [B], why a column does not apply (zero variance; three equal channels under
    `reference`).
    """

    irs: Tensor
    radii: Tensor
    measures: Measures
    typicality: Tensor
    percentiles: Tensor
    flat: Tensor
    colourless: Tensor


def score(
    images: Tensor, definition: str = "reference", profile: Profile | None = None, mask: Tensor | None = None
) -> Scores:
    """Return the Image Realism Score, its radii and its typicality for each picture of a batch.

    images [B,H,W,C], definition and mask: as for `measure`. profile: what real pictures look like, fitted
    with the same definition; None takes the shipped one. A flat picture has no blur radius, a picture with
    three equal channels no reference spectrum: their IRS and the radius concerned are NaN, as is the
    colourless picture's typicality.
    Higher IRS is not more real: blur lowers it, grain and sharpening raise it. Raises ValueError with the
    fix.
    """
    check_definition(definition)
    profile = (profile or Profile.shipped(definition)).check_for(definition)
    planes = to_planes(images)
    measures = measure(planes.movedim(1, -1), definition, mask)
    if definition == "reference":
        colourless = channels_equal(planes)
    else:
        colourless = planes.new_zeros(len(planes), dtype=torch.bool)
    flat = measures.blur_variance <= 0
    table = torch.stack(tuple(measures), 1)
    radius = radii(table, definition, profile.means)
    radius[:, 3] = radius[:, 3].masked_fill(flat, torch.nan)
    radius[:, 4] = radius[:, 4].masked_fill(colourless, torch.nan)
    typicality = profile.whole.typicality(features(table)).masked_fill(colourless, torch.nan)
    return Scores(
        pentagon_area(radius, definition),
        radius,
        measures,
        typicality,
        profile.percentiles(radius),
        flat,
        colourless,
    )


def typicality_map(
    images: Tensor,
    definition: str = "reference",
    profile: Profile | None = None,
    tile: int = 128,
    stride: int = 64,
) -> Tensor:
    """Return how untypical each place is, [B,H,W] in 0..1: 1 = further out than all the profile's tiles.

    tile, stride: side and step of the square tiles in pixels (at short side 512 for `paper`). Tiles are
    judged against the profile's tiles of the nearest fitted size. NaN where tiles are flat or colourless and
    so say nothing. Raises ValueError with the fix.
    """
    check_definition(definition)
    profile = (profile or Profile.shipped(definition)).check_for(definition)
    fitted = profile.tile_distribution(tile)
    planes = to_planes(images)
    height, width = planes.shape[2:]
    if definition == "paper":
        planes = _at_paper_scale(planes)
    spread = map_tiles(planes, tile, stride, lambda tiles: 1 - _tile_typicality(tiles, definition, fitted))
    if spread.shape[1:] != (height, width):
        spread = torch.nn.functional.interpolate(spread[:, None], size=(height, width), mode="bilinear")[:, 0]
    return spread.clamp(0, 1)


def _at_paper_scale(planes: Tensor) -> Tensor:
    height, width = planes.shape[2:]
    scale = PAPER_SIDE / min(height, width)
    if max(height, width) * scale > LONGEST:
        raise ValueError(
            f"images are {width} x {height}, too long a strip to map at short side {PAPER_SIDE}: crop them, "
            "or use definition 'reference'."
        )
    return resize(planes, round(height * scale), round(width * scale))


def _tile_typicality(tiles: Tensor, definition: str, fitted) -> Tensor:
    measures = measure_reference(tiles) if definition == "reference" else measure_paper(tiles)
    nothing = measures.blur_variance <= 0
    if definition == "reference":
        nothing |= channels_equal(tiles)
    return fitted.typicality(features(measures)).masked_fill(nothing, torch.nan)
