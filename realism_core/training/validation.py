"""The held-out loss by noise level, with the same noise at every call: trainings can be compared by it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import nn

from .data import Dataset
from .denoiser import Denoiser
from .draws import draw_batches, image_losses, predict
from .seeds import generator_of

_GOLDEN = 0.6180339887498949


class BandLoss(NamedTuple):
    """The mean loss for u in low..high, 0 = clean, 1 = pure noise; sigma is that of the band's middle."""

    low: float
    high: float
    sigma: float
    loss: float


def validate(
    denoiser: Denoiser,
    dataset: Dataset,
    bands: int = 8,
    draws: int = 1,
    batch_size: int = 1,
    seed: int = 0,
    autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext,
) -> list[BandLoss]:
    """Return the plain squared error of the model's own prediction, by band of u, without any weighting.

    Every image is predicted `draws` times in each of the equally wide bands. Its noise and u depend on the
    seed alone: not on the training, the call, or the batch size. Masks count, weights of images do not. The
    modules are in evaluation mode meanwhile. The host waits once. Raises ValueError for numbers below 1.
    """
    for name, value in (("bands", bands), ("draws", draws), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be 1 or more.")
    generator = generator_of(seed, "held out", 0)
    losses = []
    with torch.no_grad(), evaluating(denoiser.module):
        for bucket in dataset.buckets.values():
            items = [index for index in bucket for _ in range(bands * draws)]
            # a low-discrepancy sequence within each band
            within = torch.arange(1, len(bucket) * draws + 1, dtype=torch.float64).mul(_GOLDEN).frac()
            within = within.view(len(bucket), 1, draws)
            u = (torch.arange(bands, dtype=torch.float64).view(1, bands, 1) + within).div(bands).flatten()
            batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
            for draw in draw_batches(denoiser, dataset, batches, u, generator):
                losses.append(image_losses(denoiser.objective, draw, predict(denoiser, draw, autocast)))
        means = torch.cat(losses).view(-1, bands, draws).mean((0, 2))
        sigmas = denoiser.sigmas((torch.arange(bands, dtype=torch.float64) + 0.5) / bands).tolist()
    return [
        BandLoss(band / bands, (band + 1) / bands, sigma, loss)
        for band, (sigma, loss) in enumerate(zip(sigmas, means.tolist(), strict=True))
    ]


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a model and all in it into evaluation mode for a while."""
    before = [(part, part.training) for part in module.modules()]
    module.train(False)
    try:
        yield
    finally:
        for part, training in before:
            part.training = training
