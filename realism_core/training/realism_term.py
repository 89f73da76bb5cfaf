"""A loss term that keeps what a model predicts within the measures of photographs, from both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..irs.measures import measure
from ..irs.pentagon import pentagon_area, radii
from ..irs.soft import CHANNELS
from ..irs.soft_reference import SoftReference

Decode = Callable[[Tensor], Tensor]


def realism_term(images: Tensor, reference: SoftReference, tolerance: float = 1.0) -> Tensor:
    """Return how far each picture's soft measures lie outside those of photographs, [B], 0 = inside.

    The mean over the five of max(0, |z| - tolerance)^2, where z counts the reference's spreads from its
    mean, in logarithms: too little detail costs as much as too much. Value and slope are continuous, and
    both are 0 inside. images: as for `soft_measures`, of the reference's side; keeps their gradient.
    tolerance: half the band's width, in spreads, above 0. Raises ValueError with the fix.
    Source: after the realism loss of arXiv 2309.14756, made two-sided and differentiable.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}: use a number of spreads above 0, such as 1.")
    beyond = (reference.deviations(images).abs() - tolerance).relu()
    return beyond.square().mean(1)


def published_term(images: Tensor) -> Tensor:
    """Return 1 / IRS of each picture [B], as the research code adds it to its loss: without a gradient.

    For comparison only. The measures are hard (8-bit grey, Canny, counts), so no gradient passes. images: as
    for `measure`, or [B,C,H,W] with sides of at least 16. NaN where the picture is flat.
    Source: research code of arXiv 2309.14756.
    """
    images = images.detach()
    if images.ndim == 4 and images.shape[3] not in CHANNELS:
        images = images.movedim(1, 3)
    table = torch.stack(tuple(measure(images)), 1)
    area = pentagon_area(radii(table, "reference"), "reference")
    return (1 / area).masked_fill(table[:, 3] <= 0, torch.nan)


def snr_gate(snr: Tensor, low: float = 5.0, high: float = 50.0) -> Tensor:
    """Return the term's weight at each signal-to-noise ratio, same shape: 0 up to `low`, 1 from `high` on.

    Between them it rises smoothly with log SNR. Where noise dominates, the predicted x0 is an average over
    many pictures and is smoother than any of them: holding that against the model would teach it grain.
    snr: 0 to infinity, sigma^-2 of eps and v models. 0 < low < high, else ValueError.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"low is {low} and high {high}: use two ratios with 0 < low < high.")
    part = ((snr.log() - math.log(low)) / (math.log(high) - math.log(low))).clamp(0, 1)
    return part.square() * (3 - 2 * part)


def random_crops(latents: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """Return one crop x crop window of each latent [B,...,H,W], at places drawn from the generator.

    crop: side in latent cells. A generator on the CPU keeps the device from waiting. Raises ValueError where
    the latents are smaller.
    """
    height, width = latents.shape[-2:]
    if not 1 <= crop <= min(height, width):
        raise ValueError(
            f"crop is {crop} latent cells, but the latents are {width} x {height}: use a crop from 1 to "
            f"{min(height, width)}, and a soft reference fitted at its size in pixels."
        )
    count, device = len(latents), generator.device
    tops = torch.randint(height - crop + 1, (count,), generator=generator, device=device).tolist()
    lefts = torch.randint(width - crop + 1, (count,), generator=generator, device=device).tolist()
    places = zip(latents, tops, lefts, strict=True)
    return torch.stack([one[..., top : top + crop, left : left + crop] for one, top, left in places])


def decode_crop(
    decode: Decode, latents: Tensor, crop: int, generator: torch.Generator, recompute: bool = True
) -> Tensor:
    """Return pictures decoded from one random crop x crop window of each latent [B,...,H,W], with gradient.

    decode: latents to pictures in 0..1, differentiable. recompute: keep none of the decoder's activations
    and run it again in the backward pass, which costs one more decode and far less memory. crop, generator
    and errors: as for `random_crops`.
    """
    window = random_crops(latents, crop, generator)
    return checkpoint(decode, window, use_reentrant=False) if recompute else decode(window)


@dataclass(frozen=True)
class RealismLoss:
    """The whole term for a training loop: SNR gate, random latent crop, decoder, soft measures.

    decode: latents to pictures in 0..1, differentiable. reference: fitted at the crop's size in pixels.
    crop: latent cells a side. weight: the factor (lambda), above 0; for none, keep None in this object's
    place, so that nothing is decoded or computed. low, high: as in `snr_gate`. tolerance: as in
    `realism_term`. Wrong numbers raise ValueError here.
    """

    decode: Decode
    reference: SoftReference
    crop: int
    weight: float
    low: float = 5.0
    high: float = 50.0
    tolerance: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(
                f"weight is {self.weight}: use a number above 0; to train without the realism term, leave "
                "the term out."
            )
        snr_gate(torch.ones(1), self.low, self.high)
        if not self.tolerance > 0:
            raise ValueError(f"tolerance is {self.tolerance}: use a number of spreads above 0, such as 1.")

    def __call__(self, x0: Tensor, snr: Tensor, generator: torch.Generator) -> Tensor:
        """Return what to add to each sample's loss, [B], from predicted x0 [B,...,H,W] and snr [B].

        Samples that the gate shuts out are not decoded and get exactly 0. snr on the CPU saves the device a
        wait.
        """
        gate = snr_gate(snr, self.low, self.high)
        open_rows = gate.nonzero().squeeze(1)
        added = torch.zeros(len(x0), device=x0.device)
        if len(open_rows) == 0:
            return added
        # a blocking copy would wait for all work that the device has queued
        rows = open_rows.to(x0.device, non_blocking=True)
        images = decode_crop(self.decode, x0[rows], self.crop, generator)
        term = realism_term(images, self.reference, self.tolerance)
        factor = (gate[open_rows] * self.weight).to(term, non_blocking=True)
        return added.to(term).index_put((rows,), factor * term)
