"""The music that the models are given to go on from: held-out pieces of the catalogue, as MIDI files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tritone import TritoneError
from tritone_cli.demonstration.saving import Saved, save

if TYPE_CHECKING:
    from tritone.music.grid import Grid
    from tritone_training.catalogue import Catalogue
    from tritone_training.data.scores import ScorePiece, ScoreSet

_FOLDER: Final = "given"
# Collections, which are also the styles that models learn.
CHORALES: Final = "bach"
SONGS: Final = "essen"
DANCES: Final = "ryans"
CHORALE_TEMPO_QPM: Final = 80.0
SONG_TEMPO_QPM: Final = 90.0
DANCE_TEMPO_QPM: Final = 110.0
_STEPS_PER_BAR: Final = 16
_N_BARS: Final = 8


@dataclass(frozen=True)
class Givens:
    """Excerpts in their files, by the path of the MIDI file."""

    folder: Path
    saved: Mapping[Path, Saved]

    def path(self, name: str) -> Path:
        """Where the excerpt `name` lies."""
        return self.folder / f"{name}.mid"


def write_givens(scores: ScoreSet, catalogue: Catalogue, out: Path) -> Givens:
    """Cut the excerpts and write their MIDI files, so that the commands on the page find them.

    Raises:
        TritoneError: the catalogue holds too little music in 4/4, as one made for tests may.
    """
    from tritone.music.piece import Piece

    chorales, songs = _in_four(scores, CHORALES), _in_four(scores, SONGS)
    if len(chorales) < 2 or not songs:
        raise TritoneError(
            f"the catalogue holds {len(chorales)} chorales and {len(songs)} songs of {_N_BARS} bars of 4/4; the "
            f"demonstration needs 2 and 1: `tritone catalogue --rebuild` builds it anew"
        )
    excerpts = {
        "chorale": (chorales[0], _N_BARS, CHORALE_TEMPO_QPM),
        "begun": (chorales[0], 2, CHORALE_TEMPO_QPM),
        "other": (chorales[1], 2, CHORALE_TEMPO_QPM),
        "song": (songs[0], _N_BARS, SONG_TEMPO_QPM),
    }
    folder = out / "music" / _FOLDER
    found = {}
    for name, (source, n_bars, tempo_qpm) in excerpts.items():
        track = catalogue[source.name]
        piece = Piece(replace(_excerpt(source, n_bars), tempo_qpm=tempo_qpm))
        title = f"{n_bars} bars of {track.title} ({track.composer})"
        found[folder / f"{name}.mid"] = save(piece, folder / f"{name}.mid", title=title)
    return Givens(folder, found)


def _in_four(scores: ScoreSet, style: str) -> list[ScorePiece]:
    """Pieces long enough, those that no model was trained on first."""
    portions = ("test", "valid", "train")
    found = [
        piece
        for piece in scores.pieces
        if piece.style == style
        and piece.meter[0] == _STEPS_PER_BAR
        and len(piece.frames) >= _first_bar(piece) + _N_BARS * _STEPS_PER_BAR
    ]
    return sorted(found, key=lambda piece: (portions.index(piece.split), piece.name))


def _excerpt(piece: ScorePiece, n_bars: int) -> Grid:
    """The first full bars."""
    from tritone.music.grid import Grid

    first = _first_bar(piece)
    return Grid(piece.frames[first : first + n_bars * _STEPS_PER_BAR], meter=(_STEPS_PER_BAR, 0))


def _first_bar(piece: ScorePiece) -> int:
    """Where the upbeat ends."""
    return -piece.meter[1] % _STEPS_PER_BAR
