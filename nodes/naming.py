"""File names that artists type."""

from __future__ import annotations

from pathlib import Path

from .comfy import model_folder


def named_path(kind: str, name: str, suffix: str) -> Path:
    """Return where a file of a name goes in a kind of model folder; raises ValueError for what is no name."""
    if not name or name.startswith(".") or any(mark in name for mark in '/\\:*?"<>|\0'):
        raise ValueError(f"name {name!r} cannot be a file name: use letters, digits, spaces, - and _.")
    return model_folder(kind) / f"{name}{suffix}"
