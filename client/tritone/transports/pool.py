"""Several servers that answer alike: which one to ask, and which to leave alone for a while; no input or output.

A server that cannot be reached is left alone for a back-off that doubles with each failure. When it is over, one
caller asks it whether it is ready, with little patience, before calls go there again: a host that swallows packets
would otherwise cost a call all of its time, again and again. Among the others the one with the fewest calls under
way is asked, and of equals each in turn.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tritone.endpoints import Endpoint
from tritone.exceptions import (
    ClientError,
    ConnectionFailedError,
    ModelNotFoundError,
    RequestTimeoutError,
    ServerBusyError,
    VersionChangedError,
)
from tritone.messages import Request, id_of, lost_before, model_of
from tritone.retry import MAX_LOST

FIRST_BACKOFF_S: Final = 0.5
LONGEST_BACKOFF_S: Final = 30.0
PROBE_TIMEOUT_S: Final = 1.0

_logger = logging.getLogger("tritone")


@dataclass
class Member:
    """One server of a pool.

    Attributes:
        n_under_way: calls that it has not answered yet.
        n_failed: failures since it last answered.
        rests_until_s: on the monotonic clock; 0 for one that is well.
    """

    index: int
    endpoint: Endpoint
    n_under_way: int = 0
    n_failed: int = 0
    rests_until_s: float = 0.0
    is_probed: bool = False


class Pool:
    """What is known of several servers; may be used by many threads at once."""

    def __init__(self, endpoints: Sequence[Endpoint], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.members = tuple(Member(index, endpoint) for index, endpoint in enumerate(endpoints))
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = 0

    def take(self, tried: Sequence[Member], *, only_well: bool = False) -> tuple[Member, bool] | None:
        """The server to ask next, and whether it must be probed first; None if all were tried.

        With `only_well`, one that rests counts as tried. Each `take` is followed by one `give_back`.
        """
        with self._lock:
            left = [member for member in self.members if member not in tried and not (only_well and member.n_failed)]
            if not left:
                return None
            now_s = self._clock()
            for member in left:
                if member.n_failed and not member.is_probed and member.rests_until_s <= now_s:
                    member.is_probed = True
                    member.n_under_way += 1
                    return member, True
            well = [member for member in left if not member.n_failed]
            # Nobody is well: better to try those that rest, the first to be back first, than to give up untried.
            if not well:
                chosen = min(left, key=lambda member: member.rests_until_s)
            else:
                n = len(self.members)
                chosen = min(well, key=lambda member: (member.n_under_way, (member.index - self._turn) % n))
                self._turn = (chosen.index + 1) % n
            chosen.n_under_way += 1
            return chosen, False

    def give_back(self, member: Member, error: BaseException | None) -> None:
        """Say how it went; an error that is not the server's fault says that it lives."""
        with self._lock:
            member.n_under_way -= 1
            member.is_probed = False
            if isinstance(error, ConnectionFailedError | RequestTimeoutError):
                member.n_failed += 1
                longest_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(member.n_failed - 1, 10))
                rest_s = longest_s * random.uniform(0.75, 1.0)  # noqa: S311 - spreads load, guards nothing
                member.rests_until_s = self._clock() + rest_s
                _logger.debug("%s is not used for %.2f s (failure %d)", member.endpoint.url, rest_s, member.n_failed)
            elif error is None or isinstance(error, ClientError):
                if member.n_failed:
                    _logger.info("%s answers again", member.endpoint.url)
                member.n_failed, member.rests_until_s = 0, 0.0


class Round:
    """One request's way through a pool: each server at most once, until one answers.

    If no connection can be established, the next server is tried. If the connection is lost after the request was sent,
    the request may be the cause: it is then sent to one more server, but not to a third.

    ```python
    while (member := round.next()) is not None:
        with round.attempt(member):
            return ...  # an error that another server may heal is noted, and the loop goes on
    raise round.verdict()
    ```
    """

    def __init__(self, pool: Pool, request: Request) -> None:
        self._pool = pool
        self._request = request
        self._failures: list[tuple[Member, ClientError]] = []
        self._n_lost = 0  # in this round
        self.must_probe = False
        self.has_begun = False

    def next(self) -> Member | None:
        """The server to ask next; None if all were asked. Sets `must_probe`."""
        # A version that one server lacks may be nowhere any more: no reason to wait for one that is away.
        only_well = any(isinstance(error, VersionChangedError) for _, error in self._failures)
        taken = self._pool.take([member for member, _ in self._failures], only_well=only_well)
        if taken is None:
            return None
        member, self.must_probe = taken
        return member

    @contextmanager
    def attempt(self, member: Member) -> Iterator[None]:
        """Note how an attempt went; swallows an error after which the next server may be asked."""
        failure: BaseException | None = None
        try:
            yield
        except ClientError as error:
            failure = error
            self._failures.append((member, error))
            self._n_lost += error.n_lost
            may_repeat = not error.n_lost or lost_before(self._request) + self._n_lost < MAX_LOST
            if self.has_begun or not may_repeat or not may_move(self._request, error):
                error.n_lost = self._n_lost
                raise
            _logger.warning(
                "%s failed (server %d of %d): %s; trying the next server, if one is left",
                member.endpoint.url,
                len(self._failures),
                len(self._pool.members),
                error,
            )
        except BaseException as error:  # cancelled, or a stream that is dropped: no fault of the server's
            failure = error
            raise
        finally:
            self._pool.give_back(member, failure)

    def verdict(self) -> ClientError:
        """One error for those of several servers: what may pass comes before what will not."""
        error = self._worst()
        error.n_lost = self._n_lost
        return error

    def _worst(self) -> ClientError:
        errors = [error for _, error in self._failures]
        changed = next((error for error in errors if isinstance(error, VersionChangedError)), None)
        if changed is not None:  # one is there, and will answer whoever looks up which version it has
            return changed
        if len(errors) == 1:
            return errors[0]
        if not any(isinstance(error, ConnectionFailedError) for error in errors):
            return next((error for error in errors if isinstance(error, ServerBusyError)), errors[-1])
        failures = sorted(self._failures, key=lambda failure: failure[0].index)
        said = "; ".join(f"{member.endpoint.url}: {_reason(member, error)}" for member, error in failures)
        return ConnectionFailedError(
            f"none of {len(errors)} servers answers: {said}",
            model=model_of(self._request),
            status=errors[-1].status,
            request_id=id_of(self._request),
        )


def silent(member: Member) -> ConnectionFailedError:
    """The error for a server that did not say within the time of a probe that it is there."""
    return ConnectionFailedError(
        f"no connection to {member.endpoint.url}: no sign of life within {PROBE_TIMEOUT_S:g} s"
    )


def may_move(request: Request, error: ClientError) -> bool:
    """Whether another server may be asked the same: this one is gone, is full, or lacks the model or its version."""
    heals = ConnectionFailedError | ServerBusyError | ModelNotFoundError | VersionChangedError
    return request.idempotent and isinstance(error, heals)


def _reason(member: Member, error: ClientError) -> str:
    text = str(error).removeprefix(f"no connection to {member.endpoint.url}: ")
    return text.partition("; ")[0]
