"""The chain of entries: what is hashed, and in which form."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from .errors import AuditError

FIRST = "0" * 64
_SURROGATE = "[\ud800-\udfff]"


class Entry(NamedTuple):
    """One entry of a log.

    seq: 1, 2, 3 and so on. time: when it was written, UTC, ISO 8601 with milliseconds. previous: the hash
    of the entry before it, 64 zeros for the first. hash: its own, in hexadecimal. body: the record as
    canonical JSON.
    """

    seq: int
    time: str
    previous: str
    hash: str
    body: str

    @property
    def parsed(self) -> dict | None:
        """The record that was logged, None if the body was damaged so that it is no JSON object."""
        try:
            record = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return record if isinstance(record, dict) else None


def entry_hash(previous: str, seq: int, time: str, body: str) -> str:
    """Return the hash of an entry: SHA-256 of previous hash, number, time and body, a line each, in UTF-8.

    None of the first three, nor the body in its canonical form, holds a line feed.
    """
    text = f"{previous}\n{seq}\n{time}\n{body}"
    # bytes that are no UTF-8 can stand in an entry that was tampered with
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def canonical(record: Mapping) -> str:
    """Return a record as the JSON that is logged: keys sorted, no spaces, characters as they are.

    record: text, numbers, booleans, None, and lists and dictionaries of them, with text as keys. NaN and
    infinite numbers become null. Half characters of file names that are no UTF-8 are escaped. Raises
    AuditError for everything else: pictures, bytes and tensors do not belong in a log.
    """
    if not isinstance(record, Mapping):
        raise AuditError(f"an audit record is a dictionary, not {_kind(record)}: wrap it in one.")
    try:
        text = json.dumps(
            _plain(record, "record"), sort_keys=True, separators=(",", ":"), ensure_ascii=False,
            allow_nan=False,
        )  # fmt: skip
    except RecursionError:
        raise AuditError("an audit record is nested too deeply, or holds itself: make it flat.") from None
    except ValueError as error:  # whole numbers of thousands of digits
        raise AuditError(f"an audit record cannot be written as JSON ({error}): shorten it.") from None
    return re.sub(_SURROGATE, _escaped, text)


def _escaped(half: re.Match) -> str:
    return "\\u" + half[0].encode("utf-16-be", "surrogatepass").hex()


def _plain(value: object, place: str) -> object:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise AuditError(f"{place} has the key {key!r} in an audit record: use text as keys.")
        return {key: _plain(part, f"{place}.{key}") for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, f"{place}[{index}]") for index, part in enumerate(value)]
    raise AuditError(
        f"{place} is {_kind(value)}, which an audit record cannot hold: log numbers and text (.item(), "
        ".tolist(), str()), and of a picture its hash."
    )


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
