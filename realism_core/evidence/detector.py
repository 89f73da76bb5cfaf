"""p_photo: how likely the pixels came from a camera and not out of a decoder, how far that can be trusted,
and the verdict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..irs.measures import channels_equal
from .logistic import Logistic
from .statistics import NAMES, detector_statistics
from .table import Column

SHIPPED = Path(__file__).parent / "detector.json"
MIN_RELIABILITY = 0.5
# the verdict is unknown between these
DECODER_BELOW, PHOTO_ABOVE = 0.3, 0.7

COLUMNS = (
    Column(
        "p_photo", "probability", "higher", 0.0, 1.0,
        "how likely the finest detail is a camera's and not an image decoder's, among pictures of both "
        "kinds in equal number; it knows the traces of the decoders it was fitted on and says nothing about "
        "beauty, content or retouching",
    ),
    Column(
        "reliability", "share", "none", 0.0, 1.0,
        "how much of that evidence the picture can still hold, judged by its compression, resizing and size; "
        "below 0.5 p_photo does not apply",
    ),
    Column(
        "verdict", "1 photograph, 0 decoder", "higher", 0.0, 1.0,
        "1 where p_photo is above 0.7, 0 below 0.3, and unknown between or where it does not apply",
    ),
    *(
        Column(
            f"odds_{name}", "log odds", "higher", -math.inf, math.inf,
            f"what {what} adds to p_photo's log odds",
        )
        for name, what in {
            "luma": "a trace of period 8, 4 or 2 in the luma",
            "colour": "such a trace in the differences of red and blue to the luma",
            "block": "how far such traces pile up at the border of a block, as a codec's do,",
            "periods": "the strongest trace of any other period, as resizing makes it,",
        }.items()
    ),
)  # fmt: skip
PARTS = ("luma", "colour", "block", "periods")
# (column, where nothing is left, where nothing is lost), in between on a straight line; NaN loses nothing.
# The ends were read off docs/robustness.md: where the lattice of decoded pictures sinks to a photograph's.
RAMPS = (
    ("jpeg_quality", 88.0, 97.0),
    ("video_levels", 0.5, 0.38),
    ("resample_peak", 3.0, 2.2),
    ("spectral_cutoff", 0.5, 0.8),
    ("noise_floor", 4.0, 2.0),
    ("short_side", 104.0, 320.0),
    ("flat_share", 0.98, 0.8),
)
# what still limits a detector that was fitted on a user's own files, compressed and resized as those are
OWN_RAMPS = RAMPS[-2:]


@cache
def shipped() -> Logistic:
    """Return the detector that comes with the pack; docs/detection.md says what it was fitted on."""
    return Logistic.from_dict(json.loads(SHIPPED.read_text(encoding="utf-8")), NAMES)


def measure_detector(
    planes: Tensor, column: Callable[[str], Tensor], detector: Logistic | None = None
) -> Tensor:
    """Return the columns of this file, float64 [B,7], of uint8 planes [B,3,H,W].

    column: gives the codec and size columns of the same pictures by name. detector: None takes the shipped
    one; one fitted on a user's own files is limited by size and flatness only.
    """
    ramps = RAMPS if detector is None else OWN_RAMPS
    detector = detector or shipped()
    # without colour half of the traces cannot be there
    colourless = channels_equal(planes)[:, None]
    added = detector.contributions(detector_statistics(planes)).masked_fill(colourless, torch.nan)
    odds = added.sum(1) + detector.bias
    trust = evidence_left(column, ramps).masked_fill(torch.isnan(odds), 0)
    chance = torch.sigmoid(odds).masked_fill(trust < MIN_RELIABILITY, torch.nan)
    verdict = torch.full_like(chance, torch.nan)
    verdict[chance >= PHOTO_ABOVE] = 1
    verdict[chance <= DECODER_BELOW] = 0
    parts = [added[:, [_part(name) == part for name in detector.names]].sum(1) for part in PARTS]
    return torch.stack((chance, trust, verdict, *parts), 1)


def _part(name: str) -> str:
    """Return which odds_ column a statistic belongs to."""
    plane, _, kind = name.partition("_")
    if kind in ("block", "peak"):
        return {"block": "block", "peak": "periods"}[kind]
    return "colour" if plane in ("red", "blue") else "luma"


def evidence_left(
    column: Callable[[str], Tensor], ramps: Sequence[tuple[str, float, float]] = RAMPS
) -> Tensor:
    """Return the share [B] of the evidence that compression, resizing and size leave, 0..1: the ramps'
    product.
    """
    shares = [
        ((column(name) - nothing) / (everything - nothing)).clamp(0, 1).nan_to_num(1.0)
        for name, nothing, everything in ramps
    ]
    return torch.stack(shares).prod(0)
