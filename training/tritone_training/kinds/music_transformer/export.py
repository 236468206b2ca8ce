"""Export of `music_transformer`: whole pieces, and chunk by chunk for the backend `composer`; example inputs.

Shapes: B batch, N frames, A frames of look-ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone.music.grid import HELD, N_PITCHES, STRUCK
from tritone_training.data.piece_conditions import MOST_VOICES, N_DENSITIES, N_KEYS_AND_MODES
from tritone_training.declaration import Declaration
from tritone_training.kind import Exportable
from tritone_training.kinds.music_transformer.config import PRESETS, TransformerConfig
from tritone_training.kinds.music_transformer.declaration import (
    COMPOSER,
    DECLARATION,
    LOOK_AHEAD,
    STATE,
    chunk_graph,
    parameters,
)
from tritone_training.kinds.music_transformer.generator import PieceGenerator, StreamingGenerator
from tritone_training.kinds.music_transformer.network import (
    GIVEN,
    TOP_GIVEN,
    WRITE,
    MusicTransformer,
    load_network,
)
from tritone_training.kinds.music_transformer.notes import MAX_NOTES, N_TOKENS
from tritone_training.steering_tensors import N_STYLES, n_styles

Arrays = Mapping[str, npt.NDArray[np.generic]]

_N_FRAMES: Final = 8
_CHORD: Final = (27, 36, 43, 51)  # C2 upwards, as columns of the grid


def example_inputs(n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return eight frames of chords, of which by turns the first half, the top voice, or all but a gap is given."""
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
        "key": random.integers(0, N_KEYS_AND_MODES + 1, n_batch),
        "density": random.integers(0, N_DENSITIES + 1, n_batch),
        "n_voices": random.integers(0, MOST_VOICES + 1, n_batch),
        "end": random.integers(0, 2 * _N_FRAMES, n_batch),
        "repeats": random.integers(-1, _N_FRAMES, (n_batch, _N_FRAMES)),
        "noise": random.random((n_batch, _N_FRAMES, MAX_NOTES), np.float32),
        "temperature": random.uniform(0.7, 1.3, n_batch).astype(np.float32),
        "top_k": random.integers(4, N_TOKENS + 1, n_batch),
        "top_p": random.uniform(0.8, 1.0, n_batch).astype(np.float32),
    }


def chunk_inputs(graph: Declaration, n_batch: int, seed: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return example inputs of the graph behind `composer`, for the first chunk of a piece.

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
    """Return `chunk_inputs` for a network of the preset `default`."""
    return chunk_inputs(chunk_graph(PRESETS["default"]), n_batch, seed)


def exportable(folder: Path) -> Exportable:
    """Return what `tritone export` needs.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    network, config, info = load_network(folder)
    card = {key: value for key, value in info.items() if key not in ("format", "weights", "splits", "templates")}
    return describe(
        network,
        config,
        styles=info["styles"],
        frames_per_quarter=int(info["frames_per_quarter"]),
        card=card,
        templates=info.get("templates", []),
    )


def describe(
    network: MusicTransformer,
    config: TransformerConfig,
    *,
    styles: Sequence[str],
    frames_per_quarter: int,
    card: Mapping[str, Any],
    templates: Sequence[Mapping[str, Any]] = (),
) -> Exportable:
    """Return a network with its parameters and its streaming companion, for export.

    Args:
        frames_per_quarter: 0 if unknown.
        templates: conditions of real pieces, from which clients choose.
    """
    # torch traces no loop within a loop where gradients may be asked for
    network = network.eval().requires_grad_(False)
    metadata = {
        "styles": ",".join(styles),
        N_STYLES: n_styles(styles),
        "has_onsets": str(network.onsets).lower(),
    }
    graph = chunk_graph(config)
    own = parameters(
        frames_per_quarter=frames_per_quarter,
        styles=styles,
        templates=templates,
        temperature=config.temperature,
        top_p=config.top_p,
        max_repeat_frames=config.copy_window,
    )
    return Exportable(
        network=PieceGenerator(network),
        declaration=replace(DECLARATION, parameters={**DECLARATION.parameters, **own}),
        label_files={},
        metadata=metadata,
        card=card,
        companions=(
            Exportable(
                network=StreamingGenerator(network),
                declaration=replace(COMPOSER, parameters={**COMPOSER.parameters, **own}),
                label_files={},
                metadata=metadata,
                card=card,
                graph=graph,
                example_inputs=partial(chunk_inputs, graph),
            ),
        ),
    )
