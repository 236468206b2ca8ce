"""Generate all requested pieces in a few threads, some frames at a time.

Pieces advance together: one run of a graph generates the next frames of several, so that eight streams cost much less
than eight times one. There is a graph and a thread for each core, and each run has an equal share of the pieces. Runs
do not wait for each other; pieces join and leave between two runs. The engine's own thread chooses the pieces of each
run and sends the responses.

Shapes: B pieces of a run, n frames.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Any

import numpy as np
from tritone_composer_graph import ChunkGraph, Options, RequestedPiece, State
from tritone_composer_metrics import Counters
from tritone_composer_stream import EndReason, Response, ResponseSender, Stream, joined_feed, joined_state
from tritone_ort_batching import Failed, Refused

Array = np.ndarray[Any, Any]

CANCEL_POLL_INTERVAL_S = 0.05  # of each piece; asking is a message to the server's process
IDLE_POLL_INTERVAL_S = 0.5  # the same, if no run ends meanwhile
FRAMES, STRUCK = "frames", 2  # the output that holds the notes, and the value of an onset
GRACE_S = 2.0  # time for unfinished pieces when the server stops
MAX_WAIT_S = 0.5  # of a piece in progress, while new pieces run before it
MIN_SHARE = 2  # one run of two pieces takes less CPU time than two runs
CLOSING = "the model is being unloaded, or the server is stopping; ask again"


@dataclass
class _GraphRun:
    """A run of a graph: the outputs and next state, or why it failed, once it is done."""

    group: list[Stream]
    n_frames: int
    outcome: tuple[dict[str, Array], State] | Exception | None = None
    duration_s: float = 0.0


class Engine:
    """Generate pieces in background threads, started by the constructor and stopped by `close`."""

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
            graphs: equal graphs that generate frames, one for each simultaneous run.
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
        self._n_graphs = len(graphs)
        # Used by the engine's thread only.
        self._streams: list[Stream] = []
        self._waiting: list[Stream] = []  # those that are in no run
        self._n_idle = len(graphs)
        self._frame_s = 0.0  # duration of a frame in the last run
        self._n_counted = 0
        # Guarded by `_changed`.
        self._added: list[Stream] = []
        self._done: list[_GraphRun] = []
        self._n_active = 0  # including those that were added and not yet seen by the engine's thread
        self._is_closing = False
        self._changed = threading.Condition()

        self._runs: SimpleQueue[_GraphRun | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run_graph, args=(graph,), name="composer-run", daemon=True)
            for graph in graphs
        ]
        self._threads.append(threading.Thread(target=self._loop, name="composer", daemon=True))
        for thread in self._threads:
            thread.start()

    def add(self, piece: RequestedPiece, sender: ResponseSender, *, is_canary: bool = False) -> None:
        """Begin a piece, or refuse it if there are too many; does not wait.

        Args:
            is_canary: the piece is a health check and counts in no metric.
        """
        deadline_s = time.monotonic() + self._options.stream_timeout_seconds
        stream = Stream(piece, sender, self._first_state(), deadline_s, is_canary=is_canary)
        with self._changed:
            closing, busy = self._is_closing, self._n_active >= self._options.max_streams
            if not closing and not busy:
                self._n_active += 1
                self._added.append(stream)
                self._changed.notify()
                return
        if closing:
            sender.end(EndReason.CLOSING, CLOSING)
        else:
            sender.end(
                EndReason.BUSY, f"too many requests: {self._options.max_streams} pieces are being streamed already"
            )

    def close(self) -> None:
        """End all pieces with an error, then wait for the current runs and the threads."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        for thread in self._threads:
            thread.join()

    def _loop(self) -> None:
        # What is done is passed on without a name here, so that nothing of it is kept while there are no pieces.
        while self._handle(*self._wait()):
            pass
        for _ in range(self._n_graphs):
            self._runs.put(None)

    def _wait(self) -> tuple[list[Stream], list[_GraphRun], bool]:
        """Return the pieces that were added, the runs that are done, and whether to end."""
        with self._changed:
            timeout_s = IDLE_POLL_INTERVAL_S if self._streams else None
            self._changed.wait_for(lambda: self._added or self._done or self._is_closing, timeout_s)
            added, self._added = self._added, []
            done, self._done = self._done, []
            return added, done, self._is_closing

    def _handle(self, added: list[Stream], done: list[_GraphRun], closing: bool) -> bool:
        """Start the next runs and send the responses that are due; return whether to go on."""
        self._n_idle += len(done)
        self._streams += added
        self._waiting += added
        self._count_active()
        if closing:
            self._end_all(self._streams, EndReason.CLOSING, CLOSING)
            return False
        try:
            responses = [response for run in done for response in self._take(run)]
            self._end_cancelled_and_late()
            self._start_runs()
            for response in responses:
                self._send(response)
        except Exception as error:  # a programming error must not leave clients waiting for ever
            self._end_faulty(self._streams, error)
        return True

    def _end_cancelled_and_late(self) -> None:
        """End pieces that were cancelled or took too long, including those in a run."""
        now_s = time.monotonic()
        unfinished = [stream for stream in self._streams if stream.n_left]
        # When Triton stops, or unloads a model, it waits for the last request without a limit. An unloaded model
        # finishes its pieces; a server that stops must not.
        if self._is_stopping():
            self._stop_s = self._stop_s or now_s + GRACE_S
            if now_s >= self._stop_s:
                self._end_all(unfinished, EndReason.CLOSING, CLOSING)
                return
        for stream in unfinished:
            if now_s - stream.polled_s < CANCEL_POLL_INTERVAL_S:
                continue
            stream.polled_s = now_s
            try:
                is_cancelled = stream.sender.is_cancelled()
            except Exception as error:  # Triton's own errors must not affect other pieces
                self._end_faulty([stream], error)
                continue
            if is_cancelled:
                if not stream.is_canary:
                    self._count(self._counters.add_cancelled)
                self._end(stream, EndReason.CANCELLED, "the request was cancelled")
            elif now_s > stream.deadline_s:
                timeout_s = self._options.stream_timeout_seconds
                self._end(stream, EndReason.LATE, f"request timeout expired: the piece was not done in {timeout_s} s")

    def _start_runs(self) -> None:
        """Start runs of the pieces that have waited longest, as many as there are idle graphs.

        New pieces run before those in progress, to keep the first response fast, unless these have waited for
        `MAX_WAIT_S`.
        """
        now_s = time.monotonic()

        def order(stream: Stream) -> tuple[bool, float]:
            may_wait = stream.at > 0 and not stream.is_suspect and now_s - stream.waiting_since_s < MAX_WAIT_S
            return may_wait, stream.waiting_since_s

        self._waiting.sort(key=order)
        while self._waiting and self._n_idle:
            group = self._next_group()
            run = _GraphRun(group, self._n_frames(group))
            chosen = {id(stream) for stream in group}
            self._waiting = [stream for stream in self._waiting if id(stream) not in chosen]
            self._n_idle -= 1
            self._runs.put(run)

    def _next_group(self) -> list[Stream]:
        """Return the pieces of the next run: an equal share of all, of those that have waited longest.

        Two pieces have one run if both wait, and else one each.
        """
        first = self._waiting[0]
        if first.is_suspect:
            return [first]
        n_unfinished = sum(stream.n_left > 0 for stream in self._streams)
        share = max(MIN_SHARE, -(-n_unfinished // self._n_graphs))
        same_shape = (stream for stream in self._waiting if stream.shape == first.shape and not stream.is_suspect)
        return list(islice(same_shape, min(share, self._options.max_batch_streams)))

    def _n_frames(self, group: list[Stream]) -> int:
        """Return the length of the next run.

        It is limited by its target duration (but not below the first response, because each run has a fixed cost), by
        the shortest rest of a piece, and by the last of the next responses.
        (The first of them would make short runs of pieces that are at different places of a bar. The short first
        response of a new piece does not limit the run either, unless the piece runs alone.)
        """
        n_wanted = int(self._options.step_milliseconds / 1e3 / self._frame_s) if self._frame_s else 1
        most = max(stream.cut - stream.at for stream in group)
        return min(max(n_wanted, self._options.first_answer_frames), most, *(stream.n_left for stream in group))

    def _run_graph(self, graph: ChunkGraph) -> None:
        """Run a graph for group after group, in a thread of its own."""
        while (run := self._runs.get()) is not None:
            begun_s = time.perf_counter()
            try:
                run.outcome = graph.advance(joined_feed(run.group, run.n_frames), joined_state(run.group))
            except Exception as error:  # `_take` distinguishes failed runs from programming errors
                run.outcome = error
                # Tracebacks would keep the arrays of the run, also that of its cause.
                error.__traceback__ = error.__cause__ = error.__context__ = None
            run.duration_s = time.perf_counter() - begun_s
            with self._changed:
                self._done.append(run)
                self._changed.notify()
            del run  # not kept until the next one begins

    def _take(self, run: _GraphRun) -> list[Response]:
        """Advance the pieces of a run, and return the responses that are due.

        If a joint run failed, each of its pieces runs alone next, and only invalid ones end.
        """
        group = [stream for stream in run.group if not stream.is_ended]
        outcome = run.outcome
        if isinstance(outcome, Failed) and len(run.group) > 1:
            for stream in group:
                stream.is_suspect = True
            self._wait_again(group)
        elif isinstance(outcome, Failed):
            self._end_all(group, EndReason.INVALID if isinstance(outcome, Refused) else EndReason.BROKEN, str(outcome))
        elif isinstance(outcome, tuple):
            try:
                return self._advance(run, group, *outcome)
            except Exception as error:
                self._end_faulty(group, error)
        else:
            self._end_faulty(group, outcome)
        return []

    def _advance(self, run: _GraphRun, group: list[Stream], outputs: dict[str, Array], state: State) -> list[Response]:
        """Advance the pieces of a run by its outputs; `group` has those that have not ended meanwhile."""
        self._frame_s = run.duration_s / run.n_frames
        for row, stream in enumerate(run.group):
            stream.advance(run.n_frames, outputs, state, row)
        if n_counted := sum(not stream.is_canary for stream in group):
            self._count(self._counters.add_frames, run.n_frames * n_counted)
        self._wait_again([stream for stream in group if stream.n_left])
        return [response for stream in group for response in stream.take_responses()]

    def _wait_again(self, group: Sequence[Stream]) -> None:
        now_s = time.monotonic()
        for stream in group:
            stream.waiting_since_s = now_s
        self._waiting += group

    def _send(self, response: Response) -> None:
        """Send a response; a piece ends with the last one."""
        stream = response.stream
        if stream.is_ended:
            return
        if not stream.is_canary:
            if stream.piece.ends_bar(response.first_frame + response.outputs[FRAMES].shape[1]):
                self._count(self._counters.add_bar)
            if n_notes := np.count_nonzero(response.outputs[FRAMES] == STRUCK):
                self._count(self._counters.add_notes, n_notes)
        if response.is_last:
            self._forget(stream)
        try:
            stream.sender.send(response.outputs, response.first_frame, last=response.is_last)
        except Exception as error:  # Triton's own errors must not affect other pieces
            self._warn(f"composer: a response could not be sent: {error}")
            # Without an end, the client and the unloading of the model would wait for ever.
            self._end(stream, EndReason.BROKEN, "a response could not be sent; see the server's log")

    def _end(self, stream: Stream, reason: EndReason, text: str) -> None:
        self._forget(stream)
        try:
            stream.sender.end(reason, text)
        except Exception as error:
            self._warn(f"composer: the end of a piece could not be sent: {error}")

    def _end_all(self, streams: Sequence[Stream], reason: EndReason, text: str) -> None:
        for stream in list(streams):
            self._end(stream, reason, text)

    def _end_faulty(self, streams: Sequence[Stream], error: Exception | None) -> None:
        """Log an unexpected error, and end the pieces that it affects."""
        name = type(error).__name__
        self._warn(f"composer: {name}: {error}")
        self._end_all(streams, EndReason.BROKEN, f"the composer failed ({name}); see the server's log")

    def _forget(self, stream: Stream) -> None:
        """Remove a piece, once; if it is in a run, the outputs of that are dropped."""
        if stream.is_ended:
            return
        stream.is_ended = True
        self._streams = [other for other in self._streams if other is not stream]
        self._waiting = [other for other in self._waiting if other is not stream]
        with self._changed:
            self._n_active -= 1
        self._count_active()

    def _count_active(self) -> None:
        n_active = sum(not stream.is_canary for stream in self._streams)
        if n_active == self._n_counted:
            return
        self._n_counted = n_active
        self._count(self._counters.set_active, n_active)

    def _count(self, count: Callable[..., None], *amount: int) -> None:
        """Report to a metric, whose failure must not end a piece."""
        try:
            count(*amount)
        except Exception as error:
            self._warn(f"composer: a metric could not be reported: {error}")
