"""Generate all requested pieces in one thread, a few frames at a time.

Pieces advance together: one run of the graph generates the next frames of several, so that eight streams cost much less
than eight times one. Pieces join and leave between two runs. Four pieces and more are divided into simultaneous runs of
at least two, at most one run per core and `Options.max_parallel_runs` in all.

Shapes: B pieces of a run, n frames.
"""

from __future__ import annotations

import enum
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from tritone_composer_graph import ChunkGraph, Options, RequestedPiece, State
from tritone_composer_metrics import Counters
from tritone_ort_batching import Failed, Refused

Array = np.ndarray[Any, Any]

POLL_S = 0.05  # how often a piece is checked for cancellation, which is a message to the server's process
FRAMES, STRUCK = "frames", 2  # the output that holds the notes, and the value of an onset
GRACE_S = 2.0  # time for unfinished pieces when the server stops
CLOSING = "the model is being unloaded, or the server is stopping; ask again"


class EndReason(enum.Enum):
    """Why a piece ends before its end."""

    INVALID = enum.auto()
    BUSY = enum.auto()
    LATE = enum.auto()
    CLOSING = enum.auto()
    CANCELLED = enum.auto()
    BROKEN = enum.auto()


class Answers(Protocol):
    """Sends the responses of a piece to its client."""

    def send(self, outputs: dict[str, Array], first_frame: int, *, last: bool) -> None:
        """Send the next frames (1, n, ...)."""

    def end(self, reason: EndReason, text: str) -> None:
        """Send the error that ends the responses."""

    def is_cancelled(self) -> bool:
        """Return whether the client cancelled the request or disconnected."""


class _Stream:
    """An unfinished piece: `at` frames are generated and `sent` frames are sent; the next answer ends at `cut`."""

    def __init__(
        self, piece: RequestedPiece, answers: Answers, state: State, deadline_s: float, *, is_canary: bool = False
    ) -> None:
        self.piece = piece
        self.answers = answers
        self.is_canary = is_canary
        self.at = 0
        self.sent = 0
        self.cut = piece.next_cut(0)
        self.written: list[dict[str, Array]] = []
        # Row `row` of arrays that it may share with the pieces of its last run.
        self.state = state
        self.row = 0
        self.deadline_s = deadline_s
        self.polled_s = 0.0

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        return tuple(array.shape[1:] for array in self.state.values())

    @property
    def n_left(self) -> int:
        return self.piece.n_frames - self.at

    def take_answer(self) -> dict[str, Array]:
        """Return the outputs of the frames up to `cut`, and keep those behind."""
        names = self.written[0]
        whole = {name: np.concatenate([part[name] for part in self.written], axis=1) for name in names}
        n_frames = self.cut - self.sent
        self.written = [{name: value[:, n_frames:] for name, value in whole.items()}] if self.at > self.cut else []
        self.sent = self.cut
        self.cut = self.piece.next_cut(self.sent)
        return {name: value[:, :n_frames] for name, value in whole.items()}


class Engine:
    """Generates pieces in a thread, which starts at once and which `close` ends."""

    def __init__(
        self,
        graph: ChunkGraph,
        options: Options,
        counters: Counters,
        *,
        is_stopping: Callable[[], bool] = lambda: False,
        warn: Callable[[str], Any] = print,
    ) -> None:
        """Start the thread.

        Args:
            graph: generates the frames.
            options: limits.
            counters: count what is done.
            is_stopping: returns whether the server is about to end.
            warn: called with messages for the operator.
        """
        self._graph = graph
        self._options = options
        self._counters = counters
        self._is_stopping = is_stopping
        self._stop_s: float | None = None
        self._warn = warn
        self._frame_s = 0.0  # duration of a frame in the last run
        self._streams: list[_Stream] = []  # of the engine's thread; the longest waiting comes first
        self._added: list[_Stream] = []
        self._n_active = 0  # including those that were added since the last run
        self._n_counted = 0
        self._is_closing = False
        self._changed = threading.Condition()
        n_cores = len(os.sched_getaffinity(0))
        self._n_runs = min(options.max_parallel_runs, n_cores)
        self._pool = ThreadPoolExecutor(self._n_runs, thread_name_prefix="composer-run")
        self._thread = threading.Thread(target=self._run, name="composer", daemon=True)
        self._thread.start()

    def add(self, piece: RequestedPiece, answers: Answers, *, is_canary: bool = False) -> None:
        """Begin a piece, or refuse it if there are too many; does not wait.

        Args:
            is_canary: the piece is a health check and counts in no metric.
        """
        deadline_s = time.monotonic() + self._options.stream_timeout_seconds
        stream = _Stream(piece, answers, self._graph.first_state(), deadline_s, is_canary=is_canary)
        with self._changed:
            closing, busy = self._is_closing, self._n_active >= self._options.max_streams
            if not closing and not busy:
                self._n_active += 1
                self._added.append(stream)
                self._changed.notify()
                return
        if closing:
            answers.end(EndReason.CLOSING, CLOSING)
        else:
            answers.end(
                EndReason.BUSY, f"too many requests: {self._options.max_streams} pieces are being streamed already"
            )

    def close(self) -> None:
        """End all pieces with an error, and the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._streams or self._added or self._is_closing)
                self._streams[:0] = self._added
                self._added.clear()
                closing = self._is_closing
            self._count_active()
            if closing:
                self._end_all(EndReason.CLOSING, CLOSING)
                return
            try:
                self._remove_ended()
                if self._streams:
                    self._step()
            except Exception as error:  # a fault of ours must not leave clients waiting for ever
                self._warn(f"composer: {type(error).__name__}: {error}")
                self._end_all(EndReason.BROKEN, f"the composer failed ({type(error).__name__}); see the server's log")

    def _remove_ended(self) -> None:
        """Remove pieces that were cancelled or took too long."""
        now_s = time.monotonic()
        # When Triton stops, or unloads a model, it waits for the last request without a limit. An unloaded model
        # finishes its pieces; a server that stops must not.
        if self._is_stopping():
            self._stop_s = self._stop_s or now_s + GRACE_S
            if now_s >= self._stop_s:
                self._end_all(EndReason.CLOSING, CLOSING)
        for stream in list(self._streams):
            if now_s - stream.polled_s >= POLL_S:
                stream.polled_s = now_s
                if stream.answers.is_cancelled():
                    if not stream.is_canary:
                        self._counters.add_cancelled()
                    self._end(stream, EndReason.CANCELLED, "the request was cancelled")
                elif now_s > stream.deadline_s:
                    timeout_s = self._options.stream_timeout_seconds
                    self._end(
                        stream, EndReason.LATE, f"request timeout expired: the piece was not done in {timeout_s} s"
                    )

    def _step(self) -> None:
        """Generate the next frames of the pieces that have waited longest, together."""
        first = self._streams[0]
        group = [stream for stream in self._streams if stream.shape == first.shape][: self._options.max_batch_streams]
        n_frames = self._n_frames(group)
        begun_s = time.perf_counter()
        parts = _parts(group, self._n_runs)
        if len(parts) == 1:
            outcomes = [self._run_graph(group, n_frames)]
        else:
            outcomes = list(self._pool.map(lambda part: self._run_graph(part, n_frames), parts))
        advanced: list[_Stream] = []
        for part, outcome in zip(parts, outcomes, strict=True):
            done = self._advance(part, n_frames, outcome)
            if n_counted := sum(not stream.is_canary for stream in done):
                self._counters.add_frames(n_frames * n_counted)
            advanced += done
        self._frame_s = (time.perf_counter() - begun_s) / n_frames
        members = {id(stream) for stream in advanced}
        waiting = [stream for stream in self._streams if id(stream) not in members]
        self._streams = waiting + advanced
        for stream in advanced:
            self._answer(stream)

    def _n_frames(self, group: list[_Stream]) -> int:
        """Return the length of the next run.

        It is limited by its target duration, by the shortest rest of a piece, by the first answer of a new piece, and
        by the last of the next answers. (The first of them would make short runs of pieces that are at different places
        of a bar.)
        """
        n_wanted = int(self._options.step_milliseconds / 1e3 / self._frame_s) if self._frame_s else 1
        most = max(stream.cut - stream.at for stream in group)
        first = (stream.cut - stream.at for stream in group if not stream.sent)
        return max(1, min(n_wanted, most, *(stream.n_left for stream in group), *first))

    def _run_graph(self, group: list[_Stream], n_frames: int) -> tuple[dict[str, Array], State] | Failed:
        """Return the outputs of a group and its state, or why the run failed; any thread may call this."""
        try:
            return self._graph.advance(_joined_feed(group, n_frames), _joined_state(group))
        except Failed as error:
            return error

    def _advance(
        self, group: list[_Stream], n_frames: int, outcome: tuple[dict[str, Array], State] | Failed
    ) -> list[_Stream]:
        """Advance a group and return its pieces; if its run failed, each runs alone, and only invalid ones end."""
        if isinstance(outcome, Failed):
            if len(group) == 1:
                reason = EndReason.INVALID if isinstance(outcome, Refused) else EndReason.BROKEN
                self._end(group[0], reason, str(outcome))
                return []
            each = ([member] for member in group)
            return [stream for one in each for stream in self._advance(one, n_frames, self._run_graph(one, n_frames))]
        outputs, state = outcome
        for row, stream in enumerate(group):
            stream.state, stream.row = state, row
            stream.at += n_frames
            stream.written.append({name: value[row : row + 1] for name, value in outputs.items()})
        return group

    def _answer(self, stream: _Stream) -> None:
        """Send the answers of which all frames are generated, and remove the piece if it is finished."""
        while stream.sent < stream.cut <= stream.at:
            first_frame = stream.sent
            outputs = stream.take_answer()
            if not stream.is_canary:
                if stream.piece.ends_bar(stream.sent):
                    self._counters.add_bar()
                if n_notes := np.count_nonzero(outputs[FRAMES] == STRUCK):
                    self._counters.add_notes(n_notes)
            is_last = stream.sent == stream.piece.n_frames
            if is_last:
                self._forget(stream)
            try:
                stream.answers.send(outputs, first_frame, last=is_last)
            except Exception as error:  # Triton's own errors must not affect other pieces
                self._warn(f"composer: an answer could not be sent: {error}")
                if not is_last:
                    self._forget(stream)
                return

    def _end(self, stream: _Stream, reason: EndReason, text: str) -> None:
        self._forget(stream)
        try:
            stream.answers.end(reason, text)
        except Exception as error:
            self._warn(f"composer: the end of an answer could not be sent: {error}")

    def _end_all(self, reason: EndReason, text: str) -> None:
        for stream in list(self._streams):
            self._end(stream, reason, text)

    def _forget(self, stream: _Stream) -> None:
        self._streams = [other for other in self._streams if other is not stream]
        with self._changed:
            self._n_active -= 1
        self._count_active()

    def _count_active(self) -> None:
        n_active = sum(not stream.is_canary for stream in self._streams)
        if n_active != self._n_counted:
            self._n_counted = n_active
            self._counters.set_active(n_active)


def _parts(group: list[_Stream], n_most: int) -> list[list[_Stream]]:
    """Divide a group into parts of at least two pieces, of which two cost less than twice one, and as equal as can be.

    The same group is always divided in the same way, so that each part finds its joint state.
    """
    n_parts = max(1, min(n_most, len(group) // 2))
    bounds = [len(group) * n // n_parts for n in range(n_parts + 1)]
    return [group[start:stop] for start, stop in pairwise(bounds)]


def _joined_feed(group: list[_Stream], n_frames: int) -> dict[str, Array]:
    chunks = [stream.piece.chunk(stream.at, n_frames) for stream in group]
    if len(chunks) == 1:
        return chunks[0]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _joined_state(group: list[_Stream]) -> State:
    """Return the states of a group: those of the last run if it had the same group, else gathered."""
    state = group[0].state
    n_rows = len(next(iter(state.values())))
    if n_rows == len(group) and all(stream.state is state and stream.row == row for row, stream in enumerate(group)):
        return state
    return {
        name: np.concatenate([stream.state[name][stream.row : stream.row + 1] for stream in group]) for name in state
    }
