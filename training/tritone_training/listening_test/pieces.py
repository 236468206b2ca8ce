"""Pieces under test: written by a model, read from files, or real; with the requested values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone import InvalidScoreError, Piece
from tritone.music.grid import FRAMES_PER_QUARTER, N_PITCHES, Grid
from tritone.music.keys import mode_number, tonic_number
from tritone.music.scores import to_grid
from tritone.music.smf import MIDI_SUFFIXES
from tritone_training.data.loading import visible_files
from tritone_training.data.recordings import DataProblem, printable
from tritone_training.exceptions import DataError
from tritone_training.musicality.piece_measures import measure_ending, measure_piece
from tritone_training.musicality.structure import self_similarity
from tritone_training.musicality.texture import note_lengths
from tritone_training.musicality.tonality import Key, in_scale_share, key_of
from tritone_training.progress import progress_bar

# A piece that ends with a cadence may be a bar shorter than requested.
SHORTER_BARS: Final = 1


@dataclass(frozen=True, eq=False)
class ListeningPiece:
    """A piece, or the first bars of one.

    Attributes:
        name: of the seed or file.
        grid: the bars that are measured.
        whole: the complete piece, whose end is measured.
        style: the requested style, or the one that the piece has; None if unknown.
        requested_key: the requested key; None if none was requested.
    """

    name: str
    grid: Grid
    whole: Grid
    style: str | None = None
    requested_key: Key | None = None

    @cached_property
    def values(self) -> Mapping[str, float]:
        """Return all measures by name; NaN where the piece does not have one."""
        values = {**measure_piece(self.grid), **measure_ending(self.whole, self.requested_key)}
        if self.requested_key is not None:
            values["requested_key_kept"] = float(key_of(self.grid) == self.requested_key)
            values["requested_key_notes"] = in_scale_share(self.grid, self.requested_key)
        return values

    @cached_property
    def note_lengths(self) -> npt.NDArray[np.int64]:
        """Return how many notes last 1 .. 32 sixteenths: (32,)."""
        return note_lengths(self.grid)

    @cached_property
    def self_similarity(self) -> npt.NDArray[np.float64]:
        """Return the mean similarity of bars 1 .. 32 bars apart: (32,)."""
        return self_similarity(self.grid)

    def first_bars(self, n_bars: int) -> ListeningPiece:
        """Return the first complete bars, without an upbeat before them; the whole piece if it is shorter."""
        length, index = self.whole.meter
        length = length or 4 * self.whole.frames_per_quarter
        start = -index % length
        frames = self.whole.frames[start : start + n_bars * length]
        if not len(frames):  # nothing but an upbeat
            return replace(self, grid=self.whole)
        return replace(self, grid=replace(self.whole, frames=frames, meter=(self.whole.meter[0], 0)))


def n_full_bars(grid: Grid) -> int:
    """Return the number of bars, an upbeat left out and an incomplete last bar counted."""
    return grid.n_bars - (grid.meter[1] > 0)


def piece_of(piece: Piece, requested: Mapping[str, Any]) -> ListeningPiece:
    """Return a model's piece with the requested values, or those that the piece reports.

    Args:
        requested: arguments of the call, such as `style`, `key` and `mode`; the conditions of the piece are used where
            they are not given.
    """
    reported: Mapping[str, Any] = getattr(piece, "conditions", {})  # what the model or the client chose
    chosen = {name: requested.get(name, reported.get(name)) for name in ("style", "key", "mode")}
    name = f"seed {piece.seed}"
    return ListeningPiece(name, piece.grid, piece.grid, chosen["style"], requested_key(chosen["key"], chosen["mode"]))


def requested_key(key: str | int | None, mode: str | None) -> Key | None:
    """Return the key of the arguments `key` and `mode` of `MusicClient.compose`; None if either is open."""
    tonic, number = tonic_number(key), mode_number(mode)
    return None if tonic is None or number is None else (tonic, number)


def read_folder(folder: Path, *, progress: bool) -> tuple[list[ListeningPiece], list[DataProblem]]:
    """Return the MIDI files below a folder; the style of a file is the name of its topmost subfolder.

    Raises:
        DataError: the folder does not exist, or no file can be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a folder of MIDI files")
    files = [file for file in visible_files(folder) if file.suffix.lower() in MIDI_SUFFIXES]
    pieces: list[ListeningPiece] = []
    problems: list[DataProblem] = []
    with progress_bar("reading files", shown=progress) as on_progress:
        for number, file in enumerate(files, 1):
            parts = file.relative_to(folder).parts
            name = printable("/".join(parts))
            try:
                grid = _grid(file)
            except InvalidScoreError as error:
                problems.append(DataProblem(name, error.reason, printable(str(error))))
            else:
                pieces.append(ListeningPiece(name, grid, grid, printable(parts[0]) if len(parts) > 1 else None))
            on_progress(number, len(files))
    if not pieces:
        first = f"; the first problem: {problems[0].message}" if problems else ""
        raise DataError(f"{folder}: no MIDI file can be read: expected files that end in .mid, got none{first}")
    return pieces, problems


def _grid(file: Path) -> Grid:
    """Return the score in a file; a file without notes is a silent bar, since a model may write nothing."""
    try:
        return to_grid(file)
    except InvalidScoreError as error:
        if error.reason != "empty" or not file.stat().st_size:
            raise
        n_frames = 4 * FRAMES_PER_QUARTER
        return Grid(np.zeros((n_frames, N_PITCHES), np.uint8), meter=(n_frames, 0))


def long_enough(pieces: Sequence[ListeningPiece], n_bars: int) -> list[ListeningPiece]:
    """Return the first bars of the pieces that have as many, or one less; pieces without notes always count."""
    return [
        piece.first_bars(n_bars)
        for piece in pieces
        if n_full_bars(piece.whole) >= n_bars - SHORTER_BARS or not piece.whole.n_notes
    ]
