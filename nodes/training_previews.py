"""Pictures that the model draws while it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..realism_core.training.data import LatentExample
from .comfy import OUT_OF_MEMORY, decode, hidden_progress, sample
from .text_training import TextTrainableModel
from .training_model import TrainableModel

SAMPLER, SCHEDULER = "euler", "simple"


class Prompts:
    """The first prompt and the negative one as CONDITIONING; by trained text encoders, as they are now."""

    def __init__(
        self, model: TrainableModel, positive: list, negative: list | None, examples: Sequence[LatentExample],
        empty: Any,
    ) -> None:  # fmt: skip
        self._model, self._fixed = model, (positive[0], (negative or positive)[0])
        self._captions = (examples[0].conditioning, empty)

    def now(self) -> tuple[list, list]:
        """Return (positive, negative)."""
        if not isinstance(self._model, TextTrainableModel):
            return self._fixed
        positive, negative = map(self._model.conditioning_now, self._captions)
        return positive, negative


class Previews:
    """Samples the first prompt from the same noise whenever it is called, and keeps the pictures.

    model: the MODEL whose network is trained. shape: [C,...] of the latents to draw. Any error ends the
    training, so that what is wrong shows before the first step.
    """

    def __init__(
        self, model: Any, vae: Any, prompts: Prompts, shape: Sequence[int], steps: int, cfg: float, seed: int
    ) -> None:
        self._model, self._vae, self._prompts = model, vae, prompts
        self._shape, self._steps, self._cfg, self._seed = shape, steps, cfg, seed
        self.pictures: list[Tensor] = []

    def __call__(self, step: int) -> None:
        """Draw a picture and keep it, [H,W,3]; raises ComfyUI's interrupt on Cancel."""
        # not in inference mode: weights that ComfyUI moves there could not be trained on afterwards
        with torch.no_grad(), hidden_progress():
            latent = {"samples": torch.zeros(1, *self._shape)}
            positive, negative = self._prompts.now()
            drawn = sample(
                self._model, self._seed, self._steps, self._cfg, SAMPLER, SCHEDULER, positive, negative,
                latent, 1.0,
            )  # fmt: skip
            self.pictures.append(self._decoded(drawn)[0, ..., :3].float().cpu().clone())

    def _decoded(self, drawn: dict) -> Tensor:
        try:
            return decode(self._vae, drawn)
        except OUT_OF_MEMORY:
            raise
        except RuntimeError as error:
            raise ValueError(
                f"vae does not decode what the model draws ({error}): connect the VAE that belongs to the "
                "model, or disconnect vae to train without previews."
            ) from error
