"""The pack's own socket types, and list-of-batches helpers for nodes that take whole lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from ..realism_core.evidence import ScoreTable
from .comfy import io

Scores = io.Custom("REALISM_SCORES")
Profile = io.Custom("REALISM_PROFILE")
LossWeight = io.Custom("REALISM_LOSS_WEIGHT")
RealismTerm = io.Custom("REALISM_TERM")
Attributes = io.Custom("FACE_ATTRIBUTES")
FaceMask = io.Custom("SEMANTIC_MASK")
Adapter = io.Custom("REALISM_ADAPTER")

Batch = TypeVar("Batch", Tensor, dict, ScoreTable)


def band_inputs() -> list:
    """Return the widgets low and high, for rules that are a band."""
    ends = {"min": -1e9, "max": 1e9, "step": 0.001, "round": False, "optional": True}
    return [
        io.Float.Input("low", default=0.0, tooltip="Lower end of the band.", **ends),
        io.Float.Input("high", default=1.0, tooltip="Upper end of the band.", **ends),
    ]


def count(batch: Tensor | dict | ScoreTable) -> int:
    """Return how many pictures a batch stands for: images, masks, a LATENT dict or a score table.

    A video latent [B,C,T,H,W] stands for B * T.
    """
    if isinstance(batch, dict):
        samples = batch["samples"]
        return samples.shape[0] * (samples.shape[2] if _is_video(samples) else 1)
    return len(batch)


def pick(batch: Batch, keep: Tensor) -> Batch:
    """Return the rows of a batch where keep [B] is true; a LATENT dict keeps mask and indices in step.

    Of the latent of one video the frames are picked.
    """
    if isinstance(batch, Tensor):
        return batch[keep.to(batch.device)]
    if isinstance(batch, ScoreTable):
        return batch[keep.to(batch.values.device)]
    rows = keep.nonzero().flatten().tolist()
    picked = dict(batch)
    samples, mask = batch["samples"], batch.get("noise_mask")
    if _is_video(samples):
        picked["samples"] = samples[:, :, rows]
        if mask is not None and mask.ndim == 5 and mask.shape[2] > 1:
            picked["noise_mask"] = mask[:, :, rows]
        elif mask is not None and mask.ndim < 5 and len(mask) > 1:
            picked["noise_mask"] = mask[[row % len(mask) for row in rows]]  # a mask a frame
        return picked
    picked["samples"] = samples[rows]
    if mask is not None and len(mask) > 1:
        # ComfyUI takes fewer masks than latents in turn
        picked["noise_mask"] = mask[[row % len(mask) for row in rows]]
    if batch.get("batch_index") is not None:
        picked["batch_index"] = [batch["batch_index"][row] for row in rows]
    return picked


def single_videos(latents: Sequence[dict]) -> list[dict]:
    """Return the latents with each batch of videos [B,C,T,H,W] taken apart, so that frames can be picked."""
    singles = []
    for latent in latents:
        videos = len(latent["samples"]) if _is_video(latent["samples"]) else 1
        if videos == 1:
            singles.append(latent)
            continue
        for video in range(videos):
            rows = slice(video, video + 1)
            single = {**latent, "samples": latent["samples"][rows]}
            mask, index = latent.get("noise_mask"), latent.get("batch_index")
            if mask is not None and len(mask) > 1:
                place = video % len(mask)
                single["noise_mask"] = mask[place : place + 1]
            if index is not None:
                single["batch_index"] = index[rows]
            singles.append(single)
    return singles


def _is_video(samples: Tensor) -> bool:
    return samples.ndim == 5 and samples.shape[2] > 1


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
    if any(isinstance(batch, dict) and getattr(batch["samples"], "is_nested", False) for batch in batches):
        raise ValueError(
            f"{name} hold video and sound together, which cannot be sorted picture by picture: disconnect "
            f"{name}."
        )
    total = sum(count(batch) for batch in batches)
    if total == pictures:
        return
    if any(isinstance(batch, dict) and _is_video(batch["samples"]) for batch in batches):
        raise ValueError(
            f"{name} hold {total} video frames but images hold {pictures} pictures: one latent frame of this "
            f"model stands for several pictures, so that its frames cannot be sorted one by one. Disconnect "
            f"{name}, or judge whole videos by their first frames."
        )
    raise ValueError(
        f"{name} holds {total} but images holds {pictures}: connect the {name} that belong to these "
        "very pictures."
    )
