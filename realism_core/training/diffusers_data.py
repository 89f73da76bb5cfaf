"""Pictures and captions as a diffusers pipeline's own VAE and text encoders put them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .data import LatentExample

Words = dict[str, Tensor]


class PipelineEncoder:
    """The VAE and the text encoders of a pipeline; `close` frees them.

    kind: as from `diffusers_model.model_kind`. All of it stays on the device until then.
    """

    def __init__(self, pipeline: Any, kind: str, device: torch.device | str = "cpu") -> None:
        self._pipeline, self._kind, self._device = pipeline, kind, torch.device(device)
        self._parts = [name for name in ("text_encoder", "text_encoder_2", "text_encoder_3", "vae")
                       if pipeline.components.get(name) is not None]  # fmt: skip
        for name in self._parts:
            pipeline.components[name].to(self._device).train(False)

    @torch.no_grad()
    def words(self, caption: str) -> Words:
        """Return what the network takes for a caption: "words" [L,D] and, for most, "pooled" [P]."""
        pipeline, options = self._pipeline, {"device": self._device, "num_images_per_prompt": 1}
        if self._kind == "sd":
            encoded = pipeline.encode_prompt(caption, do_classifier_free_guidance=False, **options)
            return {"words": _one(encoded[0])}
        if self._kind == "flux":
            encoded = pipeline.encode_prompt(caption, None, **options)
            return {"words": _one(encoded[0]), "pooled": _one(encoded[1])}
        texts = (caption, None, None) if self._kind == "sd3" else (caption, None)
        encoded = pipeline.encode_prompt(*texts, do_classifier_free_guidance=False, **options)
        return {"words": _one(encoded[0]), "pooled": _one(encoded[2])}

    def empty(self) -> Words:
        """Return what stands for no caption: the empty one's, or zeros where the model has it so."""
        words = self.words("")
        if self._pipeline.config.get("force_zeros_for_empty_prompt"):
            return {name: torch.zeros_like(value) for name, value in words.items()}
        return words

    @torch.no_grad()
    def latent(self, picture: Tensor) -> Tensor:
        """Return the latent [C,h,w] of a picture, uint8 [H,W,3], as the network takes it in."""
        vae = self._pipeline.vae
        pixels = picture.to(self._device).permute(2, 0, 1)[None].to(torch.float32) / 127.5 - 1
        mean = vae.encode(pixels).latent_dist.mode()
        shift = vae.config.get("shift_factor") or 0.0
        return ((mean - shift) * vae.config.scaling_factor)[0].float().cpu()

    def example(
        self, picture: Tensor, words: Words, original: tuple[int, int], corner: tuple[int, int]
    ) -> LatentExample:
        """Return a picture with its words as a training example.

        original: its height and width on disk, corner: the top and left that were cut off: SDXL is told.
        """
        if self._kind == "sdxl":
            sizes = (*original, *corner, *picture.shape[:2])
            words = {**words, "sizes": torch.tensor(sizes)}
        return LatentExample(self.latent(picture), words)

    def close(self) -> None:
        """Free VAE and text encoders."""
        for name in self._parts:
            self._pipeline.register_modules(**{name: None})
        self._parts = []


def _one(batch: Tensor) -> Tensor:
    return batch[0].float().cpu().clone()
