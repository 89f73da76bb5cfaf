"""Loss weights as functions of the signal-to-noise ratio (SNR).

A weighting is any callable that takes SNR and returns the weight on the squared error of the noise prediction
(eps), in the same shape. `objective` turns it into the weight on other predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .timesteps import TimestepSampler

Weighting = Callable[[Tensor], Tensor]
MODES = ("exact", "factor")


def constant(snr: Tensor) -> Tensor:
    """Return 1 for every SNR: the plain eps loss."""
    return torch.ones_like(torch.as_tensor(snr), dtype=_float(snr))


def p2(snr: Tensor, k: float = 1.0, gamma: float = 1.0) -> Tensor:
    """Return (k + SNR)^-gamma, which takes weight from the nearly clean steps.

    snr: any shape, 0 to infinity. k, gamma: 0 or more; gamma 0 is constant, k 0 is infinite at SNR 0. Raises
    ValueError otherwise. Source: Choi et al., arXiv 2204.00227, equation 8.
    """
    _check("k", k)
    _check("gamma", gamma)
    return (k + torch.as_tensor(snr)) ** -float(gamma)


def min_snr(snr: Tensor, gamma: float = 5.0) -> Tensor:
    """Return min(SNR, gamma) / SNR: the x0 loss with its weight cut at gamma; 1 at SNR 0.

    snr: any shape, 0 to infinity. gamma: above 0. Source: Hang et al., arXiv 2303.09556.
    """
    _check("gamma", gamma, above=True)
    return (gamma / torch.as_tensor(snr)).clamp_max(1)


def soft_min_snr(snr: Tensor, sigma_data: float = 1.0) -> Tensor:
    """Return 1 / (1 + sigma_data^2 SNR): P2 with gamma = 1 and k = 1 / sigma_data^2, times k.

    It is (sigma sigma_data)^2 / (sigma^2 + sigma_data^2)^2 on the preconditioned target, in eps terms.
    snr: any shape, 0 to infinity. sigma_data: above 0. Source: Crowson et al., arXiv 2401.11605.
    """
    _check("sigma_data", sigma_data, above=True)
    return 1 / (1 + sigma_data**2 * torch.as_tensor(snr))


def debiased(snr: Tensor) -> Tensor:
    """Return 1 / sqrt(SNR); infinite at SNR 0. Source: Yu et al., arXiv 2310.08442."""
    return torch.as_tensor(snr).to(_float(snr)).rsqrt()


def product(*weightings: Weighting) -> Weighting:
    """Return the weighting that multiplies the given ones; of none it is constant."""

    def multiplied(snr: Tensor) -> Tensor:
        weight = constant(snr)
        for weighting in weightings:
            weight = weight * weighting(snr)
        return weight

    return multiplied


class Kind(NamedTuple):
    """A weighting by name, the numbers it takes with their defaults, and how plots call it."""

    function: Callable[..., Tensor]
    numbers: dict[str, float]
    label: str


KINDS = {
    "p2": Kind(p2, {"k": 1.0, "gamma": 1.0}, "P2"),
    "min_snr": Kind(min_snr, {"gamma": 5.0}, "min-SNR"),
    "soft_min_snr": Kind(soft_min_snr, {"sigma_data": 1.0}, "soft min-SNR"),
    "debiased": Kind(debiased, {}, "debiased"),
    "constant": Kind(constant, {}, "constant"),
}


@dataclass(frozen=True)
class LossWeight:
    """A choice of loss weight, as it travels from node to trainer and into a file's metadata.

    kind: a name in KINDS; numbers: its numbers, defaults filled in. times: further (kind, numbers) that it is
    multiplied with. mode: exact (the loss is that weight on the eps error, whatever the model predicts) or
    factor (the weight is put on the model's own loss as it is). normalise: divide by the mean over the
    timesteps that are drawn; scale holds that factor once `Objective.prepare` has found it for a model.
    timesteps: how they are drawn. Raises ValueError with the fix.
    """

    kind: str = "p2"
    numbers: Mapping[str, float] = field(default_factory=dict)
    mode: str = "exact"
    normalise: bool = True
    timesteps: TimestepSampler = TimestepSampler()
    times: tuple[tuple[str, Mapping[str, float]], ...] = ()
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}: choose one of {', '.join(MODES)}.")
        object.__setattr__(self, "numbers", _complete(self.kind, self.numbers))
        times = tuple((kind, _complete(kind, numbers)) for kind, numbers in self.times)
        object.__setattr__(self, "times", times)
        # bad numbers are found here rather than in the first step
        self.on_eps(torch.ones(1))

    @property
    def factors(self) -> tuple[tuple[str, Mapping[str, float]], ...]:
        """The (kind, numbers) whose product this is."""
        return ((self.kind, self.numbers), *self.times)

    def on_eps(self, snr: Tensor) -> Tensor:
        """Return the weight on the eps loss for an SNR of any shape, neither converted nor normalised."""
        return product(*(partial(KINDS[kind].function, **numbers) for kind, numbers in self.factors))(snr)

    def label(self) -> str:
        """Return the weighting in words, such as "P2 (k 1, gamma 1)"."""
        return " x ".join(_words(kind, numbers) for kind, numbers in self.factors)

    def describe(self) -> str:
        """Return the whole choice in words, in one line."""
        mode = "exact" if self.mode == "exact" else "as a factor on the model's own loss"
        over = self.timesteps.describe()
        ending = f"mean 1 over {over}" if self.normalise else f"not normalised, over {over}"
        return f"{self.label()}, {mode}, {ending}"

    def to_dict(self) -> dict[str, Any]:
        """Return what `from_dict` takes, ready for JSON."""
        return {
            "kind": self.kind, "numbers": dict(self.numbers), "mode": self.mode, "normalise": self.normalise,
            "timesteps": self.timesteps.to_dict(),
            "times": [[kind, dict(numbers)] for kind, numbers in self.times], "scale": self.scale,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> LossWeight:
        """Return the choice that `to_dict` wrote down; raises ValueError for fields it does not know."""
        if unknown := sorted(set(stored) - set(cls.__dataclass_fields__)):
            raise ValueError(f"the loss weight holds unknown fields ({', '.join(unknown)}): leave them out.")
        fields = dict(stored)
        if "timesteps" in fields:
            fields["timesteps"] = TimestepSampler.from_dict(fields["timesteps"])
        fields["times"] = tuple((kind, numbers) for kind, numbers in fields.get("times", ()))
        return cls(**fields)


def _words(kind: str, numbers: Mapping[str, float]) -> str:
    written = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
    return KINDS[kind].label + (f" ({written})" if written else "")


def _complete(kind: str, numbers: Mapping[str, float]) -> dict[str, float]:
    if kind not in KINDS:
        raise ValueError(f"the kind of loss weight is {kind!r}: choose one of {', '.join(KINDS)}.")
    if unknown := sorted(set(numbers) - set(KINDS[kind].numbers)):
        known = ", ".join(KINDS[kind].numbers) or "none"
        raise ValueError(f"{kind} takes no {', '.join(unknown)}; its numbers are: {known}.")
    return {**KINDS[kind].numbers, **{name: float(value) for name, value in numbers.items()}}


def _check(name: str, value: float, above: bool = False) -> None:
    if not math.isfinite(value) or value < 0 or (above and value == 0):
        raise ValueError(f"{name} is {value}: set it {'above 0' if above else 'to 0 or more'}.")


def _float(snr: Tensor) -> torch.dtype:
    """Return the type of a weight: that of snr if it has decimals."""
    kind = torch.as_tensor(snr).dtype
    return kind if kind.is_floating_point else torch.get_default_dtype()
