"""Writing an audit log: entries are appended in one durable transaction, then the anchor follows."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from .anchor import Anchor, anchor_path, read_anchor, write_anchor
from .chain import canonical, entry_hash
from .database import Database, log_path
from .digests import cached_sha256
from .errors import AuditError
from .schema import hash_of, head

if TYPE_CHECKING:
    from sqlalchemy import Connection


class AuditLog:
    """An audit log that is open for writing; it is made, with its folder, where there is none.

    path: an SQLite file, by custom audit.sqlite; its anchor lies beside it. timeout: seconds to wait while
    other programs write. Several threads may use one object, and several programs one log. Raises
    AuditError, a ValueError whose message names the file and the fix, where the log cannot be written, is
    newer than this version, or was changed behind it.
    """

    def __init__(self, path: str | os.PathLike, timeout: float = 30.0) -> None:
        self.path = log_path(path)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False
        self._database: Database | None = None
        with self._open() as database, database.transaction() as connection:
            self._head(connection)

    def append(self, records: Sequence[Mapping]) -> None:
        """Add records, all of them or none, and return when they and the anchor are on disk.

        records: JSON objects as `canonical` takes them. Raises AuditError: nothing was added, unless its
        message says that only the anchor is behind; the next append then mends that.
        """
        bodies = [canonical(record) for record in records]
        if not bodies:
            return
        with self._open() as database:
            with database.transaction() as connection:
                last, previous = self._head(connection)
                now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                rows = []
                for seq, body in enumerate(bodies, last + 1):
                    hash = entry_hash(previous, seq, now, body)
                    rows.append((seq, now, body, previous, hash))
                    previous = hash
                connection.exec_driver_sql(
                    "INSERT INTO entries (seq, time, body, previous, hash) VALUES (?, ?, ?, ?, ?)", rows
                )
            self._anchor_head(database)

    def file_sha256(self, path: str | os.PathLike, on_bytes: Callable[[int], None] | None = None) -> str:
        """Return the SHA-256 of a file in hexadecimal, read only if its size or time has changed.

        on_bytes: called with the number of bytes read so far; what it raises ends the reading. Raises
        AuditError for a file that cannot be read, or that changes meanwhile.
        """
        return cached_sha256(self._open, path, on_bytes)

    def close(self) -> None:
        """Give the file free; it can be called again."""
        with self._lock:
            self._closed = True
            self._drop()

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _open(self) -> Iterator[Database]:
        """Lend the database to one thread, opened again after an error or when the file was replaced."""
        if os.getpid() != self._process:
            raise AuditError(
                f"the audit log {self.path} was opened before this process was forked off, which SQLite "
                "cannot share: start processes with the method 'spawn', and open the log in each."
            )
        with self._lock:
            if self._closed:
                raise AuditError(f"the audit log {self.path} is closed: open it again.")
            if self._database is not None and not self._database.is_current():
                self._drop()
            if self._database is None:
                self._database = Database(self.path, self._timeout)
            try:
                yield self._database
            except AuditError:
                self._drop()
                raise

    def _drop(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _head(self, connection: Connection) -> Anchor:
        """Return the last entry's number and hash; refuse to go on over a tail that was cut off."""
        last = head(connection)
        anchor = read_anchor(self.path)
        if anchor == last:
            return last
        beside = anchor_path(self.path)
        if anchor is None:
            wrong = f"its anchor {beside} is gone"
        elif anchor.seq > last.seq:
            wrong = f"it ends at entry {last.seq}, but {beside} knows of entry {anchor.seq}"
        elif hash_of(connection, anchor.seq) != anchor.hash:
            wrong = f"its entry {anchor.seq} is not the one that {beside} knows of"
        else:
            return last  # a writer was stopped between its entries and the anchor
        raise AuditError(
            f"the audit log {self.path} was changed: {wrong}. Nothing more is logged there; put copies of "
            "both back, or move both away together as evidence, and a new log begins."
        )

    def _anchor_head(self, database: Database) -> None:
        """Bring the anchor to the last entry; other writers wait, so that it never goes back."""
        try:
            with database.transaction() as connection:
                last = head(connection)
                if read_anchor(self.path) != last:
                    write_anchor(self.path, last)
        except (AuditError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise AuditError(
                f"the entries are in the audit log {self.path}, but its anchor {anchor_path(self.path)} is "
                f"behind and could not be written ({reason}): make room and allow writing there; the next "
                "entry mends it."
            ) from None
