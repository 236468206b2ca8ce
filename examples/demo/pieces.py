"""Scores that the demo gives to the models, and the MIDI, audio and image files of every piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tritone import TritoneError

if TYPE_CHECKING:
    from tritone.music.grid import Grid
    from tritone.music.piece import Piece
    from tritone_training.corpus import Corpus
    from tritone_training.data.scores import ScorePiece, ScoreSet

_FOLDER: Final = "given"
# Collections of the corpus; the models learn each as a style.
CHORALES: Final = "bach"
SONGS: Final = "essen"
DANCES: Final = "ryans"
CHORALE_TEMPO_QPM: Final = 80.0
SONG_TEMPO_QPM: Final = 90.0
DANCE_TEMPO_QPM: Final = 110.0
_STEPS_PER_BAR: Final = 16
_N_BARS: Final = 8


@dataclass(frozen=True)
class SavedPiece:
    """A piece and its files.

    Attributes:
        sound: None for a piece without notes.
    """

    title: str
    piece: Piece
    midi: Path
    sound: Path | None
    picture: Path

    def to_dict(self) -> dict[str, Any]:
        """Return the piece for `--json`."""
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


def save(piece: Piece, midi: Path, *, title: str) -> SavedPiece:
    """Write a piece as MIDI, audio and a piano roll.

    Args:
        midi: path of the MIDI file; the other two have the same stem.
    """
    midi.parent.mkdir(parents=True, exist_ok=True)
    sound = midi.with_suffix(".wav")
    sound.unlink(missing_ok=True)  # from an earlier run, in case this piece has no notes
    return SavedPiece(
        title=title,
        piece=piece,
        midi=piece.save(midi),
        sound=piece.save(sound) if piece.grid.n_notes else None,
        picture=piece.plot(midi.with_suffix(".png")),
    )


@dataclass(frozen=True)
class ScoreExcerpts:
    """Excerpts of held-out scores, by the path of their MIDI file."""

    folder: Path
    saved: Mapping[Path, SavedPiece]

    def path(self, name: str) -> Path:
        """Return the path of the excerpt `name`."""
        return self.folder / f"{name}.mid"


def write_excerpts(scores: ScoreSet, corpus: Corpus, out: Path) -> ScoreExcerpts:
    """Cut excerpts from held-out scores and write them as MIDI files, which the commands on the page refer to.

    Raises:
        TritoneError: the corpus holds too few pieces in 4/4.
    """
    from tritone.music.piece import Piece

    chorales, songs = _in_four(scores, CHORALES), _in_four(scores, SONGS)
    if len(chorales) < 2 or not songs:
        raise TritoneError(
            f"the corpus is too small for the demo: expected at least 2 chorales and 1 song of {_N_BARS} bars of "
            f"4/4, got {len(chorales)} and {len(songs)}; rebuild it with `tritone corpus --rebuild`"
        )
    sources = {
        "chorale": (chorales[0], _N_BARS, CHORALE_TEMPO_QPM),
        "begun": (chorales[0], 2, CHORALE_TEMPO_QPM),
        "other": (chorales[1], 2, CHORALE_TEMPO_QPM),
        "song": (songs[0], _N_BARS, SONG_TEMPO_QPM),
    }
    folder = out / "music" / _FOLDER
    found = {}
    for name, (source, n_bars, tempo_qpm) in sources.items():
        track = corpus[source.name]
        piece = Piece(replace(_excerpt(source, n_bars), tempo_qpm=tempo_qpm), conditions={"style": source.style})
        title = f"{n_bars} bars of {track.title} ({track.composer})"
        found[folder / f"{name}.mid"] = save(piece, folder / f"{name}.mid", title=title)
    return ScoreExcerpts(folder, found)


def _in_four(scores: ScoreSet, style: str) -> list[ScorePiece]:
    """Return the pieces in 4/4 that are long enough, held-out ones first."""
    splits = ("test", "valid", "train")
    found = [
        piece
        for piece in scores.pieces
        if piece.style == style
        and piece.meter[0] == _STEPS_PER_BAR
        and len(piece.frames) >= _first_bar(piece) + _N_BARS * _STEPS_PER_BAR
    ]
    return sorted(found, key=lambda piece: (splits.index(piece.split), piece.name))


def _excerpt(piece: ScorePiece, n_bars: int) -> Grid:
    """Return the first full bars."""
    from tritone.music.grid import Grid

    first = _first_bar(piece)
    return Grid(piece.frames[first : first + n_bars * _STEPS_PER_BAR], meter=(_STEPS_PER_BAR, 0))


def _first_bar(piece: ScorePiece) -> int:
    """Return the step at which the upbeat ends."""
    return -piece.meter[1] % _STEPS_PER_BAR
