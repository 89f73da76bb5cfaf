"""What a model predicts, and how one loss on the noise error reads on every prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .weighting import LossWeight

KINDS = ("eps", "v", "x0", "flow", "edm")
SPACES = ("eps", "x0", "v", "flow")
LABELS = {
    "eps": "noise prediction",
    "v": "v prediction",
    "x0": "x0 prediction",
    "flow": "flow model",
    "edm": "EDM model",
}
# SNR is held between these, so that no limit turns into 0 times infinity
SNR_RANGE = (1e-12, 1e12)
# the exact weight on v falls with the SNR; where a schedule ends at SNR 0 it stays at its value for this one
V_SNR_FLOOR = 1e-3
STRATA = 4096
# of the draws, and the share of the whole weight that may at most fall on so few
FEW, TOO_MUCH = 0.01, 0.5


@dataclass(frozen=True)
class Objective:
    """A prediction: eps, v, x0, flow (eps - x0) or edm (x0, under EDM's own loss weight).

    sigma means the noise-to-signal ratio of ComfyUI for eps, v, x0 and edm (sample x0 + sigma eps), and the
    time t in 0..1 for flow (sample (1 - t) x0 + t eps). sigma_data: the standard deviation that an edm model
    takes its data to have. Raises ValueError with the fix.
    """

    kind: str
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the objective is {self.kind!r}: choose one of {', '.join(KINDS)}.")
        if self.kind != "edm" and self.sigma_data != 1:
            raise ValueError(
                f"sigma_data is {self.sigma_data:g}, but the objective {self.kind} has none: leave it at 1."
            )
        if not 0 < self.sigma_data < float("inf"):
            raise ValueError(f"sigma_data is {self.sigma_data}: set it above 0.")

    @property
    def space(self) -> str:
        """The space in which the model's loss is taken: one of SPACES."""
        return "x0" if self.kind == "edm" else self.kind

    def snr(self, sigma: Tensor) -> Tensor:
        """Return the signal-to-noise ratio at sigma, same shape, held within SNR_RANGE."""
        ratio = self._ratio(sigma)
        return (ratio**-2).clamp(*SNR_RANGE)

    def convert(self, weight_on_eps: Tensor, sigma: Tensor, space: str) -> Tensor:
        """Return the weight on the squared error in a space that equals a weight on the squared eps error.

        weight_on_eps, sigma: same shape. space: eps, x0, v (of the variance-preserving sample) or flow. For
        s = 1 / sqrt(SNR): |eps error|^2 = |x0 error|^2 / s^2 = |v error|^2 / (1 + s^2)
        = |flow error|^2 / (1 + s)^2. Raises ValueError for an unknown space.
        """
        if space not in SPACES:
            raise ValueError(f"space is {space!r}: choose one of {', '.join(SPACES)}.")
        ratio = self.snr(sigma).rsqrt()
        if space == "eps":
            return weight_on_eps * torch.ones_like(ratio)
        if space == "x0":
            return weight_on_eps * ratio**-2
        return weight_on_eps / (1 + ratio**2 if space == "v" else (1 + ratio) ** 2)

    def noisy(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return the noisy sample [B,...] for sigma [B], as ComfyUI has it before its input scaling."""
        sigma = _spread(sigma, x0)
        return torch.lerp(x0, noise, sigma) if self.kind == "flow" else x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return what the model should predict [B,...] for x0 and noise [B,...] at sigma [B]; x0 for edm."""
        if self.kind == "eps":
            return noise
        if self.kind == "flow":
            return noise - x0
        if self.kind == "v":
            sigma = _spread(sigma, x0)
            return (noise - sigma * x0) * (1 + sigma**2).rsqrt()
        return x0

    def weights(self, loss_weight: LossWeight, sigma: Tensor) -> Tensor:
        """Return the weights [B] on the squared error of the model's own prediction at sigma [B].

        Mode exact: converted from eps; for v at no less than the conversion at SNR V_SNR_FLOOR, so that the
        last step of a zero-terminal-SNR schedule is trained too. Mode factor: the weight as it is, for edm on
        EDM's own loss, that is times (sigma^2 + sigma_data^2) / (sigma sigma_data)^2.
        Raises ValueError for a normalised weight that `prepare` has not seen.
        """
        if not loss_weight.normalise:
            return self._plain(loss_weight, sigma)
        if loss_weight.scale is None:
            raise ValueError(
                "the loss weight is to have mean 1, but its mean over the model's timesteps is not known: "
                "use what Objective.prepare(loss_weight, sigmas) returns."
            )
        return self._plain(loss_weight, sigma) * loss_weight.scale

    def prepare(self, loss_weight: LossWeight, sigmas: Callable[[Tensor], Tensor]) -> LossWeight:
        """Return the loss weight with the scale that gives it mean 1, checked against the model's schedule.

        sigmas: the model's sigma (t for flow) at u in 0..1, any shape. The mean is that of `weights` over u
        from the weight's own timestep distribution, by the midpoint rule on STRATA equally likely parts: one
        number for the whole training, since dividing by the mean of each batch would undo the weighting.
        Raises ValueError if more than half of the whole weight would fall on 1 % of the draws.
        """
        share = (torch.arange(STRATA, dtype=torch.float64) + 0.5) / STRATA
        sigma = sigmas(loss_weight.timesteps.quantile(share)).to("cpu", torch.float64)
        weight = self._plain(loss_weight, sigma)
        most, place = weight.topk(round(FEW * STRATA))
        fraction = float(most.sum() / weight.sum())
        if not fraction <= TOO_MUCH:
            snr = float(self.snr(sigma[place[0]]))
            raise ValueError(
                f"this {LABELS[self.kind]} cannot be trained with {loss_weight.label()} in mode "
                f"{loss_weight.mode}: {fraction:.0%} of the whole weight would fall on 1 % of the timesteps, "
                f"those about SNR {snr:.2g}. Choose another kind, raise k, lower gamma, or switch the mode."
            )
        return replace(loss_weight, scale=1 / float(weight.mean()) if loss_weight.normalise else None)

    def in_eps_terms(self, weight: Tensor, sigma: Tensor) -> Tensor:
        """Return the weight on the squared eps error that equals a weight on the model's own error."""
        return weight / self.convert(torch.ones_like(weight), sigma, self.space)

    def _plain(self, loss_weight: LossWeight, sigma: Tensor) -> Tensor:
        snr = self.snr(sigma)
        weight = loss_weight.on_eps(snr)
        if loss_weight.mode == "exact" and self.kind == "v":
            floored = snr.clamp_min(V_SNR_FLOOR)
            return weight * floored / (1 + floored)
        if loss_weight.mode == "exact":
            return self.convert(weight, sigma, self.space)
        return weight * (snr + self.sigma_data**-2) if self.kind == "edm" else weight

    def _ratio(self, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma)
        if sigma.dtype not in (torch.float32, torch.float64):
            sigma = sigma.float()
        return sigma / (1 - sigma) if self.kind == "flow" else sigma


def _spread(sigma: Tensor, sample: Tensor) -> Tensor:
    """Return sigma [B] as [B,1,...] for a sample [B,...]."""
    return sigma.to(sample.dtype).reshape(-1, *[1] * (sample.ndim - 1))
