"""Results of `recommend`, `similar` and `find_tracks`.

All are dataclasses, so `dataclasses.asdict`, pydantic and FastAPI serialise them with every field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, overload


@dataclass(frozen=True)
class Reason:
    """One summand of one track's score.

    Attributes:
        base_model: the base model that contributed it, such as `ease`; `ensemble` for the effect of re-ranking.
        because: what it is based on: `history`, `friend`, `friends_listening` (the history of friends, for users
            without their own), `tag`, `audio`, `mood`, `listeners` (what other people listen to), `popularity`,
            `cold_item` (nobody listens to it yet), `diversity` or `novelty`.
        id: of the track in the history, the friend or the tag; empty for other causes.
        amount: its share of the score; the amounts of a track add up to its score.
        title: of the track that `id` names; None if `id` names no track or the model does not know its title.
        artist: as `title`.
    """

    base_model: str
    because: str
    id: str
    amount: float
    title: str | None = None
    artist: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True)
class Recommendation:
    """A track to play.

    Attributes:
        track_id: as in the listening log.
        score: comparable only within one response.
        title: None where the model does not know it.
        artist: as `title`.
        reasons: largest contribution first; empty unless requested by `explain`.
    """

    track_id: str
    score: float
    title: str | None = None
    artist: str | None = None
    reasons: tuple[Reason, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "track_id": self.track_id,
            "score": self.score,
            "title": self.title,
            "artist": self.artist,
            "reasons": [reason.to_dict() for reason in self.reasons],
        }


@dataclass(frozen=True)
class UnknownIds:
    """The parts of a request that the model could not use and ignored; true if there are any.

    Attributes:
        user: whether the user is unknown.
        mood: whether a mood was given to a model that was trained without emotions.
        audio: whether a recording was given that the model could not use: it was trained without recordings, or
            with another `genre_cnn` than the server has.
    """

    user: bool = False
    history: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    friends: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mood: bool = False
    audio: bool = False

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True, repr=False)
class Recommendations(Sequence[Recommendation]):
    """Tracks to play, best first: a sequence of `Recommendation` with facts about the whole answer.

    Attributes:
        recommendations: the tracks; iterating over, indexing and `len` of this object refer to them.
        source: the best information that the answer is based on: `user`, `history`, `friends`, `audio`, `mood` or
            `popularity`. None for similar tracks.
        arm: which ensemble of an A/B test answered; None if the model does not say.
        unknown: the parts of the request that the model could not use.
        model: the model's name.
        model_version: which of its versions answered.
        request_id: as in the server's log.
    """

    recommendations: tuple[Recommendation, ...] = ()
    source: str | None = None
    arm: str | None = None
    unknown: UnknownIds = field(default_factory=UnknownIds)
    model: str = ""
    model_version: str = ""
    request_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "recommendations", tuple(self.recommendations))

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Recommendation, ...]: ...
    def __getitem__(self, index: int | slice) -> Recommendation | tuple[Recommendation, ...]:
        return self.recommendations[index]

    def __len__(self) -> int:
        return len(self.recommendations)

    @property
    def track_ids(self) -> tuple[str, ...]:
        """The ids alone."""
        return tuple(track.track_id for track in self)

    def __repr__(self) -> str:
        tracks = list(self.recommendations)
        return f"Recommendations({tracks!r}, source={self.source!r}, {self.model} v{self.model_version})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "recommendations": [track.to_dict() for track in self],
            "source": self.source,
            "arm": self.arm,
            "unknown": self.unknown.to_dict(),
            "model": self.model,
            "model_version": self.model_version,
            "request_id": self.request_id,
        }


@dataclass(frozen=True)
class Track:
    """A track that a search found.

    Attributes:
        track_id: as in the listening log; what `recommend` and `similar` take.
        title: None where the model does not know it.
        artist: as `title`.
        match: how the query matched, best first: `exact`; `normalized` (apart from case, accents, blanks and
            punctuation); `prefix` (the beginning); `words` (every word of the query occurs); `near` (similar spelling,
            given only where nothing else matched).
        field: what the query matched: `id`, `title` or `artist`; `words` also matches `title` and `artist` together,
            which is reported as `title`.
    """

    track_id: str
    title: str | None = None
    artist: str | None = None
    match: str = "exact"
    field: str = "id"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, repr=False)
class TrackPage(Sequence[Track]):
    """One page of the tracks that a search found, best match first: a sequence of `Track`.

    Attributes:
        tracks: the tracks of this page; iterating over, indexing and `len` of this object refer to them.
        total: how many tracks the search found in all.
        offset: how many of them come before this page.
        model: the model's name.
        model_version: which of its versions answered.
        request_id: as in the server's log.
    """

    tracks: tuple[Track, ...] = ()
    total: int = 0
    offset: int = 0
    model: str = ""
    model_version: str = ""
    request_id: str = ""

    @overload
    def __getitem__(self, index: int) -> Track: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Track, ...]: ...
    def __getitem__(self, index: int | slice) -> Track | tuple[Track, ...]:
        return self.tracks[index]

    def __len__(self) -> int:
        return len(self.tracks)

    @property
    def track_ids(self) -> tuple[str, ...]:
        """The ids alone."""
        return tuple(track.track_id for track in self)

    def __repr__(self) -> str:
        return f"TrackPage({list(self.tracks)!r}, total={self.total}, offset={self.offset})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "tracks": [track.to_dict() for track in self],
            "total": self.total,
            "offset": self.offset,
            "model": self.model,
            "model_version": self.model_version,
            "request_id": self.request_id,
        }
