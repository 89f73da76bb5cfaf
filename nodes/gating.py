"""What Realism Gate does around the decision: reading its inputs, sorting its outputs, telling of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..realism_core.evidence import ScoreTable
from ..realism_core.gate import (
    Choices,
    Decision,
    PictureCodes,
    Suggestion,
    apply,
    best,
    real_of,
)
from ..realism_core.gate.select import BANDS, band_ends
from ..realism_core.plots import MOST, histogram, sheet, stack
from .comfy import Progress, blocked
from .scorer import chunks
from .sockets import single_videos, split


def first(values: list | None, default: Any) -> Any:
    """Return what a widget of a list node holds."""
    return values[0] if values else default


def without_nan(images: list[Tensor]) -> list[Tensor]:
    """Return the pictures with black where there was no number, so that they can be drawn and named."""
    # whether a batch is finite shows in its sum, unless finite numbers add up to infinity
    return [batch if torch.isfinite(batch.sum()) else batch.nan_to_num(0.0, 1.0, 0.0) for batch in images]


def in_parts(images: list[Tensor]) -> Iterator[Tensor]:
    """Yield all pictures in small batches, showing progress and letting Cancel through between them."""
    progress = Progress(sum(len(batch) for batch in images))
    for batch in images:
        for rows in chunks(batch):
            yield batch[rows]
            progress.step(len(batch[rows]))


def column_of(scores: list[ScoreTable], metric: str) -> Tensor:
    """Return a column of all tables; raises ValueError if one lacks it, or if they cannot be compared."""
    try:
        alone = [_alone(table, metric) for table in scores]
    except ValueError as error:
        raise ValueError(f"metric: {error}") from None
    return ScoreTable.concat(alone)[metric].cpu()


def _alone(table: ScoreTable, metric: str) -> ScoreTable:
    values = table[metric]
    return replace(table, columns=(table.columns[table.names.index(metric)],), values=values[:, None])


def band_of(scores: list[ScoreTable], metric: str) -> tuple[float, float]:
    """Return the band of real photographs of a column; raises ValueError if there is no one band."""
    bands = [real_of(metric, {column.name: column.real for column in table.columns}) for table in scores]
    if len(set(bands)) > 1:
        raise ValueError(
            "scores come from several profiles, so there is no one band of real photographs: score all "
            "pictures with the same profile, or use rule 'band'."
        )
    return bands[0]


def not_empty(
    decision: Decision, column: Tensor, metric: str, limits: dict, on_empty: str, choices: Choices
) -> Decision:
    """Return the decision, changed as `on_empty` says if nothing passed; what a hand rejected stays out."""
    if decision.passed.any() or on_empty == "block":
        return decision
    unknown = int(torch.isnan(column).sum())
    if on_empty == "error":
        without = f" ({unknown} have no value)" if unknown else ""
        raise ValueError(
            f"none of {len(column)} pictures passed {metric} by rule {limits['rule']}{without}: loosen the "
            "rule, or set on_empty to 'block' or 'best'."
        )
    free = column.clone()
    free[list(choices.reject)] = torch.nan
    if choices.reject and torch.isnan(free).all():
        return decision
    chosen = best(free, **{name: limits[name] for name in ("rule", "low", "high", "keep", "real")})
    return apply(decision, Choices(keep=(chosen,)))


def sides_of(decision: Decision) -> list[str]:
    """Return "passed", "rejected" or "blocked" for each picture."""
    return [Decision._fields[place] for place in torch.stack(tuple(decision)).int().argmax(0).tolist()]


def outputs_of(given: dict[str, list | None], decision: Decision) -> tuple[list, list]:
    """Return (passed and rejected in turn, held) for each of the inputs: lists, or what blocks if empty."""
    sides, held = [], []
    for name, batches in given.items():
        if batches is None:
            missing = blocked(
                f"{name} are not connected to Realism Gate, so it has none to give: connect them."
            )
            parts = [[missing]] * 3
        else:
            batches = single_videos(batches) if name == "latents" else batches
            parts = [side or [blocked()] for side in _split(batches, decision)]
        sides += parts[:2]
        held.append(parts[2])
    return sides, held


def _split(batches: list, decision: Decision) -> tuple[list, list, list]:
    """Return the batches' passed, rejected and held pictures."""
    if not decision.blocked.any():
        return *split(batches, decision.passed), []
    left, others = split(batches, decision.blocked)
    return *split(others, decision.passed[~decision.blocked]), left


def face(
    images: list[Tensor], codes: PictureCodes, column: Tensor, metric: str, limits: dict, by_rule: Decision,
    decision: Decision, choices: Choices, suggestion: Suggestion | None,
) -> Tensor:  # fmt: skip
    """Return the gate's preview [1,H,W,3]: the histogram with the cut, and the pictures with their codes."""
    cuts = _cuts(column, limits, by_rule)
    suggested = () if suggestion is None else (suggestion.threshold, suggestion.low, suggestion.high)
    bars = histogram(column, decision, metric, cuts, [cut for cut in suggested if cut is not None])
    order = None
    if len(column) > MOST:
        # the ones that are worth a look: chosen by hand, then nearest to a cut
        distance = torch.stack([(column - cut).abs() for cut in cuts or [0.0]]).amin(0).nan_to_num(torch.inf)
        distance[[*choices.keep, *choices.reject]] = -1
        order = torch.sort(distance, stable=True).indices[:MOST].sort().values.tolist()
    return stack([bars, sheet(images, codes.codes, column, decision, choices, order)])


def _cuts(column: Tensor, limits: dict, by_rule: Decision) -> list[float]:
    """Return the scores where the rule cuts; for the best k, the last score that passes (none: no cut)."""
    rule = limits["rule"]
    if rule == "threshold":
        return [limits["value"]]
    if rule in BANDS:
        return list(band_ends(rule, limits["low"], limits["high"], limits["real"]))
    passing = column[by_rule.passed & ~torch.isnan(column)]
    if not len(passing):
        return []
    return [float(passing.min() if limits["keep"] == "high" else passing.max())]


def summary(
    decision: Decision, column: Tensor, metric: str, unknown: int, on_unknown: str, choices: Choices,
    suggestion: Suggestion | None,
) -> str:  # fmt: skip
    """Return what the gate did, for its face."""
    done = {"reject": "rejected", "pass": "passed", "block": "blocked"}[on_unknown]
    went = f", {unknown} unknown ({done})" if unknown else ""
    lines = [f"{int(decision.passed.sum())} of {len(column)} passed{went}", f"{metric}: {_spread(column)}"]
    if choices.keep or choices.reject:
        lines.append(f"by hand: {len(choices.keep)} kept, {len(choices.reject)} rejected")
    if choices.unused:
        lines.append(f"not among these pictures, so not used: {', '.join(choices.unused)}")
    if suggestion is not None:
        lines.append(suggestion.text)
    return "\n".join(lines)


def _spread(values: Tensor) -> str:
    known = values[~torch.isnan(values)]
    if known.numel() == 0:
        return "applies to none"
    middle = known.median()
    return f"{known.min():.3g} to {known.max():.3g}, median {middle:.3g}"
