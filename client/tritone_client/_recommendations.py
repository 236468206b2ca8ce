"""What the SDK answers when it is asked what to play."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Reason:
    """One summand of one track's score.

    Attributes:
        member: the part of the ensemble that says it, as in `ease`; `ensemble` for what re-ranking gave or took.
        because: what it rests on: `history`, `friend`, `friends_listening` (the friends' history, where there is no
            own), `tag`, `recording`, `mood`, `listeners` (what other people listen to), `popularity`, `unheard` (nobody
            listens to it yet), `diversity` or `novelty`.
        id: which track of the history, which friend or which tag; empty where there is none to name.
        amount: of the score; a track's amounts add up to its score.
    """

    member: str
    because: str
    id: str
    amount: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {"member": self.member, "because": self.because, "id": self.id, "amount": self.amount}


@dataclass(frozen=True)
class Recommendation:
    """A track to play.

    Attributes:
        track_id: as in the listening log.
        score: comparable within one answer only.
        title: None where the model does not know it.
        artist: as `title`.
        reasons: the weightiest first; empty unless they were asked for.
    """

    track_id: str
    score: float
    title: str | None = None
    artist: str | None = None
    reasons: tuple[Reason, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "track_id": self.track_id,
            "score": self.score,
            "title": self.title,
            "artist": self.artist,
            "reasons": [reason.to_dict() for reason in self.reasons],
        }


@dataclass(frozen=True)
class UnknownIds:
    """What of a question the model does not know and so passed over; true if there is anything.

    Attributes:
        user: whether the user is unknown.
        mood: whether a mood was given to a model that knows nothing of moods.
    """

    user: bool = False
    history: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    friends: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mood: bool = False

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        lists = {
            each.name: list(getattr(self, each.name)) for each in fields(self) if each.name not in ("user", "mood")
        }
        return {"user": self.user, **lists, "mood": self.mood}


class Recommendations(list[Recommendation]):
    """Tracks to play, the best first: a list, with what the model says about the whole of it.

    Attributes:
        rung: the best that was known of whom was asked for: `user`, `history`, `friends`, `recording`, `mood` or
            `popularity`. None for tracks that are like another.
        arm: which ensemble of an A/B test answered; None if the model does not say.
        unknown: ids that the model does not know.
        model: the model's name.
        model_version: which of its versions answered.
        request_id: as the server's log has it.
    """

    def __init__(
        self,
        tracks: Iterable[Recommendation] = (),
        *,
        rung: str | None = None,
        arm: str | None = None,
        unknown: UnknownIds | None = None,
        model: str = "",
        model_version: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(tracks)
        self.rung = rung
        self.arm = arm
        self.unknown = UnknownIds() if unknown is None else unknown
        self.model = model
        self.model_version = model_version
        self.request_id = request_id

    @property
    def track_ids(self) -> tuple[str, ...]:
        """The ids alone."""
        return tuple(track.track_id for track in self)

    def __repr__(self) -> str:
        return f"Recommendations({super().__repr__()}, rung={self.rung!r}, {self.model} v{self.model_version})"

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "recommendations": [track.to_dict() for track in self],
            "rung": self.rung,
            "arm": self.arm,
            "unknown": self.unknown.to_dict(),
            "model": self.model,
            "model_version": self.model_version,
            "request_id": self.request_id,
        }
