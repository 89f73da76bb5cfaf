"""A MODEL of ComfyUI as the training loop sees it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..realism_core.training.objective import Objective
from .comfy import OUT_OF_MEMORY, is_on_device, joined_conditions, model_conditions, onto_device
from .model_noise import model_noise
from .training_attention import with_gradient

# what networks raise that are given another model's words or latents
_UNFIT = (RuntimeError, KeyError, IndexError, TypeError, AttributeError, AssertionError)

# encoded prompts that wait on the device for their next turn
KEPT = 64


class TrainableModel:
    """A loaded MODEL as the core's `Denoiser`: its own prediction at any noise, with gradients.

    module is its network, shared with the MODEL; whoever changes it has to change it back. patcher: the MODEL
    itself, loaded, which samples with what is attached to the network. Raises ValueError for a model whose
    noise is not known (see `model_noise`).
    """

    def __init__(self, model: Any) -> None:
        noise = model_noise(model)
        if noise.cosmos:
            raise ValueError("model is of the Cosmos family, which cannot be trained here: use another one.")
        self.objective = Objective(noise.objective, noise.sigma_data)
        self.sigmas = noise.sigmas
        self.patcher = model.clone()
        onto_device(self.patcher)
        self._inner = self.patcher.model
        self.module = self._inner.diffusion_model
        self.device = self.patcher.load_device
        # as get_dtype_inference has it, which ComfyUI 0.3.75 lacks
        self.dtype = self._inner.manual_cast_dtype or self._inner.get_dtype()
        self._room = 0.0
        self._encoded: dict[tuple[int, tuple[int, ...]], dict] = {}
        self._format = _plain_copy(self._inner.latent_format)

    @property
    def latent_channels(self) -> int:
        """Return how many channels the latents have."""
        return self._format.latent_channels

    def latents(self, samples: Tensor) -> list[Tensor]:
        """Return latents [B,...] of a LATENT as the network takes them in, one an image."""
        with torch.inference_mode(False), torch.no_grad():
            return list(self._inner.process_latent_in(samples.clone().float()))

    def latents_out(self, x0: Tensor) -> Tensor:
        """Return latents [B,...] of the network's scaling as its VAE takes them in, with their gradient."""
        return self._format.process_out(x0)

    def load_beside(self, patcher: Any) -> None:
        """Bring another model's weights to where it computes without sending this one's away."""
        if not is_on_device(patcher):
            with torch.no_grad():
                onto_device(self.patcher, patcher, memory=self._room)

    def make_room(self, size: float) -> None:
        """Have ComfyUI keep bytes of the device free for the training, weights moved off it if need be."""
        self._room = size
        with torch.inference_mode(False), torch.no_grad():
            onto_device(self.patcher, memory=size)

    def forward_memory(self, shape: Sequence[int]) -> float:
        """Return ComfyUI's own figure of the bytes a forward pass takes, for latents [B,C,...]."""
        return self._inner.memory_required(list(shape))

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[dict]) -> Tensor:
        """Return what the network predicts for noisy [B,...] at sigma [B]: eps, v, x0 or flow."""
        return self._predict_for(noisy, sigma, [self._conditions(one, noisy[:1]) for one in conditioning])

    def _predict_for(self, noisy: Tensor, sigma: Tensor, parts: Sequence[dict]) -> Tensor:
        """Return the prediction for what `model_conditions` gave for each image."""
        if not is_on_device(self.patcher):  # sent away for a preview, for example
            self.make_room(self._room)
        options = {**self.patcher.model_options.get("transformer_options", {})}
        attention = with_gradient(options.get("optimized_attention_override"))
        options |= {"cond_or_uncond": [0], "sigmas": sigma, "optimized_attention_override": attention}
        with _raw_output(self._inner, self.objective.kind != "edm"):
            predictions: dict[int, Tensor] = {}
            for places in _alike(parts):
                whole = len(places) == len(parts)
                rows, levels = (noisy, sigma) if whole else (noisy[places], sigma[places])
                taken = joined_conditions([parts[place] for place in places])
                made = self._inner.apply_model(rows, levels, transformer_options=options, **taken)
                if whole:
                    return made
                predictions.update(zip(places, made, strict=True))
            return torch.stack([predictions[place] for place in range(len(parts))])

    def check(self, latent: Tensor, conditioning: dict) -> None:
        """Raise ValueError with the fix if the network cannot take a latent [C,...] and its conditioning."""
        sigma = self.sigmas(torch.tensor([0.5], dtype=torch.float64)).to(self.device, torch.float32)
        try:
            with torch.inference_mode(False), torch.no_grad():
                self.predict(latent[None].to(self.device), sigma, [conditioning])
        except OUT_OF_MEMORY:
            raise
        except _UNFIT as error:
            raise ValueError(
                f"positive or latents do not fit the model ({error}): encode prompts and images with the "
                "CLIP and the VAE that belong to it."
            ) from error

    def _conditions(self, conditioning: dict, noisy: Tensor) -> dict:
        """Return what the network takes for one image, worked out once for each size."""
        key = (id(conditioning), tuple(noisy.shape))
        if key not in self._encoded:
            while len(self._encoded) >= KEPT:  # they stay on the device
                del self._encoded[next(iter(self._encoded))]
            with torch.no_grad():
                self._encoded[key] = model_conditions(self._inner, conditioning, noisy, self.device)
        return self._encoded[key]


def _alike(parts: Sequence[dict]) -> list[list[int]]:
    """Return the places of the images that ComfyUI can put through a network together, group by group.

    Prompts of other lengths, and of other extras such as guidance, cannot.
    """
    groups: list[list[int]] = []
    for place, part in enumerate(parts):
        for group in groups:
            first = parts[group[0]]
            if first.keys() == part.keys() and all(first[name].can_concat(part[name]) for name in first):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


@contextmanager
def _raw_output(inner: Any, wanted: bool) -> Iterator[None]:
    """Let apply_model return what the network itself predicts, not the picture that follows from it."""
    sampling = inner.model_sampling
    if wanted:
        raw = copy.copy(sampling)
        raw.calculate_denoised = lambda sigma, model_output, model_input: model_output
        inner.model_sampling = raw
    try:
        yield
    finally:
        inner.model_sampling = sampling


def _plain_copy(form: Any) -> Any:
    """Return a copy of a latent format with tensors that a backward pass may keep."""
    plain = copy.copy(form)
    with torch.inference_mode(False):
        for name, value in vars(form).items():
            if isinstance(value, Tensor):
                setattr(plain, name, value.clone())
    return plain
