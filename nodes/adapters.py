"""The token adapter in prompts: RealismLoadAdapter, RealismSaveAdapter, and what Realism Conditioner does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..realism_core.conditioning.adapter import Conditions, TokenAdapter
from ..realism_core.conditioning.adapter_file import AdapterFile, load_adapter, save_adapter
from ..realism_core.conditioning.attributes import FaceAttributes
from ..realism_core.conditioning.masks import SemanticMask
from .comfy import io, model_folder, model_names, model_path, schema, show_text
from .naming import named_path
from .sockets import Adapter

KIND = "realism_adapters"
# what a conditioning says of an adapter's tokens in it, for Realism Adapter Guidance
KEY = "realism_adapter"
_MOST = 4.0  # of a strength


@dataclass(frozen=True, eq=False)
class Appended:
    """Where a conditioning has an adapter's tokens, and their null [N,width].

    attributes: how many are of the attributes. channels: whether the mask is beside the latent.
    """

    start: int
    null: Tensor
    attributes: int
    channels: bool


def apply_adapter(
    adapter: AdapterFile,
    positive: Sequence[list],
    negative: Sequence[list] | None,
    attributes: FaceAttributes | None,
    mask: SemanticMask | None,
    attribute_strength: float = 1.0,
    mask_strength: float = 1.0,
) -> tuple[list, list | None]:
    """Return positive with the adapter's tokens behind its words, negative with as many null tokens.

    All parts of a combined prompt get them; what else the prompts hold is kept. A mask of B pictures makes a
    batch of B. Raises ValueError, naming the input and the fix, for prompts of another width, for batches
    that do not fit, for strengths out of range and for what the adapter was not trained with.
    """
    module = adapter.adapter
    for name, strength in (("attribute_strength", attribute_strength), ("mask_strength", mask_strength)):
        if not (math.isfinite(strength) and 0 <= strength <= _MOST):
            raise ValueError(f"{name} is {strength}: use a number from 0 to {_MOST:g}.")
    if attributes is not None and module.attributes is None:
        raise ValueError("adapter: it was trained without attributes: disconnect them, or load another.")
    values = None
    if attributes is not None and attributes.strengths:
        values = attributes.values()[None].to(module.device)
    count = 1 if mask is None else len(mask)
    with torch.inference_mode(False), torch.no_grad():
        planes = None if mask is None else module.planes(mask).to(module.device)
        made = module(values, planes, count, attribute_strength, mask_strength)
        size = (64, 64) if mask is None else _shaped(mask.size)
        said = [_behind(part, made, module, "positive", size) for part in positive]
        null = Conditions(made.null[None], made.null, _first(made.null_channels), made.null_channels)
        if negative is None:
            return said, None
        return said, [_behind(part, null, module, "negative", size) for part in negative]


def appended(plain: dict, made: Conditions, size: tuple[int, int]) -> dict:
    """Return a conditioning, its words as "cross_attn" [B,T,width], with the tokens [B,N,width] behind them.

    size: height and width that the channels are brought to, for an adapter that has some.
    """
    words = plain["cross_attn"]
    whole = torch.cat([words.to(made.tokens.device, torch.float32), made.tokens], 1)
    longer = {**plain, "cross_attn": whole}
    heeded = plain.get("attention_mask")
    if isinstance(heeded, Tensor) and heeded.shape[-1] == words.shape[1]:
        more = heeded.new_ones(*heeded.shape[:-1], made.tokens.shape[1])
        longer["attention_mask"] = torch.cat([heeded, more], -1)
    if made.channels is not None:
        beside = interpolate(made.channels, size, mode="bilinear", align_corners=False)
        longer["concat_latent_image"] = beside
        longer["concat_mask"] = torch.ones_like(beside[:, :1])
    return longer


def check_width(words: Tensor | None, width: int, name: str) -> None:
    """Raise ValueError with the fix unless words [B,T,width] are as wide as the adapter's tokens."""
    if words is None:
        raise ValueError(
            f"{name} holds no words: this model has no cross-attention that tokens could be added to. Use "
            "a model with text prompts."
        )
    if words.shape[-1] != width:
        raise ValueError(
            f"adapter: its tokens have {width} numbers, the words of {name} have {words.shape[-1]}: it was "
            "trained for another kind of model. Load an adapter for this one, or train one."
        )


def _behind(
    part: Sequence[Any], made: Conditions, module: TokenAdapter, name: str, size: tuple[int, int]
) -> list:
    words, extras = part[0], part[1]
    check_width(words, module.config.context, name)
    if KEY in extras:
        raise ValueError(f"{name} has the tokens of an adapter already: use one adapter.")
    if made.channels is not None and "concat_latent_image" in extras:
        raise ValueError(
            f"{name} brings a picture for the model's further channels, which this adapter uses for the "
            "mask: use a prompt without it, or an adapter with mask tokens."
        )
    count = max(len(words), len(made.tokens))
    if {len(words), len(made.tokens)} - {1, count}:
        raise ValueError(
            f"mask has {len(made.tokens)} pictures, {name} has {len(words)} prompts: give one, or as many."
        )
    fitting = Conditions(
        made.tokens.to(words.device).expand(count, -1, -1), made.null,
        None if made.channels is None else made.channels.to(words.device).expand(count, -1, -1, -1),
    )  # fmt: skip
    plain = {**extras, "cross_attn": words.expand(count, -1, -1)}
    longer = appended(plain, fitting, size)
    pooled = longer.get("pooled_output")
    if isinstance(pooled, Tensor) and len(pooled) == 1 < count:
        longer["pooled_output"] = pooled.expand(count, *pooled.shape[1:])
    longer[KEY] = Appended(
        words.shape[1], made.null.cpu(), module.config.counts[0], made.channels is not None
    )
    longer.setdefault("cross_attn_controlnet", plain["cross_attn"])  # ControlNets know no such tokens
    return [longer.pop("cross_attn"), longer]


def _first(channels: Tensor | None) -> Tensor | None:
    return None if channels is None else channels[None]


def _shaped(size: tuple[int, int]) -> tuple[int, int]:
    """Return a size of the same aspect whose shorter side is 64."""
    short = min(size)
    return round(size[0] * 64 / short), round(size[1] * 64 / short)


def free_file(name: str, steps: int) -> Path:
    """Return a free file for an adapter of so many steps, among those that Load Adapter lists."""
    number = 1
    while (path := model_folder(KIND) / f"{name}_{steps}_steps_{number:05}_.safetensors").exists():
        number += 1
    return path


class RealismLoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismLoadAdapter",
            display_name="Load Realism Adapter",
            category="realism/face",
            description=(
                "Loads an adapter for face attributes and masks from models/realism_adapters, made by "
                "Realism Train Adapter. One for other attributes or classes is refused with the reason."
            ),
            search_aliases=["token adapter", "face control", "semantic mask"],
            inputs=[
                io.Combo.Input(
                    "name", options=model_names(KIND),
                    tooltip="The adapter. Those that were saved since appear after a refresh (press R).",
                )
            ],
            outputs=[
                Adapter.Output(display_name="adapter", tooltip="For Realism Conditioner."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, name) -> str:
        path = model_path(KIND, name)
        return f"{name} {path.stat().st_mtime_ns if path else 0}"

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        path = model_path(KIND, name)
        if path is None:
            raise ValueError(
                f"name {name!r} is no adapter in models/realism_adapters: train one, or choose another."
            )
        loaded = load_adapter(path)
        show_text(cls.hidden.unique_id, described(loaded))
        return io.NodeOutput(loaded)


class RealismSaveAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="RealismSaveAdapter",
            display_name="Save Realism Adapter",
            category="realism/face",
            description=(
                "Saves a trained adapter to models/realism_adapters as safetensors, with its attributes and "
                "classes and how it was trained, for Load Realism Adapter."
            ),
            search_aliases=["export adapter", "token adapter"],
            is_output_node=True,
            inputs=[
                Adapter.Input("adapter", tooltip="The adapter, from Realism Train Adapter."),
                io.String.Input("name", default="my faces", tooltip="The adapter's file name."),
                io.Boolean.Input(
                    "overwrite", default=False, tooltip="Replace an adapter of the same name."
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where the file is.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, adapter, name, overwrite) -> io.NodeOutput:
        path = named_path(KIND, name.strip(), ".safetensors")
        save_adapter(path, adapter.adapter, adapter.about, overwrite=overwrite)
        show_text(cls.hidden.unique_id, str(path))
        return io.NodeOutput(str(path), ui={"text": (str(path),)})


def described(loaded: AdapterFile) -> str:
    """Return in words what an adapter is for."""
    config = loaded.adapter.config
    return (
        f"attributes: {config.attributes}, mask: {config.mask}; for models whose words have {config.context} "
        "numbers"
    )


NODES = [RealismLoadAdapter, RealismSaveAdapter]
