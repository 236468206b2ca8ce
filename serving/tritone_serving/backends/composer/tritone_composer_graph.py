"""The graph that generates a few frames of several pieces, and the checked inputs of each requested piece.

Besides the inputs of config.pbtxt the graph takes states (`state_x`), all zeros at the beginning of a piece, and
returns the states after its frames (`next_state_x`). The inputs of a piece are cut along time.

Shapes: B pieces of a run, N frames of a piece, n of a chunk, L lookahead frames.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
from tritone_ort_batching import Failed, run_failed
from tritone_ort_contract import TYPES, Spec, read_contract
from tritone_ort_limits import meter_problem, non_finite
from tritone_ort_session import SessionError

Array = np.ndarray[Any, Any]

NOISE = "noise"
REPEATS = "repeats"  # graphs of earlier releases do not have it
PER_FRAME = (NOISE, REPEATS)
GIVEN = ("given", "given_mode")  # these are also looked ahead at
METER = "meter"
FIRST_FRAME = "first_frame"
LARGEST = 1 << 20


@dataclass(frozen=True)
class Options:
    """Whole numbers from the config's `parameters`, under the same names; each has a default.

    Attributes:
        frames_per_bar: length of a bar if a request's meter is unknown.
        lookahead_frames: number of given frames that the graph reads beyond those that it generates.
        max_frames: largest length of a piece.
        max_streams: largest number of pieces at the same time; further requests are refused as busy.
        max_batch_streams: largest number of pieces of a run; sixteen take twice as long as eight, and twice the memory.
        max_parallel_runs: largest number of simultaneous runs of different pieces, at most one per core, each with a
            session of its own; on a GPU there is one.
        first_answer_frames: length of the first response, if the first bar is not shorter.
        step_milliseconds: target duration of one run; longer runs are fewer, but notice a cancellation later.
        stream_timeout_seconds: time limit for a whole piece.
    """

    frames_per_bar: int = 16
    lookahead_frames: int = 0
    max_frames: int = 16_384
    max_streams: int = 64
    max_batch_streams: int = 8
    max_parallel_runs: int = 2
    first_answer_frames: int = 4
    step_milliseconds: int = 40
    stream_timeout_seconds: int = 600


def read_options(config: dict[str, Any]) -> Options:
    """Read the options from a model's config, as Triton passes it to a backend.

    Raises:
        SessionError: a parameter is out of range, or the config is not one for streaming.
    """
    if not (config.get("model_transaction_policy") or {}).get("decoupled"):
        raise SessionError("backend composer streams; add model_transaction_policy { decoupled: true } to the config")
    if config["max_batch_size"] != 1:
        raise SessionError(
            f"max_batch_size is {config['max_batch_size']}; backend composer wants 1: "
            "a request is one piece, and pieces are joined inside"
        )
    given = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    values = {}
    for field in fields(Options):
        text = given.get(field.name, str(field.default))
        least = 0 if field.name == "lookahead_frames" else 1
        if not (text.isdecimal() and least <= int(text) <= LARGEST):
            raise SessionError(f"parameter {field.name} is {text!r}; expected a whole number from {least} to {LARGEST}")
        values[field.name] = int(text)
    return Options(**values)


def n_graphs(options: Options, instance_kind: str) -> int:
    """Return how many runs there may be at the same time: one per core, and one on a GPU."""
    n_cores = 1 if instance_kind == "GPU" else len(os.sched_getaffinity(0))
    return min(options.max_parallel_runs, n_cores)


class RequestedPiece:
    """The inputs of one request.

    Attributes:
        n_frames: N.

    Raises:
        Failed: a value is invalid.
    """

    def __init__(self, feed: dict[str, Array], options: Options) -> None:
        """Check the sizes that determine the chunks, and keep the inputs.

        Args:
            feed: arrays by input name, with a batch axis of 1; names, types and ranks are as in the config, values
                within the config's limits.
        """
        self.n_frames = _n_frames(feed, options.max_frames)
        n_bar, index = (int(number) for number in feed[METER][0])
        if n_bar < 0 or index < 0 or index >= max(n_bar, 1):
            raise Failed(meter_problem(METER, n_bar, index))
        self._n_bar = n_bar or options.frames_per_bar
        self._index = index
        self._n_first = options.first_answer_frames
        # Copies, because the request's memory belongs to Triton again when execute() returns.
        self._whole = {name: array.copy() for name, array in feed.items() if name not in (*GIVEN, *PER_FRAME)}
        # Beyond its end a piece is silent and free.
        self._framed = {name: _padded(feed[name], options.lookahead_frames) for name in GIVEN}
        self._per_frame = {name: feed[name].copy() for name in PER_FRAME if name in feed}
        self._n_ahead = options.lookahead_frames

    def chunk(self, start: int, n_frames: int) -> dict[str, Array]:
        """Return the inputs for n frames: noise and repeats (1, n, ...), and given frames (1, n + L, ...)."""
        stop = start + n_frames
        framed = {name: array[:, start : stop + self._n_ahead] for name, array in self._framed.items()}
        per_frame = {name: array[:, start:stop] for name, array in self._per_frame.items()}
        return {**self._whole, **framed, **per_frame}

    def next_cut(self, at: int) -> int:
        """Return the end of the response that begins with frame `at`."""
        line = at + self._n_bar - (self._index + at) % self._n_bar
        if at == 0:
            line = min(line, self._n_first)
        return min(line, self.n_frames)

    def ends_bar(self, at: int) -> bool:
        """Return whether a bar, or the piece, ends before frame `at`."""
        return at == self.n_frames or (self._index + at) % self._n_bar == 0


def _n_frames(feed: dict[str, Array], most: int) -> int:
    sizes = {name: feed[name].shape[1] for name in (*GIVEN, *PER_FRAME) if name in feed}
    n_frames = sizes[NOISE]
    if len(set(sizes.values())) > 1:
        raise Failed(f"invalid inputs: expected equal numbers of frames, got {sizes}")
    if not 1 <= n_frames <= most:
        raise Failed(f"invalid length of the piece: expected 1 to {most} frames, got {n_frames}")
    return n_frames


def _padded(array: Array, n_ahead: int) -> Array:
    padding = [(0, 0), (0, n_ahead), *((0, 0) for _ in array.shape[2:])]
    return np.pad(array, padding)


State = dict[str, Array]

STATE = "state_"
NEXT = "next_"


class ChunkGraph:
    """A session that has been checked against its config.

    Attributes:
        contract: the checks of requests.
        states: tensors that are passed from run to run; a variable axis begins at length 0.

    Raises:
        SessionError: config and file differ; the message lists all differences.
    """

    def __init__(self, session: Any, config: dict[str, Any], path: str) -> None:
        self._session = session
        takes = {node.name: node for node in session.get_inputs()}
        answers = {node.name: node for node in session.get_outputs()}
        self.states = _states(takes, answers, path)
        carried = {spec.name for spec in self.states}
        if FIRST_FRAME not in {tensor["name"] for tensor in config["output"]}:
            raise SessionError(f"the config lacks output {FIRST_FRAME} (TYPE_INT64, dims [1], reshape {{}})")
        # The backend computes this output by itself; the others are checked against the file as for any model.
        wire = SimpleNamespace(
            get_inputs=lambda: [node for name, node in takes.items() if name not in carried],
            get_outputs=lambda: [
                *(node for name, node in answers.items() if name.removeprefix(NEXT) not in carried),
                SimpleNamespace(name=FIRST_FRAME, type="tensor(int64)", shape=["batch"]),
            ],
            get_overridable_initializers=list,
            get_modelmeta=session.get_modelmeta,
        )
        self.contract = read_contract(config, wire, path)
        missing = {*GIVEN, NOISE, "meter"} - {spec.name for spec in self.contract.inputs}
        if missing:
            raise SessionError(
                f"{path} lacks input {', '.join(sorted(missing))}, which backend composer cuts pieces by"
            )
        self._outputs = tuple(name for name in self.contract.outputs if name != FIRST_FRAME)

    def first_state(self) -> State:
        """Return the state of one piece before its first frame: zeros."""
        return {spec.name: np.zeros([1, *(size or 0 for size in spec.dims[1:])], spec.dtype) for spec in self.states}

    def advance(self, feed: dict[str, Array], state: State) -> tuple[dict[str, Array], State]:
        """Generate n frames of B pieces.

        Args:
            feed: arrays by input name, the batch as first axis.
            state: of the same pieces.

        Returns:
            outputs (B, n, ...) by name, and the pieces' next state.

        Raises:
            Failed: the run failed, or an output has another shape.
        """
        n_rows, n_frames = feed[NOISE].shape[:2]
        names = [*self._outputs, *(NEXT + name for name in state)]
        try:
            values = self._session.run(names, {**feed, **state})
        except Exception as error:  # onnxruntime's exceptions have no common root
            # An argument that is invalid is a value that was sent, such as a style that is not there.
            raise run_failed(error, "piece", is_refused=type(error).__name__ == "InvalidArgument") from error
        answered = dict(zip(names, values, strict=True))
        outputs = {name: answered[name] for name in self._outputs}
        for name, value in outputs.items():
            if value.shape[:2] != (n_rows, n_frames):
                raise Failed(
                    f"the model answered {name} with shape {list(value.shape)} for {n_frames} frames of "
                    f"{n_rows} pieces; export it again"
                )
            if self.contract.limits is not None and non_finite(value):
                raise Failed(f"the model answered {name} with NaN or infinity for a piece within its limits")
        return outputs, {name: answered[NEXT + name] for name in state}

    def warm_up(self, options: Options) -> None:
        """Generate a few frames before the first request, because the first run of a session is slow.

        Raises:
            Failed: the run failed.
        """
        n_frames = options.first_answer_frames
        feed: dict[str, Array] = {}
        for spec in self.contract.inputs:
            sizes = [n_frames if size is None else size for size in spec.dims[1:]]
            # Ones where zero means something else: no temperature, no choice left.
            value = 1 if spec.name in ("temperature", "top_k", "top_p") else 0
            feed[spec.name] = np.full([1, *sizes], value, spec.dtype)
        state = self.first_state()
        for n in (n_frames, 1):
            _, state = self.advance(RequestedPiece(feed, options).chunk(0, n), state)


def _states(takes: dict[str, Any], answers: dict[str, Any], path: str) -> tuple[Spec, ...]:
    states = []
    for name, node in takes.items():
        if not name.startswith(STATE):
            continue
        after = answers.get(NEXT + name)
        if after is None or after.type != node.type or len(after.shape) != len(node.shape) or node.type not in TYPES:
            raise SessionError(
                f"{path} takes {name} as {node.type} {node.shape} and has no {NEXT}{name} like it; export it again"
            )
        dims = tuple(size if isinstance(size, int) and size >= 0 else None for size in node.shape)
        states.append(Spec(name, TYPES[node.type][1], dims))
    if not states:
        raise SessionError(f"{path} has no state (inputs named {STATE}...); is it a graph for backend onnxruntime?")
    return tuple(states)
