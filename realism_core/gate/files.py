"""Copying a file so that at every moment there is one whole and checked copy of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ..pictures import PictureError

try:
    import fcntl
except ImportError:  # Windows, where a file that another run has open cannot be removed anyway
    fcntl = None

PART = ".realism.part"
_CHUNK = 1 << 20


class Mark(NamedTuple):
    """What tells a file that was changed from one that was not: its bytes, and its time in nanoseconds."""

    size: int
    mtime_ns: int


def mark_of(path: str | os.PathLike) -> Mark:
    """Return a file's mark; raises PictureError if there is no file at the path any more."""
    try:
        return _mark(os.stat(path))
    except OSError as error:
        raise PictureError(f"{path} cannot be read any more ({error.strerror}): is it being moved?") from None


def verified_copy(source: Path, part: Path, mark: Mark) -> str:
    """Copy a file's bytes and times to `part`, on disk and read back, and return their SHA-256 in hex.

    Raises PictureError if the source gives way, or is not the one with this mark any more.
    """
    part.unlink(
        missing_ok=True
    )  # never written into: a killed run may have left it linked to a finished copy
    with _open_source(source) as reader, open(part, "x+b") as writer:
        before = os.fstat(reader.fileno())
        sha = hashlib.sha256()
        while chunk := _read(reader, source):
            sha.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
        after = os.fstat(reader.fileno())
        writer.seek(0)
        same = _digest(writer, part) == sha.hexdigest()
    if not (mark == _mark(before) == _mark(after) and same):
        raise PictureError(f"{source} changed while it was copied: run the command again.")
    with contextlib.suppress(OSError):
        shutil.copystat(source, part)
    return sha.hexdigest()


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


def common_digest(source: Path, target: Path) -> str | None:
    """Return the SHA-256 in hex of both files, None unless the target is a readable file with these bytes."""
    size = mark_of(source).size
    if target.is_symlink() or not target.is_file() or mark_of(target).size != size:
        return None
    with _open_source(source) as reader:
        digest = _digest(reader, source)
    try:
        with _open_source(target) as reader:
            return digest if _digest(reader, target) == digest else None
    except PictureError:
        return None


def same_file(one: Path, other: Path) -> bool:
    """Tell whether both paths lead to the same file on disk."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def sync(path: Path) -> None:
    """Bring a file, or a folder's new names, to disk, where the system can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Hold a folder against other runs, which get False; it is free again when this process ends, however.

    Where the system has no such locks, everyone gets True.
    """
    handle = None
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            if fcntl:
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
        yield handle is None or _lock(handle)


def clear_parts(folder: Path) -> None:
    """Remove the unfinished copies that a killed run left below a folder."""
    for below, _, names in os.walk(folder):
        for name in names:
            if name.endswith(PART):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(below, name))


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _mark(status: os.stat_result) -> Mark:
    return Mark(status.st_size, status.st_mtime_ns)


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


def _digest(reader: IO[bytes], path: Path) -> str:
    sha = hashlib.sha256()
    while chunk := _read(reader, path):
        sha.update(chunk)
    return sha.hexdigest()
