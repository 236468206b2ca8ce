"""What requests for new music say about sampling."""

from __future__ import annotations

import secrets
from typing import Any

from pydantic import Field

from tritone_gateway.bodies import Options


def drawn_seed() -> int:
    """Return a seed that JavaScript's numbers hold exactly."""
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


class Sampling(Options):
    """How a model samples."""

    temperature: float = Field(1.0, ge=0.01, le=100, description="Below 1 more conservative, above 1 more random.")
    top_k: int | None = Field(None, ge=1, description="Sample among this many candidates; all if left out.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample among the candidates of this total probability.")
    seed: int = Field(
        default_factory=drawn_seed, ge=0, description="Reproduces the piece; drawn and returned if left out."
    )
    tempo_qpm: float | None = Field(None, ge=10, le=1_000, description="Quarter notes per minute of the result.")
    instruments: InstrumentNames = instruments_field()


class Styled(Sampling):
    """How a model of whole pieces samples."""

    style: str | None = Field(None, max_length=100, description="One of the model's styles; any if left out.")
    model: str = Field("music_transformer", max_length=256, description="Name of the model.")
