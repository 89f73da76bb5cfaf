"""The adapter to ComfyUI: the only file that touches comfy.*, folder_paths and the executor."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import ComfyExtension, io, ui
from comfy_execution.graph_utils import ExecutionBlocker

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


class Progress:
    """A progress bar on the running node that also lets Cancel through."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)

    def step(self, done: int = 1) -> None:
        """Advance; raises ComfyUI's interrupt if the user pressed Cancel."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update(done)


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


def next_output(prefix: str, width: int, height: int) -> tuple[Path, str, int, str]:
    """Return (folder, base name, next number, subfolder) for files saved under a prefix; the folder exists.

    Raises ValueError when the prefix leads out of the output folder.
    """
    root = str(output_folder())
    resolve(prefix, "filename_prefix", [root])
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, root, width, height)
    return Path(folder), name, counter, subfolder


def resolve(path: str, name: str, roots: Iterable[str] | None = None) -> Path:
    """Return a path from a socket, resolved; relative ones lie in the input folder (or the first root).

    It must stay under ComfyUI's input, output, temp, user or any model folder (or the given roots), symlinks
    followed.
    Raises ValueError naming the input and the fix.
    """
    if roots is None:
        roots = [
            folder_paths.get_input_directory(),
            folder_paths.get_output_directory(),
            folder_paths.get_temp_directory(),
            folder_paths.get_user_directory(),
            folder_paths.models_dir,
            *(folder for paths, _ in folder_paths.folder_names_and_paths.values() for folder in paths),
        ]
    real = [os.path.realpath(root) for root in roots]
    target = os.path.realpath(os.path.join(real[0], path))
    if not any(target == root or target.startswith(root.rstrip(os.sep) + os.sep) for root in real):
        raise ValueError(
            f"{name} {path!r} leads outside ComfyUI's folders: use a folder inside ComfyUI's input, output, "
            "user or models folders (link or copy the pictures there)."
        )
    return Path(target)
