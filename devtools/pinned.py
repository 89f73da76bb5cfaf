"""Packages of exact versions beside the environment's own: each set in its own folder of the user's cache."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from . import environment, pip


def place(name: str, pins: tuple[str, ...], compiled: bool = False) -> Path:
    """Return where a set of packages is or will be; another path for other pins.

    compiled: some of them hold compiled code, so that each version of Python has its own folder.
    """
    told = (pins, sys.version_info[:2]) if compiled else pins
    digest = hashlib.sha256(repr(told).encode()).hexdigest()[:10]
    return environment.cache_folder() / f"{name}-{digest}"


def installed(name: str, pins: tuple[str, ...], purpose: str, compiled: bool = False) -> Path:
    """Return the folder with a set of packages, installing them once without what they depend on.

    purpose: what they are for, told before the download. A failed installation leaves no folder.
    Raises SetupError.
    """
    home = place(name, pins, compiled)
    if home.is_dir():
        return home
    with environment.locked(home.name):
        if home.is_dir():  # another process has made it meanwhile
            return home
        pip.say(f"{purpose}, into {home}: {', '.join(pins)}")
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=home.parent) as temporary:
            new = Path(temporary) / "new"
            pip.run(sys.executable, ["install", "--no-deps", "--target", str(new), *pins], name)
            os.replace(new, home)
    return home
