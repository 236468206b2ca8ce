"""Generate all requested pieces in a few threads, some frames at a time.

Pieces advance together: one run of a graph generates the next frames of several, so that eight streams cost much less
than eight times one. There is a graph for each core, and each runs an equal share of the pieces. Runs do not wait for
each other; pieces join and leave between two runs. The engine's thread chooses the pieces of each run and sends the
answers, while the threads of a pool run the graphs.

Shapes: B pieces of a run, n frames.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tritone_composer_graph import ChunkGraph, Options, RequestedPiece, State
from tritone_composer_metrics import Counters
from tritone_ort_batching import Failed, Refused

Array = np.ndarray[Any, Any]

POLL_S = 0.05  # how often a piece is checked for cancellation, which is a message to the server's process
FRAMES, STRUCK = "frames", 2  # the output that holds the notes, and the value of an onset
GRACE_S = 2.0  # time for unfinished pieces when the server stops
LEAST_SHARED = 2  # pieces of which one run costs less than one run each
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
    """An unfinished piece: `at` frames are generated and `sent` frames are answered; the next answer ends at `cut`."""

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
        self.is_suspect = False  # a run that it shared failed
        self.is_ended = False
        self.deadline_s = deadline_s
        self.polled_s = 0.0

    @property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        return tuple(array.shape[1:] for array in self.state.values())

    @property
    def n_left(self) -> int:
        return self.piece.n_frames - self.at

    def take_answers(self) -> list[_Answer]:
        """Return the answers of which all frames are generated."""
        taken = []
        while self.sent < self.cut <= self.at:
            first_frame = self.sent
            taken.append(_Answer(self, self._take_outputs(), first_frame, is_last=self.sent == self.piece.n_frames))
        return taken

    def _take_outputs(self) -> dict[str, Array]:
        """Return the outputs of the frames up to `cut`, and keep those behind."""
        names = self.written[0]
        whole = {name: np.concatenate([part[name] for part in self.written], axis=1) for name in names}
        n_frames = self.cut - self.sent
        self.written = [{name: value[:, n_frames:] for name, value in whole.items()}] if self.at > self.cut else []
        self.sent = self.cut
        self.cut = self.piece.next_cut(self.sent)
        return {name: value[:, :n_frames] for name, value in whole.items()}


@dataclass(frozen=True)
class _Answer:
    """The outputs (1, n, ...) of the frames of a piece from `first_frame` on."""

    stream: _Stream
    outputs: dict[str, Array]
    first_frame: int
    is_last: bool


@dataclass
class _Run:
    """A run of a graph: outputs and next state, or why it failed, once it is done."""

    graph: ChunkGraph
    group: list[_Stream]
    n_frames: int
    outcome: tuple[dict[str, Array], State] | Exception | None = None
    duration_s: float = 0.0


class Engine:
    """Generates pieces in threads, which start at once and which `close` ends."""

    def __init__(
        self,
        graphs: Sequence[ChunkGraph],
        options: Options,
        counters: Counters,
        *,
        is_stopping: Callable[[], bool] = lambda: False,
        warn: Callable[[str], Any] = print,
    ) -> None:
        """Start the threads.

        Args:
            graphs: equal graphs that generate frames, of which each is run by one thread at a time.
            options: limits.
            counters: count what is done.
            is_stopping: returns whether the server is about to end.
            warn: called with messages for the operator.
        """
        self._first_state = graphs[0].first_state
        self._options = options
        self._counters = counters
        self._is_stopping = is_stopping
        self._stop_s: float | None = None
        self._warn = warn
        self._frame_s = 0.0  # duration of a frame in the last run
        # Of the engine's thread; the longest waiting comes first. Pieces in a run are in `_streams` only.
        self._waiting: list[_Stream] = []
        self._streams: list[_Stream] = []
        self._idle = list(graphs)
        self._n_counted = 0
        # Of all threads.
        self._added: list[_Stream] = []
        self._done: list[_Run] = []
        self._n_active = 0  # including those that were added and not yet seen by the engine's thread
        self._is_closing = False
        self._changed = threading.Condition()
        self._n_graphs = len(graphs)
        self._pool = ThreadPoolExecutor(len(graphs), thread_name_prefix="composer-run")
        self._thread = threading.Thread(target=self._run, name="composer", daemon=True)
        self._thread.start()

    def add(self, piece: RequestedPiece, answers: Answers, *, is_canary: bool = False) -> None:
        """Begin a piece, or refuse it if there are too many; does not wait.

        Args:
            is_canary: the piece is a health check and counts in no metric.
        """
        deadline_s = time.monotonic() + self._options.stream_timeout_seconds
        stream = _Stream(piece, answers, self._first_state(), deadline_s, is_canary=is_canary)
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
        """End all pieces with an error, and the threads, after the present runs."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._added or self._done or self._is_closing)
                added, self._added = self._added, []
                done, self._done = self._done, []
                closing = self._is_closing
            self._idle += [run.graph for run in done]
            self._waiting[:0] = added  # a new piece is heard before those under way go on
            self._streams += added
            self._count_active()
            if closing:
                self._end_all(EndReason.CLOSING, CLOSING)
                return
            try:
                answers = [answer for run in done for answer in self._take(run)]
                self._remove_ended()
                self._start_runs()
                for answer in answers:
                    self._send(answer)
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
        for stream in list(self._waiting):
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

    def _start_runs(self) -> None:
        """Start runs of the pieces that have waited longest, as many as there may be."""
        while self._waiting and self._idle:
            group = self._next_group()
            chosen = {id(stream) for stream in group}
            self._waiting = [stream for stream in self._waiting if id(stream) not in chosen]
            self._pool.submit(self._run_graph, _Run(self._idle.pop(), group, self._n_frames(group)))

    def _next_group(self) -> list[_Stream]:
        """Return the pieces of the next run: an equal share of all, of those that have waited longest."""
        first = self._waiting[0]
        if first.is_suspect:
            return [first]
        share = max(LEAST_SHARED, -(-len(self._streams) // self._n_graphs))
        alike = (
            stream
            for stream in self._waiting
            if stream.shape == first.shape and not stream.is_suspect
        )
        return [stream for stream, _ in zip(alike, range(min(share, self._options.max_batch_streams)), strict=False)]

    def _n_frames(self, group: list[_Stream]) -> int:
        """Return the length of the next run.

        It is limited by its target duration, by the shortest rest of a piece, and by the last of the next answers. (The
        first of them would make short runs of pieces that are at different places of a bar; so would the short first
        answer of a new piece, unless it runs alone.)
        """
        n_wanted = int(self._options.step_milliseconds / 1e3 / self._frame_s) if self._frame_s else 1
        most = max(stream.cut - stream.at for stream in group)
        return max(1, min(n_wanted, most, *(stream.n_left for stream in group)))

    def _run_graph(self, run: _Run) -> None:
        """Run a graph, in a thread of the pool."""
        begun_s = time.perf_counter()
        try:
            run.outcome = run.graph.advance(_joined_feed(run.group, run.n_frames), _joined_state(run.group))
        except Exception as error:  # the engine's thread tells failures of the graph from faults
            run.outcome = error
        run.duration_s = time.perf_counter() - begun_s
        with self._changed:
            self._done.append(run)
            self._changed.notify()

    def _take(self, run: _Run) -> list[_Answer]:
        """Advance the pieces of a run, and return the answers that are due.

        If a joint run failed, each of its pieces runs alone next, and only invalid ones end.
        """
        group = [stream for stream in run.group if not stream.is_ended]
        if isinstance(run.outcome, Failed):
            if len(run.group) > 1:
                for stream in group:
                    stream.is_suspect = True
                self._waiting[:0] = group
            elif group:
                reason = EndReason.INVALID if isinstance(run.outcome, Refused) else EndReason.BROKEN
                self._end(group[0], reason, str(run.outcome))
            return []
        if isinstance(run.outcome, Exception) or run.outcome is None:
            raise run.outcome or RuntimeError("a run without outcome")
        outputs, state = run.outcome
        self._frame_s = run.duration_s / run.n_frames
        for row, stream in enumerate(run.group):
            stream.state, stream.row = state, row
            stream.at += run.n_frames
            stream.written.append({name: value[row : row + 1] for name, value in outputs.items()})
            stream.is_suspect = False
        if n_counted := sum(not stream.is_canary for stream in group):
            self._counters.add_frames(run.n_frames * n_counted)
        self._waiting += [stream for stream in group if stream.n_left]
        return [answer for stream in group for answer in stream.take_answers()]

    def _send(self, answer: _Answer) -> None:
        """Send an answer; a piece ends with the last one."""
        stream = answer.stream
        if stream.is_ended:
            return
        if not stream.is_canary:
            if stream.piece.ends_bar(answer.first_frame + answer.outputs[FRAMES].shape[1]):
                self._counters.add_bar()
            if n_notes := np.count_nonzero(answer.outputs[FRAMES] == STRUCK):
                self._counters.add_notes(n_notes)
        if answer.is_last:
            self._forget(stream)
        try:
            stream.answers.send(answer.outputs, answer.first_frame, last=answer.is_last)
        except Exception as error:  # Triton's own errors must not affect other pieces
            self._warn(f"composer: an answer could not be sent: {error}")
            if not answer.is_last:
                self._forget(stream)

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
        """Remove a piece; if it is in a run, the outputs of that are dropped."""
        stream.is_ended = True
        self._streams = [other for other in self._streams if other is not stream]
        self._waiting = [other for other in self._waiting if other is not stream]
        with self._changed:
            self._n_active -= 1
        self._count_active()

    def _count_active(self) -> None:
        n_active = sum(not stream.is_canary for stream in self._streams)
        if n_active != self._n_counted:
            self._n_counted = n_active
            self._counters.set_active(n_active)


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
