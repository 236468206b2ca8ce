"""Recording of plays, skips, likes and dislikes.

Each event has an id that is generated once. The server stores an event id only once, so a request can be repeated
safely.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final, cast

import numpy as np

from tritone.arguments import Id, check_id, check_model_name
from tritone.constants import (
    EVENT_KINDS,
    LONGEST_PLAY_S,
    N_CONTEXT_MAX,
    N_CONTEXT_VALUE_MAX,
    N_EVENT_ID_MAX,
    N_EVENT_TRACK_BYTES_MAX,
    N_EVENTS_MAX,
    EventKind,
)
from tritone.credentials import Credentials
from tritone.exceptions import AccessDeniedError, InvalidInputError, RequestRejectedError, ServerError
from tritone.messages import Flow, InferRequest, InferResponse, next_request_id
from tritone.results.events import EVENT_OUTCOMES, EventOutcome, RecordedEvent

_EVENT_ID: Final = re.compile(r"[\x21-\x7e]+")
_CONTEXT_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_OUTPUTS: Final = ("outcome", "reason")


@dataclass(frozen=True)
class ListeningEvent:
    """What a user did with a track.

    Attributes:
        user_id: the user, as in the listening log.
        track_id: the track, as in the listening log.
        kind: `play`, `skip`, `like` or `dislike`.
        played_s: how long the track was played, in seconds; None if unknown.
        at: when, as a datetime with a time zone or in seconds since 1970; None for the time when the server gets it.
        context: circumstances, up to 8 short texts such as `{"device": "car"}`.
        event_id: up to 128 printable ASCII characters; None makes a random one. An id names one event of a user.
    """

    user_id: Id
    track_id: Id
    kind: EventKind = "play"
    played_s: float | None = None
    at: datetime | float | None = None
    context: Mapping[str, str] | None = None
    event_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def record_flow(
    event: ListeningEvent, *, model: str, credentials: Credentials, user_token: str | None
) -> Flow[RecordedEvent]:
    """Record one event; see `MusicClient.record`.

    Raises:
        InvalidInputError: it is invalid.
        RequestRejectedError: the server refused it.
        AccessDeniedError: the caller may not write events of this user.
    """
    [recorded] = yield from record_many_flow(
        [event], model=model, credentials=credentials, user_token=user_token, first=None
    )
    if not recorded.is_stored:
        kind = AccessDeniedError if recorded.outcome == "denied" else RequestRejectedError
        raise kind(f"the server refused the event: {recorded.reason}", model=model)
    return recorded


def record_many_flow(
    events: list[ListeningEvent],
    *,
    model: str,
    credentials: Credentials,
    user_token: str | None,
    first: int | None = 0,
) -> Flow[list[RecordedEvent]]:
    """Record the events of one request; see `MusicClient.record_many`.

    Args:
        first: index of the first event, by which errors name events; None for a single one.
    """
    check_model_name(model)
    texts = [
        _encoded(event, "" if first is None else f"events[{first + index}].") for index, event in enumerate(events)
    ]
    tensor = np.empty((len(texts), 1), np.object_)
    tensor[:, 0] = texts
    request = InferRequest(
        model, next_request_id("record"), {"event": tensor}, _OUTPUTS, headers=credentials.headers(user_token)
    )
    response = cast(InferResponse, (yield request))
    outcomes, reasons = (_column(response, name, len(events)) for name in _OUTPUTS)
    return [
        RecordedEvent(event.event_id, _outcome(response, outcome), reason)
        for event, outcome, reason in zip(events, outcomes, reasons, strict=True)
    ]


def chunks(events: Iterable[ListeningEvent]) -> Iterator[list[ListeningEvent]]:
    """Yield the events in lists of at most 256, the limit of one request.

    Raises:
        InvalidInputError: an element is no event.
    """
    source = iter(events)
    while chunk := list(islice(source, N_EVENTS_MAX)):
        for event in chunk:
            if not isinstance(event, ListeningEvent):
                raise InvalidInputError(
                    f"invalid events: expected elements of type ListeningEvent, got {type(event).__name__}",
                    argument="events",
                )
        yield chunk


def _encoded(event: ListeningEvent, prefix: str) -> bytes:
    """Check an event and return it as JSON."""
    user = check_id(f"{prefix}user_id", event.user_id).decode()
    track = check_id(f"{prefix}track_id", event.track_id)
    if len(track) > N_EVENT_TRACK_BYTES_MAX:
        raise _invalid(f"{prefix}track_id", f"at most {N_EVENT_TRACK_BYTES_MAX:,} bytes", f"{len(track):,}")
    given: dict[str, Any] = {"id": event.event_id, "user": user, "track": track.decode()}
    if (
        not isinstance(event.event_id, str)
        or not _EVENT_ID.fullmatch(event.event_id)
        or (len(event.event_id) > N_EVENT_ID_MAX)
    ):
        raise _invalid(
            f"{prefix}event_id", f"1 to {N_EVENT_ID_MAX} printable ASCII characters without spaces", event.event_id
        )
    if event.kind not in EVENT_KINDS:
        raise _invalid(f"{prefix}kind", f"one of {', '.join(EVENT_KINDS)}", event.kind)
    if event.kind != "play":
        given["kind"] = event.kind
    if event.at is not None:
        given["at"] = _seconds(event.at, f"{prefix}at")
    if event.played_s is not None:
        given["played_s"] = _number(event.played_s, f"{prefix}played_s", f"0 to {LONGEST_PLAY_S:,.0f} seconds")
        if not 0 <= given["played_s"] <= LONGEST_PLAY_S:
            raise _invalid(f"{prefix}played_s", f"0 to {LONGEST_PLAY_S:,.0f} seconds", event.played_s)
    if event.context:
        given["context"] = _context(event.context, f"{prefix}context")
    return json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()


def _seconds(at: Any, name: str) -> float:
    if isinstance(at, datetime):
        if at.utcoffset() is None:
            raise _invalid(name, "a datetime with a time zone, such as datetime.now(UTC)", at)
        return at.timestamp()
    seconds = _number(at, name, "a datetime or seconds since 1970")
    if seconds < 0:
        raise _invalid(name, "a datetime or seconds since 1970", at)
    return seconds


def _number(value: Any, name: str, expected: str) -> float:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise _invalid(name, expected, value)
    return number


def _context(context: Any, name: str) -> dict[str, str]:
    if not isinstance(context, Mapping) or len(context) > N_CONTEXT_MAX:
        raise _invalid(name, f"a mapping of at most {N_CONTEXT_MAX} texts", context)
    for key, value in context.items():
        if not isinstance(key, str) or not _CONTEXT_NAME.fullmatch(key):
            raise _invalid(name, "names of up to 32 lower-case letters, digits and _", key)
        if not isinstance(value, str) or not 0 < len(value) <= N_CONTEXT_VALUE_MAX or not value.isprintable():
            raise _invalid(f"{name}[{key!r}]", f"1 to {N_CONTEXT_VALUE_MAX} printable characters", value)
    return dict(context)


def _invalid(name: str, expected: str, got: Any) -> InvalidInputError:
    shown = got if isinstance(got, str) and got.replace(",", "").isdecimal() else repr(got)
    return InvalidInputError(f"invalid {name}: expected {expected}, got {shown:.100}", argument=name.partition("[")[0])


def _column(response: InferResponse, name: str, n_events: int) -> list[str]:
    array = response.outputs.get(name)
    if array is None or array.shape != (n_events, 1) or not all(isinstance(each, str) for each in array[:, 0]):
        got = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
        raise ServerError(
            f"invalid output {name!r} of model {response.model!r}: expected text of shape {(n_events, 1)}, got {got}; "
            f"check that the model stores events",
            model=response.model,
            request_id=response.request_id,
            reason="missing_output" if array is None else "invalid_output",
            output=name,
        )
    column: list[str] = array[:, 0].tolist()
    return column


def _outcome(response: InferResponse, text: str) -> EventOutcome:
    if text not in EVENT_OUTCOMES:
        raise ServerError(
            f"invalid output 'outcome' of model {response.model!r}: expected one of {', '.join(EVENT_OUTCOMES)}, got "
            f"{text!r:.40}; check that the model stores events",
            model=response.model,
            request_id=response.request_id,
            reason="invalid_output",
            output="outcome",
        )
    return text
