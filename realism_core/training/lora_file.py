"""LoRA files: safetensors in the layouts of ComfyUI, kohya and diffusers, with metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..tensor_files import read_tensors, write_tensors
from .layout_transformers import Shapes
from .layouts import from_layout, layout_of, to_layout

__all__ = ["LoraFile", "load_lora", "read_tensors", "save_lora", "write_tensors"]


class LoraFile(NamedTuple):
    """A LoRA file's state in our own form (layouts.py), its metadata and the layout that it had."""

    state: dict[str, Tensor]
    metadata: dict[str, str]
    layout: str


def save_lora(
    path: Path,
    state: Mapping[str, Tensor],
    layout: str,
    shapes: Shapes,
    metadata: Mapping[str, str],
    *,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write a LoRA's state (layouts.py) as a safetensors file in a layout, atomically.

    shapes: the weights [out,in,...] of all layers of the model, by their paths. metadata: texts, see
    metadata.py; realism.layout is added. dtype: of the matrices in the file, None: as they are. Raises
    FileExistsError where the file is there and overwrite is False; ValueError for weights that are not
    finite (in dtype), naming the key, and for what the layout cannot hold; OSError if it cannot be written.
    """
    tensors = to_layout(state, layout, shapes)
    if dtype is not None:
        tensors = {
            key: tensor if key.endswith(".alpha") else tensor.to(dtype) for key, tensor in tensors.items()
        }
    write_tensors(path, tensors, {**metadata, "realism.layout": json.dumps(layout)}, overwrite=overwrite)


def load_lora(path: Path, shapes: Shapes) -> LoraFile:
    """Return a LoRA file of any layout; the matrices in float32, on the processor.

    shapes: as for save_lora. Raises ValueError for files that cannot be read, are no LoRA or one for
    another model, naming the file and, where there is one, the layer; FileNotFoundError for no file.
    """
    tensors, metadata = read_tensors(path)
    try:
        state = from_layout({key: tensor.float() for key, tensor in tensors.items()}, shapes)
        return LoraFile(state, metadata, layout_of(tensors))
    except ValueError as reason:
        raise ValueError(f"{path.name}: {reason}") from None
