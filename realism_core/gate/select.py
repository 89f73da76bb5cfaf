"""Which pictures pass: rules over one column of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

RULES = ("threshold", "band", "top_k", "top_fraction", "profile_band")
BANDS = ("band", "profile_band")
KEEP = ("high", "low")
UNKNOWN = ("reject", "pass", "block")
Bands = Mapping[str, "tuple[float, float] | None"]


class Decision(NamedTuple):
    """What becomes of the pictures: three bool [B], of which exactly one is true for each picture.

    blocked: those without a score that are neither to pass nor to be rejected.
    """

    passed: Tensor
    rejected: Tensor
    blocked: Tensor


def decide(
    scores: Tensor,
    rule: str,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    keep: str = "high",
    on_unknown: str = "reject",
    real: tuple[float, float] | None = None,
) -> Decision:
    """Return where each of the scores [B] goes, also the unknown ones (NaN: the score does not apply).

    on_unknown: "reject" gives just what `select` gives; with "pass" and "block" the rule sees known scores
    only, so that top_k and top_fraction choose among (and count) those, and unknown pictures pass on top or
    are blocked. Rules and errors as for `select`.
    """
    scores = _checked(scores)
    check_rule(rule, value, low, high, keep, on_unknown, real)
    unknown = torch.isnan(scores)
    if on_unknown == "reject" or not unknown.any():
        passed = select(scores, rule, value, low, high, keep, real)
    else:
        passed = torch.full_like(unknown, on_unknown == "pass")
        if not unknown.all():
            passed[~unknown] = select(scores[~unknown], rule, value, low, high, keep, real)
    blocked = unknown & (on_unknown == "block")
    return Decision(passed, ~passed & ~blocked, blocked)


def select(
    scores: Tensor,
    rule: str,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    keep: str = "high",
    real: tuple[float, float] | None = None,
) -> Tensor:
    """Return bool [B]: which of the scores [B] pass; NaN (a score that does not apply) never does.

    threshold: score >= value, or <= value with keep="low". band: low <= score <= high. profile_band: the
    same with the two numbers of `real`, the 5th and 95th percentile of real photographs (`Column.real`).
    top_k: the `value` best (all, if there are fewer). top_fraction: the best share `value` in 0..1 of all
    pictures, rounded up. keep says which end is best; of equal scores the earlier picture goes first.
    Raises ValueError naming the input and the fix.
    """
    scores = _checked(scores)
    check_rule(rule, value, low, high, keep, real=real)
    known = ~torch.isnan(scores)
    if rule == "threshold":
        return known & (scores >= value if keep == "high" else scores <= value)
    if rule in BANDS:
        low, high = band_ends(rule, low, high, real)
        return known & (scores >= low) & (scores <= high)
    count = int(value) if rule == "top_k" else math.ceil(value * len(scores) - 1e-9)
    ranked = ranking(scores, keep)[:count]
    passed = torch.zeros_like(known)
    passed[ranked] = True
    return passed & known


def best(
    scores: Tensor,
    rule: str,
    low: float | None = None,
    high: float | None = None,
    keep: str = "high",
    real: tuple[float, float] | None = None,
) -> int:
    """Return the index of the picture that comes nearest to the rule: the best end, or the band's middle.

    Pictures inside a band come before those outside. Of a band with one infinite end the nearest to the
    finite one is best, of one with two the first picture with a score. Raises ValueError if no score
    applies, or if the rule does not.
    """
    scores = _checked(scores)
    # every rule that takes a value takes 1; the best picture does not depend on it
    check_rule(rule, 1, low, high, keep, real=real)
    if torch.isnan(scores).all():
        raise ValueError(
            "scores: none of the pictures has a value for this metric, so there is no best one: choose "
            "another metric."
        )
    if rule not in BANDS:
        return int(ranking(scores, keep)[0])
    low, high = band_ends(rule, low, high, real)
    finite = [end for end in (low, high) if math.isfinite(end)]
    aim = sum(end / len(finite) for end in finite)  # the sum of both ends may be infinite
    distance = (scores - aim).abs() if finite else torch.where(torch.isnan(scores), scores, 0.0)
    inside = (scores >= low) & (scores <= high)
    if inside.any():
        distance = distance.masked_fill(~inside, math.nan)
    return int(ranking(distance, "low")[0])


def band_ends(
    rule: str, low: float | None, high: float | None, real: tuple[float, float] | None
) -> tuple[float, float]:
    """Return the ends of a rule that is a band and was checked."""
    return (low, high) if rule == "band" else real


def real_of(metric: str, bands: Bands) -> tuple[float, float]:
    """Return a metric's band of real photographs, or raise a ValueError that lists the metrics with one.

    bands: the band of each column, or None: `{column.name: column.real for column in table.columns}`.
    """
    if (band := bands.get(metric)) is None:
        having = ", ".join(name for name, ends in bands.items() if ends) or "none of these columns"
        raise ValueError(
            f"metric: the profile has no band of real photographs for {metric!r}, which rule "
            f"'profile_band' needs; columns that have one: {having}."
        )
    return band


def check_rule(
    rule: str,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    keep: str = "high",
    on_unknown: str = "reject",
    real: tuple[float, float] | None = None,
) -> None:
    """Raise a ValueError naming the input and the fix if the rule cannot be applied with these numbers."""
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; use one of {', '.join(RULES)}.")
    if on_unknown not in UNKNOWN:
        raise ValueError(f"on_unknown is {on_unknown!r}; use one of {', '.join(UNKNOWN)}.")
    if keep not in KEEP:
        raise ValueError(f"keep is {keep!r}; use 'high' or 'low'.")
    if rule == "profile_band":
        if real is None or math.isnan(real[0]) or math.isnan(real[1]) or real[0] > real[1]:
            raise ValueError(
                "rule 'profile_band' needs the band of real photographs, and the profile has none for this "
                "metric: choose one that has it (irs, typicality ...), or rule 'band' with low and high."
            )
        return
    if rule == "band":
        if low is None or high is None or math.isnan(low) or math.isnan(high):
            raise ValueError("rule 'band' needs both low and high: set them.")
        if low > high:
            raise ValueError(f"low is {low:g} and high {high:g}, so nothing lies between: exchange them.")
        return
    if value is None or math.isnan(value):
        raise ValueError(f"rule {rule!r} needs a value: set it.")
    if rule == "top_k" and (value < 1 or math.isinf(value) or value != int(value)):
        raise ValueError(f"value is {value:g}; top_k keeps a whole number of pictures: use 1 or more.")
    if rule == "top_fraction" and not 0 < value <= 1:
        raise ValueError(f"value is {value:g}; top_fraction keeps a share: use more than 0 and at most 1.")


def _checked(scores: Tensor) -> Tensor:
    scores = torch.as_tensor(scores)
    if scores.ndim != 1 or scores.numel() == 0:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}: give one score for each of at least one picture."
        )
    return scores if scores.is_floating_point() else scores.double()


def ranking(scores: Tensor, keep: str) -> Tensor:
    """Return positions from best to worst, ties by position, NaN last."""
    worst = -math.inf if keep == "high" else math.inf
    known = scores.nan_to_num(worst, math.inf, -math.inf)
    order = torch.sort(known, descending=keep == "high", stable=True).indices
    unknown = torch.isnan(scores)[order]
    return torch.cat((order[~unknown], order[unknown]))
