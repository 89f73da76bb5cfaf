"""Copying a file so that at every moment there is one whole and checked copy of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import IO

from ..pictures import PictureError

_CHUNK = 1 << 20


def verified_copy(source: Path, part: Path) -> Path:
    """Copy a file's bytes and times to `part`, on disk and read back; raises PictureError if the source
    gives way.
    """
    part.unlink(
        missing_ok=True
    )  # never written into: a killed run may have left it linked to a finished copy
    with _open_source(source) as reader, open(part, "xb") as writer:
        before = os.fstat(reader.fileno())
        sha = hashlib.sha256()
        while chunk := _read(reader, source):
            sha.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
        after = os.fstat(reader.fileno())
    changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
    if changed or _size(part) != after.st_size or _digest(part) != sha.digest():
        raise PictureError(f"{source} changed while it was copied: run the command again.")
    with contextlib.suppress(OSError):
        shutil.copystat(source, part)
    return part


def check_source(source: Path) -> None:
    """Raise PictureError if there is no file at the path any more."""
    _size(source)


def publish(part: Path, target: Path) -> bool:
    """Give a finished part its name in one step, or return False if another took the name meanwhile."""
    try:
        os.link(part, target)  # unlike a rename it never replaces a file
    except FileExistsError:
        return False
    except OSError:  # no hard links on this file system
        if os.path.lexists(target):
            return False
        os.rename(part, target)
    return True


def _open_source(source: Path) -> IO[bytes]:
    try:
        return open(source, "rb")
    except OSError as error:
        raise PictureError(
            f"{source} cannot be read any more ({error.strerror}): is it being moved?"
        ) from None


def _read(reader: IO[bytes], source: Path) -> bytes:
    try:
        return reader.read(_CHUNK)
    except OSError as error:
        raise PictureError(
            f"{source} cannot be read to its end ({error.strerror}): check the disk."
        ) from None


def same_bytes(source: Path, target: Path) -> bool:
    """Tell whether the target is a file of its own with the source's bytes (not so if it cannot be read)."""
    size = _size(source)
    if target.is_symlink() or not target.is_file() or _size(target) != size:
        return False
    digest = _digest(source)
    try:
        return _digest(target) == digest
    except PictureError:
        return False


def _digest(path: Path) -> bytes:
    sha = hashlib.sha256()
    with _open_source(path) as reader:
        while chunk := _read(reader, path):
            sha.update(chunk)
    return sha.digest()


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise PictureError(f"{path} cannot be read any more ({error.strerror}): is it being moved?") from None


def same_file(one: Path, other: Path) -> bool:
    """Tell whether both paths lead to the same file on disk."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """Bring a folder's new names to disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
