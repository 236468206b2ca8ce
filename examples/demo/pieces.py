"""A piece as MIDI, sound and picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritone.music.piece import Piece


@dataclass(frozen=True)
class Saved:
    """A piece in its files.

    Attributes:
        sound: None for a piece without notes.
    """

    title: str
    piece: Piece
    midi: Path
    sound: Path | None
    picture: Path

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        grid = self.piece.grid
        return {
            "title": self.title,
            "model": self.piece.model,
            "model_version": self.piece.model_version,
            "seed": self.piece.seed,
            "n_bars": grid.n_bars,
            "n_notes": grid.n_notes,
            "duration_s": grid.duration_s,
            "midi": str(self.midi),
            "wav": None if self.sound is None else str(self.sound),
            "png": str(self.picture),
        }


def save(piece: Piece, midi: Path, *, title: str) -> Saved:
    """Write a piece's three files.

    Args:
        midi: the one that ends in `.mid`; the others lie beside it.
    """
    midi.parent.mkdir(parents=True, exist_ok=True)
    sound = midi.with_suffix(".wav")
    sound.unlink(missing_ok=True)  # an earlier run's, in case this piece has no notes to play
    return Saved(
        title=title,
        piece=piece,
        midi=piece.save(midi),
        sound=piece.save(sound) if piece.grid.n_notes else None,
        picture=piece.plot(midi.with_suffix(".png")),
    )
