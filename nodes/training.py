"""What Realism Train LoRA makes of its inputs, and what it shows and obeys while it trains."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..realism_core.gate.audit.provenance import sources
from ..realism_core.plots.losses import loss_plot
from ..realism_core.saving import to_pillow
from ..realism_core.training.data import LatentExample, pair
from ..realism_core.training.loop import Progress as TrainProgress
from ..realism_core.training.loop import StopAndKeep
from .comfy import Progress, model_files, output_folder, show_text
from .gating import first
from .places import resolve
from .training_model import TrainableModel
from .training_previews import Previews

CHECKPOINTS = "realism_checkpoints"
MODEL_FOLDERS = ("checkpoints", "diffusion_models", "unet", "diffusers")
# what a sampler makes of a CONDITIONING and the network by itself does not
UNTRAINABLE = ("control", "area", "mask", "hooks", "start_percent", "end_percent", "gligen", "timestep_start",
               "timestep_end", "realism_coupling")  # fmt: skip
# seconds between two drawings of the curve
PATIENCE = 1.0


def plain_conditioning(conditioning: list, name: str = "positive") -> dict:
    """Return the one entry of a CONDITIONING as the core keeps it, its tensors free of inference mode.

    Raises ValueError, with the input's name, if there are several: areas and combined prompts have no meaning
    in training.
    """
    if len(conditioning) != 1:
        raise ValueError(
            f"{name} has a conditioning of {len(conditioning)} parts: give one plain prompt an image, "
            "without Conditioning (Combine) or areas."
        )
    kept = [name for name in UNTRAINABLE if conditioning[0][1].get(name) is not None]
    if kept or conditioning[0][1].get("strength", 1.0) != 1.0:
        raise ValueError(
            f"{name} carries {', '.join(kept) or 'strength'}, which a training does not take into account: "
            "connect the plain prompt, without ControlNet, areas, masks, hooks or timestep ranges."
        )
    with torch.inference_mode(False):
        words, extras = conditioning[0]
        plain = {key: v.clone() if isinstance(v, Tensor) else v for key, v in extras.items()}
        return plain if words is None else {**plain, "cross_attn": words.clone()}


def examples(
    model: TrainableModel,
    latents: Sequence[dict],
    positive: Sequence[list],
    masks: Sequence[Tensor] | None,
    weights: Sequence[float] | None,
) -> list[LatentExample]:
    """Return the images with what belongs to each; raises ValueError naming the input whose number is off."""
    images = [image for latent in latents for image in model.latents(latent["samples"])]
    if not images:
        raise ValueError("latents: there are no images to train on: connect at least one.")
    masks = None if masks is None else [mask for batch in masks for mask in batch]
    given = {"positive": positive, "masks": masks, "image_weights": weights}
    for name, values in given.items():
        all_alike = name == "positive" and len(positive) == 1
        if values is not None and len(values) != len(images) and not all_alike:
            or_one = ", or one for all" if name == "positive" else ""
            raise ValueError(
                f"{name}: there are {len(values)} for {len(images)} images: connect one an image{or_one}."
            )
    words = [plain_conditioning(conditioning) for conditioning in positive]
    return pair(images, words, weights, masks)


def checkpoint_file(name: str) -> Path:
    """Return where a checkpoint of a name lies; raises ValueError for a name that leads out of there."""
    file = f"{CHECKPOINTS}/{name.strip().removesuffix('.safetensors')}.safetensors"
    return resolve(file, "checkpoint", [str(output_folder())])


def checkpoint_state(checkpoint: list[str] | None, resume: list[bool] | None) -> list[int]:
    """Return numbers that change with the file that these widgets go on from; none where there is none."""
    name = first(checkpoint, "") if first(resume, False) else ""
    if not name.strip() or not checkpoint_file(name).is_file():
        return []
    told = checkpoint_file(name).stat()
    return [told.st_mtime_ns, told.st_size]


def checkpoint_path(name: str, resume: bool) -> Path | None:
    """Return the checkpoint file of a name below the output folder; None without a name.

    Raises ValueError with the fix where a run would overwrite the checkpoint of another.
    """
    if not name.strip():
        if resume:
            raise ValueError("resume needs to know which checkpoint: write its name into checkpoint.")
        return None
    path = checkpoint_file(name)
    if path.is_file() and not resume:
        raise ValueError(
            f"checkpoint: {path} is there already. Turn resume on to go on from it, choose another name, or "
            "remove the file."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def base_model(prompt: Mapping[str, Any], node: str) -> str | None:
    """Return the name of the model file that a trainer's `model` comes from, if the workflow tells it."""
    link = prompt.get(node, {}).get("inputs", {}).get("model")
    named = sources({**prompt, "": {"inputs": {"model": link}}}, "").models
    for name in named:
        if any(kind in MODEL_FOLDERS for kind, _ in model_files(name)):
            return name
    return None


class Watch:
    """What the node shows while it trains: step and loss, the curve, the latest preview.

    pressed: set when the user asks to stop and keep.
    """

    def __init__(self, node: str, steps: int, pressed: Event, previews: Previews | None) -> None:
        self._node, self._steps, self._pressed, self._previews = node, steps, pressed, previews
        self._progress = Progress(steps)
        self._drawn, self._seen = 0.0, (0, 0, 0)

    def on_step(self, now: TrainProgress) -> None:
        """Show a step; raises ComfyUI's interrupt on Cancel, StopAndKeep when that was pressed."""
        pictures = self._previews.pictures if self._previews else []
        seen = (len(now.losses), len(now.held_out), len(pictures))
        curve = None
        if now.losses and seen != self._seen and time.monotonic() - self._drawn >= PATIENCE:
            show_text(self._node, f"step {now.step} of {now.steps}, loss {now.losses[-1]:.4g}")
            curve = beside(to_pillow(loss_plot(now.losses, self._steps, now.held_out)[0]), pictures[-1:])
            self._drawn, self._seen = time.monotonic(), seen
        self._progress.reach(now.step, curve)
        if self._pressed.is_set():
            raise StopAndKeep


def beside(curve: Image.Image, pictures: Sequence[Tensor]) -> Image.Image:
    """Return the curve with pictures [H,W,3] of its height at its right."""
    for picture in pictures:
        right = to_pillow(picture)
        right = right.resize((max(1, round(right.width * curve.height / right.height)), curve.height))
        joined = Image.new("RGB", (curve.width + right.width, curve.height))
        joined.paste(curve, (0, 0))
        joined.paste(right, (curve.width, 0))
        curve = joined
    return curve
