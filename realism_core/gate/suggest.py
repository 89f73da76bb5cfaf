"""The cut that explains choices by hand best."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .by_hand import Choices
from .select import BANDS, band_ends, check_rule, decide, ranking, select

DIGITS = 17


class Suggestion(NamedTuple):
    """A rule that explains more choices by hand than the current one does.

    rule, value, low, high: what to type in; for profile_band the rule is a band. threshold: the value that
    rule threshold takes for the same decision, None for bands and where equal scores are told apart by
    position only. explained, before: how many of the `choices` the suggested and the current cut put on
    their side. passes: how many of the pictures with a score pass. text: all that as a sentence.
    """

    rule: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    explained: int
    before: int
    choices: int
    passes: int
    text: str


class _Task(NamedTuple):
    """What is asked, over pictures with a score only, from low to high or (rank) from best to worst.

    scores: ascending along the axis of the cut. hand: 1 kept, -1 rejected, 0 not chosen. passing: what the
    current rule does.
    """

    scores: list[float]
    hand: list[int]
    passing: list[bool]


def suggest_cut(
    scores: Tensor,
    choices: Choices,
    rule: str,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    keep: str = "high",
    on_unknown: str = "reject",
    real: tuple[float, float] | None = None,
) -> Suggestion | None:
    """Return the cut through scores [B] that best explains the choices by hand, or None if none is better.

    Best is the one with the fewest choices on the wrong side, then the one that moves the fewest other
    pictures from where the rule puts them now, then the one in the widest gap between scores. Numbers are
    as short as they can be near the middle of that gap, and decide as promised when typed in. A band always
    holds a picture, and an end that need not move stays. Other arguments and errors as for `decide`.
    """
    scores = torch.as_tensor(scores).double()
    check_rule(rule, value, low, high, keep, on_unknown, real)
    now = decide(scores, rule, value, low, high, keep, on_unknown, real).passed
    known = ~torch.isnan(scores)
    hand = torch.zeros(len(scores), dtype=torch.long)
    hand[list(choices.keep)], hand[list(choices.reject)] = 1, -1
    hand = hand.to(scores.device)
    wrong = known & (((hand > 0) & ~now) | ((hand < 0) & now))
    chosen, missed = int((known & (hand != 0)).sum()), int(wrong.sum())
    if missed == 0:
        return None

    def task(order: Tensor) -> _Task:
        return _Task(scores[order].tolist(), hand[order].tolist(), now[order].tolist())

    order = ranking(scores, "low")[: int(known.sum())]
    if rule in BANDS:
        ends = _band(task(order), *band_ends(rule, low, high, real))
        numbers, found = {"low": ends[0], "high": ends[1]}, select(scores, "band", None, *ends)
    elif rule == "threshold":
        cut = _threshold(task(order), keep)
        numbers, found = {"value": cut}, select(scores, rule, cut, keep=keep)
    else:
        order = ranking(scores, keep)[: len(order)]
        count = _count(task(order))
        total = len(scores) if on_unknown == "reject" else len(order)
        number = float(count) if rule == "top_k" else _share(count, total)
        numbers = {"value": number, "threshold": _between_ranks(scores[order].tolist(), count, keep)}
        found = decide(scores, rule, number, keep=keep, on_unknown=on_unknown).passed & known
    left = int((known & (((hand > 0) & ~found) | ((hand < 0) & found))).sum())
    if left >= missed:
        return None
    suggestion = Suggestion(
        rule="band" if rule in BANDS else rule,
        value=numbers.get("value"),
        low=numbers.get("low"),
        high=numbers.get("high"),
        threshold=numbers.get("threshold", numbers.get("value")),
        explained=chosen - left,
        before=chosen - missed,
        choices=chosen,
        passes=int(found.sum()),
        text="",
    )
    current = real if rule == "profile_band" else (low, high) if rule == "band" else (value,)
    return suggestion._replace(text=_sentence(suggestion, rule, current))


def _threshold(task: _Task, keep: str) -> float:
    """Return the value that cuts best between two scores, below all of them or above all."""
    sign = 1 if keep == "high" else -1
    scores, groups = _groups(task, backwards=keep == "low")
    scores = [sign * score for score in scores]  # ascending, and what is at least the cut passes
    weights = [_weight(group, len(task.scores)) for group in groups]
    cost = sum(weights)
    gaps = _gaps(scores)
    options = []
    for place in range(len(scores) + 1):
        # a cut that nothing passes has no number where the best score is infinite
        if place < len(scores) or scores[-1] < math.inf:
            options.append((cost, -gaps[place], place))
        cost -= weights[place] if place < len(scores) else 0
    place = min(options)[2]
    cut = _number(scores, place)
    return sign * cut + 0.0


def _band(task: _Task, low: float, high: float) -> tuple[float, float]:
    """Return the ends of the best band that holds a score."""
    scores, groups = _groups(task)
    weights = [_weight(group, len(task.scores)) for group in groups]
    gaps = _gaps(scores)
    before, start, options = 0, None, []
    for place, weight in enumerate(weights):
        # the best place to begin is where the sum so far is largest
        start = min(filter(None, (start, (-before, -gaps[place], place))))
        before += weight
        options.append((before + start[0], -gaps[place + 1] + start[1], start[2], place))
    _, _, first, last = min(options)
    if bisect_left(scores, low) != first:
        low = _number(scores, first)
    mirrored = [-score for score in reversed(scores)]
    place = len(scores) - 1 - last
    if bisect_left(mirrored, -high) != place:
        high = -_number(mirrored, place)
    return low + 0.0, high + 0.0


def _count(task: _Task) -> int:
    """Return how many of the best ranked to take: at least one."""
    cost, options = 0, []
    for place, (score, *rest) in enumerate(zip(*task, strict=True)):
        cost += _weight([tuple(rest)], len(task.scores))
        after = task.scores[place + 1] if place + 1 < len(task.scores) else score
        gap = abs(after - score) if math.isfinite(after) and math.isfinite(score) else 0.0
        options.append((cost, -gap, place + 1))
    return min(options)[2]


def _weight(group: Sequence[tuple[int, bool]], count: int) -> int:
    """Return what it costs if these pictures pass, less what it costs if they do not.

    A choice on the wrong side costs more than all pictures that could be moved.
    """
    chosen = sum(-hand for hand, _ in group)
    moved = sum(1 - 2 * passing for hand, passing in group if not hand)
    return chosen * (2 * count + 1) + moved


def _groups(task: _Task, backwards: bool = False) -> tuple[list[float], list[list[tuple[int, bool]]]]:
    """Return the different scores, and of each what hand and rule say of its pictures."""
    groups: dict[float, list[tuple[int, bool]]] = {}
    for score, *rest in zip(*task, strict=True):
        groups.setdefault(score, []).append(tuple(rest))
    scores = list(groups)[::-1] if backwards else list(groups)
    return scores, [groups[score] for score in scores]


def _gaps(scores: list[float]) -> list[float]:
    """Return the width below each of ascending scores, and above the last; 0 where it has no end."""
    widths = [after - before for before, after in zip(scores, scores[1:], strict=False)]
    return [0.0, *(width if math.isfinite(width) else 0.0 for width in widths), 0.0]


def _number(scores: list[float], place: int) -> float:
    """Return a short number that exactly scores[place:] reach, of ascending scores that are all different.

    It lies in the middle half of the gap below them, or a little outside all scores.
    """
    finite = [score for score in scores if math.isfinite(score)] or [0.0]
    margin = (finite[-1] - finite[0] or abs(finite[0]) or 1.0) / 10
    below = scores[place - 1] if place else -math.inf
    above = scores[place] if place < len(scores) else math.inf
    if math.isinf(below) and math.isinf(above):
        return above if place == 0 and scores and above < 0 else 0.0
    if math.isinf(below):
        below = above - margin
    elif math.isinf(above):
        above = below + margin
    middle, reach = below / 2 + above / 2, above / 4 - below / 4
    for digits in range(1, DIGITS + 1) if math.isfinite(middle) else ():
        number = float(f"{middle:.{digits - 1}e}")
        if abs(number - middle) <= reach and bisect_left(scores, number) == place:
            return number
    return scores[place] if place < len(scores) else math.nextafter(scores[-1], math.inf)


def _between_ranks(ranked: list[float], count: int, keep: str) -> float | None:
    """Return the threshold that takes the first `count` of ranked scores, or None if equal ones part."""
    if count < len(ranked) and ranked[count - 1] == ranked[count]:
        return None
    sign = 1 if keep == "high" else -1
    scores = sorted({sign * score for score in ranked})
    place = scores.index(sign * ranked[count - 1])
    return sign * _number(scores, place) + 0.0


def _share(count: int, total: int) -> float:
    """Return the shortest share of `total` pictures that, rounded up, takes `count`."""
    for digits in range(1, DIGITS + 1):
        # not above the exact share, where one more picture would be taken
        share = math.floor(count / total * 10**digits + 1e-9) / 10**digits
        if share > 0 and math.ceil(share * total - 1e-9) == count:
            return share
    return count / total


def _sentence(found: Suggestion, rule: str, current: Sequence[float]) -> str:
    if found.rule == "band":
        ends = f"low {_plain(found.low)} and high {_plain(found.high)}"
        subject = f"rule band with {ends} explains" if rule == "profile_band" else f"{ends} explain"
    elif rule == "threshold" or found.threshold is None:
        subject = f"value {_plain(found.value)} explains"
    else:
        subject = f"value {_plain(found.value)} (threshold {_plain(found.threshold)}) explains"
    was = " to ".join(_plain(number) for number in current)
    return (
        f"{subject} {found.explained} of {found.choices} choice{'s' * (found.choices != 1)} by hand "
        f"(now {was}: {found.before} of {found.choices})"
    )


def _plain(number: float) -> str:
    """Return a number so that it reads back as the same one."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)
