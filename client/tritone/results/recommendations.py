"""Results of `recommend`, `similar`, `search` and `find_tracks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, overload

from tritone.results.frames import require_pandas
from tritone.results.html import table
from tritone.results.json_result import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    NUMBER_BY_NAME,
    STRING,
    JsonResult,
    array_of,
    object_of,
    optional,
)

JsonProperties = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Reason(JsonResult):
    """One contribution to the score of a track.

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

    json_properties: ClassVar[JsonProperties] = {
        "base_model": STRING,
        "because": STRING,
        "id": STRING,
        "amount": NUMBER,
        "title": optional(STRING),
        "artist": optional(STRING),
    }


@dataclass(frozen=True)
class Recommendation(JsonResult):
    """A recommended track.

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

    json_properties: ClassVar[JsonProperties] = {
        "track_id": STRING,
        "score": NUMBER,
        "title": optional(STRING),
        "artist": optional(STRING),
        "reasons": array_of(object_of(Reason)),
    }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the recommendation whose `to_dict` gave the values."""
        return super().from_dict({**values, "reasons": list(map(Reason.from_dict, values["reasons"]))})


@dataclass(frozen=True)
class UnknownIds(JsonResult):
    """The inputs of a request that the model could not use and ignored: unknown ids, and flags for the others.

    The model's output `unknown` also holds the mood that was used; it is the attribute `mood` of the result instead.

    Attributes:
        user: whether the user is unknown.
        mood: whether a mood was given to a model that was trained without emotions.
        audio: whether a recording was given that the model could not use: it was trained without recordings, or
            with another `genre_cnn` than the server has.
        events: whether the user's recorded events could not be read, because the event store did not answer: the
            recommendations do not reflect events since the recommender was fitted.
    """

    user: bool = False
    history: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    friends: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mood: bool = False
    audio: bool = False
    events: bool = False

    json_properties: ClassVar[JsonProperties] = {
        "user": BOOLEAN,
        "history": array_of(STRING),
        "skipped": array_of(STRING),
        "friends": array_of(STRING),
        "exclude": array_of(STRING),
        "mood": BOOLEAN,
        "audio": BOOLEAN,
        "events": BOOLEAN,
    }

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) for each in fields(self))


@dataclass(frozen=True)
class AppliedMood(JsonResult):
    """The mood that a response took into account.

    Attributes:
        source: `given` by the caller, `inferred` from the last tracks of the history, or `none`.
        strengths: by emotion, without those of 0. An inferred mood may have negative strengths, of emotions that the
            last tracks had less of than others.
    """

    source: str = "none"
    strengths: Mapping[str, float] = field(default_factory=dict)

    json_properties: ClassVar[JsonProperties] = {"source": STRING, "strengths": NUMBER_BY_NAME}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"source": self.source, "strengths": dict(self.strengths)}


@dataclass(frozen=True, repr=False)
class Recommendations(JsonResult, Sequence[Recommendation]):
    """Recommended tracks, best first: a sequence of `Recommendation` with information on the response.

    Attributes:
        recommendations: the tracks; iterating over, indexing and `len` of this object refer to them.
        source: the best information that was available: `user`, `history`, `friends`, `audio`, `mood` or
            `popularity`. None for similar tracks.
        arm: the ensemble of an A/B test that was used; None without a test.
        unknown: the parts of the request that the model could not use.
        mood: the mood that was taken into account.
        model: the model's name.
        model_version: the version of the model.
        request_id: the id of the request in the log of the server.
    """

    recommendations: tuple[Recommendation, ...] = ()
    source: str | None = None
    arm: str | None = None
    unknown: UnknownIds = field(default_factory=UnknownIds)
    mood: AppliedMood = field(default_factory=AppliedMood)
    model: str = ""
    model_version: str = ""
    request_id: str = ""

    json_properties: ClassVar[JsonProperties] = {
        "recommendations": array_of(object_of(Recommendation)),
        "source": optional(STRING),
        "arm": optional(STRING),
        "unknown": object_of(UnknownIds),
        "mood": object_of(AppliedMood),
        "model": STRING,
        "model_version": STRING,
        "request_id": STRING,
    }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the recommendations whose `to_dict` gave the values."""
        tracks = list(map(Recommendation.from_dict, values["recommendations"]))
        unknown = UnknownIds.from_dict(values["unknown"])
        mood = AppliedMood.from_dict(values["mood"])
        return super().from_dict({**values, "recommendations": tracks, "unknown": unknown, "mood": mood})

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
        """The ids of the tracks."""
        return tuple(track.track_id for track in self)

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`: a row for each track, without reasons.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        columns = ("track_id", "score", "title", "artist")
        rows = [{name: getattr(track, name) for name in columns} for track in self]
        return require_pandas().DataFrame(rows, columns=list(columns))

    def _repr_html_(self) -> str:
        """Return the tracks as a table for a notebook."""
        rows = [
            {
                "track": track.title or track.track_id,
                "artist": track.artist,
                "score": track.score,
                "reasons": ", ".join(f"{each.because} {each.title or each.id}".strip() for each in track.reasons[:3]),
            }
            for track in self
        ]
        return table(rows, caption=f"Recommendations by {self.model}, source: {self.source or 'similarity'}")

    def __repr__(self) -> str:
        tracks = list(self.recommendations)
        return f"Recommendations({tracks!r}, source={self.source!r}, {self.model} v{self.model_version})"


@dataclass(frozen=True)
class Track(JsonResult):
    """A track found by a search.

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

    json_properties: ClassVar[JsonProperties] = {
        "track_id": STRING,
        "title": optional(STRING),
        "artist": optional(STRING),
        "match": STRING,
        "field": STRING,
    }


@dataclass(frozen=True, repr=False)
class TrackPage(JsonResult, Sequence[Track]):
    """One page of the tracks that a search found, best match first: a sequence of `Track`.

    Attributes:
        tracks: the tracks of this page; iterating over, indexing and `len` of this object refer to them.
        total: number of tracks found in all.
        offset: number of tracks before this page.
        model: the model's name.
        model_version: the version of the model.
        request_id: the id of the request in the log of the server.
    """

    tracks: tuple[Track, ...] = ()
    total: int = 0
    offset: int = 0
    model: str = ""
    model_version: str = ""
    request_id: str = ""

    json_properties: ClassVar[JsonProperties] = {
        "tracks": array_of(object_of(Track)),
        "total": INTEGER,
        "offset": INTEGER,
        "model": STRING,
        "model_version": STRING,
        "request_id": STRING,
    }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the page whose `to_dict` gave the values."""
        return super().from_dict({**values, "tracks": list(map(Track.from_dict, values["tracks"]))})

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
        """The ids of the tracks."""
        return tuple(track.track_id for track in self)

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`: a row for each track.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        columns = list(Track.json_properties)
        return require_pandas().DataFrame([track.to_dict() for track in self], columns=columns)

    def _repr_html_(self) -> str:
        """Return the tracks as a table for a notebook."""
        return table([track.to_dict() for track in self], caption=f"{self.total} tracks found")

    def __repr__(self) -> str:
        return f"TrackPage({list(self.tracks)!r}, total={self.total}, offset={self.offset})"
