"""Where things lie that a socket or a setting names: files stay inside ComfyUI's folders."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .comfy import numbered_output, open_folders, output_folder, user_folder


def resolve(path: str, name: str, roots: Iterable[str] | None = None) -> Path:
    """Return a path from a socket, resolved; relative ones lie in the input folder (or the first root).

    It must stay under ComfyUI's input, output, temp, user or any model folder (or the given roots), symlinks
    followed.
    Raises ValueError naming the input and the fix.
    """
    real = [os.path.realpath(root) for root in (open_folders() if roots is None else roots)]
    target = os.path.realpath(os.path.join(real[0], path))
    if not any(target == root or target.startswith(root.rstrip(os.sep) + os.sep) for root in real):
        raise ValueError(
            f"{name} {path!r} leads outside ComfyUI's folders: use a folder inside ComfyUI's input, output, "
            "user or models folders (links are followed: copy the pictures there)."
        )
    return Path(target)


def next_output(prefix: str, width: int, height: int) -> tuple[Path, str, int, str]:
    """Return (folder, base name, next number, subfolder) for files saved under a prefix; the folder exists.

    Raises ValueError when the prefix leads out of the output folder.
    """
    resolve(prefix, "filename_prefix", [str(output_folder())])
    folder, name, counter, subfolder, _ = numbered_output(prefix, width, height)
    return Path(folder), name, counter, subfolder


def setting(name: str, default: Any) -> Any:
    """Return a setting of ComfyUI's settings dialog, as the default user has it.

    Raises ValueError with the fix if the settings file cannot be read.
    """
    path = user_folder() / "default" / "comfy.settings.json"
    for patience in (0.2, 0):
        try:
            return json.loads(path.read_text(encoding="utf-8")).get(name, default)
        except FileNotFoundError:
            return default
        except (OSError, ValueError, AttributeError) as error:
            problem = error
            time.sleep(patience)  # ComfyUI may just be writing it
    raise ValueError(f"ComfyUI's settings {path} cannot be read ({problem}): mend the file.")
