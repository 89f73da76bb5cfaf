"""A profile: how the five measures are distributed over real photographs of a domain."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..images import to_planes
from .distribution import Distribution, StreamingFit, features, rank_among
from .measures import (
    PAPER_SIDE,
    Measures,
    channels_equal,
    fit_paper_size,
    measure_paper,
    measure_reference,
)
from .pentagon import check_definition, pentagon_area, radii
from .soft_reference import MIN_CROPS, SoftFit, SoftReference
from .stored import checked, distribution_from_dict, distribution_to_dict, numbers, tensor
from .tiles import TILE_SIDES, cut_tiles

FORMAT = "realism-profile"
VERSION = 1
SHIPPED = Path(__file__).parent / "profiles"
LEVELS = torch.linspace(0, 1, 101, dtype=torch.float64)
MIN_PICTURES = 5
TILES_PER_PICTURE = 16
# what reading values of another kind than ours raises
_DAMAGES = (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Profile:
    """What real pictures of a domain measure, for one definition.

    name, source: who these pictures are. definition, size: which measures, at which short side (None = as
    they come).
    count, skipped: pictures fitted, and left out because they were flat or (reference) had three equal
    channels.
    whole: distribution of the features over pictures. tiles: the same over square tiles, by side in pixels.
    means [5]: of the measures. quantiles: 101 levels (0 %, 1 %, ... 100 %) of each radius [5,101] and of the
    IRS [101].
    detector: what tells these pictures from generated ones, plain JSON values that only
    `realism_core.evidence.domain` reads; or None.
    soft: what the realism term of a training pulls towards, by the side of its crops in pixels; the same
    for both definitions. Empty in files of older versions.
    """

    name: str
    definition: str
    size: int | None
    count: int
    skipped: int
    source: str
    whole: Distribution
    means: Tensor
    radius_quantiles: Tensor
    irs_quantiles: Tensor
    tiles: dict[int, Distribution] = field(default_factory=dict)
    detector: dict | None = None
    soft: dict[int, SoftReference] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        batches: Iterable[Tensor] | Tensor,
        definition: str = "reference",
        name: str = "unnamed",
        source: str = "",
        on_batch: Callable[[int], None] | None = None,
    ) -> Profile:
        """Fit a profile to batches of real pictures [B,H,W,C] in one pass and in constant memory.

        Mean and covariance are Welford's; quantiles and distances come from a seeded reservoir of 10,000
        pictures. on_batch(count) is called after each batch. Raises ValueError below 5 usable pictures.
        """
        check_definition(definition)
        whole, measured, skipped = StreamingFit(5), StreamingFit(5), 0
        tiles = {side: StreamingFit(5) for side in TILE_SIDES}
        soft = {side: SoftFit(side) for side in TILE_SIDES}
        for batch in [batches] if isinstance(batches, Tensor) else batches:
            planes = to_planes(batch)
            for crops in soft.values():
                crops.update(planes)
            if definition == "paper":
                planes = fit_paper_size(planes)
                table = _usable(measure_paper(planes), None)
            else:
                table = _usable(measure_reference(planes), channels_equal(planes))
            skipped += len(planes) - len(table)
            whole.update(features(table))
            measured.update(table)
            for side, fit in tiles.items():
                fit.update(features(_measure_tiles(planes, side, definition)))
            if on_batch:
                on_batch(whole.count)
        if whole.count < MIN_PICTURES:
            raise ValueError(
                f"a profile needs at least {MIN_PICTURES} usable pictures, got {whole.count} ({skipped} "
                "flat or colourless ones were left out): add photographs; 100 and more make it useful."
            )
        radius = radii(measured.sample(), definition, measured.mean)
        if not torch.isfinite(radius).all():
            raise ValueError(
                f"none of the {whole.count} usable pictures has an edge or a contrast, so there is nothing "
                "to compare with: add photographs with detail."
            )
        return cls(
            name=name,
            definition=definition,
            size=_size_of(definition),
            count=whole.count,
            skipped=skipped,
            source=source,
            whole=whole.distribution(),
            means=measured.mean.clone(),
            radius_quantiles=torch.quantile(radius, LEVELS, dim=0).T.contiguous(),
            irs_quantiles=torch.quantile(pentagon_area(radius, definition), LEVELS),
            tiles={side: fit.distribution() for side, fit in tiles.items() if fit.count >= MIN_PICTURES},
            soft={side: crops.reference() for side, crops in soft.items() if crops.count >= MIN_CROPS},
        )

    @classmethod
    def shipped(cls, definition: str = "reference") -> Profile:
        """Return the profile of photographs that comes with the pack; its `source` says how it was made."""
        return _load_shipped(check_definition(definition))

    def check_for(self, definition: str) -> Profile:
        """Return this profile if it was fitted for the definition and its size, or raise a ValueError."""
        if self.definition != definition:
            raise ValueError(
                f"profile {self.name!r} was fitted with definition {self.definition!r}, but the pictures "
                f"are scored with {definition!r}: set definition to {self.definition!r}, or fit a profile "
                f"with {definition!r}."
            )
        if self.size != _size_of(definition):
            raise ValueError(
                f"profile {self.name!r} was fitted at short side {self.size}, but definition {definition!r} "
                f"measures at {_size_of(definition) or 'native size'}: fit the profile again with this "
                "version."
            )
        return self

    def percentiles(self, radius: Tensor) -> Tensor:
        """Return where radii [B,5] lie among the real pictures' radii, [B,5] in 0..1; NaN stays NaN."""
        return torch.stack(
            [rank_among(row, radius[:, i]) for i, row in enumerate(self.radius_quantiles.to(radius))], 1
        )

    def tile_distribution(self, side: int) -> Distribution:
        """Return the tile distribution fitted nearest to this side, by ratio; ValueError if there is none."""
        if not self.tiles:
            raise ValueError(
                f"profile {self.name!r} holds no tiles: its pictures were smaller than {min(TILE_SIDES)} "
                "pixels. Fit it on larger photographs."
            )
        return self.tiles[min(self.tiles, key=lambda fitted: max(fitted / side, side / fitted))]

    def soft_reference(self, side: int) -> SoftReference:
        """Return the soft reference of crops of this side; raises ValueError with the sides there are."""
        if not self.soft:
            raise ValueError(
                f"profile {self.name!r} holds no soft reference: an older version of Realism Kit fitted "
                f"it, or its pictures are smaller than {min(TILE_SIDES)} pixels. Fit it anew, or give "
                "photographs."
            )
        if side not in self.soft:
            raise ValueError(
                f"crop is {side} pixels, but profile {self.name!r} holds soft references of crops of "
                f"{', '.join(map(str, sorted(self.soft)))} pixels: use one of these, or give photographs."
            )
        return self.soft[side]

    def save(self, path: str | os.PathLike) -> Path:
        """Write the profile as readable JSON, atomically; the folder is made if needed. Returns the path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in self.to_dict().items())
        part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        os.replace(part, path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> Profile:
        """Read a profile that `save` wrote; raises ValueError with the file, what is wrong and the fix."""
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"profile {path} does not exist: check the name, or fit a profile first."
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError, OSError, RecursionError) as error:
            raise ValueError(
                f"profile {path} cannot be read ({error}): fit it again or restore the file."
            ) from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(
                f"{path} is no realism profile (no format {FORMAT!r} in it): choose another file."
            )
        if data.get("version") != VERSION:
            raise ValueError(
                f"profile {path} is of version {data.get('version')}, this pack reads version {VERSION}: "
                "fit it again, or update Realism Kit if the file is newer."
            )
        try:
            return cls.from_dict(data)
        except _DAMAGES as error:
            raise ValueError(
                f"profile {path} is damaged ({error!r}): fit it again or restore the file."
            ) from None

    def to_dict(self) -> dict:
        """Return the profile as plain JSON values, numbers with 9 digits."""
        data = {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "definition": self.definition,
            "size": self.size,
            "count": self.count,
            "skipped": self.skipped,
            "source": self.source,
            "measures": list(Measures._fields),
            "means": numbers(self.means),
            "radius_quantiles": numbers(self.radius_quantiles),
            "irs_quantiles": numbers(self.irs_quantiles),
            "whole": distribution_to_dict(self.whole),
            "tiles": {str(side): distribution_to_dict(part) for side, part in self.tiles.items()},
        }
        if self.soft:
            data["soft"] = {str(side): part.to_dict() for side, part in self.soft.items()}
        return data if self.detector is None else data | {"detector": self.detector}

    @classmethod
    def from_dict(cls, data: dict) -> Profile:
        """Return the profile held by `to_dict` values; raises one of Python's errors where they are off."""
        size = data["size"]
        profile = cls(
            name=str(data["name"]),
            definition=check_definition(data["definition"]),
            size=None if size is None else int(size),
            count=int(data["count"]),
            skipped=int(data["skipped"]),
            source=str(data["source"]),
            whole=distribution_from_dict(data["whole"]),
            means=tensor(data["means"], 5),
            radius_quantiles=tensor(data["radius_quantiles"], 5, len(LEVELS)),
            irs_quantiles=tensor(data["irs_quantiles"], len(LEVELS)),
            tiles={int(side): distribution_from_dict(part) for side, part in data["tiles"].items()},
            detector=data.get("detector"),
            soft={int(side): SoftReference.from_dict(p) for side, p in data.get("soft", {}).items()},
        )
        return checked(profile)


@cache
def _load_shipped(definition: str) -> Profile:
    return Profile.load(SHIPPED / f"photographs-{definition}.json")


def _size_of(definition: str) -> int | None:
    return PAPER_SIDE if definition == "paper" else None


def _usable(measures: Measures, colourless: Tensor | None) -> Tensor:
    """Return measures [n,5] without pictures that are flat or, if it matters, have three equal channels."""
    table = torch.stack(tuple(measures), 1)
    keep = measures.blur_variance > 0
    return table[keep if colourless is None else keep & ~colourless]


def _measure_tiles(planes: Tensor, side: int, definition: str) -> Tensor:
    """Return measures [n,5] of up to 16 tiles a picture, spread evenly."""
    cut, rows, columns = cut_tiles(planes, side, side)
    if len(rows) == 0 or len(columns) == 0:
        return planes.new_zeros(0, 5, dtype=torch.float64)
    cut = cut.unflatten(0, (planes.shape[0], -1))
    step = max(1, cut.shape[1] // TILES_PER_PICTURE)
    chosen = cut[:, step // 2 :: step][:, :TILES_PER_PICTURE].flatten(0, 1)
    if definition == "paper":
        return _usable(measure_paper(chosen), None)
    return _usable(measure_reference(chosen), channels_equal(chosen))
