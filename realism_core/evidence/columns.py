"""The columns that this pack computes, and the table of them for a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..images import to_planes
from ..irs import Measures, Profile, real_bands, score
from . import codec, detector, lattice, noise, reconstruction, resampling, size
from .domain import domain_detector
from .reconstruction import Reconstruct
from .table import Column, ScoreTable

_IRS_COLUMNS = (
    Column(
        "irs", "area", "none", 0.0, math.inf,
        "the Image Realism Score: a sharpness index; grain and sharpening raise it, more is not more real",
    ),
    Column(
        "typicality", "p-value", "higher", 0.0, 1.0,
        "how common such measures are among the profile's photographs; unlike in either direction is low; "
        "it does not tell generated from photographed",
    ),
    *(
        Column(f"radius_{name}", "ratio to real", "middle", 0.0, math.inf, f"{name} against real photographs")
        for name in Measures._fields
    ),
    *(
        Column(
            f"percentile_{name}", "share of real", "middle", 0.0, 1.0,
            f"share of the profile's photographs with a smaller radius of {name}",
        )
        for name in Measures._fields
    ),
    Column("canny_edge_density", "share of pixels", "none", 0.0, 1.0, "hard edges: busy, or empty and soft"),
    Column("glcm_contrast", "squared levels", "none", 0.0, 65025.0, "difference of neighbouring pixels"),
    Column("glcm_energy", "1", "none", 0.0, 1.0, "large even areas"),
    Column("blur_variance", "squared levels", "none", 0.0, math.inf, "spread of tones (paper: local detail)"),
    Column(
        "mean_spectrum", "20 ln magnitude or magnitude", "none", -math.inf, math.inf,
        "strength of the spectrum: fine detail",
    ),
)  # fmt: skip


class _Group(NamedTuple):
    """Columns that are measured together."""

    columns: tuple[Column, ...]
    measure: Callable[[Request], Tensor]


class Request:
    """One batch to be measured: every group of columns is computed at most once, when first asked for."""

    def __init__(
        self,
        images: Tensor,
        profile: Profile | None,
        definition: str,
        mask: Tensor | None,
        vaes: Sequence[Reconstruct],
    ) -> None:
        self.images, self.profile, self.definition, self.mask, self.vaes = (
            images, profile, definition, mask, vaes,
        )  # fmt: skip
        self.planes = to_planes(images)
        self._done: dict[int, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return the column `name`, float64 [B]."""
        number, place = _PLACES[name]
        if number not in self._done:
            self._done[number] = _GROUPS[number].measure(self).double()
        return self._done[number][:, place]


def _measure_irs(request: Request) -> Tensor:
    scores = score(request.planes.movedim(1, -1), request.definition, request.profile, request.mask)
    measures = torch.stack(tuple(scores.measures), 1)
    # the number is the formula's, but it says nothing where the channels are equal
    measures[:, 4] = measures[:, 4].masked_fill(scores.colourless, torch.nan)
    return torch.cat(
        (scores.irs[:, None], scores.typicality[:, None], scores.radii, scores.percentiles, measures), 1
    )


_GROUPS = (
    _Group(_IRS_COLUMNS, _measure_irs),
    _Group(
        detector.COLUMNS,
        lambda request: detector.measure_detector(
            request.planes, request.__getitem__, domain_detector(request.profile)
        ),
    ),
    _Group(lattice.COLUMNS, lambda request: lattice.measure_lattice(request.planes)),
    _Group(codec.COLUMNS, lambda request: codec.measure_codec(request.planes)),
    _Group(resampling.COLUMNS, lambda request: resampling.measure_resampling(request.planes)),
    _Group(noise.COLUMNS, lambda request: noise.measure_noise(request.planes)),
    _Group(size.COLUMNS, lambda request: size.measure_size(request.planes)),
    _Group(
        reconstruction.COLUMNS,
        lambda request: reconstruction.measure_reconstruction(request.planes, request.vaes),
    ),
)
_PLACES = {
    column.name: (number, place)
    for number, group in enumerate(_GROUPS)
    for place, column in enumerate(group.columns)
}
_ALL = {column.name: column for group in _GROUPS for column in group.columns}
# what every picture can have; the rest needs a VAE
COLUMNS = {column.name: column for group in _GROUPS[:-1] for column in group.columns}
VAE_COLUMNS = {column.name: column for column in _GROUPS[-1].columns}


def score_table(
    images: Tensor,
    columns: Sequence[str] | None = None,
    profile: Profile | None = None,
    vae: Reconstruct | Sequence[Reconstruct] | None = None,
    *,
    definition: str = "reference",
    mask: Tensor | None = None,
) -> ScoreTable:
    """Return the scores of a batch [B,H,W,C] as a table, all columns or those named, in that order.

    Only what the named columns need is computed. The columns say how real photographs score, where the
    profile knows it (`Column.real`). profile, definition, mask: as for `realism_core.irs.score`;
    the mask limits the five measures and what follows from them, the other columns look at whole pictures.
    vae: one or several VAEs, which add the reconstruction columns. Raises ValueError with the fix.
    """
    vaes = () if vae is None else tuple(vae) if isinstance(vae, Sequence) else (vae,)
    known = {**COLUMNS, **(VAE_COLUMNS if vaes else {})}
    names = tuple(known) if columns is None else tuple(columns)
    unknown = [name for name in names if name not in known]
    if any(name in VAE_COLUMNS for name in unknown):
        raise ValueError(f"columns: {', '.join(unknown)} need a VAE: pass one as vae.")
    if unknown:
        raise ValueError(f"columns: there is no {', '.join(unknown)}; known are {', '.join(known)}.")
    profile = (profile or Profile.shipped(definition)).check_for(definition)
    request = Request(images, profile, definition, mask, vaes)
    values = [request[name] for name in names]
    table = (
        torch.stack(values, 1)
        if values
        else torch.zeros(len(request.planes), 0, dtype=torch.float64, device=request.planes.device)
    )
    about = {
        "definition": definition,
        "profile": profile.name,
        "profile_count": profile.count,
        "detector": "shipped" if profile.detector is None else "the profile's",
    }
    real = real_bands(profile)
    return ScoreTable(tuple(_ALL[name]._replace(real=real.get(name)) for name in names), table, about)
