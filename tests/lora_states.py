"""Random LoRAs, and the shapes of the layers of models that they are for."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from safetensors import safe_open
from torch import Tensor

from tests.tiny_layouts import UNET
from tests.tiny_models import CLIP, tiny_checkpoint

Shapes = dict[str, tuple[int, ...]]
ATTENTION = re.compile(r".*(\.to_(q|k|v|out\.0)|attn2?\.(qkv|proj)|single_blocks\.\d+\.linear[12])")


def tiny_shapes(kind: str) -> Shapes:
    """Return the weights' shapes of the layers of a tiny checkpoint, by the paths that ComfyUI gives them."""
    prefixes = {UNET: ""}
    if kind in CLIP:
        prefixes[CLIP[kind]] = "clip_l.transformer.text_model."
    shapes = {}
    with safe_open(tiny_checkpoint(kind), "pt") as file:
        for key in sorted(file.keys()):
            for prefix, path in prefixes.items():
                if key.startswith(prefix) and key.endswith(".weight"):
                    shapes[path + key[len(prefix) : -len(".weight")]] = tuple(file.get_slice(key).get_shape())
    return shapes


def layers(shapes: Shapes, pattern: re.Pattern = re.compile(".*")) -> list[str]:
    """Return the linear layers and convolutions whose paths a pattern matches as a whole."""
    return [
        path
        for path, shape in shapes.items()
        if len(shape) in (2, 4) and "embedding" not in path and pattern.fullmatch(path)
    ]


def random_state(
    shapes: Shapes, paths: Iterable[str], rank: int, alpha: float, seed: int, size: float = 1.0
) -> dict[str, Tensor]:
    """Return the state of a random LoRA on some layers; its update's values have deviation `size`."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for path in paths:
        shape = shapes[path]
        state[f"{path}.lora_A.weight"] = torch.randn(rank, *shape[1:], generator=random)
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=random)
        state[f"{path}.lora_B.weight"] = up * (size * rank**0.5 / alpha)
        state[f"{path}.alpha"] = torch.tensor(float(alpha))
    return state


def deltas(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the update [out,in,...] of every layer of a state, in float64: the definition of a LoRA."""
    made = {}
    for path in {key.rsplit(".lora_", 1)[0] for key in state if ".lora_" in key}:
        down, up = state[f"{path}.lora_A.weight"].double(), state[f"{path}.lora_B.weight"].double()
        product = torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1))
        made[path] = (product * float(state[f"{path}.alpha"]) / len(down)).reshape(len(up), *down.shape[1:])
    return made
