"""The `.mat` files of the polyphonic-music benchmark (Boulanger-Lewandowski et al. 2012).

In the packaging of Bai et al. 2018 (https://arxiv.org/abs/1803.01271): cell arrays `traindata`, `validdata` and
`testdata` of (T, 88) 0/1 piano rolls, MIDI pitches 21..108; a note that is repeated looks like one that is held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from tritone.music.grid import MAX_FRAMES, N_PITCHES, with_strikes
from tritone_training.data.recordings import DataProblem, printable
from tritone_training.data.scores.score_set import SPLITS, ScorePiece, ScoreSet, count_repeats
from tritone_training.exceptions import DataError

_KEYS: Final = {split: f"{split}data" for split in SPLITS}


def from_matlab(path: Path) -> ScoreSet:
    """Read a poly-music file; the published portions stay whole.

    Raises:
        DataError: it is not such a file, or no piece of it can be used.
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
    except Exception as error:  # scipy's reader raises whatever the damage leads it to
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
    """Why a cell is no piano roll."""
    array = np.asarray(roll)
    if array.ndim != 2 or array.shape[1] != N_PITCHES or array.dtype.kind not in "biuf":
        return f"has shape {array.shape} and type {array.dtype}; expected numbers of shape (T, 88)"
    if not 0 < len(array) <= MAX_FRAMES:
        return f"has {len(array):,} time steps; expected 1 to {MAX_FRAMES:,}"
    if not ((array == 0) | (array == 1)).all():
        return "holds other values than 0 and 1"
    return None
