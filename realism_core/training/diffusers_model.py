"""Models in diffusers' folder layout, read from disk alone, as denoisers for the training loop."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .objective import Objective

# what can be trained, by the name in model_index.json
PIPELINES = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
}
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
# parts that train nothing and encode nothing
_SPARED = ("safety_checker", "feature_extractor", "image_encoder")
# SD3's third text encoder, which many leave out: it is half the model
_OPTIONAL = ("text_encoder_3", "tokenizer_3")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# schedules that end in noise alone are held this far from it, as diffusers holds them
_LEAST_SIGNAL = 2.0**-24
_INSTALL = "pip install realism-kit[train]"


def model_kind(folder: Path) -> str:
    """Return sd, sdxl, sd3 or flux for a folder in diffusers' layout, without loading anything.

    Raises ValueError, with the fix, for what is no such folder, another kind of pipeline, and weights that
    are pickles: these are never read.
    """
    index = folder / "model_index.json"
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file: give a folder in diffusers' layout, with model_index.json. diffusers makes "
            "one of a checkpoint with from_single_file(...).save_pretrained(...)."
        )
    if not folder.is_dir():
        raise ValueError(f"{folder} is not there: give the folder of a diffusers model on this disk.")
    if not index.is_file():
        raise ValueError(
            f"{folder} has no model_index.json: give the folder of the whole pipeline, not of a part of it."
        )
    try:
        parts = json.loads(index.read_text("utf-8"))
        name = parts["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{index} is damaged: download the model again.") from None
    if name not in PIPELINES:
        raise ValueError(
            f"{folder} is a {name}, which cannot be trained here: give a {', '.join(PIPELINES)}. Of models "
            "made for inpainting, editing or few steps, take the one that they were made from."
        )
    for part, value in parts.items():
        place = folder / part
        if part in _SPARED or not isinstance(value, list) or value[0] is None or not place.is_dir():
            continue
        files = sorted(path.name for path in place.iterdir())
        pickles = [file for file in files if file.endswith(_PICKLES)]
        if pickles and not any(file.endswith(".safetensors") for file in files):
            raise ValueError(
                f"{place / pickles[0]} is a pickle, which can run programs when it is read: get the model as "
                "safetensors, or convert it with a program that you trust."
            )
    return PIPELINES[name]


def load_pipeline(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Return diffusers' pipeline of a folder, on the processor, its weights in dtype but for the VAE.

    Nothing is fetched from a network. Raises ValueError as `model_kind` does, where diffusers is missing
    and where it cannot read the folder.
    """
    model_kind(folder)
    parts = json.loads((folder / "model_index.json").read_text("utf-8"))
    try:
        from diffusers import DiffusionPipeline
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise ValueError(
            f"diffusers is needed to train a folder in its layout and is not there ({error}): {_INSTALL}"
        ) from None
    except RuntimeError as error:  # diffusers' own for an import of its that failed
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"diffusers cannot be loaded here ({reason}): {_INSTALL} in a new place.") from None
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that older versions need
            pipeline = DiffusionPipeline.from_pretrained(
                str(folder), torch_dtype=dtype, use_safetensors=True, local_files_only=True,
                **{part: None for part in _SPARED if part in parts},
                **{part: None for part in _OPTIONAL if part in parts and not (folder / part).is_dir()},
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{folder} cannot be read by diffusers: {reason}") from None
    if dtype != torch.float32:
        pipeline.vae.to(torch.float32)  # in 16 bits some overflow
    return pipeline


def denoiser_of(
    pipeline: Any, device: torch.device | str = "cpu", guidance: float = 3.5
) -> UNetDenoiser | FlowDenoiser:
    """Return the network of a pipeline, on the device, as a Denoiser.

    guidance: what a Flux model made for it is told in training. Raises ValueError for networks and
    schedulers of a known pipeline that are not trained here, naming them.
    """
    kind, config = PIPELINES[type(pipeline).__name__], pipeline.scheduler.config
    schedule = type(pipeline.scheduler).__name__
    if kind in ("sd3", "flux"):
        if not schedule.startswith("FlowMatch"):
            raise ValueError(f"the scheduler {schedule} is none of a flow model: put back the model's own.")
        # a shift that goes by the picture's size is taken at its largest, as ComfyUI has it
        dynamic = config.get("use_dynamic_shifting")
        shift = math.exp(config.get("max_shift", 1.15)) if dynamic else config.get("shift", 1.0)
        return FlowDenoiser(pipeline.transformer, float(shift), torch.device(device), guidance, pipeline)
    kept = vars(pipeline.scheduler).get("alphas_cumprod")
    prediction = config.get("prediction_type", "epsilon")
    if kept is None or prediction not in _PREDICTIONS:
        raise ValueError(
            f"the scheduler {schedule} with prediction {prediction!r} has no relation of signal to noise "
            "that is known here: put back the one that the model was trained with, such as DDPMScheduler."
        )
    network = pipeline.unet
    if network.config.in_channels != network.config.out_channels or network.config.get("time_cond_proj_dim"):
        raise ValueError(
            f"the UNet takes {network.config.in_channels} channels and gives {network.config.out_channels}, "
            "or takes a guidance: it is made for inpainting or few steps. Take the model it was made from."
        )
    factor = pipeline.vae_scale_factor
    return UNetDenoiser(network, kept, _PREDICTIONS[prediction], torch.device(device), factor)


class UNetDenoiser:
    """A UNet of diffusers, noise, v or x0 prediction, with a schedule of steps.

    u is brought to the nearest step, and sigma means the noise-to-signal ratio there.
    """

    def __init__(
        self, module: nn.Module, kept: Tensor, prediction: str, device: torch.device, factor: int = 8
    ) -> None:
        self.module, self._factor = module.to(device).train(False), factor
        self.objective, self.device, self.dtype = Objective(prediction), device, module.dtype
        kept = kept.detach().to("cpu", torch.float64).clamp_min(_LEAST_SIGNAL)
        self._ratios = ((1 - kept) / kept).sqrt()
        logs = self._ratios.log()
        self._between = ((logs[1:] + logs[:-1]) / 2).to(device, torch.float32)

    def sigmas(self, u: Tensor) -> Tensor:
        """Return the noise-to-signal ratio of the step nearest to u (0..1, any shape)."""
        return self._ratios[(u.clamp(0, 1) * (len(self._ratios) - 1)).round().long()]

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Return the UNet's prediction for noisy [B,C,H,W] at sigma [B]."""
        steps = torch.bucketize(sigma.float().log(), self._between)
        scale = (1 + sigma.square()).rsqrt().view(-1, 1, 1, 1)
        stacked = _stacker(conditioning, self.device, self.dtype)
        extra = None
        if "pooled" in conditioning[0]:
            height, width = (self._factor * side for side in noisy.shape[-2:])
            whole = torch.tensor([height, width, 0, 0, height, width])
            sizes = torch.stack([words.get("sizes", whole) for words in conditioning])
            extra = {"text_embeds": stacked("pooled"), "time_ids": _onto(sizes, self.device, self.dtype)}
        given = (noisy * scale).to(self.dtype)
        return self.module(given, steps, stacked("words"), added_cond_kwargs=extra, return_dict=False)[0]


class FlowDenoiser:
    """A transformer of SD3 or Flux; sigma means the time t, shifted as ComfyUI shifts it."""

    def __init__(
        self, module: nn.Module, shift: float, device: torch.device, guidance: float, pipeline: Any
    ) -> None:
        self.module = module.to(device).train(False)
        self.objective, self.device, self.dtype = Objective("flow"), device, module.dtype
        self._shift, self._guidance = shift, guidance
        self._flux = type(pipeline) if type(pipeline).__name__ == "FluxPipeline" else None

    def sigmas(self, u: Tensor) -> Tensor:
        """Return t at u (0..1, any shape)."""
        return self._shift * u / (1 + (self._shift - 1) * u)

    def predict(self, noisy: Tensor, sigma: Tensor, conditioning: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Return the velocity noise - x0 that the transformer predicts for noisy [B,C,H,W] at t [B]."""
        stacked = _stacker(conditioning, self.device, self.dtype)
        given, words, pooled = noisy.to(self.dtype), stacked("words"), stacked("pooled")
        if self._flux is None:
            return self.module(
                hidden_states=given, timestep=1000 * sigma, encoder_hidden_states=words,
                pooled_projections=pooled, return_dict=False,
            )[0]  # fmt: skip
        count, channels, height, width = given.shape
        told = sigma.new_full((count,), self._guidance) if self.module.config.guidance_embeds else None
        places = _places(height // 2, width // 2).to(self.device, self.dtype)
        packed = self.module(
            hidden_states=self._flux._pack_latents(given, count, channels, height, width), timestep=sigma,
            guidance=told, encoder_hidden_states=words, pooled_projections=pooled, img_ids=places,
            txt_ids=words.new_zeros(words.shape[1], 3), return_dict=False,
        )[0]  # fmt: skip
        blocks = packed.view(count, height // 2, width // 2, channels, 2, 2)
        return blocks.permute(0, 3, 1, 4, 2, 5).reshape(count, channels, height, width)


def _stacker(
    conditioning: Sequence[Mapping[str, Tensor]], device: torch.device, dtype: torch.dtype
) -> Callable[[str], Tensor]:
    return lambda name: _onto(torch.stack([words[name] for words in conditioning]), device, dtype)


def _onto(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return tensor.to(device, dtype, non_blocking=True)


def _places(rows: int, columns: int) -> Tensor:
    """Return Flux's (0, row, column) of each piece of a picture, row by row, [rows * columns, 3]."""
    grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack((torch.zeros_like(grid[0]), *grid), -1).view(-1, 3)
