"""The parts of drawn faces and what renders them, for benchmarks/faces.py: fetched once into a cache.

Test time only, nothing of it is in this repository. python-avatars (MIT) carries Avataaars' parts as SVG,
resvg-py (MIT) renders them.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from devtools import environment, pip

PINS = ("python-avatars==1.4.1", "resvg-py==0.5.0")


def folder() -> Path:
    """Return the folder with the pinned packages, installing them once (4 MB). Raises SetupError."""
    told = repr((PINS, sys.version_info[:2])).encode()
    name = f"faces-packages-{hashlib.sha256(told).hexdigest()[:10]}"
    home = environment.cache_folder() / name
    if home.is_dir():
        return home
    with environment.locked(name):
        if home.is_dir():  # another process has made it meanwhile
            return home
        pip.say(f"Parts of drawn faces, into {home}: {', '.join(PINS)}")
        with tempfile.TemporaryDirectory(prefix=".faces-", dir=home.parent) as temporary:
            new = Path(temporary) / "new"
            pip.run(sys.executable, ["install", "--no-deps", "--target", str(new), *PINS], "faces")
            os.replace(new, home)
    return home


def modules() -> tuple[ModuleType, ModuleType]:
    """Return python_avatars and resvg_py."""
    home = str(folder())
    if home not in sys.path:
        sys.path.append(home)
    import python_avatars
    import resvg_py

    return python_avatars, resvg_py
