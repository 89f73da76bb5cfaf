"""The pack's own socket types, and list-of-batches helpers for nodes that take whole lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..realism_core.evidence import ScoreTable
from .comfy import io

Scores = io.Custom("REALISM_SCORES")
Profile = io.Custom("REALISM_PROFILE")

Batch = TypeVar("Batch", Tensor, dict, ScoreTable)


def count(batch: Tensor | dict | ScoreTable) -> int:
    """Return how many pictures a batch stands for: images, masks, a LATENT dict or a score table."""
    if isinstance(batch, dict):
        return batch["samples"].shape[0]
    return len(batch)


def pick(batch: Batch, keep: Tensor) -> Batch:
    """Return the rows of a batch where keep [B] is true; a LATENT dict keeps mask and indices in step."""
    if isinstance(batch, Tensor):
        return batch[keep.to(batch.device)]
    if isinstance(batch, ScoreTable):
        return batch[keep.to(batch.values.device)]
    rows = keep.nonzero().flatten().tolist()
    picked = dict(batch)
    samples = batch["samples"]
    picked["samples"] = samples[torch.tensor(rows, device=samples.device)]
    mask = batch.get("noise_mask")
    if mask is not None and mask.shape[0] == len(keep):
        picked["noise_mask"] = mask[torch.tensor(rows, device=mask.device)]
    if batch.get("batch_index") is not None:
        picked["batch_index"] = [batch["batch_index"][row] for row in rows]
    return picked


def split(batches: Sequence[Batch], keep: Tensor) -> tuple[list[Batch], list[Batch]]:
    """Return (kept, left) lists of batches by a bool over all pictures; batches left empty are dropped."""
    kept, left, start = [], [], 0
    for batch in batches:
        here = keep[start : start + count(batch)]
        start += len(here)
        for target, chosen in ((kept, here), (left, ~here)):
            if chosen.any():
                target.append(pick(batch, chosen))
    return kept, left


def check_counts(name: str, batches: Sequence[Batch], pictures: int) -> None:
    """Raise a ValueError with the fix unless the batches stand for as many pictures as `images` does."""
    total = sum(count(batch) for batch in batches)
    if total != pictures:
        raise ValueError(
            f"{name} holds {total} but images holds {pictures}: connect the {name} that belong to these "
            "very pictures."
        )
