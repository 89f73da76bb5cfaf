"""How much each image counts in training, from one column of its scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..evidence.table import Column

KINDS = ("rank", "softmax", "threshold")
BETTER = ("auto", "higher", "lower", "real_band")
UNKNOWN = ("leave_out", "average", "error")
Band = tuple[float, float]


def better_end(columns: Sequence[Column], better: str = "auto") -> tuple[str, Band | None]:
    """Return which scores of a column are the better ones: "higher", "lower" or "real_band", and that band.

    columns: the column as each of the score tables has it. better: "auto" goes by the column's direction,
    where "middle" is the band of the profile's photographs. Raises ValueError where the tables disagree,
    for a column that is a plain fact, and where there is no one band.
    """
    if better not in BETTER:
        raise ValueError(f"better is {better!r}; use one of {', '.join(BETTER)}.")
    name = columns[0].name
    if better == "auto":
        directions = sorted({column.direction for column in columns})
        if len(directions) > 1:
            raise ValueError(
                f"scores: {name} is better {' in one table and '.join(directions)} in another: score all "
                "images with the same nodes, or set better."
            )
        if directions == ["none"]:
            raise ValueError(
                f"metric: {name} is a plain fact, of which neither end is better: set better to higher, "
                "lower or real_band, or choose another metric."
            )
        better = "real_band" if directions == ["middle"] else directions[0]
    if better != "real_band":
        return better, None
    bands = {column.real for column in columns}
    if len(bands) > 1:
        raise ValueError(
            "scores come from several profiles, so there is no one band of real photographs: score all "
            "images with the same profile, or set better to higher or lower."
        )
    (real,) = bands
    if real is None:
        raise ValueError(
            f"metric: the profile has no band of real photographs for {name}: set better to higher or "
            "lower, or choose another metric (typicality, irs, radius_...)."
        )
    return better, real


def merits(scores: Tensor, better: str = "higher", real: Band | None = None) -> Tensor:
    """Return numbers [B] float64 that are the higher the better a score [B] is; NaN stays.

    better: "higher", "lower", or "real_band": all scores within `real` are alike, 0, and those outside are
    as far below 0 as they are from it, in the column's unit. Raises ValueError for a band that is none.
    """
    scores = scores.double() + 0.0  # one zero only
    if better == "higher":
        return scores
    if better == "lower":
        return 0.0 - scores
    if better != "real_band":
        raise ValueError(f"better is {better!r}; use one of {', '.join(BETTER[1:])}.")
    if real is None or not real[0] <= real[1]:
        raise ValueError(
            "better 'real_band' needs the band of real photographs: choose a metric that has one."
        )
    low, high = real
    outside = torch.where(scores < low, scores - low, torch.where(scores > high, high - scores, 0.0))
    return torch.where(torch.isnan(scores), scores, outside)


def score_weights(
    scores: Tensor,
    kind: str,
    value: float = 1.0,
    better: str = "higher",
    real: Band | None = None,
    on_unknown: str = "leave_out",
) -> Tensor:
    """Return the weights [B] float64 >= 0 of images with the scores [B], with mean 1, for `LatentExample`.

    rank: (rank / best rank) ** value, where the worst of n has rank 1, the best n, and equal scores share
    their mean rank; value 1 is linear. softmax: exp(merit / (value * s)), where s is the standard deviation
    of the merits, so that with value 1 an image one s better counts e times as much. threshold: alike for
    scores from `value` on ("lower": up to it; "real_band": at most so far outside), 0 for all others.
    better, real: see `merits`. Equal scores have equal weights.

    on_unknown, for images without a score (NaN): "leave_out" gives them weight 0, "average" the mean weight
    of the others, "error" refuses them. Raises ValueError naming the input and the fix, also where no image
    has a score or none reaches the threshold, and for infinite scores with softmax.
    """
    scores = torch.as_tensor(scores)
    if scores.ndim != 1 or scores.numel() == 0:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}: give one score for each of at least one image."
        )
    _check(kind, value, on_unknown)
    unknown = torch.isnan(scores)
    if unknown.all():
        raise ValueError(
            f"scores: none of the {len(scores)} images has a value for this metric, so none can be weighted: "
            "choose another metric."
        )
    if on_unknown == "error" and unknown.any():
        raise ValueError(
            f"scores: {_places(unknown)} no value for this metric: leave them out of the training, or set "
            "on_unknown to leave_out or average."
        )
    merit = merits(scores[~unknown], better, real)
    if kind == "rank":
        known = _rank_weights(merit, value)
    elif kind == "softmax":
        if torch.isinf(merit).any():
            infinite = torch.isinf(merits(scores, better, real))
            raise ValueError(
                f"scores: {_places(infinite)} an infinite score, of which softmax can make no weight: use "
                "rank or threshold."
            )
        known = _softmax_weights(merit, value)
    else:
        known = _threshold_weights(merit, value, better, real)
    known = known / known.mean()
    weights = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
    weights[~unknown] = known
    if on_unknown == "average":
        weights[unknown] = 1.0
    return weights / weights.mean()


def effective_count(weights: Tensor) -> float:
    """Return how many images of equal weight tell as much as images with these weights [B] (Kish 1965)."""
    return float(weights.sum() ** 2 / weights.square().sum())


def _check(kind: str, value: float, on_unknown: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; use one of {', '.join(KINDS)}.")
    if on_unknown not in UNKNOWN:
        raise ValueError(f"on_unknown is {on_unknown!r}; use one of {', '.join(UNKNOWN)}.")
    if math.isnan(value):
        raise ValueError("value is NaN: set it to a number.")
    if kind != "threshold" and not 0 < value < math.inf:
        what = "the power of the rank" if kind == "rank" else "a temperature"
        raise ValueError(f"value is {value:g}; for {kind} it is {what}: use more than 0, such as 1.")


def _rank_weights(merit: Tensor, power: float) -> Tensor:
    _, group, sizes = torch.unique(merit, return_inverse=True, return_counts=True)
    ranks = (sizes.cumsum(0) - (sizes - 1) / 2).double()[group]
    # relative to the best, so that a high power leaves one above 0
    return (ranks / ranks.max()) ** power


def _softmax_weights(merit: Tensor, temperature: float) -> Tensor:
    size = merit.abs().max()
    scaled = merit / torch.where(size > 0, size, 1.0)  # so that squares neither overflow nor vanish
    below = scaled - scaled.max()
    if not below.any():
        return torch.ones_like(below)
    # in two steps: the product of a small deviation and a small temperature may be 0
    return (below / below.std(correction=0) / temperature).exp()


def _threshold_weights(merit: Tensor, value: float, better: str, real: Band | None) -> Tensor:
    passed = merit >= (value if better == "higher" else -value)
    if passed.any():
        return passed.double()
    best = float(merit.max())
    if better == "real_band":
        raise ValueError(
            f"value is {value:g}, but no image lies so near to the band {real[0]:g} to {real[1]:g} of real "
            f"photographs: the nearest is {0.0 - best:g} outside. Raise value, or use kind rank."
        )
    if better == "lower":
        raise ValueError(
            f"value is {value:g}, but no image is so low: the lowest score is {-best:g}. Raise value, or use "
            "kind rank."
        )
    raise ValueError(
        f"value is {value:g}, but no image reaches it: the highest score is {best:g}. Lower value, or use "
        "kind rank."
    )


def _places(which: Tensor) -> str:
    """Return "image 3 has", or "images 1, 2, 5 have", counted from 1."""
    places = [str(place + 1) for place in which.nonzero().flatten().tolist()]
    named = ", ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "")
    return f"image {named} has" if len(places) == 1 else f"images {named} have"
