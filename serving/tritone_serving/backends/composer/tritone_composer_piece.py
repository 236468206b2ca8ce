"""Options of the backend, and the checked inputs of one requested piece, cut along time.

Shapes: N frames of the piece, n of a chunk, L lookahead frames.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from tritone_ort_batching import Failed
from tritone_ort_limits import meter_problem
from tritone_ort_session import SessionError

Array = np.ndarray[Any, Any]

NOISE = "noise"
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
        max_batch_streams: largest number of pieces in one run of the graph.
        first_answer_frames: length of the first response, if the first bar is not shorter.
        step_milliseconds: target duration of one run; longer runs are fewer, but notice a cancellation later.
        stream_timeout_seconds: time limit for a whole piece.
    """

    frames_per_bar: int = 16
    lookahead_frames: int = 0
    max_frames: int = 16_384
    max_streams: int = 64
    max_batch_streams: int = 16
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
        self._whole = {name: array.copy() for name, array in feed.items() if name not in (*GIVEN, NOISE)}
        # Beyond its end a piece is silent and free.
        self._framed = {name: _padded(feed[name], options.lookahead_frames) for name in GIVEN}
        self._noise = feed[NOISE].copy()
        self._n_ahead = options.lookahead_frames

    def chunk(self, start: int, n_frames: int) -> dict[str, Array]:
        """Return the inputs for n frames: noise (1, n, ...) and given frames (1, n + L, ...)."""
        stop = start + n_frames
        framed = {name: array[:, start : stop + self._n_ahead] for name, array in self._framed.items()}
        return {**self._whole, **framed, NOISE: self._noise[:, start:stop]}

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
    sizes = {name: feed[name].shape[1] for name in (*GIVEN, NOISE)}
    n_frames = sizes[NOISE]
    if len(set(sizes.values())) > 1:
        raise Failed(f"invalid inputs: expected equal numbers of frames, got {sizes}")
    if not 1 <= n_frames <= most:
        raise Failed(f"invalid length of the piece: expected 1 to {most} frames, got {n_frames}")
    return n_frames


def _padded(array: Array, n_ahead: int) -> Array:
    padding = [(0, 0), (0, n_ahead), *((0, 0) for _ in array.shape[2:])]
    return np.pad(array, padding)
