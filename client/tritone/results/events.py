"""Results of `record` and `record_many`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, get_args, overload

from tritone.results.json_result import INTEGER, STRING, JsonResult, array_of, object_of

EventOutcome: TypeAlias = Literal["new", "duplicate", "refused", "denied"]
EVENT_OUTCOMES: Final[tuple[EventOutcome, ...]] = get_args(EventOutcome)


@dataclass(frozen=True)
class RecordedEvent(JsonResult):
    """What became of an event.

    Attributes:
        event_id: id of the event; the server uses it to recognise repeated events.
        outcome: `new`; `duplicate`, if it was stored before; `refused`, if it is invalid; or `denied`, if the caller
            may not write events of this user.
        reason: why it was refused or denied; else empty.
    """

    event_id: str
    outcome: EventOutcome
    reason: str = ""

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "event_id": STRING,
        "outcome": {"type": "string", "enum": list(EVENT_OUTCOMES)},
        "reason": STRING,
    }

    @property
    def is_stored(self) -> bool:
        """Whether the store holds the event."""
        return self.outcome in ("new", "duplicate")


@dataclass(frozen=True, repr=False)
class RecordedEvents(JsonResult, Sequence[RecordedEvent]):
    """What became of several events, in their order.

    Attributes:
        events: one result for each event; iterating over, indexing and `len` of this object refer to them.
    """

    events: tuple[RecordedEvent, ...] = ()

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "events": array_of(object_of(RecordedEvent)),
        "n_new": INTEGER,
        "n_duplicates": INTEGER,
        "n_refused": INTEGER,
    }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the results whose `to_dict` gave the values."""
        return cls(tuple(map(RecordedEvent.from_dict, values["events"])))

    @property
    def n_new(self) -> int:
        """Number of events that were not stored before."""
        return self._counts()["new"]

    @property
    def n_duplicates(self) -> int:
        """Number of events that were stored before."""
        return self._counts()["duplicate"]

    @property
    def n_refused(self) -> int:
        """Number of events that are not stored: refused or denied."""
        return len(self.events) - self.n_new - self.n_duplicates

    @property
    def refused(self) -> tuple[RecordedEvent, ...]:
        """The events that are not stored, with the reasons."""
        return tuple(each for each in self.events if not each.is_stored)

    def _counts(self) -> Counter[str]:
        return Counter(each.outcome for each in self.events)

    @overload
    def __getitem__(self, index: int) -> RecordedEvent: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RecordedEvent, ...]: ...
    def __getitem__(self, index: int | slice) -> RecordedEvent | tuple[RecordedEvent, ...]:
        return self.events[index]

    def __len__(self) -> int:
        return len(self.events)

    def __repr__(self) -> str:
        return f"RecordedEvents({self.n_new} new, {self.n_duplicates} duplicates, {self.n_refused} refused)"
