"""How a MODEL is noised, as the core's objective and loss weights need to know it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from .comfy import COSMOS_FORM, IMAGE_TO_IMAGE, PREDICTIONS, SCHEDULES


class ModelNoise(NamedTuple):
    """How a MODEL is noised: what the core's Objective takes, and its sigma (t for flow) at u in 0..1.

    cosmos: the network takes in and gives out other things than the objective says.
    """

    objective: str
    sigma_data: float
    sigmas: Callable[[Tensor], Tensor]
    cosmos: bool = False


def model_noise(model: Any) -> ModelNoise:
    """Return what a MODEL predicts and its noise schedule, with all patches (ModelSamplingSD3 and the like).

    sigmas(u) is percent_to_sigma(1 - u) for many u at once, on u's device, with finite values at both ends.
    Raises ValueError, naming the kind of model, for one that has no known relation of signal and noise.
    """
    sampling = model.get_model_object("model_sampling")
    form = getattr(type(sampling), "calculate_denoised", None)
    schedule = getattr(type(sampling), "sigma", None)
    kind = PREDICTIONS.get(form)
    name = f"{type(model.model).__name__} ({model.model.model_type.name})"
    if kind is None or isinstance(sampling, IMAGE_TO_IMAGE) or schedule not in SCHEDULES:
        raise ValueError(
            f"model {name} has no known relation of signal to noise (distilled models such as LCM, image to "
            "image models): no loss weight can be honoured. Connect the model that it was made from."
        )
    if getattr(sampling, "noise_scale", 1.0) != 1:
        raise ValueError(
            f"model {name} scales its noise by {sampling.noise_scale:g}, for which the loss weights are not "
            "known: set its noise scale to 1, or connect another model."
        )
    if SCHEDULES[schedule] is None:
        low, high = float(sampling.sigma_min), float(sampling.sigma_max)

        def sigmas(u: Tensor) -> Tensor:
            sigma = low * (high / low) ** u
            return sigma / (1 + sigma) if kind == "flow" else sigma
    else:

        def sigmas(u: Tensor) -> Tensor:
            return sampling.sigma(u * SCHEDULES[schedule](sampling)).to(u.dtype)

    sigma_data = float(sampling.sigma_data) if kind in ("v", "edm") else 1.0
    # v prediction of other data than of variance 1 is EDM's prediction with the sign turned
    return ModelNoise("edm" if sigma_data != 1 else kind, sigma_data, sigmas, form is COSMOS_FORM)
