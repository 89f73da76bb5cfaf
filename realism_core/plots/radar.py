"""The radar plot: five radii against the band of real photographs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..evidence import ScoreTable
from ..irs import Measures, Profile
from .canvas import ALARM, BACKGROUND, GRID, MUTED, PICTURE, REAL, TEXT, Canvas

SIZE = 512
CENTRE = (256, 282)
REACH = 142
# where the 5th, 50th and 95th percentile of real photographs lie between the centre and the rim
BAND = (0.36, 0.56, 0.76)
# a high radius means more of it; energy, variance (and the paper's spectrum) enter the radii inverted
LABELS = {
    "reference": ("edges", "contrast", "texture", "flatness", "spectrum"),
    "paper": ("edges", "contrast", "texture", "softness", "weak detail"),
}
MANY = 16
TAIL = 0.05


def radar(table: ScoreTable, profile: Profile) -> Tensor:
    """Return radar plots [N,512,512,3], float 0..1: one a picture, or one for all if there are more than 16.

    table: scores with the radius_, percentile_, irs and typicality columns. Each axis is logarithmic between
    the profile's 5th, 50th and 95th percentile, so that the band of real photographs is an even ring on every
    axis and a corner outside the ring is outside the middle 90 % of them.
    """
    radii = torch.stack([table[f"radius_{name}"] for name in Measures._fields], 1).cpu()
    places = radar_places(radii, profile)
    if len(table) > MANY:
        return _draw_many(places, table, profile)[None]
    return torch.stack([_draw_one(places[i], table[i], profile) for i in range(len(table))])


def radar_places(radii: Tensor, profile: Profile) -> Tensor:
    """Return how far out radii [B,5] lie on their axes, 0 (centre) to 1 (rim); NaN stays NaN."""
    anchors = profile.radius_quantiles[:, [5, 50, 95]].clamp_min(1e-9).log()
    low, middle, high = (anchors[:, i] for i in range(3))
    value = radii.double().clamp_min(1e-9).log()
    inner = BAND[1] + (value - middle) / (middle - low).clamp_min(1e-6) * (BAND[1] - BAND[0])
    outer = BAND[1] + (value - middle) / (high - middle).clamp_min(1e-6) * (BAND[2] - BAND[1])
    return torch.where(value < middle, inner, outer).clamp(0.03, 1.0)


def _point(axis: int, place: float) -> tuple[float, float]:
    angle = math.radians(72 * axis - 90)
    return CENTRE[0] + place * REACH * math.cos(angle), CENTRE[1] + place * REACH * math.sin(angle)


def _ring(place: float) -> list[tuple[float, float]]:
    return [_point(axis, place) for axis in range(5)]


def _frame(profile: Profile) -> Canvas:
    canvas = Canvas(SIZE, SIZE)
    canvas.polygon(_ring(1.0), outline=GRID, width=1)
    canvas.polygon(_ring(BAND[2]), fill=(*REAL, 70))
    canvas.polygon(_ring(BAND[0]), fill=BACKGROUND)
    canvas.polygon(_ring(BAND[1]), outline=(*REAL, 200), width=1.2)
    for axis in range(5):
        canvas.line([CENTRE, _point(axis, 1.0)], fill=GRID)
    canvas.dot(24, SIZE - 22, 5, fill=(*REAL, 150))
    canvas.text(36, SIZE - 22, f"90 % of {profile.count} pictures of {profile.name}", 12, MUTED, "lm")
    return canvas


def _draw_one(place: Tensor, row: ScoreTable, profile: Profile) -> Tensor:
    canvas = _frame(profile)
    known = [axis for axis in range(5) if not torch.isnan(place[axis])]
    corners = {axis: _point(axis, float(place[axis])) for axis in known}
    if len(known) == 5:
        canvas.polygon(list(corners.values()), fill=(*PICTURE, 46), outline=PICTURE, width=2.4)
    else:
        for axis in known:
            if (axis + 1) % 5 in corners:
                canvas.line([corners[axis], corners[(axis + 1) % 5]], fill=PICTURE, width=2.4)
    for axis in range(5):
        rank = float(row[f"percentile_{Measures._fields[axis]}"][0])
        outside = not TAIL <= rank <= 1 - TAIL
        colour = MUTED if math.isnan(rank) else ALARM if outside else PICTURE
        if axis in known:
            canvas.dot(*corners[axis], 5.5, fill=colour, outline=BACKGROUND, width=1)
        _label(canvas, axis, profile, _standing(rank), colour)
    _headline(canvas, float(row["irs"][0]), float(row["typicality"][0]))
    return canvas.finish()


def _draw_many(places: Tensor, table: ScoreTable, profile: Profile) -> Tensor:
    canvas = _frame(profile)
    alpha = max(14, min(90, 1600 // len(places)))
    for place in places[~torch.isnan(places).any(1)]:
        canvas.polygon(
            [_point(axis, float(place[axis])) for axis in range(5)], outline=(*PICTURE, alpha), width=1
        )
    median = places.nanmedian(0).values
    if not torch.isnan(median).any():
        canvas.polygon([_point(axis, float(median[axis])) for axis in range(5)], outline=PICTURE, width=2.6)
    for axis in range(5):
        _label(canvas, axis, profile)
    irs, typicality = (float(table[name].nanmedian()) for name in ("irs", "typicality"))
    _headline(canvas, irs, typicality, f"median of {len(places)}: ")
    return canvas.finish()


def _label(canvas: Canvas, axis: int, profile: Profile, below: str = "", colour=MUTED) -> None:
    x, y = _point(axis, 1.08 if axis in (1, 4) else 1.2)
    anchor = {1: "lm", 4: "rm"}.get(axis, "mm")
    canvas.text(x, y - 8, LABELS[profile.definition][axis], 14, TEXT, anchor)
    canvas.text(x, y + 9, below, 12, colour, anchor)


def _headline(canvas: Canvas, irs: float, typicality: float, prefix: str = "") -> None:
    value = "does not apply" if math.isnan(irs) else f"{irs:.2f}"
    canvas.text(24, 34, f"{prefix}IRS {value}", 25, TEXT, "lm")
    if math.isnan(typicality):
        return
    unlike = typicality < TAIL
    canvas.text(SIZE - 24, 27, f"typicality {typicality:.2f}", 16, ALARM if unlike else REAL, "rm")
    canvas.text(SIZE - 24, 47, "unlike the profile" if unlike else "like the profile", 12, MUTED, "rm")


def _standing(rank: float) -> str:
    if math.isnan(rank):
        return "does not apply"
    if rank <= 0:
        return "below all real"
    if rank >= 1:
        return "above all real"
    return f"above {rank:.0%} of real"
