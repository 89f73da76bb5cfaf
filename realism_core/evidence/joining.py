"""Numbers from elsewhere as columns of a score table, and a weighted sum of columns."""

from __future__ import annotations

import math
import numbers
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .table import Column, ScoreTable

COMBINED = "combined"
DIRECTIONS = ("higher", "lower", "none")
LONGEST_NAME = 64
# what a manifest calls its own fields
_MANIFEST_FIELDS = ("file", "width", "height")
_DEEPEST = 16


def join_column(
    tables: Sequence[ScoreTable] | None,
    name: str,
    values: object = None,
    direction: str = "higher",
    weight: float = 0.0,
) -> list[ScoreTable]:
    """Return the tables with `values` as the column `name` and, by its weight, as a part of `combined`.

    tables: the scores, shared out among them in order; None: one table with this column alone is made.
    values: numbers as `flat_values` takes them, any unit, one a picture; NaN: unknown. None: `name` is a
    column that the tables have, and only its weight is set. direction: which end is better, or "none".
    weight: combined = the sum of weight * value over the weighted columns, minus for "lower", NaN where a
    part is. A second weight replaces the first, 0 takes the part out. `about` keeps {name: signed weight}.
    Raises ValueError naming the input and the fix.
    """
    name, signed = checked_name(name), _signed(weight, direction)
    if tables is not None:
        _check_alike(tables)
    if values is None:
        if not tables:
            raise ValueError("neither scores nor values is connected: connect one of them, or both.")
        _check_known(tables, name, signed)
        return [_weighted(table, name, signed) for table in tables]
    found = flat_values(values)
    if name in _MANIFEST_FIELDS:
        raise ValueError(f"name is {name!r}, which manifests use for the picture itself: choose another.")
    if tables is None:
        tables = [ScoreTable((), torch.zeros(len(found), 0, dtype=torch.float64))]
    pictures = sum(len(table) for table in tables)
    if len(found) != pictures:
        raise ValueError(
            f"values holds {len(found)} numbers but scores holds {pictures} pictures: connect the values "
            "of these very pictures, one for each."
        )
    column = Column(name, "score", direction, -math.inf, math.inf, "given by another node")
    joined, start = [], 0
    for table in tables:
        if name in table.names:
            raise ValueError(
                f"name is {name!r}, and the scores have that column already: choose another name, or leave "
                "values open to set its weight."
            )
        part = torch.tensor(found[start : start + len(table)], dtype=torch.float64)
        start += len(table)
        table = table.with_column(column, part.to(table.values.device))
        joined.append(_weighted(table, name, signed) if signed else table)
    return joined


def flat_values(values: object) -> list[float]:
    """Return all numbers in `values`, in order, as float64; at least one.

    It may be a number, a list or tuple (nested up to 16 deep) of what it may be itself, or a tensor or
    numpy array of at most one dimension. Raises ValueError naming what else it holds.
    """
    found: list[float] = []
    for item in _leaves(values, _DEEPEST):
        try:
            found += _numbers(item)
        except (TypeError, OverflowError):
            raise ValueError(
                f"values holds {_what(item)} where number {len(found) + 1} should be: connect a FLOAT list "
                "with one number for each picture."
            ) from None
    if not found:
        raise ValueError("values holds no number: connect a FLOAT list with one number for each picture.")
    return found


def checked_name(name: str) -> str:
    """Return a column's name without blanks around it; raises ValueError if it cannot be one."""
    name = name.strip()
    if not name:
        raise ValueError("name is empty: write what the numbers are, such as 'aesthetic'.")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"name has {len(name)} characters: use at most {LONGEST_NAME}.")
    if any(sign == "," or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name):
        raise ValueError(
            f"name is {name!r}: leave out commas, line breaks and control characters, so that lists of "
            "names stay readable."
        )
    if name == COMBINED:
        raise ValueError(f"name is {name!r}, which is the weighted sum itself: choose another.")
    return name


def _signed(weight: float, direction: str) -> float:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}; use one of {', '.join(DIRECTIONS)}.")
    if not math.isfinite(weight):
        raise ValueError(f"weight is {weight}: use a finite number, or 0 to add no part.")
    if weight and direction == "none":
        raise ValueError(
            f"weight is {weight:g} but direction is 'none', so neither end is better: choose 'higher' or "
            "'lower', or set weight to 0."
        )
    return -weight if direction == "lower" else weight


def _check_known(tables: Sequence[ScoreTable], name: str, signed: float) -> None:
    for table in tables:
        if name not in table.names:
            raise ValueError(
                f"name is {name!r}, but these scores have no such column; they have: "
                f"{', '.join(table.names)}. Choose one of them, or connect values to add a new one."
            )
    if not signed and not any(name in _parts(table) for table in tables):
        raise ValueError(
            f"weight is 0 and values is not connected, so nothing would happen to {name!r}: set a weight, "
            "or connect values."
        )


def _check_alike(tables: Sequence[ScoreTable]) -> None:
    """Raise unless the tables' `combined` mean the same and are whole."""
    if not tables:
        raise ValueError("there are no scores to add a column to: score at least one picture.")
    for table in tables:
        parts = _parts(table)
        if parts != _parts(tables[0]):
            raise ValueError(
                f"scores whose combined is {_formula(parts) or 'missing'} cannot go with scores where it "
                f"is {_formula(_parts(tables[0])) or 'missing'}: weight all of them with the same nodes."
            )
        if (COMBINED in table.names) != bool(parts) or not set(parts) <= set(table.names):
            raise ValueError(
                "the scores are damaged (combined without its parts): score the pictures again."
            )


def _parts(table: ScoreTable) -> dict[str, float]:
    return table.about.get(COMBINED, {})


def _weighted(table: ScoreTable, name: str, signed: float) -> ScoreTable:
    """Return the table with a new `combined`, where `name` has this weight (0: none)."""
    weights = {**_parts(table), name: signed}
    # sorted: the sum comes out the same bit for bit, whichever was added first
    parts = {part: weights[part] for part in sorted(weights) if weights[part]}
    about = {key: value for key, value in table.about.items() if key != COMBINED}
    others = [place for place, column in enumerate(table.columns) if column.name != COMBINED]
    table = replace(
        table,
        columns=tuple(table.columns[place] for place in others),
        values=table.values[:, others],
        about={**about, COMBINED: parts} if parts else about,
    )
    if not parts:
        return table
    column = Column(COMBINED, "weighted sum", "higher", -math.inf, math.inf, _formula(parts))
    return table.with_column(column, _sum(table, parts))


def _sum(table: ScoreTable, parts: dict[str, float]) -> Tensor:
    total = torch.zeros(len(table), dtype=torch.float64, device=table.values.device)
    for name, weight in parts.items():
        total += weight * table[name]
    return total


def _formula(parts: dict[str, float]) -> str:
    """Return the parts as text: "-0.1 x noise + 1 x typicality"."""
    text = "".join(
        f" {'-' if weight < 0 else '+'} {abs(weight):g} x {name}" for name, weight in parts.items()
    )
    return "-" + text[3:] if text.startswith(" -") else text[3:]


def _leaves(value: object, depth: int) -> Iterator[object]:
    if not isinstance(value, (list, tuple)):
        yield value
    elif not depth:
        raise ValueError("values is nested too deep: connect a plain FLOAT list, one number for a picture.")
    else:
        for item in value:
            yield from _leaves(item, depth - 1)


def _numbers(item: object) -> list[float]:
    """Return the numbers of one leaf; raises TypeError or OverflowError if it is none."""
    if isinstance(item, Tensor) and item.ndim <= 1 and not item.is_complex():
        return item.cpu().double().reshape(-1).tolist()
    if isinstance(item, (np.ndarray, np.generic)) and item.ndim <= 1 and item.dtype.kind in "biuf":
        return np.asarray(item, dtype=np.float64).reshape(-1).tolist()
    if isinstance(item, numbers.Real):
        return [float(item)]
    raise TypeError


def _what(item: object) -> str:
    """Return what a thing is, briefly."""
    if isinstance(item, str):
        return f"the text {item[:40]!r}"
    if isinstance(item, (Tensor, np.ndarray)):
        return f"an array of shape {tuple(item.shape)} and type {item.dtype}"
    if item is None:
        return "None"
    return f"something of type {type(item).__name__} that is no FLOAT"
