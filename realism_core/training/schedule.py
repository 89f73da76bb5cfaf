"""The learning rate over the steps."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "cosine")


def learning_rate_factor(kind: str, step: int, steps: int, warmup: int = 0) -> float:
    """Return what the learning rate is multiplied by at a step, 0..1.

    kind: constant, or cosine, a half wave from 1 after the warm-up towards 0 at the end (Loshchilov and
    Hutter, arXiv 1608.03983, without restarts). step: 0 .. steps - 1. warmup: the first so many steps rise
    in a line, the first of them at 1 / (warmup + 1), none at 0. Raises ValueError for an unknown kind.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"schedule is {kind!r}; use one of {', '.join(SCHEDULES)}.")
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if kind == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
