"""Which pictures pass: rules over one column of scores."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

RULES = ("threshold", "band", "top_k", "top_fraction")
KEEP = ("high", "low")
UNKNOWN = ("reject", "pass", "block")


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
) -> Decision:
    """Return where each of the scores [B] goes, also the unknown ones (NaN: the score does not apply).

    on_unknown: "reject" gives just what `select` gives; with "pass" and "block" the rule sees known scores
    only, so that top_k and top_fraction choose among (and count) those, and unknown pictures pass on top or
    are blocked. Rules and errors as for `select`.
    """
    scores = _checked(scores)
    check_rule(rule, value, low, high, keep, on_unknown)
    unknown = torch.isnan(scores)
    if on_unknown == "reject" or not unknown.any():
        passed = select(scores, rule, value, low, high, keep)
    else:
        passed = torch.full_like(unknown, on_unknown == "pass")
        if not unknown.all():
            passed[~unknown] = select(scores[~unknown], rule, value, low, high, keep)
    blocked = unknown & (on_unknown == "block")
    return Decision(passed, ~passed & ~blocked, blocked)


def select(
    scores: Tensor,
    rule: str,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    keep: str = "high",
) -> Tensor:
    """Return bool [B]: which of the scores [B] pass; NaN (a score that does not apply) never does.

    threshold: score >= value, or <= value with keep="low". band: low <= score <= high.
    top_k: the `value` best (all, if there are fewer). top_fraction: the best share `value` in 0..1 of all
    pictures, rounded up. keep says which end is best; of equal scores the earlier picture goes first.
    Raises ValueError naming the input and the fix.
    """
    scores = _checked(scores)
    check_rule(rule, value, low, high, keep)
    known = ~torch.isnan(scores)
    if rule == "threshold":
        return known & (scores >= value if keep == "high" else scores <= value)
    if rule == "band":
        return known & (scores >= low) & (scores <= high)
    count = int(value) if rule == "top_k" else math.ceil(value * len(scores) - 1e-9)
    ranked = _ranking(scores, keep)[:count]
    passed = torch.zeros_like(known)
    passed[ranked] = True
    return passed & known


def best(
    scores: Tensor, rule: str, low: float | None = None, high: float | None = None, keep: str = "high"
) -> int:
    """Return the index of the picture that comes nearest to the rule: the best end, or the band's middle.

    Raises ValueError if no score applies, or if the rule does not.
    """
    scores = _checked(scores)
    # every rule that takes a value takes 1; the best picture does not depend on it
    check_rule(rule, 1, low, high, keep)
    if torch.isnan(scores).all():
        raise ValueError(
            "scores: none of the pictures has a value for this metric, so there is no best one: choose "
            "another metric."
        )
    if rule == "band":
        return int(_ranking((scores - (low + high) / 2).abs(), "low")[0])
    return int(_ranking(scores, keep)[0])


def check_rule(
    rule: str,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    keep: str = "high",
    on_unknown: str = "reject",
) -> None:
    """Raise a ValueError naming the input and the fix if the rule cannot be applied with these numbers."""
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; use one of {', '.join(RULES)}.")
    if on_unknown not in UNKNOWN:
        raise ValueError(f"on_unknown is {on_unknown!r}; use one of {', '.join(UNKNOWN)}.")
    if keep not in KEEP:
        raise ValueError(f"keep is {keep!r}; use 'high' or 'low'.")
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


def _ranking(scores: Tensor, keep: str) -> Tensor:
    """Return positions from best to worst, ties by position, NaN last."""
    worst = -math.inf if keep == "high" else math.inf
    known = scores.nan_to_num(worst, math.inf, -math.inf)
    order = torch.sort(known, descending=keep == "high", stable=True).indices
    unknown = torch.isnan(scores)[order]
    return torch.cat((order[~unknown], order[unknown]))
