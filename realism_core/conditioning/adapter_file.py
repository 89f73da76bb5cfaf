"""Adapter files: safetensors that say which attributes and classes they were trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..tensor_files import read_tensors, write_tensors
from .adapter import AdapterConfig, TokenAdapter
from .vocabulary import CLASS_NAMES, NAMES

FORMAT, VERSION = "realism-adapter", "1"
VOCABULARY = {"attributes": NAMES, "classes": CLASS_NAMES}


class AdapterFile(NamedTuple):
    """An adapter, ready to be used, and how it was trained, as its file says."""

    adapter: TokenAdapter
    about: dict[str, Any]


def save_adapter(
    path: Path, adapter: TokenAdapter, about: Mapping[str, Any] | None = None, *, overwrite: bool = False
) -> None:
    """Write an adapter with its vocabulary and configuration, atomically.

    about: JSON-ready, how it was trained. Raises as `tensor_files.write_tensors` does.
    """
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "realism.config": json.dumps(asdict(adapter.config)),
        "realism.vocabulary": json.dumps(VOCABULARY),
        "realism.about": json.dumps(dict(about or {}), allow_nan=False, ensure_ascii=False),
    }
    write_tensors(path, adapter.state_dict(), metadata, overwrite=overwrite)


def load_adapter(path: Path) -> AdapterFile:
    """Return the adapter of a file, in float32 on the processor, without gradients.

    Raises ValueError, naming the file and why, for what is no adapter, for other attributes or classes than
    this version has, and for damaged files; FileNotFoundError for no file.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path.name} is no adapter of this pack: choose a file from Realism Train Adapter.")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"{path.name} is of format version {metadata.get('version')}, this pack reads {VERSION}: use the "
            "version of the pack that wrote it, or train again."
        )
    for kind, known in VOCABULARY.items():
        _check_names(path.name, kind, _json(path, metadata, "realism.vocabulary").get(kind), known)
    about = _json(path, metadata, "realism.about")
    values = _json(path, metadata, "realism.config")
    if set(values) != {field.name for field in fields(AdapterConfig)}:
        raise ValueError(f"{path.name} is damaged: its configuration has {', '.join(values) or 'nothing'}.")
    try:
        config = AdapterConfig(**values)
    except ValueError as reason:
        raise ValueError(f"{path.name} is damaged: {reason}") from None
    return AdapterFile(_filled(path.name, config, tensors), about)


def _filled(name: str, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> TokenAdapter:
    # without memory until the file is known to hold what it says
    with torch.inference_mode(False), torch.device("meta"):
        adapter = TokenAdapter(config)
    wanted = {key: tuple(tensor.shape) for key, tensor in adapter.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if wrong := sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key)):
        key = wrong[0]
        raise ValueError(
            f"{name} is damaged: {key} has the shape {found.get(key)}, its configuration says "
            f"{wanted.get(key)}. Copy or download it again."
        )
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise ValueError(f"{name} is damaged: {key} holds NaN, infinite values or no numbers at all.")
    with torch.inference_mode(False):
        plain = {key: tensor.to(torch.float32, copy=True) for key, tensor in tensors.items()}
        adapter.load_state_dict(plain, assign=True)
    return adapter.requires_grad_(False).train(False)


def _json(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is damaged: its metadata {key} is missing or no JSON.")
    return value


def _check_names(file: str, kind: str, found: Any, known: Sequence[str]) -> None:
    if found == list(known):
        return
    found = found if isinstance(found, list) else []
    place = next((n for n, (a, b) in enumerate(zip(found, known, strict=False)) if a != b), None)
    if place is None:
        differs = f"it has {len(found)}, this pack has {len(known)}"
    else:
        differs = f"number {place} is {str(found[place])[:40]!r} there and {known[place]!r} here"
    raise ValueError(
        f"{file} was trained on other {kind}: {differs}. Its tokens would mean other things: use an adapter "
        "for CelebA's attributes and CelebAMask-HQ's classes."
    )
