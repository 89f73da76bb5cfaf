"""Which attempt is the best of each slot, when pictures are made again until a rule holds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .select import best, check_rule, select

# the others compare pictures with each other, so that one more attempt could undo what passed
RETRY_RULES = ("threshold", "band", "profile_band")


class SlotSearch:
    """Keeps the best attempt of each of `slots` slots by a rule that looks at one picture at a time.

    rule, value, low, high, keep, real: as for `select`; rule is one of RETRY_RULES. A value that passes
    beats one that does not; of two alike the one nearer to what the rule wants is better, of equal ones the
    earlier. NaN (a score that does not apply) passes never and is worst. `values`, `attempts`, `passed` and
    `usable` hold what is kept, by slot. Raises ValueError naming the input and the fix.
    """

    def __init__(
        self,
        slots: int,
        rule: str,
        value: float | None = None,
        low: float | None = None,
        high: float | None = None,
        keep: str = "high",
        real: tuple[float, float] | None = None,
    ) -> None:
        if rule not in RETRY_RULES:
            raise ValueError(f"rule is {rule!r}; use one of {', '.join(RETRY_RULES)}.")
        check_rule(rule, value, low, high, keep, real=real)
        self._passes = {"rule": rule, "value": value, "low": low, "high": high, "keep": keep, "real": real}
        self._best = {name: self._passes[name] for name in ("rule", "low", "high", "keep", "real")}
        self.values = [math.nan] * slots
        self.attempts = [-1] * slots
        self.passed = [False] * slots
        self.usable = [False] * slots

    def offer(self, attempt: int, values: Tensor, usable: Tensor | None = None) -> list[int]:
        """Take in the values [slots] of an attempt; returns the slots of which it is the best so far.

        usable: bool [slots], whether the attempt gave a picture at all (default: it did everywhere). Where it
        did not its value must be NaN, and any attempt that did is better.
        """
        values = values.detach().cpu().double()
        sound = [True] * len(values) if usable is None else usable.tolist()
        passes = select(values, **self._passes).tolist()
        better = [
            slot
            for slot, value in enumerate(values.tolist())
            if self.attempts[slot] < 0 or self._beats(slot, value, sound[slot])
        ]
        for slot in better:
            self.values[slot], self.attempts[slot] = float(values[slot]), attempt
            self.passed[slot], self.usable[slot] = passes[slot], sound[slot]
        return better

    def _beats(self, slot: int, value: float, usable: bool) -> bool:
        if usable != self.usable[slot]:
            return usable
        pair = torch.tensor([self.values[slot], value], dtype=torch.float64)
        return not pair.isnan().all() and best(pair, **self._best) == 1

    @property
    def done(self) -> bool:
        """Whether every slot has passed."""
        return all(self.passed)
