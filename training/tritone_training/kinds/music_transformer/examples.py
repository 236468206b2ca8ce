"""Realistic inputs for parity, warm-up and tests: a prompt, a melody to harmonise, a gap, in turn.

Shapes: B batch, N frames, A frames of look-ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import HELD, N_PITCHES, STRUCK
from tritone_training.declaration import Declaration
from tritone_training.kinds.music_transformer.config import PRESETS
from tritone_training.kinds.music_transformer.declaration import STATE, chunk_graph
from tritone_training.kinds.music_transformer.network import GIVEN, TOP_GIVEN, WRITE
from tritone_training.kinds.music_transformer.reader import LOOK_AHEAD
from tritone_training.kinds.music_transformer.vocabulary import MAX_NOTES, N_WORDS

Arrays = Mapping[str, npt.NDArray[np.generic]]

_N_FRAMES: Final = 8
_CHORD: Final = (27, 36, 43, 51)  # C2 upwards, as columns of the grid


def example_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Eight frames of chords, and what is given of them: by turns the first half, the top voice, all but a gap."""
    random = np.random.default_rng(seed)
    given = np.zeros((n_batch, _N_FRAMES, N_PITCHES), np.uint8)
    mode = np.full((n_batch, _N_FRAMES), WRITE, np.uint8)
    for row in range(n_batch):
        for start in range(0, _N_FRAMES, 4):
            pitches = np.array(_CHORD) + random.integers(-6, 7, len(_CHORD))
            given[row, start, pitches] = STRUCK
            given[row, start + 1 : start + 4, pitches] = HELD
        if row % 3 == 0:
            mode[row, : _N_FRAMES // 2] = GIVEN
        elif row % 3 == 1:
            mode[row] = TOP_GIVEN
        else:
            mode[row, [0, 1, 6, 7]] = GIVEN
    return {
        "given": given,
        "given_mode": mode,
        "meter": np.tile(np.array([16, 4], np.int64), (n_batch, 1)),
        "style": random.integers(0, 2, n_batch),
        "noise": random.random((n_batch, _N_FRAMES, MAX_NOTES), np.float32),
        "temperature": random.uniform(0.7, 1.3, n_batch).astype(np.float32),
        "top_k": random.integers(4, N_WORDS + 1, n_batch),
        "top_p": random.uniform(0.8, 1.0, n_batch).astype(np.float32),
    }


def chunk_inputs(graph: Declaration, n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """The same for the graph behind `composer`, as the first chunk of a piece.

    Args:
        graph: from `chunk_graph`; its states are of the network's sizes.
    """
    inputs = example_inputs(n_batch, seed)
    for name in ("given", "given_mode"):
        array = inputs[name]
        inputs[name] = np.pad(array, [(0, 0), (0, LOOK_AHEAD), *((0, 0) for _ in array.shape[2:])])
    types = {"FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64}
    for tensor in graph.inputs:
        if tensor.name.startswith(STATE):
            sizes = [axis.size or 0 for axis in tensor.axes]
            inputs[tensor.name] = np.zeros((n_batch, *sizes), types[tensor.dtype])
    return inputs


def default_chunk_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """`chunk_inputs` for a network of the preset `default`."""
    return chunk_inputs(chunk_graph(PRESETS["default"]), n_batch, seed)
