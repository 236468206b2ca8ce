"""Events in an SQLite file, for the processes of one machine.

The file is in write-ahead mode: readers do not block the writer, nor the writer readers. Each `append` is one
transaction, synced to the disk before it returns.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from tritone_serving.events.address import SqliteAddress
from tritone_serving.events.event import EVENT_KINDS, Event
from tritone_serving.events.exceptions import (
    EventStoreDamagedError,
    EventStoreError,
    EventStoreFullError,
    EventStoreUnavailableError,
)
from tritone_serving.events.store import read_cursor

_PRIVATE_FILE: Final = 0o600
_PRIVATE_FOLDER: Final = 0o700
_APPLICATION_ID: Final = 0x5472_4576  # "TrEv"
_FORMAT: Final = 1
_USERS_AT_ONCE: Final = 256  # pruned in one transaction, so that writers need not wait long
_SCHEMA: Final = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE events(
        user BLOB NOT NULL, id BLOB NOT NULL, at REAL NOT NULL, kind INTEGER NOT NULL, track TEXT NOT NULL,
        played_s REAL, context TEXT, received REAL NOT NULL,
        PRIMARY KEY(user, at, id)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX events_by_id ON events(user, id);
    PRAGMA application_id = {_APPLICATION_ID};
    PRAGMA user_version = {_FORMAT};
    COMMIT;
"""
_COLUMNS: Final = "user, id, at, kind, track, played_s, context, received"
_LATEST: Final = f"SELECT {_COLUMNS} FROM events WHERE user = ? AND at >= ? ORDER BY at DESC, id DESC LIMIT ?"  # noqa: S608
_SCAN: Final = (
    f"SELECT {_COLUMNS} FROM events WHERE (user, at, id) > (?, ?, ?) AND at >= ? ORDER BY user, at, id LIMIT ?"  # noqa: S608
)
_TRIM: Final = """
    DELETE FROM events WHERE user = :user AND (at, id) <= (
        SELECT at, id FROM events WHERE user = :user ORDER BY at DESC, id DESC LIMIT 1 OFFSET :most)
"""
_INDEX_OF_KIND: Final = {kind: index for index, kind in enumerate(EVENT_KINDS)}  # order and numbers are the format's
_ERRORS: Final[dict[int, tuple[type[EventStoreError], str]]] = {
    sqlite3.SQLITE_BUSY: (EventStoreUnavailableError, "another process writes to it for too long; try again"),
    sqlite3.SQLITE_FULL: (EventStoreFullError, "the disk is full; free space or prune it"),
    sqlite3.SQLITE_READONLY: (
        EventStoreUnavailableError,
        "the account of this process may not write to it; change its owner, or choose another path",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        EventStoreUnavailableError,
        "the account of this process cannot open it; change its owner, or choose another path",
    ),
    sqlite3.SQLITE_CORRUPT: (
        EventStoreDamagedError,
        "it is damaged; restore a backup, or move it away, and a new one is created",
    ),
    sqlite3.SQLITE_NOTADB: (
        EventStoreDamagedError,
        "it is damaged or not an SQLite database; move it away, and a new one is created",
    ),
}
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _translated(
    method: Callable[Concatenate[SqliteEventStore, _P], _T],
) -> Callable[Concatenate[SqliteEventStore, _P], _T]:
    """Run a method alone among the threads, and translate SQLite's errors."""

    def run(store: SqliteEventStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with store.lock:
            try:
                return method(store, *args, **kwargs)
            except sqlite3.Error as error:
                raise store.translate(error) from error

    return run


class SqliteEventStore:
    """An `EventStore` in a file."""

    def __init__(self, address: SqliteAddress, *, must_exist: bool = False) -> None:
        """Open the file.

        Args:
            address: path and settings.
            must_exist: do not create it.

        Raises:
            EventStoreError: as `open_store`.
        """
        self.path = address.path
        self.lock = threading.Lock()
        self._retention = address.retention
        self._timeout_s = address.timeout_s
        self._must_exist = must_exist
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        with self.lock:
            try:
                self._connected()
            except sqlite3.Error as error:
                raise self.translate(error) from error

    @_translated
    def append(self, events: Sequence[Event]) -> list[bool]:
        is_new = []
        with self._transaction() as connection:
            for event in events:
                row = (
                    bytes.fromhex(event.user),
                    bytes.fromhex(event.id),
                    event.at,
                    _INDEX_OF_KIND[event.kind],
                    event.track,
                    event.played_s,
                    None if event.context is None else json.dumps(dict(event.context), ensure_ascii=False),
                    event.received,
                )
                cursor = connection.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                is_new.append(cursor.rowcount == 1)
            for user in {event.user for event, new in zip(events, is_new, strict=True) if new}:
                self._trim(connection, bytes.fromhex(user))
        return is_new

    @_translated
    def latest(self, users: Sequence[str], most: int) -> list[list[Event]]:
        connection = self._connected()
        cutoff = self._retention.cutoff(time.time())
        found = []
        for user in users:
            rows = connection.execute(_LATEST, (bytes.fromhex(user), cutoff, most)).fetchall()
            found.append([_event(row) for row in reversed(rows)])
        return found

    @_translated
    def forget(self, user: str) -> int:
        connection = self._connected()
        connection.execute("PRAGMA secure_delete = ON")  # overwrites what is removed
        try:
            with self._transaction():
                n_events = connection.execute("DELETE FROM events WHERE user = ?", (bytes.fromhex(user),)).rowcount
        finally:
            connection.execute("PRAGMA secure_delete = OFF")
        # The write-ahead file holds earlier pages until it is emptied, which waits for readers at most the timeout.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return n_events

    @_translated
    def scan(self, after: str = "", limit: int = 1_000) -> list[Event]:
        user, at, id_ = read_cursor(after)
        start = (bytes.fromhex(user), at, bytes.fromhex(id_))
        cutoff = self._retention.cutoff(time.time())
        return [_event(row) for row in self._connected().execute(_SCAN, (*start, cutoff, limit))]

    @_translated
    def count(self) -> int:
        return int(self._connected().execute("SELECT count(*) FROM events").fetchone()[0])

    def prune(self, now: float | None = None) -> int:
        cutoff = self._retention.cutoff(time.time() if now is None else now)
        n_events, after = 0, b""
        while True:
            n_removed, last = self._prune_users(after, cutoff)
            n_events += n_removed
            if last is None:
                return n_events
            after = last

    @_translated
    def _prune_users(self, after: bytes, cutoff: float) -> tuple[int, bytes | None]:
        """Prune the next users; return the number of events, and the last user, None if there are no more."""
        n_events = 0
        with self._transaction() as connection:
            for _ in range(_USERS_AT_ONCE):
                row = connection.execute(
                    "SELECT user FROM events WHERE user > ? ORDER BY user LIMIT 1", (after,)
                ).fetchone()
                if row is None:
                    return n_events, None
                after = row[0]
                n_events += connection.execute("DELETE FROM events WHERE user = ? AND at < ?", (after, cutoff)).rowcount
                n_events += self._trim(connection, after)
        return n_events, after

    def advice(self) -> list[str]:
        return []

    def close(self) -> None:
        with self.lock:
            self._disconnect()

    def translate(self, error: sqlite3.Error) -> EventStoreError:
        """Return the exception for an error of SQLite; the file is opened again by the next call."""
        self._disconnect()
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        kind, reason = _ERRORS.get(code, (EventStoreUnavailableError, f"it failed ({error})"))
        return kind(f"event store {self.path}: {reason}")

    def _trim(self, connection: sqlite3.Connection, user: bytes) -> int:
        return connection.execute(_TRIM, {"user": user, "most": self._retention.most_per_user}).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _connected(self) -> sqlite3.Connection:
        # A file that was removed or replaced would otherwise be written to, and its events lost when it is closed.
        if self._connection is not None and self._file == self._identity():
            return self._connection
        self._disconnect()
        self._create_file()
        connection = sqlite3.connect(self.path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            self._check_format(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._file = connection, self._identity()
        return connection

    def _create_file(self) -> None:
        try:
            if not self._must_exist:
                self.path.parent.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
            flags = os.O_RDWR if self._must_exist else os.O_RDWR | os.O_CREAT
            os.close(os.open(self.path, flags, _PRIVATE_FILE))
        except OSError as error:
            raise EventStoreUnavailableError(
                f"event store {self.path}: it cannot be opened ({error.strerror}); choose a path that this user can "
                f"write to"
            ) from error

    def _check_format(self, connection: sqlite3.Connection) -> None:
        version, application = self._format(connection)
        if version == application == 0 and not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            try:
                connection.executescript(_SCHEMA)
            except sqlite3.OperationalError:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if self._format(connection) == (0, 0):  # not created by another process in the meantime
                    raise
            version, application = self._format(connection)
        if application != _APPLICATION_ID:
            raise EventStoreDamagedError(
                f"event store {self.path}: expected a file of events, got a database of another program; choose "
                f"another path"
            )
        if version != _FORMAT:
            raise EventStoreDamagedError(
                f"event store {self.path}: expected format version {_FORMAT}, got {version}; use the release of "
                f"Tritone that wrote it, or another path"
            )

    def _format(self, connection: sqlite3.Connection) -> tuple[int, int]:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        return int(version), int(connection.execute("PRAGMA application_id").fetchone()[0])

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _event(row: tuple[Any, ...]) -> Event:
    user, id_, at, kind, track, played_s, context, received = row
    try:
        found = Event(
            id_.hex(),
            user.hex(),
            track,
            EVENT_KINDS[kind],
            float(at),
            None if played_s is None else float(played_s),
            None if context is None else json.loads(context),
            float(received),
        )
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise _damaged() from error
    if not isinstance(track, str) or not isinstance(found.context, dict | None):
        raise _damaged()
    return found


def _damaged() -> EventStoreDamagedError:
    return EventStoreDamagedError(
        "event store: a row is damaged: expected an event of this format, got something else; restore a backup, or "
        "remove the events of the user with `tritone events forget`"
    )
