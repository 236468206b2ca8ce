"""What requests for new music say about sampling."""

from __future__ import annotations

import secrets

from pydantic import Field

from tritone_gateway.bodies import Options


def drawn_seed() -> int:
    """Return a seed that JavaScript's numbers hold exactly."""
    return secrets.randbelow(1 << 53)


class Sampling(Options):
    """How a model samples."""

    temperature: float | None = Field(
        None,
        ge=0.01,
        le=100,
        description="Below 1 more conservative, above 1 more random; that of the model if left out.",
    )
    top_k: int | None = Field(None, ge=1, description="Sample among this many candidates; all if left out.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample among the candidates of this total probability.")
    seed: int = Field(
        default_factory=drawn_seed, ge=0, description="Reproduces the piece; drawn and returned if left out."
    )
    tempo_qpm: float | None = Field(None, ge=10, le=1_000, description="Quarter notes per minute of the result.")


class Styled(Sampling):
    """How a model of whole pieces samples."""

    style: str | None = Field(None, max_length=100, description="One of the model's styles; any if left out.")
    model: str = Field("music_transformer", max_length=256, description="Name of the model.")
