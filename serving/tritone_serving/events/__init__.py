"""Listening events as they happen, and their stores.

```python
key = read_key(Path("recommender.key"))
user = pseudonym(key, "user 42").hex()
with contextlib.closing(open_store("sqlite:///var/lib/tritone/events.db")) as store:
    store.append([checked_event(id=event_id(key, user, str(uuid4())), user=user, track="7", now=time.time())])
    store.latest([user], 50)
```
Needs only the standard library, because backends import it; the client of Valkey is imported when it is used.
"""

from tritone_serving.events.address import (
    EVENTS_VARIABLE,
    NO_EVENTS,
    EventRetention,
    existing_store_url,
    parse_address,
    store_url,
)
from tritone_serving.events.event import EVENT_KINDS, Event, EventKind, checked_event, event_id
from tritone_serving.events.exceptions import (
    EventStoreDamagedError,
    EventStoreError,
    EventStoreFullError,
    EventStoreUnavailableError,
    EventStoreUrlError,
    InvalidEventError,
)
from tritone_serving.events.store import EventStore, check_store_url, open_store

__all__ = [
    "EVENTS_VARIABLE",
    "EVENT_KINDS",
    "NO_EVENTS",
    "Event",
    "EventKind",
    "EventRetention",
    "EventStore",
    "EventStoreDamagedError",
    "EventStoreError",
    "EventStoreFullError",
    "EventStoreUnavailableError",
    "EventStoreUrlError",
    "InvalidEventError",
    "check_store_url",
    "checked_event",
    "event_id",
    "existing_store_url",
    "open_store",
    "parse_address",
    "store_url",
]
