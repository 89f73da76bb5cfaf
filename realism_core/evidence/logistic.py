"""A logistic regression small enough to read: fitted by Newton's method, kept as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

FORMAT = "realism-detector"
VERSION = 1
CLIP = 4.0
_STEPS = 50


@dataclass(frozen=True)
class Logistic:
    """log odds = bias + sum weights * clip((x - mean) / scale, -4, 4), over the named statistics; float64
    [F].

    about: how it was fitted and what it can do, plain JSON values.
    """

    names: tuple[str, ...]
    mean: Tensor
    scale: Tensor
    weights: Tensor
    bias: float
    about: dict = field(default_factory=dict)

    def contributions(self, table: Tensor) -> Tensor:
        """Return what each statistic adds to the log odds, [B,F] of statistics [B,F]; NaN stays NaN."""
        standard = (table - self.mean.to(table)) / self.scale.to(table)
        return standard.clamp(-CLIP, CLIP) * self.weights.to(table)

    def log_odds(self, table: Tensor) -> Tensor:
        """Return the log odds [B] of statistics [B,F] in the order of names; NaN rows stay NaN."""
        return self.contributions(table).sum(1) + self.bias

    def to_dict(self) -> dict:
        """Return the detector as plain JSON values: a row of mean, scale and weight for each statistic."""
        numbers = zip(self.mean.tolist(), self.scale.tolist(), self.weights.tolist(), strict=True)
        rows = [[float(f"{value:.5g}") for value in row] for row in numbers]
        return {
            "format": FORMAT,
            "version": VERSION,
            "about": self.about,
            "bias": float(f"{self.bias:.5g}"),
            "statistics": dict(zip(self.names, rows, strict=True)),
        }

    @classmethod
    def from_dict(cls, data: dict, names: tuple[str, ...]) -> Logistic:
        """Return the detector held by `to_dict` values; ValueError with the fix unless it is for these
        names.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
            raise ValueError(f"the detector is not of format {FORMAT} version {VERSION}: fit it again.")
        try:
            found = tuple(data["statistics"])
            rows = torch.tensor([data["statistics"][name] for name in found], dtype=torch.float64)
            bias, about = float(data["bias"]), dict(data["about"])
            sound = rows.shape == (len(found), 3) and bool(
                torch.isfinite(rows).all() and (rows[:, 1] > 0).all()
            )
        except (LookupError, OverflowError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"the detector is damaged ({error!r}): fit it again.") from None
        if not sound or bias != bias or abs(bias) == float("inf"):
            raise ValueError(
                "the detector is damaged (numbers missing, infinite or of no spread): fit it again."
            )
        if found != names:
            raise ValueError(
                "the detector was fitted on other statistics than this version has: fit it again."
            )
        return cls(found, *rows.T.contiguous(), bias, about)


def fit_logistic(
    table: Tensor, labels: Tensor, names: tuple[str, ...], penalty: float, weight: Tensor | None = None
) -> Logistic:
    """Return the logistic regression of labels [n] (1 = photograph) on statistics [n,F], both classes
    weighing alike.

    penalty: L2 on the weights of the standardised statistics, in units of one picture's loss. weight: [n] of
    each row; both classes are then scaled to n/2 each. Raises ValueError if a class is missing.
    """
    table, labels = table.double(), labels.double()
    weight = torch.ones_like(labels) if weight is None else weight.double().clone()
    for label in (0, 1):
        rows = labels == label
        if not rows.any():
            raise ValueError(
                f"there is no {'photograph' if label else 'generated picture'} to fit on: add some."
            )
        weight[rows] *= len(labels) / 2 / weight[rows].sum()
    share = weight / weight.sum()
    mean = share @ table
    scale = (share @ (table - mean).square()).sqrt().clamp_min(1e-6)
    standard = ((table - mean) / scale).clamp(-CLIP, CLIP)
    design = torch.cat((standard, torch.ones_like(standard[:, :1])), 1)
    ridge = torch.full((design.shape[1],), float(penalty), dtype=torch.float64)
    ridge[-1] = 1e-9
    found = torch.zeros(design.shape[1], dtype=torch.float64)
    for _ in range(_STEPS):
        chance = torch.sigmoid(design @ found)
        slope = design.T @ (weight * (chance - labels)) + ridge * found
        curve = (design * (weight * chance * (1 - chance))[:, None]).T @ design + torch.diag(ridge)
        step = torch.linalg.solve(curve, slope)
        found = found - step
        if step.abs().max() < 1e-8:
            break
    return Logistic(names, mean, scale, found[:-1], float(found[-1]))
