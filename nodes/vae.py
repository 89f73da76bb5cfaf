"""A ComfyUI VAE as the core wants it: pictures in, their reconstructions out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Reconstructor:
    """Encodes and decodes pictures [B,H,W,3] by a ComfyUI VAE; `name` is the input it came from."""

    def __init__(self, vae: Any, name: str, before: Callable[[], None] | None) -> None:
        self._vae, self.name, self._before = vae, name, before
        self.downscale = vae.spacial_compression_encode()

    def __call__(self, images: Tensor) -> Tensor:
        # one by one: the VAEs that also know video take a batch for the frames of one
        return torch.cat([self._one(image[None]) for image in images])

    def _one(self, image: Tensor) -> Tensor:
        if self._before is not None:
            self._before()
        decoded = self._vae.decode(self._vae.encode(image))
        return decoded.flatten(0, 1) if decoded.ndim == 5 else decoded


def reconstructor(vae: Any, name: str = "vae", before: Callable[[], None] | None = None) -> Reconstructor:
    """Return a ComfyUI VAE as a `Reconstruct` for `realism_core.evidence.reconstruction`.

    name: the input it came from, for error messages. before: called ahead of every picture or tile, for
    instance to let Cancel through.
    Raises ValueError with the fix for a missing VAE and for one that does not encode RGB pictures.
    """
    if vae is None or getattr(vae, "first_stage_model", None) is None:
        raise ValueError(
            f"{name} is empty: the checkpoint it comes from holds no VAE. Connect Load VAE, or leave "
            f"{name} open."
        )
    if vae.latent_dim not in (2, 3) or vae.output_channels != 3:
        raise ValueError(
            f"{name} is no VAE for RGB pictures (it has {vae.output_channels} channels and "
            f"{vae.latent_dim} latent dimensions): connect the VAE of an image model."
        )
    if vae.spacial_compression_encode() == 1:
        raise ValueError(
            f"{name} is ComfyUI's pixel space, which gives every picture back unchanged and so says "
            "nothing: connect the VAE of a latent-diffusion model."
        )
    return Reconstructor(vae, name, before)
