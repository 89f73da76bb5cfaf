"""How noisy the training samples are: distributions of the timestep u, drawn evenly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# the numbers each distribution takes
KINDS = {"uniform": (), "logit_normal": ("mean", "std"), "mode": ("scale",), "shifted": ("shift",)}
# draws stay this far from 0 and 1, where one of signal and noise is missing
EDGE = 1e-6
# beyond this the mode distribution folds over itself
MODE_SCALES = (-1.0, 2 / (math.pi - 2))
# the betas of Stable Diffusion 1 and 2 and of SDXL: the square of a straight line
BETAS = (0.00085, 0.012)
STEPS = 1000


@dataclass(frozen=True)
class TimestepSampler:
    """A distribution of u, where u = 0 is clean and u = 1 pure noise.

    kind: uniform; logit_normal (logit u is normal with mean and std); mode (scale > 0 prefers the middle,
    < 0 the ends); shifted (u S / (1 + (S - 1) u) of a uniform u, S = shift > 1 prefers noise).
    stratified: one draw from each of n equally likely parts, in random order. Each single draw still has the
    distribution itself. Numbers that a kind does not take are ignored and not written down.
    Raises ValueError with the fix. Source: Esser et al., arXiv 2403.03206, section 3.1 and 5.3.2.
    """

    kind: str = "uniform"
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.29
    shift: float = 3.0
    stratified: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"timesteps is {self.kind!r}: choose one of {', '.join(KINDS)}.")
        for name in KINDS[self.kind]:
            if not math.isfinite(vars(self)[name]):
                raise ValueError(f"{name} of the timesteps is {vars(self)[name]}: give a finite number.")
        if self.kind == "logit_normal" and self.std <= 0:
            raise ValueError(f"std of the timesteps is {self.std:g}: set it above 0.")
        if self.kind == "mode" and not MODE_SCALES[0] <= self.scale <= MODE_SCALES[1]:
            raise ValueError(
                f"scale of the timesteps is {self.scale:g}: set it from {MODE_SCALES[0]:g} to "
                f"{MODE_SCALES[1]:.4g}."
            )
        if self.kind == "shifted" and self.shift <= 0:
            raise ValueError(f"shift of the timesteps is {self.shift:g}: set it above 0 (1 is uniform).")

    def quantile(self, share: Tensor) -> Tensor:
        """Return the u below which a share (0..1, any shape) of all draws lies, within EDGE .. 1 - EDGE."""
        if self.kind == "uniform":
            u = share
        elif self.kind == "logit_normal":
            u = torch.sigmoid(self.mean + self.std * torch.special.ndtri(share))
        elif self.kind == "mode":
            u = share - self.scale * (torch.sin(math.pi / 2 * share) ** 2 - share)
        else:
            u = self.shift * share / (1 + (self.shift - 1) * share)
        return u.clamp(EDGE, 1 - EDGE)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n draws of u, float64 [n], on the generator's device (which must know float64).

        Stratified draws are even within one call: draw for several batches at once and cut them up.
        """
        device = generator.device
        place = torch.rand(n, generator=generator, device=device, dtype=torch.float64)
        if self.stratified:
            place = (torch.randperm(n, generator=generator, device=device) + place) / n
        return self.quantile(place)

    def describe(self) -> str:
        """Return the distribution in words, such as "logit-normal timesteps (mean 0, std 1)"."""
        numbers = ", ".join(f"{name} {vars(self)[name]:g}" for name in KINDS[self.kind])
        return f"{self.kind.replace('_', '-')} timesteps" + (f" ({numbers})" if numbers else "")

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, ready for JSON: the numbers that count."""
        numbers = {name: vars(self)[name] for name in KINDS[self.kind]}
        return {"kind": self.kind, **numbers, "stratified": self.stratified}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> TimestepSampler:
        """Return the sampler that `to_dict` wrote down; raises ValueError for fields it does not know."""
        known = {"kind", "stratified", *KINDS.get(stored.get("kind"), ())}
        if unknown := sorted(set(stored) - known):
            raise ValueError(f"the timesteps hold unknown fields ({', '.join(unknown)}): leave them out.")
        return cls(**stored)


def stable_diffusion_sigmas(u: Tensor) -> Tensor:
    """Return the noise-to-signal ratio of Stable Diffusion's schedule at u (0..1, any shape), float64.

    Its 1,000 steps, with log sigma on straight lines between them, as ComfyUI has it.
    """
    root = torch.linspace(BETAS[0] ** 0.5, BETAS[1] ** 0.5, STEPS, dtype=torch.float64, device=u.device)
    kept = torch.cumprod(1 - root**2, 0)
    logs = ((1 - kept) / kept).log() / 2
    place = u.to(torch.float64).clamp(0, 1) * (STEPS - 1)
    low = place.floor().clamp_max(STEPS - 2).long()
    return torch.lerp(logs[low], logs[low + 1], place - low).exp()
