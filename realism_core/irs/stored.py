"""The plain JSON values in which a profile's numbers are kept."""

from __future__ import annotations

import torch
from torch import Tensor

from .distribution import Distribution


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
