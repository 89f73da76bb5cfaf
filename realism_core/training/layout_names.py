"""What the layers of a model are called in LoRA files of each layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .layout_transformers import Rows, Shapes, flux_pieces, sd3_pieces
from .layout_unet import unet_names

LAYOUTS = ("comfyui", "kohya", "diffusers")
# the endings of a layer's two matrices, in files of different ages and programs
KOHYA = (".lora_down.weight", ".lora_up.weight")
PEFT = (".lora_A.weight", ".lora_B.weight")
PROCESSOR = ("_lora.down.weight", "_lora.up.weight")
DOTTED = (".lora.down.weight", ".lora.up.weight")
LINEAR = (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
ENDINGS = (KOHYA, PEFT, PROCESSOR, DOTTED, LINEAR)

_CLIP_PLACE = r"text_model\.encoder\.layers\.\d+\."
_CLIP_LAYER = _CLIP_PLACE + r"(mlp\.fc[12]|self_attn\.(q|k|v|out)_proj)"
_DIFFUSERS_ATTENTION = r"unet\..+\.attn[12]\.to_(q|k|v|out\.0)"


class Name(NamedTuple):
    """A layer, or some of its output rows (None: all), in a file: what its keys begin and end with."""

    stem: str
    rows: Rows | None
    endings: tuple[str, str]


def is_text(path: str) -> bool:
    """Return whether a layer is one of a text encoder: clip_l.transformer..., t5xxl.transformer... ."""
    return path.split(".", 2)[1:2] == ["transformer"]


def family(shapes: Shapes) -> str:
    """Return sd (1 and 2), sdxl (and its distillations), sd3, flux or other, told by the layers' paths."""
    if "input_blocks.0.0" in shapes:
        return "sdxl" if "label_emb.0.0" in shapes else "sd"
    for start, name in (("joint_blocks.", "sd3"), ("double_blocks.", "flux")):
        if any(path.startswith(start) for path in shapes):
            return name
    return "other"


def names_written(layout: str, shapes: Shapes) -> dict[str, tuple[Name, ...]]:
    """Return the names of a model's layers in files of a layout, without layers that it has no name for.

    shapes: the weights [out,in,...] of all layers of the model by their paths. Each name is one that
    ComfyUI's LoRA loader knows, and for kohya and diffusers one that those programs know.
    """
    writer = {"comfyui": _comfyui, "kohya": _kohya, "diffusers": _diffusers}[layout]
    return writer(shapes)


def names_read(layout: str, shapes: Shapes) -> dict[str, tuple[str, Rows | None]]:
    """Return for every name that a layer or a part of it may have in a layout its path and rows."""
    names = {
        name.stem: (path, name.rows)
        for path, written in names_written(layout, shapes).items()
        for name in written
    }
    if layout == "diffusers":
        return {plain(stem): place for stem, place in names.items()}
    if layout == "kohya":
        for path in shapes:
            if not is_text(path):  # kohya's own names for SDXL, ComfyUI's for all
                names.setdefault(_flat("lora_unet", path), (path, None))
        for path, name in unet_names(shapes).items():
            names.setdefault(_flat("lora_unet", name), (path, None))
        for path in shapes:
            if is_text(path) and _encoder(path) == "clip_l":
                for prefix in ("lora_te", "lora_te1"):
                    names.setdefault(_flat(prefix, _within(path)), (path, None))
    return names


def plain(stem: str) -> str:
    """Return a name of the diffusers layout without what only older versions of diffusers put into it."""
    stem = stem.replace(".processor.", ".")
    return f"{stem}.0" if stem.endswith(".to_out") else stem


def layout_of_stem(stem: str) -> str | None:
    """Return the layout that a key belongs to by its beginning, None if to none."""
    for layout, starts in (
        ("comfyui", ("diffusion_model.", "text_encoders.")),
        ("kohya", ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_")),
        ("diffusers", ("unet.", "transformer.", "text_encoder.", "text_encoder_2.")),
    ):
        if stem.startswith(starts):
            return layout
    return None


def _comfyui(shapes: Shapes) -> dict[str, tuple[Name, ...]]:
    return {
        path: (Name(("text_encoders." if is_text(path) else "diffusion_model.") + path, None, KOHYA),)
        for path in shapes
    }


def _kohya(shapes: Shapes) -> dict[str, tuple[Name, ...]]:
    """Names of kohya's: for SD 1 and 2 those of diffusers, for every later model those of its makers."""
    names = {}
    as_diffusers = unet_names(shapes) if family(shapes) == "sd" else {path: path for path in shapes}
    prefixes = _kohya_encoders(shapes)
    for path in shapes:
        if not is_text(path):
            prefix, name = "lora_unet", as_diffusers.get(path)
        else:
            prefix, name = prefixes.get(_encoder(path)), _within(path)
            projection = name == "text_projection" and prefix in ("lora_te1", "lora_te2")
            if not (projection or re.fullmatch(_CLIP_LAYER, name) or _encoder(path) == "t5xxl"):
                continue
        if prefix and name:
            names[path] = (Name(_flat(prefix, name), None, KOHYA),)
    return names


def _kohya_encoders(shapes: Shapes) -> dict[str, str]:
    """Return the beginnings of kohya's names for the text encoders of a model."""
    encoders = _encoders(shapes)
    alone = family(shapes) in ("sd", "other") and not encoders & {"clip_g", "t5xxl"}
    prefixes = {"clip_h": "lora_te", "clip_l": "lora_te" if alone else "lora_te1"}
    prefixes["clip_g"] = "lora_te2" if "clip_l" in encoders else "lora_te"
    if "clip_l" in encoders:
        prefixes["t5xxl"] = "lora_te3"
    return prefixes


def _diffusers(shapes: Shapes) -> dict[str, tuple[Name, ...]]:
    names: dict[str, tuple[Name, ...]] = {}
    kind = family(shapes)
    if kind in ("sd", "sdxl"):
        for path, name in unet_names(shapes).items():
            stem = f"unet.{name}"
            if re.fullmatch(_DIFFUSERS_ATTENTION, stem):
                # the only names for attention that both ComfyUI and every version of diffusers know
                stem = stem.removesuffix(".0").replace(".to_", ".processor.to_")
                names[path] = (Name(stem, None, PROCESSOR),)
            else:
                names[path] = (Name(stem, None, DOTTED),)
    pieces: Callable | None = {"sd3": sd3_pieces, "flux": flux_pieces}.get(kind)
    if pieces:
        for path, made in pieces(shapes).items():
            names[path] = tuple(Name(f"transformer.{name}", rows, PEFT) for name, rows in made)
    second = "clip_l" in _encoders(shapes)
    for path in shapes:
        if is_text(path) and re.fullmatch(_CLIP_LAYER, _within(path)):
            prefix = "text_encoder_2" if second and _encoder(path) == "clip_g" else "text_encoder"
            names[path] = (Name(f"{prefix}.{_within(path)}", None, PEFT),)
    return names


def _encoder(path: str) -> str:
    return path.split(".", 1)[0]


def _encoders(shapes: Shapes) -> set[str]:
    return {_encoder(path) for path in shapes if is_text(path)}


def _within(path: str) -> str:
    """Return the path of a text encoder's layer within the encoder."""
    return path.split(".", 2)[2]


def _flat(prefix: str, name: str) -> str:
    return f"{prefix}_{name.replace('.', '_')}"
