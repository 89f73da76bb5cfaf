"""One micro-batch: its images with noise at their sigmas, and the loss of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .data import Dataset, LatentExample
from .denoiser import Denoiser
from .objective import Objective


class Draw(NamedTuple):
    """A micro-batch [B,...] on the model's device.

    indices: of the images in the dataset. weight: [B], the images' own. mask: [B,1,...,H,W] or None. sigma:
    [B], on the device; schedule: the same on the CPU in float64, from which weights are had without a wait.
    generator: of the CPU, seeded for the step, for what a further loss wants to draw.
    """

    indices: list[int]
    x0: Tensor
    noise: Tensor
    noisy: Tensor
    sigma: Tensor
    conditioning: list[Any]
    weight: Tensor
    mask: Tensor | None
    schedule: Tensor
    generator: torch.Generator


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what is drawn and compared in: float64 for a float64 model, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def moved(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Bring a tensor to the device; a blocking copy would wait for all work that the device has queued."""
    return tensor.to(device, dtype, non_blocking=True)


def draw_batches(
    denoiser: Denoiser,
    dataset: Dataset,
    batches: Sequence[Sequence[int]],
    u: Tensor,
    generator: torch.Generator,
    is_dropped: Callable[[], bool] = lambda: False,
    empty: Any = None,
) -> Iterator[Draw]:
    """Yield a draw for each batch of indices; nothing waits for the device.

    u: float64, one for every image of the batches. generator: draws the noise, image by image on the CPU in
    float32, so that it depends neither on the device nor on how images are put into batches. is_dropped:
    asked once an image whether it gets the empty conditioning.
    """
    device, dtype = denoiser.device, working_dtype(denoiser.dtype)
    start = 0
    for indices in batches:
        examples = [dataset.examples[index] for index in indices]
        schedule = denoiser.sigmas(u[start : start + len(indices)]).to("cpu", torch.float64)
        start += len(indices)
        noise = torch.stack([torch.randn(e.latent.shape, generator=generator) for e in examples])
        x0 = moved(torch.stack([example.latent for example in examples]), device, dtype)
        noise, sigma = moved(noise, device, dtype), moved(schedule, device, dtype)
        yield Draw(
            list(indices),
            x0,
            noise,
            denoiser.objective.noisy(x0, noise, sigma),
            sigma,
            [empty if is_dropped() else example.conditioning for example in examples],
            moved(torch.tensor([example.weight for example in examples]), device, dtype),
            _masks(examples, x0),
            schedule,
            generator,
        )


def predict(denoiser: Denoiser, draw: Draw, autocast: Callable[[], AbstractContextManager]) -> Tensor:
    """Return the model's prediction in the draw's dtype; raises ValueError for a wrong shape."""
    with autocast():
        prediction = denoiser.predict(draw.noisy, draw.sigma, draw.conditioning)
    if prediction.shape != draw.x0.shape:
        raise ValueError(
            f"model: it predicts the shape {tuple(prediction.shape)} for latents of "
            f"{tuple(draw.x0.shape)}: the latents are not of this model's kind. Encode the images with this "
            "model's VAE."
        )
    return prediction.to(draw.x0.dtype)


def image_losses(objective: Objective, draw: Draw, prediction: Tensor) -> Tensor:
    """Return the mean squared error of each image [B], against the objective's target, unweighted.

    With a mask it is the mean over the mask, so that a small one counts as much as a large one.
    """
    error = (prediction - objective.target(draw.x0, draw.noise, draw.sigma)).square()
    if draw.mask is None:
        return error.flatten(1).mean(1)
    mask = draw.mask.expand_as(error).flatten(1)
    return (error.flatten(1) * mask).sum(1) / mask.sum(1)


def predicted_x0(objective: Objective, draw: Draw, prediction: Tensor) -> Tensor:
    """Return the clean latents [B,...] that a prediction amounts to, with gradient."""
    sigma = draw.sigma.reshape(-1, *[1] * (prediction.ndim - 1))
    if objective.space == "x0":
        return prediction
    if objective.space == "v":
        return draw.noisy / (1 + sigma**2) - prediction * sigma * (1 + sigma**2).rsqrt()
    return draw.noisy - sigma * prediction


def _masks(examples: Sequence[LatentExample], x0: Tensor) -> Tensor | None:
    if all(example.mask is None for example in examples):
        return None
    masks = [
        torch.ones(x0.shape[-2:], device=example.latent.device) if example.mask is None else example.mask
        for example in examples
    ]
    shape = (len(masks), *[1] * (x0.ndim - 3), *x0.shape[-2:])
    return moved(torch.stack(masks).view(shape), x0.device, x0.dtype)
