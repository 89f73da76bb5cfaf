"""What is told of a training's held-out losses."""

import json
import math

from realism_core.training.recording import held_out_rows
from realism_core.training.validation import BandLoss


def test_rows_are_strict_json() -> None:
    bands = [BandLoss(0.0, 0.5, 1.0, 0.25), BandLoss(0.5, 1.0, 2.0, math.nan), BandLoss(0.5, 1, 2, math.inf)]
    rows = held_out_rows([(0, bands[:1]), (4, bands)])
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["step"] for row in rows] == [0, 4]
    assert [band["loss"] for band in rows[1]["bands"]] == [0.25, None, None]
    assert rows[0]["bands"] == [{"low": 0.0, "high": 0.5, "sigma": 1.0, "loss": 0.25}]
