"""Pictures that the model draws while it is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .comfy import decode, hidden_progress, sample

SAMPLER, SCHEDULER = "euler", "simple"


class Previews:
    """Samples the first prompt from the same noise whenever it is called, and keeps the pictures.

    model: the MODEL whose network is trained. latent: [C,...] of the size to draw. Any error ends the
    training, so that what is wrong shows before the first step.
    """

    def __init__(
        self, model: Any, vae: Any, positive: list, negative: list, latent: Tensor, steps: int, cfg: float,
        seed: int,
    ) -> None:  # fmt: skip
        self._model, self._vae, self._positive, self._negative = model, vae, positive, negative
        self._size, self._steps, self._cfg, self._seed = latent.shape, steps, cfg, seed
        self.pictures: list[Tensor] = []
        self.made_at: list[int] = []

    def __call__(self, step: int) -> None:
        """Draw a picture and keep it, [H,W,3]; raises ComfyUI's interrupt on Cancel."""
        with torch.inference_mode(), hidden_progress():
            latent = {"samples": torch.zeros(1, *self._size)}
            drawn = sample(
                self._model, self._seed, self._steps, self._cfg, SAMPLER, SCHEDULER, self._positive,
                self._negative, latent, 1.0,
            )  # fmt: skip
            self.pictures.append(decode(self._vae, drawn)[0, ..., :3].float().cpu().clone())
        self.made_at.append(step)
