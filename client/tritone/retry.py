"""The retry policy of both clients; no other module sends a request twice.

The time limit of a call (`timeout_s`) covers all of its requests, retries and waits. Within it, four rules apply:

1. Attempts (`Attempts`): after a failed connection or a busy server, a request is sent again up to `retries` times,
   after random waits that grow from 0.1 to 2 s. Where the server lacks the requested model version, the request is
   sent again up to `MAX_VERSION_RETRIES` times, because another replica behind the address may have it. No other error
   is retried.
2. Servers (`ServerAttempts`): with several servers, one attempt tries each of them at most once and moves on where a
   server cannot be reached, is busy, or lacks the model or its version.
3. Lost connections: a request whose connection was lost after it had been sent completely may have crashed the server.
   It is sent at most `MAX_LOST` times, over all servers and attempts.
4. Model versions (`on_live_versions`, `with_fresh_models`): an operation names the model version that it looked up. If
   that version is gone, the operation starts again with new metadata until the time of the call is used up; the waits
   between starts grow from 0.05 to 1 s. A rejected request is repeated once with new metadata, because a model may have
   been replaced under the same version number.

`max_sends` is the resulting bound for one request of one start. gRPC's own retries are switched off, and the HTTP
transports have none. A stream follows the same rules until its first response, and is not retried after it.
"""

from __future__ import annotations

import copy
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from tritone.exceptions import (
    ClientError,
    ConnectionFailedError,
    ModelNotFoundError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    VersionChangedError,
)
from tritone.messages import (
    Flow,
    InferRequest,
    Pause,
    Request,
    RequestT,
    StreamRequest,
    after_losses,
    id_of,
    lost_before,
    model_of,
)

if TYPE_CHECKING:
    from tritone.model_cache import ModelCache
    from tritone.transports.balanced import PooledServer, ServerPool

T = TypeVar("T")

DEFAULT_RETRIES: Final = 2
MAX_LOST: Final = 2
MAX_VERSION_RETRIES: Final = 3
FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0
FIRST_VERSION_DELAY_S: Final = 0.01
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0

_logger = logging.getLogger("tritone")


def max_sends(*, retries: int = DEFAULT_RETRIES, n_servers: int = 1) -> int:
    """Return the largest number of times that one start of an operation sends one request, health checks excluded."""
    return (1 + retries + MAX_VERSION_RETRIES) * n_servers


@dataclass(frozen=True)
class Deadline:
    """The end of a call on the monotonic clock."""

    timeout_s: float
    at_s: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_s", time.monotonic() + self.timeout_s)

    def left_s(self) -> float:
        """Return the seconds left, never below 0."""
        return max(0.0, self.at_s - time.monotonic())

    def check(self, request: Request) -> float:
        """Return the seconds left for a request.

        Raises:
            RequestTimeoutError: the time of the call is used up.
        """
        left_s = self.left_s()
        if left_s <= 0:
            raise timed_out(request, self.timeout_s)
        return left_s


def timed_out(request: Request, timeout_s: float) -> RequestTimeoutError:
    """Return the error for a call that ran out of time."""
    who = f"model {model_of(request)!r}" if model_of(request) else "the server"
    about = f" to request {id_of(request)}" if id_of(request) else ""
    return RequestTimeoutError(
        f"no response from {who} within {timeout_s:g} s{about}; pass a longer timeout_s=, or check the load of the "
        f"server",
        model=model_of(request),
        request_id=id_of(request),
        timeout_s=timeout_s,
    )


class Attempts(Generic[RequestT]):
    """State of the attempts to send one request.

    ```python
    attempts = Attempts(request, retries=2)
    while True:
        try:
            return transport.handle(attempts.request, timeout_s=deadline.left_s())
        except ClientError as error:
            delay_s = attempts.delay_s(error, deadline)
        sleep(delay_s)
    ```

    Attributes:
        request: the request of the next attempt; it carries the number of lost connections.
        failures: the errors so far.
    """

    def __init__(self, request: RequestT, *, retries: int, servers: str = "the server") -> None:
        """Begin with the first attempt.

        Args:
            retries: how often the request may be sent again.
            servers: addresses, for the log.
        """
        self.request = request
        self.failures: list[ClientError] = []
        self._retries = retries
        self._servers = servers

    @property
    def n_lost(self) -> int:
        """Return how often the connection was lost after the request had been sent."""
        return sum(error.n_lost for error in self.failures)

    def delay_s(self, error: ClientError, deadline: Deadline) -> float:
        """Return the seconds to wait before the request is sent again.

        Args:
            error: of the last attempt.
            deadline: of the call.

        Raises:
            ClientError: the request must not be sent again, or there is no time for it.
        """
        self.failures.append(error)
        if isinstance(error, RequestTimeoutError):  # the transport reports only the time that was left of the call
            raise timed_out(self.request, deadline.timeout_s) from error
        if isinstance(self.request, InferRequest | StreamRequest) and self.n_lost >= MAX_LOST:
            raise self._lost_too_often(error) from error
        delay_s = self._next_delay_s(error)
        if delay_s is None or delay_s >= deadline.left_s():
            raise self._with_all_losses(error)
        _logger.warning(
            "%s to %s failed (attempt %d of %d): %s; retrying in %.2f s",
            type(self.request).__name__,
            self._servers,
            len(self.failures),
            self._retries + 1,
            error,
            delay_s,
        )
        self.request = after_losses(self.request, self.n_lost)
        return delay_s

    def _next_delay_s(self, error: ClientError) -> float | None:
        if not self.request.idempotent:
            return None
        is_version = isinstance(error, VersionChangedError)
        n_failed = sum(isinstance(each, VersionChangedError) is is_version for each in self.failures)
        if is_version and n_failed <= MAX_VERSION_RETRIES:
            return 0.0 if n_failed == 1 else _jittered_s(FIRST_VERSION_DELAY_S, LONGEST_PAUSE_S, n_failed - 1)
        if isinstance(error, ConnectionFailedError | ServerBusyError) and n_failed <= self._retries:
            return _jittered_s(FIRST_DELAY_S, LONGEST_DELAY_S, n_failed)
        return None

    def _with_all_losses(self, error: ClientError) -> ClientError:
        """Return the error of the last attempt with the number of connections that all attempts have lost."""
        if error.n_lost == self.n_lost:
            return error
        final = copy.copy(error)
        final.n_lost, final.__cause__ = self.n_lost, error
        return final

    def _lost_too_often(self, error: ClientError) -> ClientError:
        final = copy.copy(error)
        final.n_lost = self.n_lost
        final.args = (
            f"{error}; the connection was lost {self.n_lost} times after the request had been sent, so it is not sent "
            f"again; check the servers' logs for crashes caused by the request",
        )
        return final


class ServerAttempts:
    """One attempt to send a request to a pool of servers: each server is tried at most once, until one responds.

    ```python
    attempts = ServerAttempts(pool, request)
    while (server := attempts.next()) is not None:
        with attempts.attempt(server):
            return ...  # if another server may help, the error is recorded and the loop goes on
    raise attempts.error()
    ```

    Attributes:
        must_probe: whether the server that `next` returned needs a health check first.
        has_begun: set by the caller when a stream has had its first response.
    """

    def __init__(self, pool: ServerPool, request: Request) -> None:
        self._pool = pool
        self._request = request
        self._failures: list[tuple[PooledServer, ClientError]] = []
        self._n_lost = 0
        self.must_probe = False
        self.has_begun = False

    def next(self) -> PooledServer | None:
        """Return the server to try next; None if all were tried. Sets `must_probe`."""
        # Where one server lacks a version, it may exist nowhere any more: do not wait for servers that are down.
        only_healthy = any(isinstance(error, VersionChangedError) for _, error in self._failures)
        taken = self._pool.take([server for server, _ in self._failures], only_healthy=only_healthy)
        if taken is None:
            return None
        server, self.must_probe = taken
        return server

    @contextmanager
    def attempt(self, server: PooledServer) -> Iterator[None]:
        """Record the outcome of one attempt; suppresses an error after which the next server may be tried."""
        failure: BaseException | None = None
        try:
            yield
        except ClientError as error:
            failure = error
            self._failures.append((server, error))
            self._n_lost += error.n_lost
            may_repeat = not error.n_lost or lost_before(self._request) + self._n_lost < MAX_LOST
            if self.has_begun or not may_repeat or not may_try_another_server(self._request, error):
                error.n_lost = self._n_lost
                raise
            _logger.warning(
                "%s failed (server %d of %d): %s; trying the next server, if one is left",
                server.endpoint.url,
                len(self._failures),
                len(self._pool.servers),
                error,
            )
        except BaseException as error:  # the call was cancelled or the stream closed: not a failure of the server
            failure = error
            raise
        finally:
            self._pool.give_back(server, failure)

    def error(self) -> ClientError:
        """Return one error that summarises those of all servers; temporary errors take precedence."""
        error = self._most_useful_error()
        error.n_lost = self._n_lost
        return error

    def _most_useful_error(self) -> ClientError:
        errors = [error for _, error in self._failures]
        changed = next((error for error in errors if isinstance(error, VersionChangedError)), None)
        if changed is not None:  # that server is up and will respond once its version is known
            return changed
        if len(errors) == 1:
            return errors[0]
        if not any(isinstance(error, ConnectionFailedError) for error in errors):
            return next((error for error in errors if isinstance(error, ServerBusyError)), errors[-1])
        failures = sorted(self._failures, key=lambda failure: failure[0].index)
        reasons = "; ".join(f"{server.endpoint.url}: {_reason(server, error)}" for server, error in failures)
        return ConnectionFailedError(
            f"none of {len(errors)} servers can be reached: {reasons}",
            model=model_of(self._request),
            status=errors[-1].status,
            request_id=id_of(self._request),
            reason="unreachable",
            endpoint=",".join(server.endpoint.url for server, _ in failures),
        )


def may_try_another_server(request: Request, error: ClientError) -> bool:
    """Return whether to try another server: this one is down, is busy, or lacks the model or its version."""
    curable = ConnectionFailedError | ServerBusyError | ModelNotFoundError | VersionChangedError
    return request.idempotent and isinstance(error, curable)


def on_live_versions(cache: ModelCache, models: Sequence[str], start: Callable[[], Flow[T]]) -> Flow[T]:
    """Run a flow, and start it again as long as the model versions that it names are gone and there is time.

    During a roll-out, cached metadata may be old, a version may go live in the middle of a call, and the replicas
    behind one address may differ for a while.

    Args:
        cache: forgets the models when they have changed.
        models: names of the models that the flow uses.
        start: makes the flow, beginning with the look-up of the models.

    Raises:
        VersionChangedError: versions kept changing until the time of the call was used up.
        ServerError: any other, immediately.
    """
    for n_starts in itertools.count(1):
        try:
            return (yield from start())
        except ServerError as error:
            if not isinstance(error, ServerBusyError):
                cache.forget(*models)
            if not isinstance(error, VersionChangedError):
                raise
            changed = error
        yield Pause(n_starts, changed)
    raise AssertionError("unreachable: the loop returns or raises")


def with_fresh_models(cache: ModelCache, models: Sequence[str], start: Callable[[], Flow[T]]) -> Flow[T]:
    """Run a flow as `on_live_versions`, and once more after a rejection.

    A model may have been replaced under the same version number by one with other tensors.
    """
    try:
        return (yield from on_live_versions(cache, models, start))
    except RequestRejectedError:
        return (yield from on_live_versions(cache, models, start))


def restarted_flow(pause: Pause, flow: Flow[T]) -> Flow[T]:
    """Wait, then run a flow: how a stream starts again with another model version."""
    yield pause
    return (yield from flow)


def pause_s(pause: Pause, left_s: float) -> float:
    """Return the seconds to wait before a flow starts again; 0 the first time, when cached metadata may just be old.

    Raises:
        ClientError: the error of the pause, if less time is left.
    """
    delay_s = 0.0 if pause.n_starts == 1 else _jittered_s(FIRST_PAUSE_S, LONGEST_PAUSE_S, pause.n_starts - 1)
    if delay_s >= left_s:
        raise pause.error
    return delay_s


def _jittered_s(first_s: float, longest_s: float, n: int) -> float:
    """Return a delay that doubles with each attempt; jitter spreads clients that failed together."""
    delay_s: float = min(longest_s, first_s * 2 ** min(n - 1, 10))
    return delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


def _reason(server: PooledServer, error: ClientError) -> str:
    text = str(error).removeprefix(f"no connection to {server.endpoint.url}: ")
    return text.partition("; ")[0]
