"""The attempts of Sample Until Real: what is kept of them, what they score, and what is told of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..realism_core.evidence import Column, ScoreTable
from ..realism_core.gate.retry import SlotSearch
from ..realism_core.irs import Profile
from .scorer import score_in_parts

SEEDS = 1 << 64
PREVIEW_SIDE = 512
# so many places are told of in one line
SHOWN = 8
ATTEMPT = Column(
    "attempt", "count", "none", 0.0, float("inf"),
    "which attempt of Sample Until Real made the picture, from 0; its seed is that node's seed plus this",
)  # fmt: skip
Check = Callable[..., None]


class Kept:
    """The latents and pictures of the best attempt of each place of a batch of latents."""

    def __init__(self, latent: dict) -> None:
        """Raises ValueError with the fix for a latent without places, or several of several parts each."""
        samples = latent["samples"]
        self.slots = samples.shape[0]
        if self.slots == 0:
            raise ValueError("latent is an empty batch: give at least one.")
        if self.slots > 1 and getattr(samples, "is_nested", False):
            raise ValueError(
                f"latent is a batch of {self.slots} that holds several parts each (video with sound): give "
                "one at a time, for instance by Rebatch Latents with batch size 1."
            )
        self._parts: list[tuple[Any, Tensor]] = [None] * self.slots

    def frames(self, images: Tensor) -> int:
        """Return how many pictures each place has: 1, or the frames of a video."""
        return len(images) // self.slots

    def take(self, slot: int, samples: Any, images: Tensor) -> None:
        """Keep one place's part of an attempt."""
        if self.slots > 1:
            # copies, so that the rest of the attempt can go
            rows = self.frames(images)
            samples = samples[slot : slot + 1].clone()
            images = images[slot * rows : (slot + 1) * rows].clone()
        self._parts[slot] = (samples, images)

    def picture(self, slot: int) -> Tensor:
        """Return the first picture [H,W,C] of what is kept of a place."""
        return self._parts[slot][1][0]

    def images(self) -> Tensor:
        """Return all pictures kept [N,H,W,C], in the order of the places."""
        return torch.cat([images for _, images in self._parts])

    def samples(self) -> Any:
        """Return all latents kept, in the order of the places."""
        return self._parts[0][0] if self.slots == 1 else torch.cat([samples for samples, _ in self._parts])


def slot_values(
    images: Tensor, slots: int, metric: str, profile: Profile, check: Check
) -> tuple[Tensor, Tensor]:
    """Return the metric of each place, float64 [slots], and whether it holds pictures at all, bool [slots].

    The metric is the mean over a place's pictures that have a value, NaN where none has. Pictures with NaN
    pixels (a VAE that overflowed) have none, and a place with such a picture is not usable.
    check: called between parts, lets Cancel through.
    """
    values = torch.full((len(images),), torch.nan, dtype=torch.float64)
    sound = torch.isfinite(images).flatten(1).all(1).cpu()
    if sound.any():
        chosen = images if sound.all() else images[sound.to(images.device)]
        table = score_in_parts(
            chosen, check, [metric], profile=profile, definition=profile.definition
        )
        values[sound] = table[metric].cpu()
    usable = sound.reshape(slots, -1).all(1)
    return values.reshape(slots, -1).nanmean(1).masked_fill(~usable, torch.nan), usable


def score_kept(images: Tensor, search: SlotSearch, profile: Profile, check: Check) -> ScoreTable:
    """Return all scores of the pictures that were kept, with the column `attempt`."""
    table = score_in_parts(images, check, profile=profile, definition=profile.definition)
    attempts = torch.tensor(search.attempts, dtype=torch.float64)
    return table.with_column(ATTEMPT, attempts.repeat_interleave(len(images) // len(attempts)))


def preview(picture: Tensor) -> Tensor:
    """Return a picture [H,W,C] scaled down to at most 512 pixels a side, NaN black, for the node's face."""
    planes = picture[..., :3].detach().cpu().float().nan_to_num(0.0, 0.0, 0.0)
    planes = planes.clamp(0, 1).movedim(-1, 0)[None]
    scale = PREVIEW_SIDE / max(planes.shape[-2:])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in planes.shape[-2:]]
        planes = torch.nn.functional.interpolate(planes, size=size, mode="area")
    return planes[0].movedim(0, -1)


def state(search: SlotSearch, used: int, attempts: int, metric: str, seed: int) -> str:
    """Return where the search stands, in one line: for the node while it runs, and for a cancelled run."""
    now = f"attempt {min(used + 1, attempts)} of {attempts}"
    if used == 0:
        return now
    known = zip(search.values, search.attempts, strict=True)
    best = [f"{_value(value)} (seed {(seed + attempt) % SEEDS})" for value, attempt in known]
    more = f" and {len(best) - SHOWN} more" if len(best) > SHOWN else ""
    passed = f", {sum(search.passed)} of {len(best)} passed" if len(best) > 1 else ""
    return f"{now}{passed}, best so far: {metric} {', '.join(best[:SHOWN])}{more}"


def summary(search: SlotSearch, used: int, attempts: int, metric: str, seed: int) -> str:
    """Return what came of the search: a line for the whole, then one a place."""
    slots = len(search.values)
    lines = [f"{sum(search.passed)} of {slots} passed after {used} of {attempts} attempts"]
    for slot in range(slots):
        attempt = search.attempts[slot]
        did = "passed" if search.passed[slot] else "the best, but did not pass"
        if not search.usable[slot]:
            did = "every attempt was NaN, so it is black: use the VAE in fp32 or bf16"
        made = f"seed {(seed + attempt) % SEEDS} (attempt {attempt + 1})"
        lines.append(f"{slot}: {metric} {_value(search.values[slot])}, {made}, {did}")
    return "\n".join(lines)


def _value(value: float) -> str:
    return "does not apply" if math.isnan(value) else f"{value:.4g}"
