"""What diffusers calls the layers of a UNet (Stable Diffusion 1 and 2, SDXL and its distillations)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_BLOCK = r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(.+)"
_RESNET = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_SAMPLER = {"op": "downsamplers", "conv": "upsamplers"}
_OUTSIDE = {
    "input_blocks.0.0": "conv_in",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}


def unet_names(paths: Iterable[str]) -> dict[str, str]:
    """Return diffusers' name of every layer of a UNet that diffusers has a name for.

    paths: the layers of the whole UNet by their paths in ComfyUI's model: levels are told by where the
    samplers between them stand, so that a list with gaps gives wrong names. Norms are left out.
    """
    names = {path: _OUTSIDE[path] for path in paths if path in _OUTSIDE}
    sides: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        found = re.fullmatch(_BLOCK, path)
        if found and path not in _OUTSIDE:
            sides[found[1]][int(found[2])].append(found[3])
    for side, there in (("input_blocks", "down_blocks"), ("output_blocks", "up_blocks")):
        level = place = 0
        for block, parts in sorted(sides[side].items()):
            samples = False
            for part in parts:
                inner = part.partition(".")[2]
                name = _inner(inner, place)
                if inner in _SAMPLER:
                    samples, name = True, f"{_SAMPLER[inner]}.0.conv"
                if name:
                    names[f"{side}.{block}.{part}"] = f"{there}.{level}.{name}"
            place += 1
            if samples:
                level, place = level + 1, 0
    resnets = attentions = 0
    for block, parts in sorted(sides["middle_block"].items()):  # one residual block or transformer each
        resnet = any(part in _RESNET for part in parts)
        for part in parts:
            name = _inner(part, resnets if resnet else attentions)
            if name:
                names[f"middle_block.{block}.{part}"] = f"mid_block.{name}"
        resnets, attentions = resnets + resnet, attentions + (not resnet)
    return names


def _inner(inner: str, place: int) -> str | None:
    """Return the name within its level of a layer of a residual block or of a transformer."""
    if inner in _RESNET:
        return f"resnets.{place}.{_RESNET[inner]}"
    if inner in ("proj_in", "proj_out") or re.fullmatch(r"transformer_blocks\.\d+\.(attn|ff).+", inner):
        return f"attentions.{place}.{inner}"
    return None
