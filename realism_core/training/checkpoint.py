"""Checkpoints of a training: one safetensors file, replaced whole, read with distrust."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..tensor_files import read_tensors, write_tensors

FORMAT, VERSION = "realism-training", "1"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, or cannot be gone on from."""


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and JSON-ready state; the file that was there stays until the new one is on disk.

    Raises CheckpointError where the disk is full or cannot be written; the file that was there is then
    whole.
    """
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "version": VERSION, "state": json.dumps(state)}
    try:
        write_tensors(path, copies, metadata, overwrite=True)
    except (OSError, ValueError) as error:
        kept = " The checkpoint before it is whole." if path.is_file() else ""
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckpointError(f"the checkpoint {path} cannot be written: {text}.{kept}") from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, on the CPU, and the state of a checkpoint.

    Raises CheckpointError for a missing, damaged or foreign file; pickles are refused unread.
    """
    try:
        tensors, metadata = read_tensors(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"resume: {error} Or start anew without resume.") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"resume: {path} is no checkpoint of this trainer: a LoRA alone lacks the optimiser's state. "
            "Choose the checkpoint that the training wrote."
        )
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"resume: {path} is of format version {metadata.get('version')}, this trainer reads {VERSION}: "
            "go on with the version of the pack that wrote it, or start anew without resume."
        )
    return tensors, json.loads(metadata["state"])


def clear_parts(path: Path) -> None:
    """Remove the unfinished files that a killed run left beside a checkpoint."""
    if path.parent.is_dir():
        for part in path.parent.iterdir():
            if part.name.startswith(path.name + ".") and part.suffix == ".part":
                with contextlib.suppress(OSError):
                    part.unlink()


def check_settings(saved: Mapping[str, Any], current: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless both settings agree, naming the first that does not.

    "layers" among them holds the fingerprints of the base model's layers by path.
    """
    saved, current = dict(saved), json.loads(json.dumps(current))
    before, now = saved.pop("layers", {}), current.pop("layers", {})
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            raise CheckpointError(
                f"resume: {path} was trained on another model or other layers: {name} is not what it was. "
                "Connect that model and choose those targets, or start anew without resume."
            )
    same_images = saved.pop("images", None) == current.pop("images", None)
    before, now = _flat(saved), _flat(current)
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            raise CheckpointError(
                f"resume: {name} was {before.get(name)!r} when {path} was written and is "
                f"{now.get(name)!r} now: set it back, or start anew without resume."
            )
    if not same_images:
        raise CheckpointError(
            "resume: latents, prompts, attributes, masks, image weights or held_out are not what they were "
            f"when {path} was written: connect the same again, in the same order, or start anew without "
            "resume."
        )


def optimiser_state(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return an optimiser's state as tensors named "<weight's number>.<name>" and its plain numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, values in optimiser.state_dict()["state"].items():
        numbers[str(index)] = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[str(index)][name] = value
    return tensors, numbers


def restore_optimiser(
    optimiser: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Mapping[str, Any]]
) -> None:
    """Give an optimiser the state that `optimiser_state` returned."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in numbers.items()}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state[int(index)][name] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
