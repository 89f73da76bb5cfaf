"""LoRA weights in the key layouts of ComfyUI, kohya's sd-scripts and diffusers.

Our own form, the state of a trained LoRA, names every layer by its path within ComfyUI's diffusion model,
or within its text encoders (clip_l.transformer.text_model...):

    <path>.lora_A.weight   [rank,in] or [rank,in,kh,kw]
    <path>.lora_B.weight   [out,rank] or [out,rank,1,1]
    <path>.alpha           a scalar; the update of the weight is (alpha / rank) * lora_B @ lora_A
    <path>.dora_scale      with DoRA only: the magnitudes that the updated weight is brought to
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from .layout_adapters import Adapter, fitted, fused, piece, unscaled
from .layout_names import ENDINGS, LAYOUTS, family, layout_of_stem, names_read, names_written, plain
from .layout_transformers import Rows, Shapes

__all__ = ["LAYOUTS", "from_layout", "layout_of", "to_layout"]

_MEANING = {ending: half for pair in ENDINGS for ending, half in zip(pair, ("down", "up"), strict=True)}
_MEANING |= {".alpha": "alpha", ".dora_scale": "dora_scale"}


def to_layout(state: Mapping[str, Tensor], layout: str, shapes: Shapes) -> dict[str, Tensor]:
    """Return the tensors of a LoRA file in a layout; bit for bit those of the state, but for diffusers.

    state: our own form. layout: one of LAYOUTS. shapes: the weights [out,in,...] of ALL layers of the model
    that the LoRA is for, by their paths; they tell what the model is. diffusers has no alpha: its factor is
    multiplied into the second matrix. And it splits the joint layers of SD3 and Flux into several, each with
    a copy of the first matrix. Raises ValueError for layers that the model does not have or the layout cannot
    name, and for DoRA in diffusers, naming the layer.
    """
    _check_layout(layout)
    adapters = _adapters(state, shapes)
    names = names_written(layout, shapes)
    unnamed = [path for path in adapters if path not in names]
    if unnamed:
        raise ValueError(_no_name(layout, unnamed, shapes))
    tensors: dict[str, Tensor] = {}
    for path, adapter in adapters.items():
        if layout == "diffusers":
            if adapter.dora_scale is not None:
                raise ValueError(
                    f"{path} is trained with DoRA, which ComfyUI does not read from the layout diffusers: "
                    "save in the layout comfyui or kohya."
                )
            adapter = unscaled(adapter)
        for name in names[path]:
            part = adapter if name.rows is None else piece(adapter, name.rows)
            tensors[name.stem + name.endings[0]] = part.down
            tensors[name.stem + name.endings[1]] = part.up
            if layout != "diffusers":
                tensors[name.stem + ".alpha"] = part.alpha
            if part.dora_scale is not None:
                tensors[name.stem + ".dora_scale"] = part.dora_scale
    return tensors


def from_layout(tensors: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """Return the state, in our own form, of the tensors of a LoRA file in any of the layouts.

    shapes: the weights [out,in,...] of ALL layers of the model, by their paths. Where a layout splits a
    layer into several, these become one again: their ranks add up, unless they share their first matrix.
    Memory is shared with the tensors given where nothing has to change. Raises ValueError for files that are
    no LoRA, hold other kinds of weights than LoRA and DoRA, or are for another model, naming the layer.
    """
    layout = layout_of(tensors)
    names = names_read(layout, shapes)
    found: dict[str, list[tuple[str, Rows | None, Adapter]]] = defaultdict(list)
    for stem, adapter in sorted(_read(tensors).items()):
        place = names.get(plain(stem) if layout == "diffusers" else stem)
        if place is None:
            raise ValueError(f"the model has no layer {stem}: the LoRA was made for another model.")
        path, rows = place
        shape = shapes[path]
        outputs = shape[0] if rows is None else sum(end - first for first, end in rows)
        found[path].append((stem, rows, fitted(adapter, shape, outputs, stem)))
    state: dict[str, Tensor] = {}
    for path, parts in found.items():
        taken = sorted(span for _, rows, _ in parts for span in rows or ((0, shapes[path][0]),))
        if any(end > first for (_, end), (first, _) in zip(taken, taken[1:], strict=False)):
            raise ValueError(f"{path} is there twice: as {' and as '.join(stem for stem, _, _ in parts)}.")
        if parts[0][1] is None:
            adapter = parts[0][2]
        else:
            for stem, _, part in parts:
                if part.dora_scale is not None:
                    raise ValueError(
                        f"{stem}.dora_scale is for a part of the layer {path}: DoRA of parts cannot be read."
                    )
            adapter = fused([(rows, part) for _, rows, part in parts if rows], shapes[path][0])
        state.update(_state(path, adapter))
    return state


def layout_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the layout of a LoRA file, told by the beginnings of its keys.

    Raises ValueError for none, for a layout that is not one of LAYOUTS, and for two layouts in one file.
    """
    if not tensors:
        raise ValueError("the file holds no weights at all: it is not a LoRA.")
    found: dict[str, str] = {}
    for key in tensors:
        layout = layout_of_stem(key)
        if layout is None:
            raise ValueError(
                f"{key} is no key of a LoRA file in one of the layouts {', '.join(LAYOUTS)}: "
                "choose a LoRA for a diffusion model."
            )
        found.setdefault(layout, key)
    if len(found) > 1:
        keys = " and ".join(f"{key} ({layout})" for layout, key in found.items())
        raise ValueError(f"the file mixes layouts: {keys}. Save it again in one of them.")
    return next(iter(found))


def _check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; use one of {', '.join(LAYOUTS)}.")


def _adapters(state: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Adapter]:
    """Return the adapters of a state by layer, checked."""
    if not state:
        raise ValueError("the LoRA has no layers: there is nothing to save.")
    adapters = {}
    for path, adapter in _read(state).items():
        if path not in shapes:
            raise ValueError(f"the model has no layer {path}: the LoRA was made for another model.")
        adapters[path] = fitted(adapter, shapes[path], shapes[path][0], path)
    return adapters


def _read(tensors: Mapping[str, Tensor]) -> dict[str, Adapter]:
    """Return the adapters of a file or a state by what their keys begin with."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        ending = next((ending for ending in _MEANING if key.endswith(ending)), None)
        if ending is None:
            raise ValueError(
                f"{key} belongs to another kind of adapter than LoRA and DoRA: it cannot be read."
            )
        parts[key.removesuffix(ending)][_MEANING[ending]] = tensor
    adapters = {}
    for stem, part in parts.items():
        for half in ("down", "up"):
            if half not in part:
                raise ValueError(f"{stem} lacks its matrix '{half}': the LoRA is incomplete.")
        alpha = part.get("alpha")
        if alpha is None:
            alpha = torch.tensor(float(len(part["down"])), device=part["down"].device)
        adapters[stem] = Adapter(part["down"], part["up"], alpha, part.get("dora_scale"))
    return adapters


def _state(path: str, adapter: Adapter) -> dict[str, Tensor]:
    state = {
        f"{path}.lora_A.weight": adapter.down,
        f"{path}.lora_B.weight": adapter.up,
        f"{path}.alpha": adapter.alpha,
    }
    if adapter.dora_scale is not None:
        state[f"{path}.dora_scale"] = adapter.dora_scale
    return state


def _no_name(layout: str, paths: list[str], shapes: Shapes) -> str:
    listed = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    if layout == "diffusers" and family(shapes) == "other":
        return (
            "the layout diffusers is known for Stable Diffusion 1 to 3, SDXL and Flux 1, not for the model "
            f"with the layers {listed}: save in the layout comfyui."
        )
    return f"the layout {layout} has no name for {listed}: save in the layout comfyui."
