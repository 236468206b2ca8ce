"""Reading of users' recorded events for each execute call, with a circuit breaker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tritone_cf_breaker import CircuitBreaker

from tritone_serving.events import (
    Event,
    EventStore,
    EventStoreError,
    EventStoreUrlError,
    open_store,
    parse_address,
    store_url,
)
from tritone_serving.events.address import SqliteAddress
from tritone_serving.recommender.recent_events import MOST_EVENTS, RecentEvents

PAUSE_S = 1.0  # time without reads after a failure, so that a hanging store delays few responses


class RecentEventReader:
    """Reads the latest events of users from the event store of the server.

    While the store cannot be read, recommendations are computed without recorded events, with `unknown.events` set.
    """

    def __init__(
        self,
        open_store: Callable[[], EventStore | None],
        *,
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open nothing yet.

        Args:
            open_store: returns the store, or None if it does not exist yet because nothing was recorded; called again
                in that case, and after it raised an exception.
            warn: called with a line for the server's log, once for each failure.
            clock: monotonic time in seconds.
        """
        self._open_store = open_store
        self._store: EventStore | None = None
        self._warn = warn
        self._breaker = CircuitBreaker(PAUSE_S, clock)

    @classmethod
    def from_environment(cls, warn: Callable[[str], None]) -> RecentEventReader | None:
        """Return a reader of the server's event store, None if it has none; see `events.store_url`."""
        try:
            url = store_url()
        except EventStoreUrlError as error:
            warn(f"recommending without recorded events: {error}")
            return None
        return None if url is None else cls(lambda: _opened(url), warn=warn)

    def read(self, pseudonyms: Sequence[bytes | None]) -> RecentEvents:
        """Return the latest events of each user.

        Args:
            pseudonyms: of the user of each request; None for requests without a user.
        """
        users = list(dict.fromkeys(each.hex() for each in pseudonyms if each is not None))
        nothing: Sequence[Event] = ()
        if not users:
            return RecentEvents([nothing] * len(pseudonyms))
        if self._breaker.is_open:
            return RecentEvents([nothing] * len(pseudonyms), is_available=False)
        try:
            if self._store is None:
                self._store = self._open_store()
            if self._store is None:
                return RecentEvents([nothing] * len(pseudonyms))
            found = dict(zip(users, self._store.latest(users, MOST_EVENTS), strict=True))
        except EventStoreError as error:
            self._breaker.record_failure()
            self._warn(f"recommending without recorded events for {PAUSE_S:g} s, because the store failed: {error}")
            return RecentEvents([nothing] * len(pseudonyms), is_available=False)
        return RecentEvents([nothing if each is None else found[each.hex()] for each in pseudonyms])

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()


def _opened(url: str) -> EventStore | None:
    """Open a store for reading; None for a file that the `recommender_events` model has not created yet."""
    address = parse_address(url)
    if isinstance(address, SqliteAddress) and not address.exists():
        return None
    return open_store(url, must_exist=True)


def make_event_reader(pb_utils: Any, model: str) -> RecentEventReader | None:
    """Return the reader for a model, which logs its failures; None if the server has no event store."""
    return RecentEventReader.from_environment(lambda text: pb_utils.Logger.log_warn(f"cf_ensemble: {model}: {text}"))
