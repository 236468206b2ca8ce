"""Listening events: what a user did with a track, and when.

Stores hold neither the user ids nor the event ids of clients, only keyed hashes of them. The hash of an event id
includes the user, so that equal ids of two users do not collide.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from tritone_serving.events.exceptions import InvalidEventError
from tritone_serving.ids import normalize_id

EventKind = Literal["play", "skip", "like", "dislike"]
EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)

ID_BYTES: Final = 16  # of hashed event ids and of users' pseudonyms
LONGEST_EVENT_ID: Final = 128  # characters of the id that a client sends
LONGEST_TRACK_BYTES: Final = 1_024  # in UTF-8
LONGEST_PLAY_S: Final = 86_400.0
MOST_CONTEXT: Final = 8  # entries
LONGEST_CONTEXT_VALUE: Final = 64  # characters
# How far ahead of the server's a client's clock may be. Short, because events are stored. The times of a history in a
# request may be a day ahead (`recommender.requests.MOST_SKEW_S`), because they are used for that request only.
CLOCK_SKEW_S: Final = 300.0
_CONTEXT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_EVENT_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_HASHED: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Event:
    """What a user did with a track.

    Attributes:
        id: 32 hexadecimal digits, see `event_id`.
        user: the pseudonym, as 32 hexadecimal digits: `pseudonym(key, user).hex()`.
        track: normalised id of the track.
        kind: what the user did.
        at: when, in seconds since 1970.
        played_s: how long the track was played, in seconds; None if unknown.
        context: circumstances such as `{"device": "car"}`; None if there are none.
        received: when the server accepted the event, in seconds since 1970.
    """

    id: str
    user: str
    track: str
    kind: EventKind
    at: float
    played_s: float | None = None
    context: Mapping[str, str] | None = None
    received: float = 0.0

    @property
    def cursor(self) -> str:
        """Return the position of the event in `EventStore.scan`."""
        return f"{self.user}:{self.at!r}:{self.id}"


def event_id(key: bytes, user: str, sent: str) -> str:
    """Return the id under which an event is stored.

    Args:
        key: the key of the users' pseudonyms.
        user: the user's pseudonym, 32 hexadecimal digits.
        sent: the id that the client made.

    Raises:
        InvalidEventError: `sent` is not an id.
    """
    if not _EVENT_ID.fullmatch(sent):
        raise InvalidEventError(
            f"invalid event id: expected 1 to {LONGEST_EVENT_ID} printable ASCII characters without spaces, got "
            f"{len(sent)} characters; use a UUID"
        )
    return hmac.digest(key, f"event {user} {sent}".encode(), hashlib.sha256).hex()[: 2 * ID_BYTES]


def checked_event(
    *,
    id: str,  # noqa: A002 - the field's name
    user: str,
    track: Any,
    kind: Any = "play",
    at: Any = None,
    played_s: Any = None,
    context: Any = None,
    now: float,
) -> Event:
    """Check the fields of an event and return it, with the track's id normalised.

    Args:
        id: 32 hexadecimal digits, see `event_id`.
        user: the user's pseudonym, 32 hexadecimal digits.
        track: id of the track, up to 1,024 bytes of UTF-8; it is normalised.
        kind: `play`, `skip`, `like` or `dislike`.
        at: seconds since 1970; None for now. A time ahead of `now` by at most `CLOCK_SKEW_S` becomes `now`.
        played_s: 0 to 86,400 seconds; None if unknown.
        context: up to 8 short texts by name; None or empty if there are none.
        now: the server's clock, in seconds since 1970.

    Raises:
        InvalidEventError: a field has another type, format or range.
    """
    if not _HASHED.fullmatch(id) or not _HASHED.fullmatch(user):
        raise InvalidEventError("invalid event: expected a hashed id and a pseudonym of 32 hexadecimal digits each")
    if kind not in EVENT_KINDS:
        raise InvalidEventError(f"invalid kind: expected {', '.join(EVENT_KINDS)}, got {_shown(kind)}")
    return Event(id, user, _track(track), kind, _time(at, now), _played(played_s), _context(context), now)


def _track(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidEventError(f"invalid track: expected an id as text, got {_shown(value)}")
    try:
        n_bytes = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidEventError("invalid track: expected text that UTF-8 can encode, got lone surrogates") from None
    if n_bytes > LONGEST_TRACK_BYTES:
        raise InvalidEventError(f"invalid track: expected at most {LONGEST_TRACK_BYTES:,} bytes, got {n_bytes:,}")
    track = normalize_id(value)
    if not track or "\0" in track:
        raise InvalidEventError(f"invalid track: expected an id, got {_shown(value)}")
    return track


def _time(value: Any, now: float) -> float:
    if value is None:
        return now
    seconds = _number(value, "at", "seconds since 1970")
    if seconds < 0:
        raise InvalidEventError(f"invalid at: expected seconds since 1970, got {seconds}")
    if seconds > now + CLOCK_SKEW_S:
        ahead = "" if seconds < 1e11 else "; these may be milliseconds: divide them by 1,000"
        raise InvalidEventError(
            f"invalid at: expected a time at most {CLOCK_SKEW_S:g} s ahead of the server's clock, got "
            f"{seconds - now:,.0f} s{ahead}"
        )
    return min(seconds, now)


def _played(value: Any) -> float | None:
    if value is None:
        return None
    seconds = _number(value, "played_s", "seconds")
    if not 0 <= seconds <= LONGEST_PLAY_S:
        raise InvalidEventError(f"invalid played_s: expected 0 to {LONGEST_PLAY_S:,.0f} seconds, got {seconds}")
    return seconds


def _number(value: Any, name: str, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidEventError(f"invalid {name}: expected {unit} as a number, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidEventError(f"invalid {name}: expected {unit} as a finite number, got {_shown(value)}")
    return number


def _context(value: Any) -> dict[str, str] | None:
    if value is None or value == {}:
        return None
    if not isinstance(value, Mapping):
        raise InvalidEventError(f"invalid context: expected a mapping of texts, got {_shown(value)}")
    if len(value) > MOST_CONTEXT:
        raise InvalidEventError(f"invalid context: expected at most {MOST_CONTEXT} entries, got {len(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not _CONTEXT_NAME.fullmatch(name):
            raise InvalidEventError(
                f"invalid context: expected names of up to 32 lower-case letters, digits and _, got {_shown(name)}"
            )
        if not isinstance(text, str) or not 0 < len(text) <= LONGEST_CONTEXT_VALUE or not text.isprintable():
            raise InvalidEventError(
                f"invalid context: expected {name} to be 1 to {LONGEST_CONTEXT_VALUE} printable characters, got "
                f"{_shown(text)}"
            )
    return dict(value)


def _shown(value: Any) -> str:
    whole = value if isinstance(value, str) else repr(value)
    cut = whole[:40]
    shown = repr(cut) if isinstance(value, str) else cut
    return shown if len(whole) <= 40 else f"{shown}..."
