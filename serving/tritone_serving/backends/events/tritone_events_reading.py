"""Reading of events in requests: one JSON object each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from tritone_serving.events import Event, EventRetention, InvalidEventError, checked_event, event_id
from tritone_serving.ids import normalize_id
from tritone_serving.recommender.pseudonyms import pseudonym
from tritone_serving.security.callers import Caller

LONGEST_EVENT = 8_192  # bytes
LONGEST_USER = 4_096  # bytes in UTF-8, as for recommendations
_FIELDS = frozenset({"id", "user", "track", "kind", "at", "played_s", "context"})


@dataclass(frozen=True)
class Outcome:
    """What became of an event.

    Attributes:
        reason: why it was refused or denied; else empty.
    """

    name: Literal["new", "duplicate", "refused", "denied"]
    reason: str = ""


class NotAllowedError(InvalidEventError):
    """Raised when a caller may not write events of a user."""


def read_event(text: bytes, caller: Caller, key: bytes, now: float, retention: EventRetention) -> Event:
    """Return the event of a JSON object.

    Args:
        text: as sent.
        caller: who sent it.
        key: the key of the users' pseudonyms.
        now: in seconds since 1970.
        retention: of the store; older events would be removed at once.

    Raises:
        InvalidEventError: it is invalid; the message contains no user id.
        NotAllowedError: the caller may not write events of this user.
    """
    given = _object(text)
    if unknown := sorted(given.keys() - _FIELDS):
        raise InvalidEventError(
            f"invalid event: unknown field {unknown[0][:40]!r}; expected only {', '.join(sorted(_FIELDS))}"
        )
    user, sent = given.pop("user", None), given.pop("id", None)
    if not isinstance(user, str) or not (name := normalize_id(user)):
        raise InvalidEventError("invalid user: expected an id as text, got something else or an empty id")
    if not caller.may_use(user):
        raise NotAllowedError(
            "not allowed: expected the service key, or a token of the event's user; see `tritone user-token`"
        )
    try:
        if len(name.encode("utf-8")) > LONGEST_USER:
            raise InvalidEventError(f"invalid user: expected at most {LONGEST_USER:,} bytes")
    except UnicodeEncodeError:
        raise InvalidEventError("invalid user: expected text that UTF-8 can encode, got lone surrogates") from None
    if not isinstance(sent, str):
        raise InvalidEventError("invalid event id: expected text, such as a UUID, so that a retry is not stored twice")
    if "track" not in given:
        raise InvalidEventError("invalid event: expected a track, got none")
    hashed = pseudonym(key, name).hex()
    event = checked_event(id=event_id(key, hashed, sent), user=hashed, now=now, **given)
    if event.at < retention.cutoff(now):
        raise InvalidEventError(
            f"invalid at: expected a time within the store's retention of {retention.days:g} days, got one "
            f"{(now - event.at) / 86_400:,.0f} days ago; leave older events to the listening log"
        )
    return event


def _object(text: bytes) -> dict[str, object]:
    if len(text) > LONGEST_EVENT:
        raise InvalidEventError(f"invalid event: expected at most {LONGEST_EVENT:,} bytes, got {len(text):,}")
    try:
        given = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InvalidEventError("invalid event: expected a JSON object in UTF-8") from None
    if not isinstance(given, dict):
        raise InvalidEventError(f"invalid event: expected a JSON object, got {type(given).__name__}")
    return given
