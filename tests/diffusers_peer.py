"""diffusers, with which LoRA files are checked: fetched once into the user's cache, for tests only.

73 MB on disk, without dependencies: what is needed of them the tests have anyway.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from devtools import environment, pinned

PINS = ("diffusers==0.42.1", "peft==0.21.2", "accelerate==1.15.0")
PARTS = (
    "diffusers",
    "diffusers.loaders.lora_pipeline",
    "diffusers.loaders.single_file_utils",
    "diffusers.models.autoencoders.autoencoder_tiny",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.transformers.transformer_flux",
    "diffusers.models.transformers.transformer_sd3",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.schedulers.scheduling_euler_discrete",
    "peft",
    "transformers.models.clip.modeling_clip",
)


def diffusers() -> ModuleType:
    """Return the package, installed at the first call. Raises SetupError where that cannot be done."""
    home = str(folder())
    if home not in sys.path:
        sys.path.append(home)
    with without_torchvision():
        for part in PARTS:
            importlib.import_module(part)
    return sys.modules["diffusers"]


@contextlib.contextmanager
def without_torchvision() -> Iterator[None]:
    """Hide torchvision: not every one that pip finds fits the torch beside it, and nothing here needs it."""
    vision = sys.modules.get("torchvision")
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop("torchvision", None)
        if vision is not None:
            sys.modules["torchvision"] = vision


def search_path(folder_for_this: Path) -> str:
    """Return a PYTHONPATH with which a new process finds the packages, and no torchvision.

    folder_for_this: where the file that hides it goes.
    """
    hiding = "import sys\nsys.modules['torchvision'] = None\n"
    (folder_for_this / "sitecustomize.py").write_text(hiding, "utf-8")
    return os.pathsep.join((str(folder_for_this), str(environment.ROOT), str(folder())))


def folder() -> Path:
    """Return the folder with the pinned packages, installing them once. Raises SetupError."""
    return pinned.installed("diffusers", PINS, "Packages to check LoRA files with")
