"""Adaptive concurrency limit of a batch job (hill climbing on the measured throughput), and the request size.

`AdaptiveConcurrencyLimiter` compares the rows per second of neighbouring limits, and uses the lowest limit whose
throughput is within 5 % of the next higher one. More requests would only wait in the queues of the server. Only time in
which requests run is measured. A `ServerBusyError` halves the limit at once. Requests are split so that one takes about
`REQUEST_S`, because a running request is not interrupted for an interactive one that arrives.

While other clients use the model (the server's row count grows faster than the rows sent by this job), one request of
at most `YIELDING_REQUEST_S` runs at a time, each preceded by a pause as long as the previous request: even at a lower
priority, a job that keeps all processors busy would slow interactive callers down. The row count does not show who the
other clients are: two jobs yield to each other. If the row count decreases, several servers share the address, or the
server restarted; row counts are then ignored for `_MIXED_COUNTS_S`.

Shapes: N rows (windows of a recording).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tritone.exceptions import ClientError, ServerBusyError, ServerError
from tritone.messages import InferRequest, InferResponse, Request, Response, StreamRequest, Transport
from tritone.retry import timed_out

REQUEST_S: Final = 0.015
YIELDING_REQUEST_S: Final = 0.001
_LIMITS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # requests in flight
_INTERVAL_S: Final = 0.5  # minimum measurement interval
_N_INTERVAL: Final = 20  # minimum number of responses per measurement interval
_FRESH_S: Final = 30.0  # a measurement of a neighbouring limit is repeated after this time
_GAIN: Final = 1.05  # minimum ratio of throughputs for a higher limit
_BUSY_S: Final = 1.0  # after a ServerBusyError the limit is not lowered again for this time
_LARGEST_ROWS: Final = 64
_OTHERS_S: Final = 5.0  # window for counting rows of other clients
_YIELD_S: Final = 5.0  # how long the job yields after other clients were detected
_MIXED_COUNTS_S: Final = 600.0  # how long row counts are ignored after one that is lower than the count before
_PAUSE: Final = 1.0  # before a request, relative to the duration of the previous one
_LONGEST_PAUSE_S: Final = 1.0


@dataclass
class _Measurement:
    rate: float = 0.0  # rows per second
    at_s: float = -1e9  # time of the measurement

    def is_fresh(self, now_s: float) -> bool:
        return now_s - self.at_s < _FRESH_S


class AdaptiveConcurrencyLimiter:
    """Limits the requests in flight; thread-safe."""

    def __init__(self, max_limit: int, *, start: int = 2, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with a limit of `start`.

        Args:
            max_limit: maximum number of requests in flight.
            start: the first limit.
            clock: returns the time in seconds.
        """
        self._limits = [limit for limit in _LIMITS if limit < max_limit] + [max_limit]
        self._measurements = [_Measurement() for _ in self._limits]
        self._index = max(index for index, limit in enumerate(self._limits) if limit <= max(1, start))
        self._clock = clock
        self._in_flight = 0
        self._idle_since_s = clock()
        self._n_waiting = 0
        self._changed = threading.Condition()
        self._busy_until_s = 0.0
        self._row_s: float | None = None  # minimum recent time per row of a request
        self._closed = False
        self._n_sent = 0  # rows, of all requests
        self._n_done = 0
        self._counts: deque[tuple[float, int]] = deque()  # (time, largest possible number of rows of others)
        self._last_count = 0
        self._ignores_counts_until_s = -math.inf
        self._yields_until_s = -math.inf
        self._request_s = 0.0
        self._begin_interval(clock())

    @property
    def limit(self) -> int:
        """Return the maximum number of requests in flight now."""
        return 1 if self.is_yielding else self._limits[self._index]

    @property
    def is_yielding(self) -> bool:
        """Return whether the job yields to other clients that use the model."""
        return self._clock() < self._yields_until_s

    def observe_model_rows(self, n_rows: int) -> None:
        """Compare the number of rows that the model has processed for all clients with those of this job."""
        now_s = self._clock()
        with self._changed:
            if n_rows < self._last_count:
                self._ignores_counts_until_s = now_s + _MIXED_COUNTS_S
                self._yields_until_s = -math.inf
                self._counts.clear()
            self._last_count = n_rows
            if now_s < self._ignores_counts_until_s:
                self._changed.notify_all()
                return
            while self._counts and now_s - self._counts[0][0] > _OTHERS_S:
                self._counts.popleft()
            # Rows in flight may be in the server's number already or not.
            if self._counts and n_rows - self._n_sent > self._counts[0][1]:
                self._yields_until_s = now_s + _YIELD_S
                self._begin_interval(now_s)
            self._counts.append((now_s, n_rows - self._n_done))
            self._changed.notify_all()

    def max_rows_per_request(self) -> int:
        """Return the maximum number of rows of a request."""
        row_s = self._row_s
        request_s = YIELDING_REQUEST_S if self.is_yielding else REQUEST_S
        return 1 if row_s is None else max(1, min(_LARGEST_ROWS, int(request_s / row_s)))

    def close(self) -> None:
        """Make all waiting and further requests fail."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextmanager
    def slot(self, request: InferRequest, n_rows: int, timeout_s: float) -> Iterator[float]:
        """Wait until a request may be sent, and measure the request that the block sends; yields the seconds left.

        Raises:
            RequestTimeoutError: the limit was not free in time.
            ClientError: the limiter is closed; only the threads of a job that has ended see it.
        """
        began_s = self._clock()
        with self._changed:
            self._n_waiting += 1
            is_free = self._changed.wait_for(lambda: self._in_flight < self.limit or self._closed, timeout_s)
            self._n_waiting -= 1
            sent_s = self._clock()
            if self._closed:
                raise ClientError("the batch job has ended", reason="closed", model=request.model)
            if not is_free or sent_s - began_s >= timeout_s:
                self._changed.notify()  # another one may be sent instead
                raise timed_out(request, timeout_s)
            if self._in_flight == 0:  # time without requests, as between the batches of a job, is not measured
                self._interval_start_s += sent_s - max(self._idle_since_s, self._interval_start_s)
            self._in_flight += 1
            self._n_sent += n_rows
        if self.is_yielding:
            time.sleep(min(_PAUSE * self._request_s, _LONGEST_PAUSE_S))
            sent_s = self._clock()
        try:
            yield max(1e-3, timeout_s - (sent_s - began_s))
        except ServerBusyError:
            self._finish(sent_s, n_rows, busy=True)
            raise
        except BaseException:
            self._finish(sent_s, n_rows, failed=True)
            raise
        self._finish(sent_s, n_rows)

    def _finish(self, sent_s: float, n_rows: int, *, busy: bool = False, failed: bool = False) -> None:
        now_s = self._clock()
        with self._changed:
            self._in_flight -= 1
            self._idle_since_s = now_s
            self._n_done += n_rows
            self._request_s = now_s - sent_s
            if busy:
                self._halve(now_s)
            elif not failed and not self.is_yielding:
                self._measure(now_s, (now_s - sent_s) / n_rows, n_rows)
            self._changed.notify(max(1, self.limit - self._in_flight))

    def _halve(self, now_s: float) -> None:
        if now_s < self._busy_until_s:
            return
        self._busy_until_s = now_s + _BUSY_S
        self._measurements[self._index] = _Measurement(0.0, now_s)  # not tried again for a while
        half = self._limits[self._index] / 2  # of the limit without other clients, also while the job yields
        while self._index > 0 and self._limits[self._index] > half:
            self._index -= 1
        self._begin_interval(now_s)

    def _measure(self, now_s: float, row_s: float, n_rows: int) -> None:
        # Minimum time per row, raised by 0.1 % per response, so that it follows a change of the server.
        self._row_s = row_s if self._row_s is None else min(row_s, self._row_s * 1.001)
        self._n_rows += n_rows
        self._n_responses += 1
        self._n_without_wait += self._n_waiting == 0  # decoding is slower than the server
        elapsed_s = now_s - self._interval_start_s
        if elapsed_s < _INTERVAL_S or self._n_responses < _N_INTERVAL:
            return
        here = self._measurements[self._index]
        rate = self._n_rows / elapsed_s
        here.rate = (here.rate + rate) / 2 if here.is_fresh(now_s) and here.rate else rate
        here.at_s = now_s
        is_underused = self._n_without_wait > self._n_responses / 2
        self._index = self._next_index(now_s, is_underused=is_underused)
        self._begin_interval(now_s)

    def _next_index(self, now_s: float, *, is_underused: bool) -> int:
        here = self._measurements[self._index]
        below = self._measurements[self._index - 1] if self._index else None
        if below is not None and below.is_fresh(now_s) and _GAIN * below.rate > here.rate:
            return self._index - 1
        if self._index + 1 < len(self._measurements) and not is_underused:
            above = self._measurements[self._index + 1]
            if not above.is_fresh(now_s) or above.rate > _GAIN * here.rate:
                return self._index + 1
        return self._index - 1 if below is not None and not below.is_fresh(now_s) else self._index

    def _begin_interval(self, now_s: float) -> None:
        self._interval_start_s = now_s
        self._n_rows = 0
        self._n_responses = 0
        self._n_without_wait = 0


class LimitedTransport:
    """Sends the requests of a client within the limits of a batch job; see `tritone.messages.Transport`."""

    def __init__(self, inner: Transport, limiter: AdaptiveConcurrencyLimiter) -> None:
        self._inner = inner
        self._limiter = limiter

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Send one request; one with several windows is sent in pieces, whose responses are joined."""
        if not isinstance(request, InferRequest):
            return self._inner.handle(request, timeout_s=timeout_s)
        deadline_s = time.monotonic() + timeout_s
        responses: list[InferResponse] = []
        rest: InferRequest | None = request
        while rest is not None:
            piece, rest = _split(rest, self._limiter.max_rows_per_request())
            left_s = deadline_s - time.monotonic()
            with self._limiter.slot(piece, _n_rows(piece), max(left_s, 1e-3)) as left_s:
                response = self._inner.handle(piece, timeout_s=left_s)
            if not isinstance(response, InferResponse):  # of a transport that a caller brought
                raise ServerError(f"unexpected response: {type(response).__name__}", reason="malformed")
            responses.append(response)
        return _joined(responses)

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """Send a request for a stream, which is not limited."""
        return self._inner.stream(request, timeout_s=timeout_s)

    def close(self) -> None:
        """Close all connections."""
        self._limiter.close()
        self._inner.close()


def _n_rows(request: InferRequest) -> int:
    audio = request.inputs.get("audio")
    return 1 if audio is None or audio.ndim < 2 else len(audio)


def _split(request: InferRequest, n_rows: int) -> tuple[InferRequest, InferRequest | None]:
    """Return a request with the first rows, and one with the others; only windows of recordings are split.

    Args:
        n_rows: maximum number of rows of a request. The rows are distributed evenly, since small requests are slow.
    """
    if set(request.inputs) != {"audio"} or _n_rows(request) <= n_rows:
        return request, None
    audio = request.inputs["audio"]
    n_first = math.ceil(len(audio) / math.ceil(len(audio) / n_rows))
    first, others = audio[:n_first], audio[n_first:]
    return replace(request, inputs={"audio": first}), replace(request, inputs={"audio": others})


def _joined(responses: list[InferResponse]) -> InferResponse:
    if len(responses) == 1:
        return responses[0]
    names = responses[0].outputs
    outputs = {name: np.concatenate([response.outputs[name] for response in responses]) for name in names}
    return replace(responses[-1], outputs=outputs)
