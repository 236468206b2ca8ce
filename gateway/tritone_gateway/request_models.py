"""Models of request bodies that several routes share: files, notes and sampling."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from tritone import Grid, InvalidScoreError
from tritone.constants import EMOTIONS

_MAX_METER: Final = 16_384  # a bar of more time steps than a score may have

Mood = Annotated[str, Field(max_length=100)] | Annotated[dict[str, float], Field(max_length=len(EMOTIONS))]
MOOD_DESCRIPTION: Final = "One of the nine emotions, or an object of emotions and their strengths from 0 to 1."


class RequestBody(BaseModel):
    """Base class of the models of request bodies; unknown names are errors, so that misspelt options are noticed."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


@dataclass(frozen=True, eq=False)
class Upload:
    """The bytes of an uploaded file."""

    content: bytes


class UrlFile(RequestBody):
    """A file to fetch, from a host that the operator of the gateway allows."""

    url: str = Field(max_length=2_000, pattern=r"^https?://", examples=["https://media.example.org/song.ogg"])


class Base64File(RequestBody):
    """A file in Base64."""

    base64: str


class NoteList(RequestBody):
    """A score as a list of notes; a piece that the gateway has returned is also accepted."""

    model_config = ConfigDict(extra="ignore")  # a returned piece has more fields

    notes: list[tuple[int, int, int]] = Field(
        fail_fast=True,
        max_length=100_000,
        description="Each [onset, length, pitch]: onset and length in time steps, pitch as MIDI 21..108.",
        examples=[[[0, 4, 60], [4, 4, 64], [8, 8, 67]]],
    )
    frames_per_quarter: int = Field(4, ge=1, le=96, description="Time steps in a quarter note.")
    tempo_qpm: float = Field(120.0, gt=0, description="Quarter notes per minute.")
    meter: tuple[int, int] | None = Field((4, 4), description="Time signature.")
    frames_per_bar: int | None = Field(None, ge=0, description="Time steps in a bar; by default, from `meter`.")
    first_frame_in_bar: int = Field(0, ge=0, description="Index of the first time step in its bar.")
    n_frames: int | None = Field(
        None, ge=1, le=16_384, description="Length in time steps; by default, up to the end of the last note."
    )

    def to_grid(self) -> Grid:
        """Return the score.

        Raises:
            InvalidScoreError: a note is not within the score or the keys of the piano.
        """
        steps = self.frames_per_quarter
        n_frames = self.n_frames or max((onset + length for onset, length, _ in self.notes), default=0)
        bar = self.frames_per_bar
        if self.meter is not None and max(self.meter) > _MAX_METER:
            raise InvalidScoreError(
                f"invalid meter: expected numbers up to {_MAX_METER}, such as [3, 4], got larger ones",
                path="<notes>",
                reason="bad_shape",
                argument="meter",
            )
        if bar is None:
            bar = 0 if self.meter is None else 4 * self.meter[0] * steps // max(self.meter[1], 1)
        return Grid.from_dict(
            {
                "n_frames": n_frames,
                "notes": self.notes,
                "frames_per_quarter": steps,
                "tempo_qpm": self.tempo_qpm,
                "meter": self.meter,
                "frames_per_bar": bar,
                "first_frame_in_bar": self.first_frame_in_bar,
                "dropped": {},
            }
        )


def _kind(value: Any) -> str:
    """Return the tag of the kind of file that a value is, so that validation errors refer only to this kind."""
    if isinstance(value, Upload):
        return "upload"
    for name in ("notes", "base64"):
        if (isinstance(value, Mapping) and name in value) or hasattr(value, name):
            return name
    return "url"


_Upload = Annotated[SkipJsonSchema[Upload], Tag("upload")]
_Url = Annotated[UrlFile, Tag("url")]
_Base64 = Annotated[Base64File, Tag("base64")]
_Notes = Annotated[NoteList, Tag("notes")]
AudioFile = Annotated[_Upload | _Url | _Base64, Discriminator(_kind)]
ScoreFile = Annotated[_Upload | _Notes | _Url | _Base64, Discriminator(_kind)]


def audio_field(description: str, *, default: Any = ...) -> Any:
    """Return a field for a recording."""
    return Field(default, description=description, json_schema_extra={"x-file": "audio"})


def score_field(description: str, *, default: Any = ...) -> Any:
    """Return a field for a score."""
    return Field(default, description=description, json_schema_extra={"x-file": "score"})


def draw_seed() -> int:
    """Return a random seed below 2^53, which JavaScript's numbers represent exactly."""
    return secrets.randbelow(1 << 53)


InstrumentNames = list[str | int] | str | int | None


def instruments_field() -> Any:
    """Return a field for the instruments of a piece."""
    return Field(
        None,
        description="General MIDI instruments by name or program (0 to 127): one, or up to four for the parts from the "
        "highest down; those of the style, or the piano, if left out. They have no influence on the notes.",
        examples=[["Violin", "Cello"]],
    )


class Sampling(RequestBody):
    """Sampling parameters."""

    temperature: float | None = Field(
        None,
        ge=0.01,
        le=100,
        description="Sampling temperature: below 1 is more conservative, above 1 more random. Default: the model's.",
    )
    top_k: int | None = Field(
        None, ge=1, description="Sample only from this many most probable candidates; all by default."
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Sample only from the most probable candidates that together have this probability.",
    )
    seed: int = Field(
        default_factory=draw_seed,
        ge=0,
        description="Random seed, which reproduces the piece. If omitted, one is drawn and returned.",
    )
    tempo_qpm: float | None = Field(
        None, ge=10, le=1_000, description="Tempo of the result in quarter notes per minute."
    )
    instruments: InstrumentNames = instruments_field()


class PieceSampling(Sampling):
    """Sampling parameters of models that compose whole pieces."""

    style: str | None = Field(None, max_length=100, description="One of the model's styles; any by default.")
    model: str = Field("music_transformer", max_length=256, description="Name of the model.")
