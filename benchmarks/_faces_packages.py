"""The parts of drawn faces and what renders them, for benchmarks/faces.py: fetched once into a cache.

Test time only, nothing of it is in this repository. python-avatars (MIT) carries Avataaars' parts as SVG,
resvg-py (MIT) renders them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from devtools import pinned

PINS = ("python-avatars==1.4.1", "resvg-py==0.5.0")


def folder() -> Path:
    """Return the folder with the pinned packages, installing them once (4 MB). Raises SetupError."""
    return pinned.installed("faces-packages", PINS, "Parts of drawn faces", compiled=True)


def modules() -> tuple[ModuleType, ModuleType]:
    """Return python_avatars and resvg_py."""
    home = str(folder())
    if home not in sys.path:
        sys.path.append(home)
    import python_avatars
    import resvg_py

    return python_avatars, resvg_py
