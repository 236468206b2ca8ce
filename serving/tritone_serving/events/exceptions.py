"""Exceptions raised by listening events and their stores.

```
InvalidEventError               an event is invalid; the others of its batch are not affected
EventStoreError
├── EventStoreUrlError          the address or a setting of a store is invalid
├── EventStoreUnavailableError  the store cannot be reached, is locked, or did not answer in time; try again later
│   └── EventStoreFullError     the disk or the memory of the store is full
└── EventStoreDamagedError      the content is damaged, or of another program or format version
```
They do not derive from the client's exceptions, because backends use them where only the standard library is there.
"""

from __future__ import annotations


class InvalidEventError(ValueError):
    """Raised when an event is invalid; the message contains no user id."""


class EventStoreError(Exception):
    """Base class of the errors of event stores."""


class EventStoreUrlError(EventStoreError, ValueError):
    """Raised when the address or a setting of an event store is invalid."""


class EventStoreUnavailableError(EventStoreError):
    """Raised when an event store cannot be reached, is locked, or does not answer in time.

    Events of a failed `append` may or may not be stored; appending them again is safe.
    """


class EventStoreFullError(EventStoreUnavailableError):
    """Raised when the disk or the memory of an event store is full."""


class EventStoreDamagedError(EventStoreError):
    """Raised when a store is damaged, belongs to another program, or has another format version."""
