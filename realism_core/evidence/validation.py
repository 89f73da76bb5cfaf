"""How well a logistic regression tells photographs from generated pictures that it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .logistic import Logistic, fit_logistic

FOLDS = 5
INNER_FOLDS = 4
PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0)
_CALIBRATION_PENALTY = 1e-3
_NORMAL_95 = 1.959964
_HALVINGS = 60


def consecutive_folds(labels: Tensor, count: int) -> Tensor:
    """Return the fold [n] of each row, int64: every class cut into `count` runs of equal length, in order.

    Pictures that lie next to each other in a folder (bursts, frames, the files of a sub-folder) thus stay
    mostly together, so that a fold is not judged by a fit on its own near-duplicates.
    """
    folds = torch.zeros(len(labels), dtype=torch.int64)
    for label in (0, 1):
        rows = (labels == label).nonzero().flatten()
        folds[rows] = torch.arange(len(rows)) * count // max(1, len(rows))
    return folds


def out_of_fold(
    table: Tensor, labels: Tensor, count: int, fit: Callable[[Tensor, Tensor], Logistic]
) -> Tensor:
    """Return the log odds [n] of each row by the fit on the rows of the other folds."""
    folds = consecutive_folds(labels, count)
    odds = torch.empty(len(labels), dtype=torch.float64)
    for fold in range(count):
        held = folds == fold
        odds[held] = fit(table[~held], labels[~held]).log_odds(table[held])
    return odds


def choose_penalty(table: Tensor, labels: Tensor, names: tuple[str, ...]) -> float:
    """Return which of PENALTIES has the least log loss on folds left out of the fit; the larger of equals."""
    losses = []
    for penalty in PENALTIES:
        odds = out_of_fold(
            table, labels, INNER_FOLDS, lambda rows, kinds, p=penalty: fit_logistic(rows, kinds, names, p)
        )
        losses.append(float(_log_loss(odds, labels)))
    return PENALTIES[losses.index(min(losses))]


def validated_fit(table: Tensor, labels: Tensor, names: tuple[str, ...]) -> tuple[Logistic, Tensor]:
    """Return the calibrated regression on all rows [n,F], and the log odds [n] of rows left out of a fit.

    labels: [n], 1 = photograph. Nested: each of 5 folds is judged by a fit whose penalty was chosen within
    the other four. From these log odds comes the calibration of the fit on all.
    """

    def fit(rows: Tensor, kinds: Tensor) -> Logistic:
        return fit_logistic(rows, kinds, names, choose_penalty(rows, kinds, names))

    odds = out_of_fold(table, labels, FOLDS, fit)
    slope, shift = calibration(odds, labels)
    whole = fit(table, labels)
    return replace(whole, weights=whole.weights * slope, bias=whole.bias * slope + shift), odds


def calibration(odds: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return (slope, shift) that turn log odds [n] into calibrated ones, both classes weighing alike.

    Platt's scaling (1999) with his softened targets, so that classes without overlap stay finite. The slope
    is never below 0: odds that mean nothing become a chance of one half.
    """
    count = torch.stack([(labels == label).sum() for label in (0, 1)]).double()[labels.long()]
    share = torch.where(labels == 1, count + 1, torch.ones_like(count)) / (count + 2)
    kinds = torch.cat((torch.ones_like(odds), torch.zeros_like(odds)))
    weight = torch.cat((share / count, (1 - share) / count))
    line = fit_logistic(torch.cat((odds, odds))[:, None], kinds, ("odds",), _CALIBRATION_PENALTY, weight)
    slope = float(line.weights[0] / line.scale[0])
    if slope <= 0:
        return 0.0, 0.0
    return slope, line.bias - slope * float(line.mean[0])


def fold_auc(odds: Tensor, labels: Tensor, count: int = FOLDS) -> float:
    """Return the chance that a photograph has the higher log odds, among pairs of the same fold; ties half.

    Pairs of different folds are left out, since their log odds come from different fits.
    """
    folds = consecutive_folds(labels, count)
    wins = pairs = 0.0
    for fold in range(count):
        photographs = odds[(folds == fold) & (labels == 1)].contiguous()
        generated = odds[(folds == fold) & (labels == 0)].sort().values
        below = torch.searchsorted(generated, photographs) + torch.searchsorted(
            generated, photographs, right=True
        )
        wins += float(below.sum()) / 2
        pairs += len(photographs) * len(generated)
    return wins / pairs


def auc_interval(auc: float, photographs: int, generated: int) -> tuple[float, float]:
    """Return the 95 % interval of an AUC over this many pictures a side.

    Newcombe (Statistics in Medicine 25, 2006, part 2), method 5: every AUC whose own Hanley-McNeil deviation
    explains the one seen, so that an AUC of 1 has a width too. It takes pictures for independent: where those
    of a folder resemble each other, the truth is wider.
    """
    return _lower_end(auc, photographs, generated), 1 - _lower_end(1 - auc, photographs, generated)


def _lower_end(auc: float, photographs: int, generated: int) -> float:
    more = (photographs + generated) / 2 - 1
    low, high = 0.0, auc
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        spread = 1 + more * ((1 - middle) / (2 - middle) + middle / (1 + middle))
        variance = middle * (1 - middle) * spread / (photographs * generated)
        if auc - middle > _NORMAL_95 * variance**0.5:
            low = middle
        else:
            high = middle
    return high


def _log_loss(odds: Tensor, labels: Tensor) -> Tensor:
    return sum(softplus(odds[labels == label] * (1 - 2 * label)).mean() for label in (0, 1))
