"""How the soft measures of photographs are distributed: what the realism term pulls towards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..images import to_planes
from .distribution import MIN_SPREAD, StreamingFit, features
from .measures import Measures, channels_equal
from .soft import MIN_SOFT_SIDE, soft_measures, soft_planes
from .stored import numbers, tensor
from .tiles import cut_tiles

MIN_CROPS = 5
CROPS_PER_PICTURE = 4
FORMAT = "realism-soft-reference"
VERSION = 1


@dataclass(frozen=True)
class SoftReference:
    """Mean and spread of the five soft measures over square crops of photographs.

    side: of the crops, in pixels; the spectrum and the variance depend on it. count: crops fitted.
    mean, spread [5], float64: mean and standard deviation of `features`: natural logarithms of edge density,
    contrast, energy and variance; the spectrum, already a logarithm, as it is.
    """

    side: int
    count: int
    mean: Tensor
    spread: Tensor

    def deviations(self, images: Tensor) -> Tensor:
        """Return how many spreads the pictures' soft measures lie from the mean, signed, [B,5].

        images: as for `soft_measures`, side x side pixels. Raises ValueError with the fix for another size.
        """
        planes = soft_planes(images)
        height, width = planes.shape[2:]
        if height != self.side or width != self.side:
            raise ValueError(
                f"images are {width} x {height} pixels, but the soft reference was fitted on crops of "
                f"{self.side} x {self.side}: crop to that size, or fit the reference at the size used."
            )
        table = features(soft_measures(planes))
        # a blocking copy would wait for all work that the device has queued
        mean, spread = (part.to(table, non_blocking=True) for part in (self.mean, self.spread))
        return (table - mean) / spread

    def to_dict(self) -> dict:
        """Return the reference as plain JSON values, numbers with 9 digits."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "side": self.side,
            "count": self.count,
            "measures": list(Measures._fields),
            "mean": numbers(self.mean),
            "spread": numbers(self.spread),
        }

    @classmethod
    def from_dict(cls, data: dict) -> SoftReference:
        """Return the reference held by `to_dict` values; raises ValueError where they are off."""
        try:
            if data["format"] != FORMAT or data["version"] != VERSION:
                raise ValueError(f"format {data['format']!r}, version {data['version']!r}")
            found = cls(
                int(data["side"]), int(data["count"]), tensor(data["mean"], 5), tensor(data["spread"], 5)
            )
            if found.side < MIN_SOFT_SIDE or found.count < MIN_CROPS or found.spread.min() <= 0:
                raise ValueError("a side, a count or a spread that is too small")
        except (KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the values are no soft reference of version {VERSION} ({error!r}): fit it again."
            ) from None
        return found


class SoftFit:
    """Takes in pictures one batch at a time and keeps what their crops measure, in constant memory."""

    def __init__(self, side: int, crops_per_picture: int = CROPS_PER_PICTURE) -> None:
        self.side, self._most = side, crops_per_picture
        self._fit = StreamingFit(5, capacity=0)

    @property
    def count(self) -> int:
        """How many crops there were so far."""
        return self._fit.count

    def update(self, planes: Tensor) -> None:
        """Take in uint8 pictures [B,3,H,W]; smaller ones give no crops."""
        for picture in planes:
            crops = _even_crops(picture, self.side, self._most)
            if len(crops):
                self._fit.update(features(soft_measures(crops.double() / 255)))

    def reference(self) -> SoftReference:
        """Return what was found; there must have been `MIN_CROPS` crops."""
        spread = (self._fit.scatter.diagonal() / (self.count - 1)).sqrt().clamp_min(MIN_SPREAD)
        return SoftReference(self.side, self.count, self._fit.mean.clone(), spread)


def fit_soft_reference(
    batches: Iterable[Tensor] | Tensor, side: int = 256, crops_per_picture: int = CROPS_PER_PICTURE
) -> SoftReference:
    """Fit a soft reference to batches of photographs [B,H,W,C] in one pass and in constant memory.

    batches: as for `measure`, any sizes; pictures smaller than `side` are passed over. side: of the crops
    that the term will see, in pixels, at least 16. crops_per_picture: at most so many, spread evenly, of
    those that neither are flat nor have three equal channels. Raises ValueError below 5 crops.
    """
    if side < MIN_SOFT_SIDE or crops_per_picture < 1:
        raise ValueError(
            f"side is {side} and crops_per_picture {crops_per_picture}: use a side of at least "
            f"{MIN_SOFT_SIDE} pixels and at least one crop a picture."
        )
    fit, pictures = SoftFit(side, crops_per_picture), 0
    for batch in [batches] if isinstance(batches, Tensor) else batches:
        planes = to_planes(batch)
        pictures += len(planes)
        fit.update(planes)
    if fit.count < MIN_CROPS:
        raise ValueError(
            f"a soft reference needs at least {MIN_CROPS} usable crops of {side} x {side} pixels, got "
            f"{fit.count} from {pictures} pictures (small, flat and colourless ones are left out): add "
            "photographs, or lower the side."
        )
    return fit.reference()


def _even_crops(picture: Tensor, side: int, most: int) -> Tensor:
    """Return up to `most` usable square crops of uint8 [3,H,W], spread evenly over it, [n,3,side,side]."""
    crops = cut_tiles(picture[None], side, side)[0]
    if len(crops) == 0:
        return crops
    lightest, darkest = crops.flatten(1).amax(1), crops.flatten(1).amin(1)
    crops = crops[(lightest != darkest) & ~channels_equal(crops)]
    chosen = torch.linspace(0, len(crops) - 1, min(most, len(crops))).round().long()
    return crops[chosen.to(crops.device)]
