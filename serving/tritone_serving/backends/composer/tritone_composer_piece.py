"""One piece that a client asked for: its inputs, checked and cut along time.

Shapes: N frames of the piece, n of a chunk, L lookahead frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tritone_composer_options import Options
from tritone_ort_batching import Failed
from tritone_ort_limits import meter_problem

Array = np.ndarray[Any, Any]

NOISE = "noise"
GIVEN = ("given", "given_mode")  # these are also looked ahead at
METER = "meter"
FIRST_FRAME = "first_frame"


class Piece:
    """The inputs of one request.

    Attributes:
        n_frames: N.

    Raises:
        Failed: a value that no piece can have.
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
        # Copies: the request's own memory is Triton's again when execute() returns.
        self._whole = {name: array.copy() for name, array in feed.items() if name not in (*GIVEN, NOISE)}
        # Beyond its end a piece is silent and free.
        self._framed = {name: _padded(feed[name], options.lookahead_frames) for name in GIVEN}
        self._noise = feed[NOISE].copy()
        self._n_ahead = options.lookahead_frames

    def chunk(self, start: int, n_frames: int) -> dict[str, Array]:
        """The inputs for n frames: (1, n, ...) of noise, (1, n + L, ...) of what is given."""
        stop = start + n_frames
        framed = {name: array[:, start : stop + self._n_ahead] for name, array in self._framed.items()}
        return {**self._whole, **framed, NOISE: self._noise[:, start:stop]}

    def next_cut(self, at: int) -> int:
        """The frame before which the answer ends that begins with frame `at`."""
        line = at + self._n_bar - (self._index + at) % self._n_bar
        if at == 0:
            line = min(line, self._n_first)
        return min(line, self.n_frames)

    def ends_bar(self, at: int) -> bool:
        """Whether a bar, or the piece, ends before frame `at`."""
        return at == self.n_frames or (self._index + at) % self._n_bar == 0


def _n_frames(feed: dict[str, Array], most: int) -> int:
    sizes = {name: feed[name].shape[1] for name in (*GIVEN, NOISE)}
    n_frames = sizes[NOISE]
    if len(set(sizes.values())) > 1:
        raise Failed(f"the inputs' numbers of frames differ: {sizes}")
    if not 1 <= n_frames <= most:
        raise Failed(f"the piece has {n_frames} frames; expected 1 to {most}")
    return n_frames


def _padded(array: Array, n_ahead: int) -> Array:
    padding = [(0, 0), (0, n_ahead), *((0, 0) for _ in array.shape[2:])]
    return np.pad(array, padding)
