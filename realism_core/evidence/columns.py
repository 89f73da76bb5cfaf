"""The columns that this pack computes, and the table of them for a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..irs import Measures, Profile, score
from .table import Column, ScoreTable

_IRS_COLUMNS = (
    Column("irs", "area", "none", 0.0, math.inf),
    Column("typicality", "p-value", "higher", 0.0, 1.0),
    *(Column(f"radius_{name}", "ratio to real", "middle", 0.0, math.inf) for name in Measures._fields),
    *(Column(f"percentile_{name}", "share of real", "middle", 0.0, 1.0) for name in Measures._fields),
    Column("canny_edge_density", "share of pixels", "none", 0.0, 1.0),
    Column("glcm_contrast", "squared levels", "none", 0.0, 65025.0),
    Column("glcm_energy", "1", "none", 0.0, 1.0),
    Column("blur_variance", "squared levels", "none", 0.0, math.inf),
    Column("mean_spectrum", "20 ln magnitude or magnitude", "none", -math.inf, math.inf),
)
COLUMNS = {column.name: column for column in _IRS_COLUMNS}


def score_table(
    images: Tensor,
    columns: Sequence[str] | None = None,
    profile: Profile | None = None,
    *,
    definition: str = "reference",
    mask: Tensor | None = None,
) -> ScoreTable:
    """Return the scores of a batch [B,H,W,C] as a table, all columns or those named, in that order.

    profile, definition, mask: as for `realism_core.irs.score`. Raises ValueError with the fix.
    """
    names = tuple(COLUMNS) if columns is None else tuple(columns)
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        raise ValueError(f"columns: there is no {', '.join(unknown)}; known are {', '.join(COLUMNS)}.")
    profile = profile or Profile.shipped(definition)
    scores = score(images, definition, profile, mask)
    measures = torch.stack(tuple(scores.measures), 1)
    # the number is the formula's, but it says nothing where the channels are equal
    measures[:, 4] = measures[:, 4].masked_fill(scores.colourless, torch.nan)
    values = torch.cat(
        (scores.irs[:, None], scores.typicality[:, None], scores.radii, scores.percentiles, measures), 1
    )
    order = [list(COLUMNS).index(name) for name in names]
    about = {"definition": definition, "profile": profile.name, "profile_count": profile.count}
    return ScoreTable(tuple(COLUMNS[name] for name in names), values[:, order], about)
