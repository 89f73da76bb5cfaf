"""The archive that the Registry gets: tracked files without those that .comfyignore names."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path


def packed_files(root: Path) -> list[str]:
    """Return the paths that are packed, as git and .comfyignore have it, relative to the root and sorted.

    Files that are tracked but gone from the working tree are left out.
    """
    ignored = set(_git(root, "--ignored", "--exclude-from=.comfyignore"))
    return sorted(file for file in _git(root) if file not in ignored and (root / file).is_file())


def build_archive(root: Path, target: Path) -> Path:
    """Write the packed files of a checkout to a zip file; returns its path."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in packed_files(root):
            archive.write(root / file, file)
    return target


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack an archive into a folder, which is made; returns it."""
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    return folder


def _git(root: Path, *options: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "-z", *options], cwd=root, check=True, capture_output=True, text=True
    )
    return [file for file in listed.stdout.split("\0") if file]
