"""Hashes of files that are read once: what a model file is called says little, its hash all."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from .database import Database
from .errors import AuditError

_CHUNK = 1 << 20
# a file may be written twice within one tick of its time stamp: only what has rested is remembered
_REST_NS = 2_000_000_000


def cached_sha256(
    open_log: Callable[[], AbstractContextManager[Database]],
    path: str | os.PathLike,
    on_bytes: Callable[[int], None] | None = None,
) -> str:
    """Return the SHA-256 of a file in hexadecimal, from the log's table of files if it is there.

    open_log: lends the database; not held while the file is read. on_bytes: called with the bytes read so
    far. Raises AuditError for a file that cannot be read, or that changes meanwhile.
    """
    key = os.fsencode(os.path.abspath(path))
    size, changed = _stamp(path)
    with open_log() as database:
        known = database.row("SELECT size, mtime_ns, sha256 FROM files WHERE path = ?", (key,))
    if known is not None and tuple(known[:2]) == (size, changed):
        return known[2]
    sha, done = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                sha.update(chunk)
                done += len(chunk)
                if on_bytes is not None:
                    on_bytes(done)
    except OSError as error:
        raise _unreadable(path, error) from None
    if done != size or _stamp(path) != (size, changed):
        raise AuditError(
            f"{os.fspath(path)} changed while its hash was taken: try again when it is written."
        )
    if time.time_ns() - changed > _REST_NS:
        with open_log() as database, database.transaction() as connection:
            connection.exec_driver_sql(
                "INSERT OR REPLACE INTO files (path, size, mtime_ns, sha256) VALUES (?, ?, ?, ?)",
                (key, size, changed, sha.hexdigest()),
            )
    return sha.hexdigest()


def _stamp(path: str | os.PathLike) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    return found.st_size, found.st_mtime_ns


def _unreadable(path: str | os.PathLike, error: OSError) -> AuditError:
    return AuditError(f"{os.fspath(path)} cannot be read for its hash ({error.strerror}): check the file.")
