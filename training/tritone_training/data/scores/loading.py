"""Load score data sets of all supported formats, and the embedded corpus as scores.

The embedded corpus has one style for each collection and one voice for each part.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone import InvalidScoreError
from tritone.music.grid import FRAMES_PER_QUARTER, HIGHEST_PITCH, LOWEST_PITCH, Grid
from tritone.music.scores import to_grid, to_steps
from tritone.music.smf import MIDI_SUFFIXES
from tritone_training.corpus import CorpusSelection, CorpusTrack, load_corpus, parse_selection
from tritone_training.data.recordings import DataProblem
from tritone_training.data.scores.score_set import SPLIT_NOTE, ScorePiece, ScoreSet, hashed_splits
from tritone_training.exceptions import DataError
from tritone_training.progress import progress_bar

LICENCE: Final = "music in the public domain; encodings from music21's corpus"
_EXPECTED: Final = "a folder of MIDI files, a .mat file, a .json file, or corpus:COLLECTION"


def load_scores(data: Path | None, *, progress: bool = True) -> ScoreSet:
    """Return a data set of scores.

    Args:
        data: a folder of MIDI files (a subfolder is a style), a poly-music `.mat`, a JSB-style `.json`, collections of
            the corpus (`corpus:public-domain`, `corpus:bach,ryans`), or None for the embedded corpus.
        progress: show a progress bar on stderr.

    Raises:
        DataError: there are no usable scores, or the format is not supported.
        MissingExtraError: a package of the `train` extra is not installed.
    """
    selection = None if data is None else parse_selection(data)
    if data is None or selection is not None:
        return embedded_scores(selection, progress=progress)
    if data.is_dir():
        from tritone_training.data.scores.files import from_midi_folder

        return from_midi_folder(data, progress=progress)
    if not data.is_file():
        raise DataError(f"{data}: no such file or folder; expected {_EXPECTED}")
    suffix = data.suffix.lower()
    if suffix == ".mat":
        from tritone_training.data.scores.files import from_matlab

        return from_matlab(data)
    if suffix == ".json":
        from tritone_training.data.scores.files import from_json

        return from_json(data)
    hint = "; give the folder of the MIDI files" if suffix in MIDI_SUFFIXES else ""
    raise DataError(
        f"{data}: {suffix or 'a name without a suffix'} is not a data set of scores; expected {_EXPECTED}{hint}"
    )


def embedded_scores(selection: CorpusSelection | None = None, *, progress: bool = True) -> ScoreSet:
    """Return every piece of the corpus on a grid of sixteenths.

    Movements of a work and settings of a tune are in the same split.

    Args:
        selection: collections, of which all usable pieces are taken; None for the default corpus.
        progress: show a progress bar on stderr.

    Raises:
        DataError: the corpus cannot be built.
        MissingExtraError: music21 or symusic is not installed.
    """
    corpus = load_corpus(progress=progress) if selection is None else selection.load(progress=progress)
    splits = hashed_splits([track.group for track in corpus.tracks])
    pieces: list[ScorePiece] = []
    problems: list[DataProblem] = []
    lost: Counter[str] = Counter()
    with progress_bar("reading scores", shown=progress) as on_progress:
        for track, split in zip(corpus.tracks, splits, strict=True):
            try:
                piece, grid = _piece(track, split)
            except InvalidScoreError as error:
                problems.append(DataProblem(track.id, error.reason, f"{track.id}: {error}"))
            else:
                pieces.append(piece)
                lost.update(grid.dropped)
            on_progress(len(pieces) + len(problems), len(splits))
    return ScoreSet(
        source=f"embedded corpus ({len(pieces)} pieces)" if selection is None else str(selection),
        pieces=tuple(pieces),
        has_onsets=True,
        frames_per_quarter=FRAMES_PER_QUARTER,
        problems=tuple(problems),
        licence=LICENCE,
        notes={
            "split": f"{SPLIT_NOTE}; by work and tune",
            "dropped": dict(sorted(lost.items())),
            "corpus_fingerprint": corpus.fingerprint,
            **({} if selection is None else {"terms": selection.terms}),
        },
    )


def _piece(track: CorpusTrack, split: str) -> tuple[ScorePiece, Grid]:
    score = track.score()
    grid = to_grid(score)
    scale = Fraction(FRAMES_PER_QUARTER, score.ticks_per_quarter)
    parts = [voice_of(part.notes.numpy(), scale, grid.n_frames) for part in score.tracks]
    voices = [part for part in parts if part is not None]
    return ScorePiece(
        name=track.id,
        frames=grid.frames,
        split=split,
        style=track.collection,
        meter=meter_with_upbeat(track, grid),
        voices=np.stack(voices, axis=1) if len(voices) == len(parts) else None,
        time_signature=grid.time_signature,
    ), grid


def voice_of(notes: dict[str, npt.NDArray[Any]], scale: Fraction, n_frames: int) -> npt.NDArray[np.int64] | None:
    """Return the MIDI pitch of a part at each time step (T,), -1 for a rest; None if a step has several pitches.

    Of two notes that round to the same step, such as ornaments, the later one is used.
    """
    time, duration, pitch = (np.asarray(notes[key], np.int64) for key in ("time", "duration", "pitch"))
    order = np.argsort(time, kind="stable")
    time, end, pitch = time[order], (time + duration)[order], pitch[order]
    if (end[:-1] > time[1:]).any():
        return None
    onset, stop = to_steps(time, scale), to_steps(end, scale)
    sounding = np.full(n_frames, -1, np.int64)
    for first, last, key in zip(onset.tolist(), np.maximum(stop, onset + 1).tolist(), pitch.tolist(), strict=True):
        sounding[first:last] = key if LOWEST_PITCH <= key <= HIGHEST_PITCH else -1
    return sounding


def meter_with_upbeat(track: CorpusTrack, grid: Grid) -> tuple[int, int]:
    """Return the meter with the upbeat, which is in the corpus but not in the MIDI file."""
    length, _ = grid.meter
    pickup = Fraction(track.pickup_quarters).limit_denominator(96) * FRAMES_PER_QUARTER
    if track.metre is None or not length or pickup.denominator != 1:
        return (0, 0)
    return length, int(-pickup % length)
