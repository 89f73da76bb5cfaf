"""RealismLossWeight: how much each noise level counts in training, shown before it is trained with."""

from __future__ import annotations

import json

import torch

from ..realism_core.plots.weights import weight_plot
from ..realism_core.training import timesteps as timestep_kinds
from ..realism_core.training.objective import LABELS, Objective
from ..realism_core.training.timesteps import TimestepSampler, stable_diffusion_sigmas
from ..realism_core.training.weighting import KINDS, MODES, LossWeight
from .comfy import io, schema
from .model_noise import model_noise
from .sockets import LossWeight as LossWeightSocket

# the shares of the training for which the report says between which noise levels they lie
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


class RealismLossWeight(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismLossWeight",
            display_name="Realism Loss Weight",
            category="realism/train",
            description=(
                "Says how much each noise level counts when Realism Train LoRA trains: P2 weighting, which "
                "moves the effort from invisible noise to what the eye sees, min-SNR and others, exact for "
                "noise, v and flow models. The plot shows it before anything is trained."
            ),
            search_aliases=["p2 weighting", "min snr", "loss weighting", "timestep sampling", "debiased"],
            inputs=[
                io.Combo.Input(
                    "kind", options=list(KINDS), default="p2",
                    tooltip="p2: 1 / (k + SNR)^gamma. min_snr: min(SNR, snr_gamma) / SNR. soft_min_snr: "
                    "1 / (1 + SNR / k), which is P2 with gamma 1. debiased: 1 / sqrt(SNR). constant: 1. Each "
                    "is the weight on the noise error.",
                ),
                io.Float.Input(
                    "k", default=1.0, min=0.0, max=1000.0, step=0.01,
                    tooltip="p2: above which SNR weight is taken away; 1 is the paper's. soft_min_snr: 1 / "
                    "sigma_data^2. The other kinds have no k.",
                ),
                io.Float.Input(
                    "gamma", default=1.0, min=0.0, max=4.0, step=0.01,
                    tooltip="p2: how strongly; 0.5 and 1 are the paper's, 0 is constant. The other kinds "
                    "have no gamma (min_snr has snr_gamma).",
                ),
                io.Combo.Input(
                    "mode", options=list(MODES), default="exact",
                    tooltip="exact: the loss is the weighted noise error, converted to what the model "
                    "predicts. factor: the weight multiplies the model's own loss as it is, as most trainers "
                    "do. For models that predict noise both are the same.",
                ),
                io.Boolean.Input(
                    "normalise", default=True,
                    tooltip="Divide by the mean weight over the drawn timesteps, so that the learning rate "
                    "keeps its meaning.",
                ),
                io.Combo.Input(
                    "timesteps", options=list(timestep_kinds.KINDS), default="uniform",
                    tooltip="How often each noise level is drawn. logit_normal prefers the middle, mode too "
                    "but never leaves out the ends, shifted prefers noise. It acts on top of the model's own "
                    "schedule, which SD3 and Flux have shifted already.",
                ),
                io.Model.Input(
                    "model", optional=True,
                    tooltip="The model to be trained: the plot then shows its noise schedule and "
                    "prediction, and a weight it cannot be trained with is an error here. Left open: Stable "
                    "Diffusion 1.5.",
                ),
                io.Float.Input(
                    "snr_gamma", default=5.0, min=0.01, max=1000.0, step=0.01, optional=True,
                    tooltip="min_snr: where the weight is cut; 5 is the paper's.",
                ),
                io.Float.Input(
                    "mean", default=0.0, min=-10.0, max=10.0, step=0.01, optional=True,
                    tooltip="logit_normal: below 0 cleaner, above 0 noisier.",
                ),
                io.Float.Input(
                    "std", default=1.0, min=0.01, max=10.0, step=0.01, optional=True,
                    tooltip="logit_normal: how wide.",
                ),
                io.Float.Input(
                    "mode_scale", default=1.29, min=-1.0, max=1.75, step=0.01, optional=True,
                    tooltip="mode: above 0 the middle, below 0 the ends; 1.29 is SD3's.",
                ),
                io.Float.Input(
                    "shift", default=3.0, min=0.01, max=100.0, step=0.01, optional=True,
                    tooltip="shifted: above 1 noisier, below 1 cleaner.",
                ),
                LossWeightSocket.Input(
                    "times", optional=True,
                    tooltip="A second loss weight to multiply with. Only its weighting counts; mode, "
                    "normalise and timesteps are those of this node.",
                ),
            ],
            outputs=[
                LossWeightSocket.Output(display_name="weight", tooltip="For Realism Train LoRA."),
                io.Image.Output(
                    display_name="plot",
                    tooltip="The weight over the timesteps beside no weight and min-SNR 5, all as weights on "
                    "the noise error, so that models and modes can be compared.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="The same in numbers, as JSON: the setting in words, the scale of the mean, and "
                    "between which noise levels the training happens.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, kind, k, gamma, mode, normalise, timesteps, model=None, snr_gamma=5.0, mean=0.0, std=1.0,
        mode_scale=1.29, shift=3.0, times=None,
    ) -> io.NodeOutput:  # fmt: skip
        sampler = TimestepSampler(timesteps, mean, std, mode_scale, shift)
        further = times.factors if times is not None else ()
        weight = LossWeight(kind, _numbers(kind, k, gamma, snr_gamma), mode, normalise, sampler, further)
        objective, sigmas, name = Objective("eps"), stable_diffusion_sigmas, "Stable Diffusion 1.5 (no model)"
        if model is not None:
            noise = model_noise(model)
            objective, sigmas = Objective(noise.objective, noise.sigma_data), noise.sigmas
            name = LABELS[noise.objective]
        plot = weight_plot(weight, objective, sigmas, name)
        return io.NodeOutput(weight, plot, json.dumps(_report(weight, objective, sigmas), indent=2))


def _numbers(kind: str, k: float, gamma: float, snr_gamma: float) -> dict[str, float]:
    if kind == "p2":
        return {"k": k, "gamma": gamma}
    if kind == "min_snr":
        return {"gamma": snr_gamma}
    if kind == "soft_min_snr":
        if k == 0:
            raise ValueError("k is 0, with which soft_min_snr is nowhere above 0: set k above 0.")
        return {"sigma_data": k**-0.5}
    return {}


def _report(weight: LossWeight, objective: Objective, sigmas) -> dict:
    """Return the setting in words and numbers, with the noise below which shares of the weight lie."""
    prepared = objective.prepare(weight, sigmas)
    sigma = sigmas(weight.timesteps.quantile((torch.arange(4096, dtype=torch.float64) + 0.5) / 4096)).double()
    values = objective.weights(prepared, sigma)
    reached = (values.cumsum(0) / values.sum()).contiguous()
    places = torch.searchsorted(reached, torch.tensor(SHARES, dtype=torch.float64)).clamp_max(4095)
    return {
        "weight": weight.describe(),
        "objective": objective.kind,
        "sigma_data": objective.sigma_data,
        "noise": "t" if objective.kind == "flow" else "sigma",
        "range": [float(sigma.min()), float(sigma.max())],
        "scale": prepared.scale,
        "share_of_weight_below": {
            f"{share:.0%}": float(sigma[place]) for share, place in zip(SHARES, places, strict=True)
        },
    }


NODES = [RealismLossWeight]
