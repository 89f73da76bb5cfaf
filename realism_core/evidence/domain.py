"""A user's own domain: a profile of their photographs, and a detector fitted on them and generated ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..images import to_planes
from ..irs import Profile
from ..irs.measures import channels_equal
from . import codec, resampling, size
from .lattice import MIN_SIDE
from .logistic import Logistic, fit_logistic
from .statistics import NAMES, detector_statistics
from .validation import FOLDS, auc_interval, fold_auc, out_of_fold, validated_fit

MIN_PICTURES = 30
# the AUC of a shortcut alone that is worth a warning: rare by chance even with 30 pictures a side
SHORTCUT_AUC = 0.75
_SHORTCUT_PENALTY = 1.0
_SPREAD_SIZES = ("short_side", "megapixels")
_TELLING_IF_MISSING = ("jpeg_quality",)
# each: the columns it is read from, and what to do about it
SHORTCUTS = {
    "compression": (
        ("jpeg_grid", "webp_grid", "video_levels", "jpeg_quality"),
        "save both sides in the same format at the same quality",
    ),
    "resizing": (
        ("resample_peak", "spectral_cutoff"),
        "take both sides as camera and generator gave them, or resize both in the same way",
    ),
    "size": (("short_side", "megapixels"), "crop both sides to the same sizes"),
    "lack of colour": (("colourless",), "leave out the grey pictures, or have as many on both sides"),
}
_COLUMNS = (
    *(column.name for part in (codec, resampling, size) for column in part.COLUMNS),
    "colourless",
)


class Count(NamedTuple):
    """Pictures of one side: given; left out as too small or flat; left out as a copy of another; used."""

    given: int
    unmeasured: int
    repeated: int

    @property
    def used(self) -> int:
        """How many pictures the detector was fitted on."""
        return self.given - self.unmeasured - self.repeated


@dataclass(frozen=True)
class Domain:
    """A fitted domain. profile: of the real pictures, holding the detector if there were generated ones.

    auc: of pictures left out of the fit, 0..1, 0.5 is guessing; interval: its 95 % interval. shortcuts: the
    AUC of each of SHORTCUTS alone. All of them are None or empty without generated pictures.
    """

    profile: Profile
    real: Count | None = None
    generated: Count | None = None
    auc: float | None = None
    interval: tuple[float, float] | None = None
    shortcuts: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def summary(self) -> dict:
        """Return what was found as plain JSON values, {} for a profile alone."""
        if self.real is None or self.generated is None:
            return {}
        return {
            "real": self.real._asdict() | {"used": self.real.used},
            "generated": self.generated._asdict() | {"used": self.generated.used},
            "cross_validated_auc": round(self.auc, 4),
            "auc_interval_95": [round(end, 4) for end in self.interval],
            "shortcut_auc": {name: round(value, 3) for name, value in self.shortcuts.items()},
            "warnings": list(self.warnings),
        }


def fit_domain(
    real: Iterable[Tensor] | Tensor,
    generated: Iterable[Tensor] | Tensor | None = None,
    definition: str = "reference",
    name: str = "unnamed",
    source: str = "",
    on_picture: Callable[[int], None] | None = None,
) -> Domain:
    """Fit a profile to real pictures and, if there are generated ones, a detector that tells the two apart.

    real, generated: batches [B,H,W,C], each read once; only a row of numbers is kept of a picture.
    on_picture(count) is called after each batch with the pictures read so far. The AUC is cross-validated
    over five consecutive parts of each side. Raises ValueError below 30 pictures a side that can be measured
    (104 pixels a side and more, not flat, no copies), and what `Profile.fit` raises. Without generated
    pictures the domain is the profile alone, and p_photo stays that of the shipped detector.
    """
    tell = on_picture or (lambda count: None)
    if generated is None:
        done = 0

        def counted() -> Iterator[Tensor]:
            nonlocal done
            for batch in _batches(real):
                yield batch
                done += len(batch)
                tell(done)

        return Domain(Profile.fit(counted(), definition, name, source))
    photographs, others = _Side("real"), _Side("generated")
    profile = Profile.fit(photographs.read(real, tell), definition, name, source)
    for _ in others.read(generated, lambda count: tell(photographs.given + count)):
        pass
    real_rows, real_count = photographs.rows()
    other_rows, other_count = others.rows()
    table = torch.cat((real_rows, other_rows))
    labels = torch.cat((torch.ones(len(real_rows)), torch.zeros(len(other_rows)))).double()
    statistics, columns = table[:, : len(NAMES)], table[:, len(NAMES) :]
    detector, odds = validated_fit(statistics, labels, NAMES)
    auc = fold_auc(odds, labels)
    interval = auc_interval(auc, len(real_rows), len(other_rows))
    shortcuts = {key: _shortcut_auc(columns, labels, names) for key, (names, _) in SHORTCUTS.items()}
    shared = len(_keys(real_rows) & _keys(other_rows))
    warnings = _warnings(auc, interval, shortcuts, shared)
    domain = Domain(profile, real_count, other_count, auc, interval, shortcuts, warnings)
    detector = replace(detector, about={"fitted_by": "fit-domain", **domain.summary()})
    return replace(domain, profile=replace(profile, detector=detector.to_dict()))


def domain_detector(profile: Profile) -> Logistic | None:
    """Return the detector in a domain's profile, None if it holds none; ValueError if it is damaged."""
    if profile.detector is None:
        return None
    try:
        return Logistic.from_dict(profile.detector, NAMES)
    except (ValueError, LookupError, OverflowError) as error:
        what = error if isinstance(error, ValueError) else f"the detector is damaged ({error}): fit it again."
        raise ValueError(f"profile {profile.name!r}: {what}") from None


class _Side:
    """Takes the rows of one side's pictures while they stream by."""

    def __init__(self, title: str) -> None:
        self.title, self.given, self._rows = title, 0, []

    def read(self, batches: Iterable[Tensor] | Tensor, tell: Callable[[int], None]) -> Iterator[Tensor]:
        """Yield each batch as uint8 [B,H,W,3] after measuring it; raises ValueError if they were too few."""
        for batch in _batches(batches):
            planes = to_planes(batch, "images" if self.title == "real" else "generated_images")
            self._rows.append(_measure(planes).cpu())
            self.given += len(planes)
            yield planes.movedim(1, -1)
            tell(self.given)
        self.rows()

    def rows(self) -> tuple[Tensor, Count]:
        """Return rows [n, statistics and columns] of the pictures that count, each once, and their number."""
        rows = torch.cat(self._rows) if self._rows else torch.zeros(0, len(NAMES) + len(_COLUMNS))
        whole = rows[torch.isfinite(rows[:, : len(NAMES)]).all(1)]
        seen: dict[bytes, Tensor] = {}
        for row in whole:
            seen.setdefault(_key(row), row)
        count = Count(self.given, self.given - len(whole), len(whole) - len(seen))
        if count.used < MIN_PICTURES:
            raise ValueError(
                f"there are {count.used} usable {self.title} pictures, and a detector needs at least "
                f"{MIN_PICTURES} a side ({count.given} were read, {count.unmeasured} of them flat or under "
                f"{MIN_SIDE} pixels a side, {count.repeated} copies of another): add {self.title} pictures, "
                "or leave the generated ones out and fit only a profile."
            )
        return torch.stack(list(seen.values())), count


def _batches(batches: Iterable[Tensor] | Tensor) -> Iterable[Tensor]:
    return [batches] if isinstance(batches, Tensor) else batches


def _measure(planes: Tensor) -> Tensor:
    """Return the detector's statistics and the columns of _COLUMNS, float64 [B, both]."""
    colourless = channels_equal(planes).double()[:, None]
    parts = (codec.measure_codec, resampling.measure_resampling, size.measure_size)
    return torch.cat((detector_statistics(planes), *(measure(planes) for measure in parts), colourless), 1)


def _key(row: Tensor) -> bytes:
    return row[: len(NAMES)].numpy().tobytes()


def _keys(rows: Tensor) -> set[bytes]:
    return {_key(row) for row in rows}


def _shortcut_auc(columns: Tensor, labels: Tensor, names: tuple[str, ...]) -> float:
    """Return the cross-validated AUC of a small logistic regression on these columns alone.

    Each column counts with its value and its square (one side may lie in the middle of the other), sizes as
    logarithms; a JPEG's quality also with whether it applies, since it does only where there was a JPEG.
    """
    parts = []
    for name in names:
        values = columns[:, _COLUMNS.index(name)]
        values = values.log() if name in _SPREAD_SIZES else values
        centred = values - values.nanmean()
        standard = (centred / centred.square().nanmean().sqrt().clamp_min(1e-6)).clamp(-4, 4)
        parts += [_filled(standard), _filled(standard.square())]
        if name in _TELLING_IF_MISSING:
            parts.append(torch.isnan(values).double())
    table = torch.stack(parts, 1)
    about = tuple(map(str, range(len(parts))))
    odds = out_of_fold(
        table, labels, FOLDS, lambda rows, kinds: fit_logistic(rows, kinds, about, _SHORTCUT_PENALTY)
    )
    return fold_auc(odds, labels)


def _filled(values: Tensor) -> Tensor:
    """Return values with their mean where they are missing, 0 if all are."""
    return torch.where(torch.isnan(values), values.nanmean().nan_to_num(0.0), values)


def _warnings(
    auc: float, interval: tuple[float, float], shortcuts: dict[str, float], shared: int
) -> tuple[str, ...]:
    found = []
    if shared:
        found.append(
            f"{shared} pictures are on both sides: leave each on the side where it belongs, and fit again."
        )
    if interval[0] <= 0.5:
        found.append(
            f"the two sides could not be told apart (cross-validated AUC {auc:.2f}, 0.5 is guessing): "
            "p_photo with this profile says little; add pictures, or fit the real side alone."
        )
    for name, value in shortcuts.items():
        if value >= SHORTCUT_AUC:
            found.append(
                f"the two sides can be told apart by their {name} alone (AUC {value:.2f}): the detector may "
                f"have learned that and not how the pictures were made; {SHORTCUTS[name][1]}, and fit again."
            )
    return tuple(found)
