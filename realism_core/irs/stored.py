"""The plain JSON values in which a profile's numbers are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .distribution import Distribution

if TYPE_CHECKING:
    from .profile import Profile


def numbers(values: Tensor) -> list:
    """Return a tensor as nested lists of numbers with 9 digits."""
    if values.ndim > 1:
        return [numbers(row) for row in values]
    return [float(f"{value:.9g}") for value in values.tolist()]


def tensor(values: list, *shape: int) -> Tensor:
    """Return nested lists as float64; raises one of Python's errors unless finite and of this shape."""
    found = torch.tensor(values, dtype=torch.float64)
    if found.shape != shape or not torch.isfinite(found).all():
        raise ValueError(f"{tuple(found.shape)} numbers where {shape} finite ones belong")
    return found


def distribution_to_dict(part: Distribution) -> dict:
    """Return a distribution as plain JSON values."""
    return {
        "count": part.count,
        "mean": numbers(part.mean),
        "covariance": numbers(part.covariance),
        "distances": numbers(part.distances),
    }


def distribution_from_dict(data: dict) -> Distribution:
    """Return what `distribution_to_dict` wrote; raises one of Python's errors where it is off."""
    return Distribution(
        int(data["count"]),
        tensor(data["mean"], 5),
        tensor(data["covariance"], 5, 5),
        tensor(data["distances"], len(data["distances"])),
    )


def checked(profile: Profile) -> Profile:
    """Return the profile, or raise a ValueError if its numbers cannot be those of pictures."""
    if profile.detector is not None and not isinstance(profile.detector, dict):
        raise ValueError("a detector that is no object")
    if profile.count < 1 or min(profile.tiles, default=1) < 1:
        raise ValueError("a count or a side below 1")
    if any(side != part.side for side, part in profile.soft.items()):
        raise ValueError("a soft reference under another side than its own")
    for quantiles in (*profile.radius_quantiles, profile.irs_quantiles):
        if (quantiles.diff() < 0).any():
            raise ValueError("quantiles out of order")
    for part in (profile.whole, *profile.tiles.values()):
        if part.count < 1 or len(part.distances) == 0 or (part.distances.diff() < 0).any():
            raise ValueError("no distances, or distances out of order")
        symmetric = torch.allclose(part.covariance, part.covariance.T)
        if not symmetric or torch.linalg.cholesky_ex(part.covariance).info:
            raise ValueError("a covariance that is none")
    return profile
