"""Connections to the database of a log: one that writes, and makes it if need be, and one that only reads.

SQLAlchemy is imported when a log is opened, not before: most runs log nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import publish, sync
from .anchor import Anchor, anchor_path, read_anchor, write_anchor
from .chain import FIRST
from .errors import AuditError, about, refused, translated
from .schema import APPLICATION_ID, SCHEMA, VERSION, check_version

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_LOOKS, _PAUSE = 5, 0.02


class Database:
    """One connection that writes a log, which is made if it is not there.

    path: the log. timeout: seconds to wait for other writers. Raises AuditError, and then has changed
    nothing.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        _make_if_missing(path)
        _check_header(path)
        self._engine = _engine(path, "mode=rw", timeout)
        try:
            with translated(path):
                self._connection = self._engine.connect()
                mode = self._connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar()
                self._connection.exec_driver_sql("PRAGMA synchronous=FULL")
                self._identity = _identity(path)
            if mode != "wal":
                raise AuditError(
                    f"the audit log {path} lies where programs cannot share it: choose a local disk."
                )
            with self.transaction() as connection:  # says now, not after hours of work, what is in the way
                check_version(connection, path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the file free."""
        with contextlib.suppress(Exception):
            self._connection.close()
        self._engine.dispose()

    def is_current(self) -> bool:
        """Tell whether the open file still has the log's name."""
        return _identity(self._path) == self._identity

    def row(self, query: str, values: tuple = ()) -> tuple | None:
        """Return the first row of a query."""
        with translated(self._path):
            return self._connection.exec_driver_sql(query, values).first()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Hold the log alone; what is written is on disk afterwards, or not at all if anything fails."""
        with translated(self._path):
            self._connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.exec_driver_sql("COMMIT")
            except BaseException:
                with contextlib.suppress(Exception):  # SQLite may have rolled back already
                    self._connection.exec_driver_sql("ROLLBACK")
                raise


def log_path(path: str | os.PathLike) -> Path:
    """Return the absolute path of a log, links to the file itself followed: its anchor lies beside that."""
    return Path(os.path.realpath(path) if os.path.islink(path) else os.path.abspath(path))


@contextlib.contextmanager
def reading(path: Path, timeout: float = 30.0) -> Iterator[Connection]:
    """Read a log as it is at one moment, without changing it; raises AuditError where it cannot be read."""
    _check_header(path)
    engine, connection = _reader(path, timeout)
    try:
        with translated(path):
            connection.exec_driver_sql("BEGIN")
            check_version(connection, path)
            yield connection
    finally:
        with contextlib.suppress(Exception):
            connection.close()
        engine.dispose()


def _make_if_missing(path: Path) -> None:
    """Make an empty log, whole, with its anchor before it."""
    # in this order: an anchor or a -wal seen before the log was missed is no sign of one just being made
    anchor = read_anchor(path)
    leftover = _size(Path(f"{path}-wal"))
    if _size(path) is not None:
        return
    if anchor is not None and anchor.seq > 0 or leftover:
        beside = anchor_path(path) if anchor is not None and anchor.seq > 0 else f"{path}-wal"
        raise AuditError(
            f"the audit log {path} is gone, but {beside} of it is left: put the log back, or move that "
            "file to where the log is now, and a new log begins."
        )
    part = path.with_name(f"{path.name}.{os.urandom(8).hex()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with translated(path):
            _fill(part)
        if anchor is None:
            write_anchor(path, Anchor(0, FIRST), replace=False)
        publish(part, path)  # another program may have been first: then its log is used
        sync(path.parent)
    except OSError as error:
        raise refused(path, error) from None
    finally:
        for name in (part, Path(f"{part}-journal"), Path(f"{part}-wal"), Path(f"{part}-shm")):
            with contextlib.suppress(OSError):
                name.unlink(missing_ok=True)


def _fill(part: Path) -> None:
    engine = _engine(part, "mode=rwc", 5.0)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
            for statement in SCHEMA.values():
                connection.exec_driver_sql(statement)
            connection.exec_driver_sql("COMMIT")
            # after the tables, so that they are in the file itself, where `_check_header` looks
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    finally:
        engine.dispose()


def _check_header(path: Path) -> None:
    """Refuse a file that is no log, or a newer one, before it is opened for more than a look."""
    size = _size(path)
    if size is None:
        raise AuditError(f"there is no audit log {path}: check the name.")
    if size == 0:
        raise AuditError(
            f"{path} is empty and no audit log: put a copy of the log back, or remove the file."
        )
    if path.is_dir():
        raise AuditError(f"{path} is a folder, no audit log: name a file in it.")
    # SQLite itself looks: closing the file any other way would lift the locks that this process has on it
    for left in reversed(range(_LOOKS)):
        try:
            return _peek(path, "mode=ro&immutable=1")
        except AuditError as error:
            # so a log looks without what waits in its -wal, or while that is being moved into it
            if "malformed" not in str(error) or not left:
                raise
            if _size(Path(f"{path}-wal")):
                return _peek(path, "mode=ro")
            time.sleep(_PAUSE)


def _peek(path: Path, options: str) -> None:
    engine = _engine(path, options, 5.0)
    try:
        with translated(path), engine.connect() as connection:
            check_version(connection, path)
    finally:
        engine.dispose()


def _reader(path: Path, timeout: float) -> tuple[Engine, Connection]:
    from sqlalchemy.exc import DBAPIError

    reason: object = ""
    # the first removes its -wal and -shm at the end, but would move what waits there into the log; the last
    # needs neither, for a folder that cannot be written
    waiting = _size(Path(f"{path}-wal"))
    for options in ("mode=ro",) if waiting else ("mode=rw", "mode=ro", "mode=ro&immutable=1"):
        engine = _engine(path, options, timeout)
        connection = None
        try:
            connection = engine.connect()
            connection.exec_driver_sql("PRAGMA query_only=ON")
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
            return engine, connection
        except DBAPIError as error:
            reason = error.orig
            if connection is not None:
                connection.close()
            engine.dispose()
            if not any(words in str(reason) for words in ("unable to open", "readonly")):
                raise about(path, reason) from None
    raise AuditError(
        f"the audit log {path} has entries in {path.name}-wal that cannot be read there ({reason}): "
        "copy both files and the anchor into a folder that can be written."
    )


def _engine(path: Path, options: str, timeout: float) -> Engine:
    from sqlalchemy import URL, create_engine
    from sqlalchemy.pool import NullPool

    query = dict(option.split("=") for option in options.split("&"))
    return create_engine(
        URL.create("sqlite", database=path.as_uri(), query={"uri": "true", **query}),
        isolation_level="AUTOCOMMIT",  # transactions are begun by hand: SQLite's own mode, IMMEDIATE
        poolclass=NullPool,
        connect_args={"timeout": timeout, "check_same_thread": False},
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
