"""The anchor: a small file beside the log that holds its last number and hash, so that a cut tail shows."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from ..files import publish, sync
from .errors import AuditError

_FORMAT, _VERSION = "realism-audit-anchor", 1
_TRIES, _PAUSE = 40, 0.05
HASH = r"[0-9a-f]{64}"


class Anchor(NamedTuple):
    """The number and the hash of an entry."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


def anchor_path(log: Path) -> Path:
    """Return where the anchor of a log is: audit.anchor for audit.sqlite."""
    return log.with_suffix(".anchor") if log.suffix == ".sqlite" else log.with_name(log.name + ".anchor")


def read_anchor(log: Path) -> Anchor | None:
    """Return the anchor of a log, None if it has none; raises AuditError if that file holds no anchor."""
    path = anchor_path(log)
    try:
        data = json.loads(_patiently(path.read_bytes))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuditError(
            f"the anchor {path} cannot be read ({error.strerror}): allow reading it."
        ) from None
    except (ValueError, RecursionError):
        data = None
    if isinstance(data, dict) and data.get("format") == _FORMAT:
        version, seq, hash = data.get("version"), data.get("seq"), data.get("hash")
        if type(version) is int and version > _VERSION:
            raise AuditError(f"the anchor {path} is of a newer version: update Realism Kit.")
        if type(seq) is int and seq >= 0 and isinstance(hash, str) and re.fullmatch(HASH, hash):
            return Anchor(seq, hash)
    raise AuditError(f"{path} holds no anchor, it was changed or damaged: put a copy of it back.")


def write_anchor(log: Path, anchor: Anchor, replace: bool = True) -> None:
    """Put the anchor of a log on disk, whole or not at all; raises OSError where it cannot be written.

    replace: whether it takes the place of one that is there, which else stays as it is.
    """
    path = anchor_path(log)
    data = {"format": _FORMAT, "version": _VERSION, "seq": anchor.seq, "hash": anchor.hash}
    part = path.with_name(f"{path.name}.{'part' if replace else f'{os.urandom(8).hex()}.part'}")
    try:
        with open(part, "wb") as file:
            file.write(json.dumps(data).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            _patiently(lambda: os.replace(part, path))
        else:
            publish(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _patiently(action):
    """Do what Windows refuses for moments, while another program has the file open."""
    for _ in range(_TRIES if os.name == "nt" else 0):
        try:
            return action()
        except PermissionError:
            time.sleep(_PAUSE)
    return action()
