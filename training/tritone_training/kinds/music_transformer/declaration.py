"""Inputs and outputs of `music_transformer` and its streaming companion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tritone.music.grid import FRAMES_PER_QUARTER, N_PITCHES
from tritone.music.grid import MAX_FRAMES as LONGEST_GRID
from tritone_training.corpus import COLLECTIONS
from tritone_training.declaration import (
    GRID,
    TEMPERATURE_LIMITS,
    TOP_K_LIMITS,
    TOP_P_LIMITS,
    UNIFORM,
    Axis,
    Batching,
    Declaration,
    DType,
    Instances,
    Limits,
    QueuePolicy,
    Serving,
    Tensor,
)
from tritone_training.kinds.music_transformer.config import TransformerConfig
from tritone_training.kinds.music_transformer.notes import (
    MAX_NOTES,
)
from tritone_training.steering_tensors import steering_parameters, steering_tensors

KIND_NAME: Final = "music_transformer"
LOOK_AHEAD: Final = 64  # frames; four bars of 4/4 in sixteenths
STATE_NAMES: Final = ("memory", "copy_keys", "written", "n_before", "past_prompt")  # in the order of `initial_state`

STATE: Final = "state_"  # begins the names of states; the backend `composer` looks for it
NEXT: Final = "next_"  # and this, before that, the names of what they have become

# Most frames of one call: 256 bars of 4/4, 1.4 s on one thread with the default preset. `composer` accepts more.
MAX_FRAMES: Final = 4_096
# Most frames of all pieces in one run, which share much of the work.
_MAX_TOTAL_FRAMES: Final = 8_192

_FRAME: Final = Axis("frame", max_size=MAX_FRAMES, max_total=_MAX_TOTAL_FRAMES)
_PITCH: Final = Axis("pitch", N_PITCHES)
_FRAME_AND_AHEAD: Final = Axis("frame_and_ahead")
_NLL_TOLERANCE: Final = 1e-3  # a frame's nats are a sum over its notes

_GIVEN: Final = (
    Tensor(
        "given",
        "UINT8",
        (_FRAME, _PITCH),
        "the given notes: 0 silent, 1 held, 2 struck; pitches 21..108",
        limits=GRID,
    ),
    Tensor(
        "given_mode",
        "UINT8",
        (_FRAME,),
        "0: generate this frame; 1: it is given completely; 2: only its highest note (or silence) is given",
        limits=Limits(minimum=0, maximum=2),
    ),
)
_ASKED: Final = (
    *steering_tensors(_FRAME),
    Tensor(
        "noise",
        "FP32",
        (_FRAME, Axis("note", MAX_NOTES)),
        "uniform random numbers; equal noise gives equal notes",
        limits=UNIFORM,
    ),
    Tensor(
        "temperature",
        "FP32",
        (),
        "sampling temperature; below 1 is more conservative, above 1 more random",
        limits=TEMPERATURE_LIMITS,
    ),
    Tensor("top_k", "INT64", (), "sample from the k most likely tokens only; 177 keeps all", limits=TOP_K_LIMITS),
    Tensor(
        "top_p",
        "FP32",
        (),
        "sample from the most likely tokens whose probabilities add up to p; 1 keeps all",
        limits=TOP_P_LIMITS,
    ),
)
INPUTS: Final = (*_GIVEN, *_ASKED)


def _with_frames(tensors: Sequence[Tensor], frame: Axis) -> tuple[Tensor, ...]:
    """Return the tensors with another axis of frames."""
    return tuple(
        replace(tensor, axes=tuple(frame if axis.name == frame.name else axis for axis in tensor.axes))
        for tensor in tensors
    )


OUTPUTS: Final = (
    # Notes are equal or they are not.
    Tensor("frames", "UINT8", (_FRAME, _PITCH), "the notes of each frame, as in `given`", tolerance=0.0),
    Tensor(
        "nll",
        "FP32",
        (_FRAME,),
        "negative log-likelihood of each frame in nats, at temperature 1; without notes given by mode 2",
        tolerance=_NLL_TOLERANCE,
    ),
)


def parameters(
    *,
    frames_per_quarter: int,
    styles: Sequence[str],
    templates: Sequence[Mapping[str, Any]] = (),
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_repeat_frames: int | None = None,
) -> dict[str, str]:
    """Return the parameters of config.pbtxt that depend on the data set.

    Args:
        frames_per_quarter: 0 if unknown.
        styles: those that the network was trained with, in its order.
        templates: from `piece_conditions.templates`.
        temperature: where a request chooses none.
        top_p: where a request chooses none.
        max_repeat_frames: most frames back that `repeats` may reach; None if unknown.
    """
    own = steering_parameters(
        styles=styles,
        templates=templates,
        temperature=temperature,
        top_p=top_p,
        max_repeat_frames=max_repeat_frames,
    )
    return {"frames_per_quarter": str(frames_per_quarter), **own}


_PARAMETERS: Final = {
    **parameters(frames_per_quarter=FRAMES_PER_QUARTER, styles=sorted(COLLECTIONS)),  # those of the embedded corpus
    "max_notes": str(MAX_NOTES),
}

DECLARATION: Final = Declaration(
    name=KIND_NAME,
    summary="Composes, continues, harmonises and fills in scores.",
    inputs=INPUTS,
    outputs=OUTPUTS,
    serving=Serving(
        batching=Batching(max_batch_size=16, preferred_batch_sizes=(4, 8, 16), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=60_000_000, max_queue_size=128),
        # The loop is a chain of small steps: a second thread has nothing to do, a second instance has.
        instances=Instances(n_cpu=2, n_gpu=0, n_intra_op_threads=1),
    ),
    parameters={**_PARAMETERS, "max_frames": str(MAX_FRAMES)},
)

COMPOSER: Final = Declaration(
    name="composer",
    summary="Generates the same notes as music_transformer and sends them bar by bar.",
    inputs=_with_frames(INPUTS, Axis("frame", max_size=LONGEST_GRID)),  # written a few frames at a time
    outputs=(*OUTPUTS, Tensor("first_frame", "INT64", (), "index in the piece of this answer's first frame")),
    serving=Serving(
        batching=Batching(max_batch_size=1, preferred_batch_sizes=(), max_queue_delay_microseconds=0),
        queue=QueuePolicy(default_timeout_microseconds=60_000_000, max_queue_size=128),
        instances=Instances(n_cpu=1, n_gpu=0, n_intra_op_threads=1),
        warmup_batch_sizes=(),
    ),
    parameters={**_PARAMETERS, "lookahead_frames": str(LOOK_AHEAD)},
    backend="composer",
    decoupled=True,
)


def chunk_graph(config: TransformerConfig) -> Declaration:
    """Return the declaration of the graph behind `composer`: the next frames of a piece, and its state.

    All states are zero at the beginning. `given` and `given_mode` extend `lookahead_frames` beyond the frames to
    generate, with zeros after the end of the piece; `meter` is the whole piece's.
    """
    past = Axis("past", config.copy_window)
    axes: dict[str, tuple[Axis, ...]] = {
        "memory": (
            Axis("layer", config.n_layers),
            Axis("key_or_value", 2),
            Axis("head", config.n_heads),
            Axis("past", config.window),
            Axis("feature", config.width // config.n_heads),
        ),
        "copy_keys": (Axis("head", config.n_copies), past, Axis("feature", config.copy_width)),
        "written": (past, _PITCH),
        "n_before": (),
        "past_prompt": (),
    }
    types: dict[str, tuple[DType, str]] = {
        "memory": ("FP32", "keys and values of past frames"),
        "copy_keys": ("FP32", "keys of the heads that copy"),
        "written": ("UINT8", "grid of the frames before, as the network reads it"),
        "n_before": ("INT64", "frames of the piece before these"),
        "past_prompt": ("INT64", "0 as long as all frames so far were given whole, then 1"),
    }
    states = tuple(Tensor(STATE + name, types[name][0], axes[name], types[name][1]) for name in STATE_NAMES)
    given, mode = _GIVEN
    return replace(
        COMPOSER,
        inputs=(
            replace(given, axes=(_FRAME_AND_AHEAD, _PITCH)),
            replace(mode, axes=(_FRAME_AND_AHEAD,)),
            *_ASKED,
            *states,
        ),
        outputs=(
            *OUTPUTS,
            *(replace(state, name=NEXT + state.name, tolerance=_state_tolerance(state)) for state in states),
        ),
        serving=DECLARATION.serving,  # parity looks at several batch sizes; the backend joins pieces itself
    )


def _state_tolerance(state: Tensor) -> float:
    return 1e-3 if state.dtype == "FP32" else 0.0
