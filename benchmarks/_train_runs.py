"""Trainings in processes of their own: the models, the data and the sides of benchmarks/train_lora.py."""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file

from devtools.comfyui import Install
from devtools.environment import cache_folder
from devtools.server import FOLDERS
from tests.tiny_layouts import Weights, unet
from tests.tiny_models import CONDITIONING, LATENT_CHANNELS, link_checkpoint
from tests.tiny_vae import vae_tensors

ROOT = Path(__file__).resolve().parents[1]
CHILD = Path(__file__).with_name("_train_child.py")
TWO_LEVELS = "sd15_two_levels"
MODELS = (TWO_LEVELS, "koala_vpred", "sd3")
OURS, ATTENTION, DEFAULT, BYPASS = "ours", "ours, attention", "default", "bypass"
PEERS = (DEFAULT, BYPASS)
SIDES = (OURS, *PEERS, ATTENTION)
TOKENS, IMAGES, SEED = 77, 4, 20
LIMIT = 900


# SD3's own; a step of the UNets at theirs would take ten seconds and more on a processor
LATENT_SIDE = {"sd3": 128}
OTHER_SIDE = 32
# steps that are not counted: the first ones fill caches and the optimiser's state
WARM = 3


class Setting(NamedTuple):
    """What all sides of a comparison have in common.

    side: of the latents, 0 for the model's in LATENT_SIDE. rank: of the LoRA, whose alpha is 1 as ComfyUI's
    always is; more than 4 a UNet's last layer cannot hold. recompute: gradient checkpointing. diffs:
    ComfyUI's trainer trains norms and biases, as it always does by itself. threads: 0 for torch's own
    choice.
    """

    side: int = 0
    batch: int = 1
    rank: int = 4
    steps: int = 10
    recompute: bool = False
    diffs: bool = True
    threads: int = 0


class Ran(NamedTuple):
    """What one training took.

    step, cpu: median seconds of a step by the clock and of all processor cores. more: MiB that the process's
    peak memory rose over what it had with model and data in place. whole: that peak. trained: how many
    numbers. layers: a digest of the adapted layers' names and how many there are. rows: images that went
    through the network at once.
    """

    step: float
    cpu: float
    more: float
    whole: float
    trained: int
    layers: tuple[str, int]
    rows: int


def link_model(base: Path, model: str) -> str:
    """Put a checkpoint into a base folder of ComfyUI; returns its name there."""
    if model != TWO_LEVELS:
        return link_checkpoint(base, model)
    path = cache_folder() / "tiny-models" / f"{TWO_LEVELS}-1.safetensors"
    if not path.is_file():
        weights = Weights(SEED)
        unet(weights, depths=(1, 1), context=CONDITIONING["sd15"].width)
        vae = {f"first_stage_model.{name}": tensor.half() for name, tensor in vae_tensors("random").items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        tensors = {name: tensor.contiguous() for name, tensor in (weights.tensors | vae).items()}
        save_file(tensors, unfinished)
        os.replace(unfinished, path)
    link = base / "models" / "checkpoints" / path.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(path)
    return path.name


def trained(install: Install, base: Path, model: str, side: str, setting: Setting) -> Ran:
    """Return what one training took; raises RuntimeError if it fails or its loss is no number."""
    for folder in FOLDERS:
        (base / folder).mkdir(parents=True, exist_ok=True)
    size = setting.side or LATENT_SIDE.get(model, OTHER_SIDE)
    width, pooled = CONDITIONING["sd15" if model == TWO_LEVELS else model]
    node, inputs = _theirs(side, setting) if side in PEERS else _ours(side, setting)
    wanted = {
        "node": node,
        "inputs": inputs,
        "checkpoint": link_model(base, model),
        "latent": [IMAGES, LATENT_CHANNELS.get(model, 4), size, size],
        "width": width,
        "pooled": pooled,
        "tokens": TOKENS,
        "packs": [] if side in PEERS else [str(ROOT)],
        "diffs": setting.diffs,
        "threads": setting.threads,
    }
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ["COMFYUI_BASE_DIRECTORY"] = str(base)
    done = subprocess.run(
        [str(install.python), str(CHILD), str(install.folder), str(base), json.dumps(wanted)],
        check=False, cwd=base, env=environ, text=True, capture_output=True, timeout=LIMIT,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{model}, {side}: the training failed.\n{done.stderr[-3000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    if len(told["clock"]) != setting.steps or not all(map(math.isfinite, told["loss"])):
        raise RuntimeError(f"{model}, {side}: {len(told['clock'])} steps, with losses {told['loss']}")
    return Ran(
        _step(told["clock"]), _step(told["cpu"]), told["peak"] - told["before"], told["peak"],
        told["trained"], tuple(told["layers"]), told["rows"],
    )  # fmt: skip


def _step(ends: list[float]) -> float:
    return statistics.median(after - before for before, after in itertools.pairwise(ends[WARM - 1 :]))


def _common(setting: Setting) -> dict[str, Any]:
    return {
        "steps": setting.steps, "batch_size": setting.batch, "learning_rate": 1e-4, "rank": setting.rank,
        "seed": 1,
    }  # fmt: skip


def _ours(side: str, setting: Setting) -> tuple[str, dict[str, Any]]:
    targets = "attention" if side == ATTENTION else "all"
    chosen = {"alpha": 1.0, "targets": targets, "optimiser": "adamw", "recompute": setting.recompute}
    return "RealismTrainLoRA", {**_common(setting), **chosen, "precision": "fp32"}


def _theirs(side: str, setting: Setting) -> tuple[str, dict[str, Any]]:
    return "TrainLoraNode", {
        **_common(setting), "grad_accumulation_steps": 1, "optimizer": "AdamW", "loss_function": "MSE",
        "training_dtype": "fp32", "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA",
        "gradient_checkpointing": setting.recompute, "checkpoint_depth": 1, "offloading": False,
        "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": side == BYPASS,
    }  # fmt: skip
