"""The music that the models are given to go on from: held-out pieces of the catalogue, as MIDI files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tritone_cli.demonstration.saving import Saved, save
from tritone_client import TritoneError

if TYPE_CHECKING:
    from tritone_client.music.grid import Grid
    from tritone_training.catalogue import Catalogue
    from tritone_training.data.scores import ScorePiece, ScoreSet

_FOLDER: Final = "given"
_CHORALES: Final = "bach"
_SONGS: Final = "essen"
_DANCES: Final = "ryans"
_STEPS_PER_BAR: Final = 16
_N_BARS: Final = 8


@dataclass(frozen=True)
class Givens:
    """Excerpts in their files, by the path of the MIDI file.

    Attributes:
        chorale_style, dance_style: as the models know them.
    """

    folder: Path
    saved: Mapping[Path, Saved]
    chorale_style: str = _CHORALES
    dance_style: str = _DANCES

    def path(self, name: str) -> Path:
        """Where the excerpt `name` lies."""
        return self.folder / f"{name}.mid"


def write_givens(scores: ScoreSet, catalogue: Catalogue, out: Path) -> Givens:
    """Cut the excerpts and write their MIDI files, so that the commands on the page find them.

    Raises:
        TritoneError: the catalogue holds too little music in 4/4, as one made for tests may.
    """
    from tritone_client.music.piece import Piece

    chorales, songs = _in_four(scores, _CHORALES), _in_four(scores, _SONGS)
    if len(chorales) < 2 or not songs:
        raise TritoneError(
            f"the catalogue holds {len(chorales)} chorales and {len(songs)} songs of {_N_BARS} bars of 4/4; the "
            f"demonstration needs 2 and 1: `tritone catalogue --rebuild` builds it anew"
        )
    excerpts = {
        "chorale": (chorales[0], _N_BARS, 80.0),
        "begun": (chorales[0], 2, 80.0),
        "other": (chorales[1], 2, 80.0),
        "song": (songs[0], _N_BARS, 90.0),
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
    from tritone_client.music.grid import Grid

    first = _first_bar(piece)
    return Grid(piece.frames[first : first + n_bars * _STEPS_PER_BAR], meter=(_STEPS_PER_BAR, 0))


def _first_bar(piece: ScorePiece) -> int:
    """Where the upbeat ends."""
    return -piece.meter[1] % _STEPS_PER_BAR
