"""Read scores from files: folders of MIDI files, JSON of chorales, and `.mat` piano rolls.

JSON of the kind of the JSB chorales in sixteenths: `{"train": [piece, ...], "valid": ..., "test": ...}`. A piece is a
list of time steps, a step a list of MIDI pitches: one for each voice, -1 (or null) for a rest; or, if the lengths of
the steps differ, all sounding pitches. A repeated note cannot be distinguished from a held one. Source: the chorales as
split by Boulanger-Lewandowski et al. 2012.

`.mat` files of the polyphonic-music benchmark (Boulanger-Lewandowski et al. 2012) as packaged by Bai et al. 2018
(https://arxiv.org/abs/1803.01271): cell arrays `traindata`, `validdata` and `testdata` of (T, 88) 0/1 piano rolls, MIDI
pitches 21..108; a repeated note cannot be distinguished from a held one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone import InvalidScoreError
from tritone.music.grid import (
    FRAMES_PER_QUARTER,
    HELD,
    HIGHEST_PITCH,
    LOWEST_PITCH,
    MAX_FRAMES,
    N_PITCHES,
    STRUCK,
    with_strikes,
)
from tritone.music.scores import to_grid
from tritone.music.smf import MIDI_SUFFIXES
from tritone_training.data.loading import visible_files
from tritone_training.data.recordings import DataProblem, printable
from tritone_training.data.scores.score_set import (
    SPLIT_NOTE,
    SPLITS,
    ScorePiece,
    ScoreSet,
    count_repeats,
    hashed_splits,
    notes_digest,
)
from tritone_training.exceptions import DataError
from tritone_training.progress import progress_bar

REST: Final = -1
# The resolution is only in the file name (Jsb16thSeparated, jsb-chorales-quarter).
_RESOLUTIONS: Final = {"16th": 4, "8th": 2, "quarter": 1}
_KEYS: Final = {split: f"{split}data" for split in SPLITS}
_NAMES = ", ".join(MIDI_SUFFIXES)


def from_json(path: Path) -> ScoreSet:
    """Return the pieces of a JSON file with its own splits.

    Raises:
        DataError: the file has another format, or no piece of it can be used.
    """
    contents = _contents(path)
    pieces: list[ScorePiece] = []
    problems: list[DataProblem] = []
    for split in (split for split in SPLITS if split in contents):
        for index, steps in enumerate(contents[split]):
            name = f"{split}/{index:04d}"
            try:
                frames, voices = _piece(steps)
            except ValueError as error:
                problems.append(DataProblem(name, "bad_steps", f"{path.name} {name}: {error}"))
                continue
            pieces.append(ScorePiece(name, frames, split, path.stem, voices=voices))
    if not pieces:
        raise DataError(f"{path}: no piece can be used; the first: {problems[0].message if problems else 'no pieces'}")
    return ScoreSet(
        source=printable(str(path)),
        pieces=tuple(pieces),
        has_onsets=False,
        frames_per_quarter=next((n for word, n in _RESOLUTIONS.items() if word in path.stem.lower()), 0),
        problems=tuple(problems),
        notes={"split": "the data set's own", "n_repeats_kept": count_repeats(pieces)},
    )


def _contents(path: Path) -> dict[str, list[Any]]:
    try:
        contents = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:  # not text, or not JSON
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(contents, dict) or not any(isinstance(contents.get(split), list) for split in SPLITS):
        there = ", ".join(map(str, contents)) if isinstance(contents, dict) else f"a {type(contents).__name__}"
        raise DataError(f"{path}: holds {there or 'nothing'}; expected an object with the lists train, valid, test")
    return {split: contents[split] for split in SPLITS if isinstance(contents.get(split), list)}


def _piece(steps: Any) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
    """Return frames (T, 88) and voices (T, V); raise ValueError with the reason if the piece is invalid."""
    if not isinstance(steps, list) or not all(isinstance(step, list) for step in steps):
        raise ValueError("a piece is a list of time steps, each a list of MIDI pitches")
    if not 0 < len(steps) <= MAX_FRAMES:
        raise ValueError(f"has {len(steps):,} time steps; expected 1 to {MAX_FRAMES:,}")
    frames = np.zeros((len(steps), N_PITCHES), np.uint8)
    before: list[int] = []
    voiced = len({len(step) for step in steps}) == 1 and len(steps[0]) > 0
    for frame, step in zip(frames, steps, strict=True):
        pitches = [_pitch(value) for value in step]
        for voice, pitch in enumerate(pitches):
            if pitch != REST:
                # A voice that continues with the pitch of another voice strikes it.
                new = voiced and bool(before) and before[voice] != pitch
                column = pitch - LOWEST_PITCH
                frame[column] = max(frame[column], STRUCK if new else HELD)
        before = pitches
    voices = np.array([[_pitch(value) for value in step] for step in steps], np.int64) if voiced else None
    return with_strikes(frames), voices


def _pitch(value: Any) -> int:
    if value is None or value == REST:
        return REST
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"holds {value!r:.40} where a MIDI pitch is expected")
    if not LOWEST_PITCH <= value <= HIGHEST_PITCH:
        raise ValueError(f"holds the pitch {value!r:.40}; expected {LOWEST_PITCH} to {HIGHEST_PITCH}, or -1 for a rest")
    return int(value)


def from_matlab(path: Path) -> ScoreSet:
    """Return the pieces of a poly-music `.mat` file with their published splits.

    Raises:
        DataError: the file has another format, or no piece of it can be used.
    """
    cells = _cells(path)
    pieces: list[ScorePiece] = []
    problems: list[DataProblem] = []
    for split, rolls in cells.items():
        for index, roll in enumerate(rolls):
            name = f"{split}/{index:04d}"
            wrong = _wrong(roll)
            if wrong:
                problems.append(DataProblem(name, "bad_roll", f"{path.name} {name}: {wrong}"))
            else:
                pieces.append(ScorePiece(name, with_strikes(np.asarray(roll)), split, path.stem))
    if not pieces:
        raise DataError(f"{path}: no piece can be used; the first: {problems[0].message if problems else 'no cells'}")
    return ScoreSet(
        source=printable(str(path)),
        pieces=tuple(pieces),
        has_onsets=False,
        frames_per_quarter=0,
        problems=tuple(problems),
        notes={"split": "the data set's own", "n_repeats_kept": count_repeats(pieces)},
    )


def _cells(path: Path) -> dict[str, list[Any]]:
    from scipy.io import loadmat

    try:
        contents = loadmat(str(path))
    except NotImplementedError as error:  # HDF5 in disguise
        raise DataError(f"{path}: is a MATLAB 7.3 file; save it with -v7") from error
    except Exception as error:  # scipy raises many types of exceptions for damaged files
        raise DataError(f"{path}: is not a MATLAB file that can be read ({type(error).__name__}: {error})") from error
    found = {split: contents[key] for split, key in _KEYS.items() if key in contents}
    if not found:
        there = ", ".join(key for key in contents if not key.startswith("__")) or "nothing"
        raise DataError(f"{path}: holds {there}; expected the cell arrays {', '.join(_KEYS.values())}")
    for split, cells in found.items():
        if cells.dtype != object:
            raise DataError(
                f"{path}: {_KEYS[split]} is an array of {cells.dtype}; expected a cell array of piano rolls"
            )
    return {split: list(cells.ravel()) for split, cells in found.items()}


def _wrong(roll: Any) -> str | None:
    """Return why a cell is not a piano roll; None if it is one."""
    array = np.asarray(roll)
    if array.ndim != 2 or array.shape[1] != N_PITCHES or array.dtype.kind not in "biuf":
        return f"has shape {array.shape} and type {array.dtype}; expected numbers of shape (T, 88)"
    if not 0 < len(array) <= MAX_FRAMES:
        return f"has {len(array):,} time steps; expected 1 to {MAX_FRAMES:,}"
    if not ((array == 0) | (array == 1)).all():
        return "holds other values than 0 and 1"
    return None


def from_midi_folder(root: Path, *, progress: bool = True) -> ScoreSet:
    """Return every MIDI file below a folder on a grid of sixteenths.

    The style of a file is the name of its topmost subfolder, or the name of `root` for files in `root` itself. A file
    with the same notes as an earlier file is left out and reported.

    Raises:
        DataError: no file can be used.
    """
    try:
        files = [(printable("/".join(file.relative_to(root).parts)), file) for file in visible_files(root)]
    except OSError as error:
        raise DataError(f"{root}: a folder cannot be read ({error})") from error
    problems = [
        DataProblem(
            name,
            "not_midi",
            f"{name}: {printable(file.suffix) or 'no suffix'} is not a MIDI suffix; expected one of {_NAMES}",
        )
        for name, file in files
        if file.suffix.lower() not in MIDI_SUFFIXES
    ]
    files = [(name, file) for name, file in files if file.suffix.lower() in MIDI_SUFFIXES]
    pieces: dict[bytes, ScorePiece] = {}
    lost: Counter[str] = Counter()
    with progress_bar("reading scores", shown=progress) as on_progress:
        for done, (name, file) in enumerate(files, 1):
            style = _style(root, name)
            if not style.isprintable():  # label files hold one style a line
                problems.append(
                    DataProblem(name, "bad_style", f"{name}: the style {style!r} holds unprintable characters")
                )
                continue
            try:
                grid = to_grid(file)
            except InvalidScoreError as error:
                problems.append(DataProblem(name, error.reason, printable(str(error))))
                continue
            finally:
                on_progress(done, len(files))
            digest = notes_digest(grid.frames)
            if digest in pieces:
                problems.append(DataProblem(name, "duplicate", f"{name}: has the same notes as {pieces[digest].name}"))
                continue
            lost.update(grid.dropped)
            pieces[digest] = ScorePiece(name, grid.frames, "", style, grid.meter, time_signature=grid.time_signature)
    if not pieces:
        raise DataError(
            f"{root}: holds no scores that can be used; expected .mid files, or <style>/<file>.mid (also "
            f"{', '.join(MIDI_SUFFIXES[1:])}; a .mat or .json is given by its own name)"
            + (f"; the first problem: {problems[0].message}" if problems else "")
        )
    return ScoreSet(
        source=printable(str(root)),
        pieces=tuple(_with_splits(list(pieces.values()))),
        has_onsets=True,
        frames_per_quarter=FRAMES_PER_QUARTER,
        problems=tuple(problems),
        notes={"split": SPLIT_NOTE, "dropped": dict(sorted(lost.items()))},
    )


def _style(root: Path, name: str) -> str:
    above, _, _ = name.partition("/")
    return above if "/" in name else printable(root.resolve().name)


def _with_splits(pieces: list[ScorePiece]) -> Iterator[ScorePiece]:
    splits = hashed_splits([piece.name for piece in pieces])
    for piece, split in zip(pieces, splits, strict=True):
        yield replace(piece, split=split)
