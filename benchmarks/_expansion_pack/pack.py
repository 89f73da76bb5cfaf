"""The pack under test, as this ComfyUI has loaded it."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path


def pack_module(name: str) -> types.ModuleType:
    """Return one of its modules, by its name below the pack."""
    for package, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).name == "__init__.py" and (Path(file).parent / "realism_core").is_dir():
            return importlib.import_module(f"{package}.{name}")
    raise ImportError("Realism Kit is not loaded in this ComfyUI")
