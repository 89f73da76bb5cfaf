"""diffusers, with which LoRA files are checked: fetched once into the user's cache, for tests only.

73 MB on disk, without dependencies: what is needed of them the tests have anyway.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from devtools import environment, pip

PINS = ("diffusers==0.42.1", "peft==0.21.2", "accelerate==1.15.0")
PARTS = (
    "diffusers",
    "diffusers.loaders.lora_pipeline",
    "diffusers.loaders.single_file_utils",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.transformers.transformer_flux",
    "diffusers.models.transformers.transformer_sd3",
    "peft",
)


def diffusers() -> ModuleType:
    """Return the package, installed at the first call. Raises SetupError where that cannot be done."""
    home = str(folder())
    if home not in sys.path:
        sys.path.append(home)
    vision = sys.modules.get("torchvision")
    # not every torchvision that pip finds fits the torch beside it, and nothing here needs one
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    try:
        for part in PARTS:
            importlib.import_module(part)
    finally:
        del sys.modules["torchvision"]
        if vision is not None:
            sys.modules["torchvision"] = vision
    return sys.modules["diffusers"]


def folder(python: str = sys.executable) -> Path:
    """Return the folder with the pinned packages, installing them once. Raises SetupError."""
    digest = hashlib.sha256(repr(PINS).encode()).hexdigest()[:10]
    home = environment.cache_folder() / f"diffusers-{digest}"
    with environment.locked(home.name):
        if not home.is_dir():
            pip.say(f"Packages to check LoRA files with, into {home}: {', '.join(PINS)}")
            with tempfile.TemporaryDirectory(prefix=".diffusers-", dir=home.parent) as temporary:
                new = Path(temporary) / "new"
                pip.run(python, ["install", "--no-deps", "--target", str(new), *PINS], "diffusers")
                os.replace(new, home)
    return home
