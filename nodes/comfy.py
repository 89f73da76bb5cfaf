"""The adapter to ComfyUI: the only file that touches comfy.*, folder_paths and the executor."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.ldm.modules.attention as attention_forms
import comfy.model_management
import comfy.model_sampling as sampling_forms
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import torch
from aiohttp import web
from comfy_api.latest import ComfyExtension, io, ui
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from server import PromptServer
from torch import Tensor

import nodes as comfy_nodes  # ComfyUI's own nodes.py, not the folder this file lies in

__all__ = ["ComfyExtension", "io", "ui"]

_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields: Any) -> io.Schema:
    """Return a node schema, leaving out the fields that the installed ComfyUI does not know yet."""
    return io.Schema(**{name: value for name, value in fields.items() if name in _SCHEMA_FIELDS})


def metadata_wanted() -> bool:
    """Return whether pictures may carry their workflow (ComfyUI's --disable-metadata switches that off)."""
    return not comfy.cli_args.args.disable_metadata


def blocked(message: str | None = None) -> ExecutionBlocker:
    """Return what keeps everything downstream of an output from running: silently, or with an error."""
    return ExecutionBlocker(message)


Interrupted = comfy.model_management.InterruptProcessingException
torch_attention = attention_forms.attention_pytorch
predicted = comfy.samplers.calc_cond_batch


def samplers() -> list[str]:
    """Return the samplers that KSampler offers, those of other packs included."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def schedulers() -> list[str]:
    """Return the schedulers that KSampler offers, those of other packs included."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def sample(
    model: Any, seed: int, steps: int, cfg: float, sampler_name: str, scheduler: str,
    positive: list, negative: list, latent: dict, denoise: float,
) -> dict:
    """Return the LATENT that ComfyUI's KSampler gives for the same inputs; raises its interrupt on Cancel."""
    return comfy_nodes.common_ksampler(
        model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent, denoise=denoise
    )[0]


def decode(vae: Any, latent: dict) -> Tensor:
    """Return the pictures [N,H,W,C] that ComfyUI's VAE Decode gives; those of a video follow each other."""
    return comfy_nodes.VAEDecode().decode(vae, latent)[0]


# told apart by their formulas: patches and models mix classes freely, and keep the formulas
COSMOS_FORM = sampling_forms.COSMOS_RFLOW.calculate_denoised
PREDICTIONS = {
    sampling_forms.EPS.calculate_denoised: "eps",
    sampling_forms.V_PREDICTION.calculate_denoised: "v",
    sampling_forms.EDM.calculate_denoised: "edm",
    sampling_forms.X0.calculate_denoised: "x0",
    sampling_forms.CONST.calculate_denoised: "flow",
    sampling_forms.COSMOS_RFLOW.calculate_denoised: "flow",
}
# from u to what the schedule calls its timestep, as percent_to_sigma has it; None: even in log sigma
SCHEDULES = {
    sampling_forms.ModelSamplingDiscrete.sigma: lambda sampling: 999.0,
    sampling_forms.StableCascadeSampling.sigma: lambda sampling: 1.0,
    sampling_forms.ModelSamplingDiscreteFlow.sigma: lambda sampling: sampling.multiplier,
    sampling_forms.ModelSamplingFlux.sigma: lambda sampling: 1.0,
    sampling_forms.ModelSamplingContinuousEDM.sigma: None,
    sampling_forms.ModelSamplingContinuousV.sigma: None,
    sampling_forms.ModelSamplingCosmosRFlow.sigma: None,
}
IMAGE_TO_IMAGE = sampling_forms.IMG_TO_IMG

OUT_OF_MEMORY = comfy.model_management.OOM_EXCEPTION


def onto_device(*patchers: Any, memory: float = 0) -> None:
    """Bring models' weights to where they compute, as far as `memory` bytes stay free beside them."""
    comfy.model_management.load_models_gpu(list(patchers), memory_required=memory)


def managed(network: torch.nn.Module) -> Any:
    """Return a network as ComfyUI loads and unloads it, in half precision where ComfyUI prefers that."""
    device, rest = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    half = comfy.model_management.should_use_fp16(device)
    return comfy.model_patcher.ModelPatcher(network.half() if half else network, device, rest)


def free_memory(device: torch.device) -> float:
    """Return how many bytes of a device are free, those included that torch keeps for later."""
    return comfy.model_management.get_free_memory(device)


def is_on_device(patcher: Any) -> bool:
    """Return whether a model is among those that ComfyUI has loaded."""
    return any(loaded is patcher for loaded in comfy.model_management.loaded_models())


def model_conditions(inner: Any, conditioning: dict, noisy: Tensor, device: torch.device) -> dict:
    """Return what a network takes beside noisy latents [1,...] for the conditioning of one image."""
    (encoded,) = comfy.samplers.encode_model_conds(
        inner.extra_conds, [{**conditioning, "model_conds": {}}], noisy, device, "positive",
        latent_image=torch.zeros_like(noisy), denoise_mask=None, seed=0,
    )  # fmt: skip
    return {
        name: value.process_cond(batch_size=1, area=None, device=device)
        for name, value in encoded["model_conds"].items()
    }


def joined_conditions(parts: Sequence[dict]) -> dict:
    """Return what a network takes for a batch, from what it takes for each image."""
    return comfy.samplers.cond_cat(parts)


def tokens_of(clip: Any, caption: str) -> Any:
    """Return the tokens of a caption, as CLIP Text Encode makes them."""
    return clip.tokenize(caption)


def encoded(clip: Any, tokens: Any) -> dict:
    """Return what CLIP Text Encode makes of tokens with a loaded CLIP, with its gradient, as one dict."""
    loaded = clip.clone()
    loaded.load_model = lambda *_: None  # it would move weights at every step
    made = loaded.encode_from_tokens(tokens, return_pooled=True, return_dict=True)
    return {"cross_attn": made.pop("cond"), **made}


def with_lora(model: Any, lora: dict, clip: Any = None, beside: bool = False) -> tuple[Any, Any]:
    """Return a MODEL and a CLIP, if given, with a LoRA in the comfyui layout, as Load LoRA does.

    beside: leave the model's weights alone and add to its layers' outputs, as Load LoRA (Bypass) does; not
    in 0.3.75, nor where other LoRAs are so applied already, of which ComfyUI keeps one.
    """
    bypass = getattr(comfy.sd, "load_bypass_lora_for_models", None)
    if not beside or bypass is None or model.injections:
        return comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
    if clip is not None:
        _, clip = comfy.sd.load_lora_for_models(None, clip, lora, 1.0, 1.0)
    return bypass(model, None, lora, 1.0, 0.0)[0], clip


@contextmanager
def training_mode() -> Iterator[None]:
    """Keep ComfyUI (newer than 0.3.75) from kernels that know no way back, and from rough ones on it."""
    management = comfy.model_management
    wanted = {"in_training": True, "training_fp8_bwd": False}  # the latter stays as Train LoRA left it
    before = {name: value for name, value in vars(management).items() if name in wanted}
    vars(management).update({name: wanted[name] for name in before})
    try:
        yield
    finally:
        vars(management).update(before)


def show_text(node_id: str, text: str) -> None:
    """Show a text on a node while it runs, in the page that queued it."""
    server = PromptServer.instance
    server.send_progress_text(text, node_id, server.client_id)


def answer_posts(path: str, answer: Callable[[], dict]) -> None:
    """Let the server answer POST requests to a path, without a body, with a JSON object."""

    async def respond(request: web.Request) -> web.Response:
        return web.json_response(answer())

    PromptServer.instance.routes.post(path)(respond)


@contextmanager
def hidden_progress() -> Iterator[None]:
    """Keep the bars that ComfyUI draws by itself off the node; Cancel still gets through."""
    whole = comfy.utils.PROGRESS_BAR_HOOK

    def hook(*_: Any, **__: Any) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(whole)


@contextmanager
def share_of_progress(part: int, parts: int) -> Iterator[None]:
    """Let the bars that ComfyUI draws by itself fill share `part` of `parts` of the node's bar (from 0)."""
    whole = comfy.utils.PROGRESS_BAR_HOOK

    def hook(value: float, total: float, preview: Any, **where: Any) -> None:
        whole(part * total + value, parts * total, preview, **where)

    if whole is not None:
        comfy.utils.set_progress_bar_global_hook(hook)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(whole)


class Progress:
    """A progress bar on the running node that also lets Cancel through."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)

    def check(self, *_: object) -> None:
        """Raise ComfyUI's interrupt if the user pressed Cancel."""
        comfy.model_management.throw_exception_if_processing_interrupted()

    def reach(self, value: int, preview: Image.Image | None = None) -> None:
        """Set the bar to a value, with a picture to show if given; raises ComfyUI's interrupt on Cancel."""
        self.check()
        size = comfy.cli_args.args.preview_size
        # an error in sending, as for a picture with alpha, would end the whole server
        shown = None if preview is None else ("JPEG", preview.convert("RGB"), size)
        self._bar.update_absolute(value, None, shown)

    def step(self, done: int = 1, preview: Image.Image | None = None) -> None:
        """Advance, with a picture to show if given; raises ComfyUI's interrupt if the user pressed Cancel."""
        self.reach(self._bar.current + done, preview)


def add_model_folder(name: str, suffixes: set[str]) -> None:
    """Make models/<name> known, beside folders that extra_model_paths may add under the same name."""
    folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name), is_default=True)
    paths, known = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (paths, set(known) | suffixes)


def model_names(kind: str) -> list[str]:
    """Return the file names in a kind of model folder."""
    return folder_paths.get_filename_list(kind)


def model_path(kind: str, name: str) -> Path | None:
    """Return where a model file lies, or None if there is no such file."""
    found = folder_paths.get_full_path(kind, name)
    return Path(found) if found else None


def model_folder(kind: str) -> Path:
    """Return the first folder of a kind of model: where new files go."""
    return Path(folder_paths.get_folder_paths(kind)[0])


def output_folder() -> Path:
    """Return ComfyUI's output folder."""
    return Path(folder_paths.get_output_directory())


def user_folder() -> Path:
    """Return ComfyUI's user folder."""
    return Path(folder_paths.get_user_directory())


def model_files(name: str) -> list[tuple[str, Path]]:
    """Return (kind of model folder, path) of every different file that goes by a name; none if unknown."""
    found = {}
    for kind in folder_paths.folder_names_and_paths:
        path = model_path(kind, name)
        if path is not None:
            found.setdefault(os.path.realpath(path), (kind, path))
    return list(found.values())


def numbered_output(prefix: str, width: int, height: int) -> tuple[str, str, int, str, str]:
    """Return what Save Image makes of a prefix; the folder is made, wherever it lies."""
    return folder_paths.get_save_image_path(prefix, str(output_folder()), width, height)


def open_folders() -> list[str]:
    """Return the folders that nodes may read: input (first), output, temp, user and every model folder."""
    return [
        folder_paths.get_input_directory(),
        folder_paths.get_output_directory(),
        folder_paths.get_temp_directory(),
        folder_paths.get_user_directory(),
        folder_paths.models_dir,
        *(folder for paths, _ in folder_paths.folder_names_and_paths.values() for folder in paths),
    ]
