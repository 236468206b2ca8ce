"""The interface of event stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tritone_serving.events.address import SqliteAddress, parse_address
from tritone_serving.events.event import Event


class EventStore(Protocol):
    """Where the events of users are kept until their retention ends.

    Objects may be used by several threads, and one store by several processes. No call waits longer than a few seconds.
    All methods raise `EventStoreUnavailableError` while the store is down, and work again once it is back; they raise
    `EventStoreDamagedError` if its content is damaged.
    """

    def append(self, events: Sequence[Event]) -> list[bool]:
        """Store events. When the call returns, they are durable even if this process crashes.

        After an error, any part of them may be stored; appending them again is safe. Beyond the maximum per user, a
        user's oldest events are dropped.

        Returns:
            for each event whether it is new; False means that the user has an event with its id.
        """

    def latest(self, users: Sequence[str], most: int) -> list[list[Event]]:
        """Return the latest events of each user, the newest last, ordered by `at` and then by id.

        Args:
            users: pseudonyms, 32 hexadecimal digits each.
            most: largest number of events of each user, at least 1.
        """

    def forget(self, user: str) -> int:
        """Remove a user's events and return how many there were.

        Args:
            user: the user's pseudonym, 32 hexadecimal digits.
        """

    def scan(self, after: str = "", limit: int = 1_000) -> list[Event]:
        """Return up to `limit` events, ordered by the user's pseudonym, `at` and id.

        Args:
            after: `cursor` of the last event of the previous call; empty to begin.
            limit: number of events.

        Raises:
            ValueError: `after` is not a cursor.
        """

    def count(self) -> int:
        """Return the number of events, including those that the next `prune` removes."""

    def prune(self, now: float | None = None) -> int:
        """Delete events older than the retention or beyond the maximum per user; return how many there were.

        Args:
            now: in seconds since 1970; the clock's time if None.
        """

    def advice(self) -> list[str]:
        """Return what in the configuration of the store may lose events, one line each; empty if nothing does."""

    def close(self) -> None:
        """Release connections and files."""


def open_store(url: str, *, must_exist: bool = False) -> EventStore:
    """Open a store, creating the file of SQLite if it does not exist.

    This does not connect to a Valkey server; the first method call does, so that programs can start while it is down.

    Args:
        url: address with settings, see `tritone_serving.events.address`.
        must_exist: do not create the file of SQLite.

    Raises:
        EventStoreUrlError: the address or a setting is invalid, or the client of Valkey is not installed.
        EventStoreUnavailableError: the file cannot be opened.
        EventStoreDamagedError: the file is damaged, of another program, or of another format version.
    """
    address = parse_address(url)
    if isinstance(address, SqliteAddress):
        from tritone_serving.events.sqlite_store import SqliteEventStore

        return SqliteEventStore(address, must_exist=must_exist)
    from tritone_serving.events.valkey_store import ValkeyEventStore

    return ValkeyEventStore(address)


def check_store_url(url: str) -> None:
    """Check the address of a store, and that what it needs is installed; the store itself may be down.

    Raises:
        EventStoreUrlError: as `open_store`.
    """
    if not isinstance(parse_address(url), SqliteAddress):
        open_store(url).close()  # opens no connection


def read_cursor(cursor: str) -> tuple[str, float, str]:
    """Return user, time and id of `Event.cursor`; the smallest ones if it is empty.

    Raises:
        ValueError: it is malformed.
    """
    if not cursor:
        return "", -1.0, ""
    try:
        user, at, event = cursor.split(":")
        bytes.fromhex(user + event)
        return user, float(at), event
    except ValueError:
        raise ValueError(f"invalid cursor: expected one of an event, got {cursor[:100]!r}") from None
