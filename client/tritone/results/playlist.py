"""The result of `playlist`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, overload

from tritone.results.frames import require_pandas
from tritone.results.html import table
from tritone.results.json_result import BOOLEAN, INTEGER, NUMBER, STRING, JsonResult, array_of, object_of, optional
from tritone.results.recommendations import AppliedMood, UnknownIds

JsonProperties = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PlaylistTrack(JsonResult):
    """A track of a playlist.

    Attributes:
        track_id: as in the listening log.
        similarity: to the track before it, -1 to 1; None for the first track of a playlist.
        title: None where the model does not know it.
        artist: as `title`.
    """

    track_id: str
    similarity: float | None = None
    title: str | None = None
    artist: str | None = None

    json_properties: ClassVar[JsonProperties] = {
        "track_id": STRING,
        "similarity": optional(NUMBER),
        "title": optional(STRING),
        "artist": optional(STRING),
    }


@dataclass(frozen=True, repr=False)
class Playlist(JsonResult, Sequence[PlaylistTrack]):
    """Tracks in the order in which to play them: a sequence of `PlaylistTrack` with information on the response.

    Attributes:
        tracks: the tracks; iterating over, indexing and `len` of this object refer to them.
        seed: reproduces the playlist with the same arguments and model version.
        artist_gap: smallest number of tracks between two of the same artist in this playlist, at most the requested
            number.
        relaxed: what could not be kept: `artist_gap`, because there are too few artists among similar tracks, and `n`,
            because there are too few tracks.
        compared_by: what the similarities are based on: of `listening`, `sound` and `tags`.
        by_taste: whether the listener's taste was followed.
        mood: the mood that was followed.
        unknown: the parts of the request that the model could not use; unknown ids of `after` are among `exclude`.
        model: the model's name.
        model_version: the version of the model.
        request_id: the id of the request in the log of the server.
    """

    tracks: tuple[PlaylistTrack, ...] = ()
    seed: int = 0
    artist_gap: int = 0
    relaxed: tuple[str, ...] = ()
    compared_by: tuple[str, ...] = ()
    by_taste: bool = False
    mood: AppliedMood = field(default_factory=AppliedMood)
    unknown: UnknownIds = field(default_factory=UnknownIds)
    model: str = ""
    model_version: str = ""
    request_id: str = ""

    json_properties: ClassVar[JsonProperties] = {
        "tracks": array_of(object_of(PlaylistTrack)),
        "seed": INTEGER,
        "artist_gap": INTEGER,
        "relaxed": array_of(STRING),
        "compared_by": array_of(STRING),
        "by_taste": BOOLEAN,
        "mood": object_of(AppliedMood),
        "unknown": object_of(UnknownIds),
        "model": STRING,
        "model_version": STRING,
        "request_id": STRING,
    }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the playlist whose `to_dict` gave the values."""
        parsed = {
            "tracks": list(map(PlaylistTrack.from_dict, values["tracks"])),
            "mood": AppliedMood.from_dict(values["mood"]),
            "unknown": UnknownIds.from_dict(values["unknown"]),
        }
        return super().from_dict({**values, **parsed})

    @overload
    def __getitem__(self, index: int) -> PlaylistTrack: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PlaylistTrack, ...]: ...
    def __getitem__(self, index: int | slice) -> PlaylistTrack | tuple[PlaylistTrack, ...]:
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
        columns = list(PlaylistTrack.json_properties)
        return require_pandas().DataFrame([track.to_dict() for track in self], columns=columns)

    def _repr_html_(self) -> str:
        """Return the tracks as a table for a notebook."""
        return table([track.to_dict() for track in self], caption=f"{len(self)} tracks by {self.model}")

    def __repr__(self) -> str:
        return f"Playlist({list(self.tracks)!r}, seed={self.seed}, {self.model} v{self.model_version})"
