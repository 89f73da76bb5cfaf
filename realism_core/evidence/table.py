"""The score table: one row an image, named columns, immutable."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

FORMAT = "realism-scores"
VERSION = 1
Direction = Literal["higher", "lower", "middle", "none"]


class Column(NamedTuple):
    """What a number means: unit, the direction that speaks for a real photograph, and the range it can take.

    direction: "higher" or "lower" speaks for real, "middle" = both ends speak against, "none" = a plain fact.
    meaning: what it is evidence of, in plain words. real: the 5th and 95th percentile over the profile's
    photographs, or None where the profile does not know them.
    """

    name: str
    unit: str
    direction: Direction
    low: float
    high: float
    meaning: str = ""
    real: tuple[float, float] | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Scores of a batch: `columns`, and `values` [B, columns] float64 where NaN means "does not apply here".

    about: what the numbers were made with (definition, profile name ...), plain JSON values.
    """

    columns: tuple[Column, ...]
    values: Tensor
    about: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.columns):
            raise ValueError(
                f"values has shape {tuple(self.values.shape)} for {len(self.columns)} columns: give [B, "
                "columns]."
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"a column name appears twice among {', '.join(self.names)}: rename one.")

    @property
    def names(self) -> tuple[str, ...]:
        """The column names, in order."""
        return tuple(column.name for column in self.columns)

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, key: str | slice | int | Tensor | Sequence[int]) -> Tensor | ScoreTable:
        """table["irs"] is a column [B]; table[i:j], [i], [bool mask] and [[i, j]] are tables of rows."""
        if isinstance(key, str):
            if key not in self.names:
                raise ValueError(
                    f"there is no column {key!r} in these scores; they have: {', '.join(self.names)}."
                )
            return self.values[:, self.names.index(key)]
        if isinstance(key, int):
            key = [range(len(self))[key]]
        return replace(self, values=self.values[key])

    def applies(self, name: str) -> Tensor:
        """Return bool [B]: whether the column says anything about each picture."""
        return ~torch.isnan(self[name])

    def with_column(self, column: Column, values: Tensor) -> ScoreTable:
        """Return a table with one more column, values [B]."""
        values = torch.as_tensor(values, dtype=torch.float64, device=self.values.device)
        if values.shape != (len(self),):
            raise ValueError(
                f"column {column.name!r} has {values.numel()} values for {len(self)} pictures: give one for "
                "each."
            )
        return replace(
            self, columns=(*self.columns, column), values=torch.cat((self.values, values[:, None]), 1)
        )

    @classmethod
    def concat(cls, tables: Sequence[ScoreTable]) -> ScoreTable:
        """Return one table with the rows of all, which must have the same columns, definition and profile."""
        if not tables:
            raise ValueError("there are no scores to join: score at least one picture.")
        first = tables[0]
        for table in tables[1:]:
            if table.names != first.names:
                raise ValueError(
                    f"scores with the columns {', '.join(table.names)} cannot follow scores with "
                    f"{', '.join(first.names)}: score all pictures with the same node."
                )
            for key in ("definition", "profile", "combined"):
                if table.about.get(key) != first.about.get(key):
                    raise ValueError(
                        f"scores with {key} {table.about.get(key)!r} cannot follow scores with "
                        f"{first.about.get(key)!r}: score all pictures with the same node."
                    )
        return replace(first, values=torch.cat([table.values.to(first.values.device) for table in tables]))

    def rows(self) -> list[dict[str, float | None]]:
        """Return a dict an image, None where a column does not apply or is not finite."""
        return [
            {name: _finite(value) for name, value in zip(self.names, row, strict=True)}
            for row in self.values.tolist()
        ]

    def to_json(self) -> str:
        """Return the table as JSON text; `from_json` gives back an equal one (infinities become NaN)."""
        columns = [
            {
                "name": c.name,
                "unit": c.unit,
                "direction": c.direction,
                "range": [_finite(c.low), _finite(c.high)],
                "meaning": c.meaning,
                "real": None if c.real is None else [_finite(end) for end in c.real],
            }
            for c in self.columns
        ]
        return json.dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "about": self.about,
                "columns": columns,
                "rows": self.rows(),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> ScoreTable:
        """Return the table that `to_json` wrote; raises ValueError saying what is wrong with the text."""
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"the scores are no JSON ({error}): pass the text that to_json wrote.") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != VERSION:
            raise ValueError(
                f"the scores are not of format {FORMAT} version {VERSION}: score the pictures again."
            )
        try:
            columns = tuple(
                Column(
                    c["name"], c["unit"], c["direction"],
                    *_ends(c["range"]),
                    str(c.get("meaning", "")),
                    None if c.get("real") is None else _ends(c["real"]),
                )
                for c in data["columns"]
            )
            values = [
                [math.nan if row[c.name] is None else row[c.name] for c in columns] for row in data["rows"]
            ]
            tensor = torch.tensor(values, dtype=torch.float64).reshape(len(values), len(columns))
            if not isinstance(data["about"], dict):
                raise TypeError("about is no object")
            return cls(columns, tensor, data["about"])
        except (KeyError, TypeError, IndexError, ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(f"the scores are damaged ({error!r}): score the pictures again.") from None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ends(pair: Sequence[float | None]) -> tuple[float, float]:
    low, high = pair
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)
