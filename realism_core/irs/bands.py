"""How the photographs of a profile score: the middle 90 % of a column."""

from __future__ import annotations

import torch
from torch import Tensor

from .measures import Measures
from .pentagon import measures_of
from .profile import Profile

BAND = (0.05, 0.95)
# where they are among the profile's 101 levels
PLACES = [5, 95]


def real_bands(profile: Profile) -> dict[str, tuple[float, float]]:
    """Return the 5th and 95th percentile over the profile's photographs, for each column that it knows.

    irs and radius_*: the profile's quantiles. The measures: those of the radii, turned back; left out where
    the radius does not tell its measure (the sign of the reference spectrum). typicality and percentile_*:
    0.05 to 0.95, since a photograph of the profile's kind is equally likely to have any of their values.
    """
    ends = profile.radius_quantiles[:, PLACES]
    measured = measures_of(ends.T, profile.definition, profile.means).T.sort(dim=1).values
    bands = {"irs": _pair(profile.irs_quantiles[PLACES]), "typicality": BAND}
    for place, name in enumerate(Measures._fields):
        bands[f"radius_{name}"] = _pair(ends[place])
        bands[f"percentile_{name}"] = BAND
        if torch.isfinite(measured[place]).all():
            bands[name] = _pair(measured[place])
    return bands


def _pair(ends: Tensor) -> tuple[float, float]:
    low, high = ends.tolist()
    return low, high
