"""How many requests of a batch job run at once, and how large they are.

The number of requests in flight is found by measuring: `Pace` compares the rows per second of neighbouring levels and
keeps the lowest level that is about as fast as the next one. More requests would only wait in the queues of the server.
An answer that the server is busy lowers the level at once. Requests are cut so that one takes about `REQUEST_S`,
because a running request is not interrupted for an interactive one that arrives.

Shapes: N rows (windows of a recording).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from tritone.exceptions import ClientError, ServerBusyError, ServerError
from tritone.messages import InferRequest, InferResponse, Request, Response, StreamRequest, Transport
from tritone.retry import timed_out

REQUEST_S: Final = 0.015
_LEVELS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # requests in flight
_EPOCH_S: Final = 0.5  # shortest measurement of a level
_N_EPOCH: Final = 20  # fewest responses of one
_FRESH_S: Final = 30.0  # a measurement of a neighbouring level is repeated after this time
_GAIN: Final = 1.05  # by which the next level must be faster to be worth it
_BUSY_S: Final = 1.0  # after a busy answer the level is not lowered again for this time
_LARGEST_ROWS: Final = 64


@dataclass
class _Level:
    rate: float = 0.0  # rows per second
    at_s: float = -1e9  # when it was measured

    def is_fresh(self, now_s: float) -> bool:
        return now_s - self.at_s < _FRESH_S


class Pace:
    """Limits the requests in flight; thread-safe."""

    def __init__(self, most: int) -> None:
        """Begin with two requests at a time.

        Args:
            most: largest number of requests in flight.
        """
        sizes = [size for size in _LEVELS if size < most] + [most]
        self._sizes = sizes
        self._levels = [_Level() for _ in sizes]
        self._at = min(1, len(sizes) - 1)
        self._in_flight = 0
        self._n_waiting = 0
        self._changed = threading.Condition()
        self._busy_until_s = 0.0
        self._row_s: float | None = None  # fastest recent time of a row, within a request
        self._closed = False
        self._begin_epoch(time.monotonic())

    @property
    def limit(self) -> int:
        """Return the number of requests that may run at once now."""
        return self._sizes[self._at]

    def n_rows(self) -> int:
        """Return the number of rows that a request should have at most."""
        row_s = self._row_s
        return 1 if row_s is None else max(1, min(_LARGEST_ROWS, int(REQUEST_S / row_s)))

    def close(self) -> None:
        """Make all waiting and further requests fail."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @contextmanager
    def slot(self, request: InferRequest, n_rows: int, timeout_s: float) -> Iterator[float]:
        """Wait for a slot, and measure the request that the block sends; yields the seconds left for it.

        Raises:
            RequestTimeoutError: no slot became free in time.
            ClientError: the pace is closed.
        """
        began_s = time.monotonic()
        with self._changed:
            self._n_waiting += 1
            is_free = self._changed.wait_for(lambda: self._in_flight < self.limit or self._closed, timeout_s)
            self._n_waiting -= 1
            sent_s = time.monotonic()
            if self._closed:
                raise ClientError("the batch job has ended", reason="closed", model=request.model)
            if not is_free or sent_s - began_s >= timeout_s:
                raise timed_out(request, timeout_s)
            self._in_flight += 1
        try:
            yield timeout_s - (sent_s - began_s)
        except ServerBusyError:
            self._finish(sent_s, 0, busy=True)
            raise
        except BaseException:
            self._finish(sent_s, 0)
            raise
        self._finish(sent_s, n_rows)

    def _finish(self, sent_s: float, n_rows: int, *, busy: bool = False) -> None:
        now_s = time.monotonic()
        with self._changed:
            self._in_flight -= 1
            if busy:
                self._slow_down(now_s)
            elif n_rows:
                self._measure(now_s, (now_s - sent_s) / n_rows, n_rows)
            self._changed.notify_all()

    def _slow_down(self, now_s: float) -> None:
        if now_s < self._busy_until_s:
            return
        self._busy_until_s = now_s + _BUSY_S
        self._levels[self._at] = _Level(0.0, now_s)  # not tried again for a while
        half = self.limit / 2
        while self._at > 0 and self.limit > half:
            self._at -= 1
        self._begin_epoch(now_s)

    def _measure(self, now_s: float, row_s: float, n_rows: int) -> None:
        # The fastest row, forgotten slowly: that of an undisturbed server.
        self._row_s = row_s if self._row_s is None else min(row_s, self._row_s * 1.001)
        self._n_rows += n_rows
        self._n_responses += 1
        self._n_starved += self._n_waiting == 0  # the level is not used: decoding is slower than the server
        elapsed_s = now_s - self._epoch_s
        if elapsed_s < _EPOCH_S or self._n_responses < _N_EPOCH:
            return
        level = self._levels[self._at]
        rate = self._n_rows / elapsed_s
        level.rate = (level.rate + rate) / 2 if level.is_fresh(now_s) and level.rate else rate
        level.at_s = now_s
        is_starved = self._n_starved > self._n_responses / 2
        self._at = self._next_level(now_s, is_starved=is_starved)
        self._begin_epoch(now_s)

    def _next_level(self, now_s: float, *, is_starved: bool) -> int:
        here = self._levels[self._at]
        below = self._levels[self._at - 1] if self._at else None
        if below is not None and below.is_fresh(now_s) and _GAIN * below.rate > here.rate:
            return self._at - 1
        if self._at + 1 < len(self._levels) and not is_starved:
            above = self._levels[self._at + 1]
            if not above.is_fresh(now_s) or above.rate > _GAIN * here.rate:
                return self._at + 1
        return self._at - 1 if below is not None and not below.is_fresh(now_s) else self._at

    def _begin_epoch(self, now_s: float) -> None:
        self._epoch_s = now_s
        self._n_rows = 0
        self._n_responses = 0
        self._n_starved = 0


class PacedTransport:
    """Sends the requests of a client at the pace of a batch job; see `tritone.messages.Transport`."""

    def __init__(self, inner: Transport, pace: Pace) -> None:
        self._inner = inner
        self._pace = pace

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        """Send one request; one with several windows is sent in pieces, whose responses are joined."""
        if not isinstance(request, InferRequest):
            return self._inner.handle(request, timeout_s=timeout_s)
        deadline_s = time.monotonic() + timeout_s
        responses: list[InferResponse] = []
        rest: InferRequest | None = request
        while rest is not None:
            piece, rest = _cut(rest, self._pace.n_rows())
            left_s = deadline_s - time.monotonic()
            with self._pace.slot(piece, _n_rows(piece), max(left_s, 1e-3)) as left_s:
                response = self._inner.handle(piece, timeout_s=left_s)
            if not isinstance(response, InferResponse):  # of a transport that a caller brought
                raise ServerError(f"unexpected response: {type(response).__name__}", reason="malformed")
            responses.append(response)
        return _joined(responses)

    def stream(self, request: StreamRequest, *, timeout_s: float) -> Generator[InferResponse, None, None]:
        """Send a request for a stream, which has no pace."""
        return self._inner.stream(request, timeout_s=timeout_s)

    def close(self) -> None:
        """Close all connections."""
        self._pace.close()
        self._inner.close()


def _n_rows(request: InferRequest) -> int:
    audio = request.inputs.get("audio")
    return 1 if audio is None or audio.ndim < 2 else len(audio)


def _cut(request: InferRequest, n_rows: int) -> tuple[InferRequest, InferRequest | None]:
    """Return a request with the first rows, and one with the others; only windows of recordings are cut."""
    if set(request.inputs) != {"audio"} or _n_rows(request) <= n_rows:
        return request, None
    audio = request.inputs["audio"]
    first, others = audio[:n_rows], audio[n_rows:]
    return replace(request, inputs={"audio": first}), replace(request, inputs={"audio": others})


def _joined(responses: list[InferResponse]) -> InferResponse:
    if len(responses) == 1:
        return responses[0]
    names = responses[0].outputs
    outputs = {name: np.concatenate([response.outputs[name] for response in responses]) for name in names}
    return replace(responses[-1], outputs=outputs)
