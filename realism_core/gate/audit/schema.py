"""What a log's database holds: its tables, the triggers that guard them, and queries on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .anchor import Anchor
from .chain import FIRST, Entry
from .errors import AuditError

if TYPE_CHECKING:
    from sqlalchemy import Connection

APPLICATION_ID = 0x52414C47  # "RALG"
VERSION = 1
SCHEMA = {
    "entries": "CREATE TABLE entries (seq INTEGER PRIMARY KEY, time TEXT NOT NULL, body TEXT NOT NULL, "
    "previous TEXT NOT NULL, hash TEXT NOT NULL)",
    "entries_no_update": "CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries "
    "BEGIN SELECT RAISE(ABORT, 'an audit log is never changed'); END",
    "entries_no_delete": "CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries "
    "BEGIN SELECT RAISE(ABORT, 'nothing is removed from an audit log'); END",
    # an INSERT OR REPLACE would remove a row without the trigger above
    "entries_in_order": "CREATE TRIGGER entries_in_order BEFORE INSERT ON entries "
    "WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM entries) "
    "BEGIN SELECT RAISE(ABORT, 'an audit log grows at its end only'); END",
    # hashes of model files, so that each is read once; no part of the chain
    "files": "CREATE TABLE files (path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, "
    "sha256 TEXT NOT NULL) WITHOUT ROWID",
}
# as bytes: what was tampered with may be no UTF-8
_ENTRIES = (
    "SELECT CAST(seq AS INTEGER), CAST(time AS BLOB), CAST(previous AS BLOB), CAST(hash AS BLOB), "
    "CAST(body AS BLOB) FROM entries ORDER BY seq"
)


def check_version(connection: Connection, path: Path) -> None:
    """Raise AuditError unless the database is a log that this version knows."""
    made_by = connection.exec_driver_sql("PRAGMA application_id").scalar()
    version = connection.exec_driver_sql("PRAGMA user_version").scalar()
    if made_by != APPLICATION_ID:
        raise AuditError(f"{path} is a database of another program, no audit log: choose another file.")
    if version > VERSION:
        raise AuditError(
            f"the audit log {path} is of version {version}, this Realism Kit knows up to {VERSION}: update "
            "Realism Kit. Nothing was changed."
        )
    if version != VERSION:
        raise AuditError(f"the audit log {path} is of no known version ({version}): put a copy of it back.")


def entries(connection: Connection, newest_first: bool = False) -> Iterator[Entry]:
    """Yield the entries as they stand there, unchecked, in constant memory."""
    result = connection.exec_driver_sql(_ENTRIES + " DESC" * newest_first)
    for seq, *texts in result:
        yield Entry(seq, *((text or b"").decode("utf-8", "surrogateescape") for text in texts))


def head(connection: Connection) -> Anchor:
    """Return the number and the hash of the last entry, 0 and zeros if there is none."""
    found = connection.exec_driver_sql("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1").first()
    return Anchor(*found) if found else Anchor(0, FIRST)


def hash_of(connection: Connection, seq: int) -> str | None:
    """Return the hash of an entry, None if it is not there."""
    if seq == 0:
        return FIRST
    return connection.exec_driver_sql("SELECT hash FROM entries WHERE seq = ?", (seq,)).scalar()


def has_entries(connection: Connection) -> bool:
    """Tell whether there is a table of entries at all."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'entries'"
    return connection.exec_driver_sql(query).first() is not None


def schema_problems(connection: Connection) -> Iterator[str]:
    """Yield what of the tables and of the triggers that guard them is not as it was made."""
    query = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    found = {name: sql for name, sql in connection.exec_driver_sql(query)}
    for name in (*SCHEMA, *sorted(found.keys() - SCHEMA.keys())):
        kind = "trigger" if name.startswith("entries_") else "table"
        if name not in found:
            yield f"the {kind} {name} is missing: somebody removed it"
        elif name not in SCHEMA:
            yield f"{name!r} in the database is none of the log's: somebody added it"
        elif found[name] != SCHEMA[name]:
            yield f"the {kind} {name} is not as it was made: somebody changed it"
