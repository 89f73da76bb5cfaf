"""A ComfyUI VAE as the core wants it: pictures to their reconstructions, and latents to pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..realism_core.training.inference_weights import WeightAliases

# a half precision VAE would round a loss's slopes for single pixels to 0
HALF_SCALE = 2.0**12


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


class LatentDecoder:
    """Decodes latents by a ComfyUI VAE as part of a training: with gradient, the VAE itself untouched."""

    def __init__(self, vae: Any) -> None:
        """Raises ValueError with the fix for a missing VAE and for one that gives no RGB pictures."""
        check_vae(vae, "vae", "train without the term")
        self.vae = vae
        self.downscale: int = vae.spacial_compression_decode()
        self.channels: int = vae.latent_channels

    def __call__(self, latents: Tensor) -> Tensor:
        """Return pictures [B,3,H,W] in 0..1 of latents [B,C,h,w] or [B,C,1,h,w], unscaled; float32."""
        if latents.ndim == 5:
            latents = latents[:, :, 0]
        half = self.vae.vae_dtype == torch.float16
        latents = _slopes_times(latents, 1 / HALF_SCALE) if half else latents
        latents = latents.to(self.vae.device, self.vae.vae_dtype)
        if self.vae.latent_dim == 3:
            # one by one: a batch would be the frames of one video
            images = torch.cat([self._decode(one[None, :, None])[:, :, 0] for one in latents])
        else:
            images = self._decode(latents)
        # a copy, for process_output changes it in place
        images = self.vae.process_output(images.to(torch.float32, copy=True))
        return _slopes_times(images, HALF_SCALE) if half else images

    def check(self, crop: int) -> None:
        """Raise ValueError with the fix if pictures of crop x crop pixels do not come with a gradient."""
        cells = crop // self.downscale
        with torch.inference_mode(False), torch.enable_grad():
            latents = torch.zeros(1, self.channels, cells, cells, requires_grad=True)
            try:
                images = self(latents)
                (slopes,) = torch.autograd.grad(images.sum(), latents)
            except RuntimeError as error:
                if "grad" not in str(error) and "backward" not in str(error):
                    raise
                raise ValueError(
                    f"vae gives pictures without a gradient ({error}), so that nothing can be learned "
                    "through it: connect another VAE of the model's family, such as its TAESD."
                ) from error
        if images.shape != (1, 3, crop, crop):
            raise ValueError(
                f"vae decodes {cells} x {cells} cells to a picture of shape {tuple(images.shape)}, not of "
                f"{crop} x {crop} pixels: connect the VAE of an image model."
            )
        if not torch.isfinite(slopes).all():
            raise ValueError("vae gives slopes that are no numbers: load it in bf16 or fp32.")

    def _decode(self, latents: Tensor) -> Tensor:
        network: nn.Module = self.vae.first_stage_model
        aliases = WeightAliases(network)
        own = [parameter for parameter in network.parameters() if parameter.requires_grad]
        try:
            for parameter in own:
                parameter.requires_grad_(False)
            return network.decode(latents)
        finally:
            for parameter in own:
                parameter.requires_grad_(True)
            aliases.restore()


class _SlopesTimes(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, slopes: Tensor) -> tuple[Tensor, None]:
        return slopes * context.factor, None


def _slopes_times(values: Tensor, factor: float) -> Tensor:
    """Return the values as they are; their gradient comes multiplied."""
    return _SlopesTimes.apply(values, factor)


def check_vae(vae: Any, name: str, instead: str) -> None:
    """Raise ValueError with the fix for a missing VAE and for one that is not for RGB pictures."""
    if vae is None or getattr(vae, "first_stage_model", None) is None:
        raise ValueError(
            f"{name} is empty: the checkpoint it comes from holds no VAE. Connect Load VAE, or {instead}."
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


def reconstructor(vae: Any, name: str = "vae", before: Callable[[], None] | None = None) -> Reconstructor:
    """Return a ComfyUI VAE as a `Reconstruct` for `realism_core.evidence.reconstruction`.

    name: the input it came from, for error messages. before: called ahead of every picture or tile, for
    instance to let Cancel through.
    Raises ValueError with the fix for a missing VAE and for one that does not encode RGB pictures.
    """
    check_vae(vae, name, f"leave {name} open")
    return Reconstructor(vae, name, before)
