"""What can go wrong with an audit log, as sentences that name the file and the way out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


class AuditError(ValueError):
    """An audit log that cannot be written or read; the message names the file and what to do."""


# what SQLite says -> what it means for the log
_SENTENCES = (
    (("locked", "busy"), "is held by another program too long to wait: close that one, and try again"),
    (("is full",), "cannot grow, the disk is full: make room, and go on"),
    (
        ("readonly", "unable to open"),
        "cannot be opened as is needed (is its folder read-only, or the disk full?): allow writing there, "
        "or choose another place",
    ),
    (("disk i/o",), "cannot be read or written to its end: make room on the disk and check it"),
    (
        ("malformed", "not a database", "file is encrypted", "no such table", "no such column"),
        "is damaged, or no audit log: put a copy of it back, or move it and its anchor away together, and "
        "a new log begins",
    ),
)


def about(path: Path, reason: object) -> AuditError:
    """Return the error for what SQLite or the system says about a log."""
    text = str(reason)
    for words, sentence in _SENTENCES:
        if any(word in text.lower() for word in words):
            return AuditError(f"the audit log {path} {sentence} ({text}).")
    return AuditError(f"the audit log {path} cannot be used: {text}.")


def refused(path: Path, error: OSError) -> AuditError:
    """Return the error for what the system refuses to do with the files of a log."""
    return AuditError(
        f"the audit log {path} cannot be written ({error.filename or path}: {error.strerror or error}): "
        "make room and allow writing there, or choose another place."
    )


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise AuditError where the database fails."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except DBAPIError as error:
        raise about(path, error.orig) from None
