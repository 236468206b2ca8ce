"""How long a call may still take, and how long to wait before it is tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tritone.exceptions import (
    ClientError,
    ConnectionFailedError,
    RequestTimeoutError,
    ServerBusyError,
    VersionChangedError,
)
from tritone.messages import InferRequest, Request, StreamRequest, id_of, model_of

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0
# A version that one replica behind a balancer lacks, another may have. Sent again so often before the call looks up
# which versions there are; where the version is gone for good, that costs it these few waits once.
N_VERSION_RETRIES: Final = 3
# A request that crashed one server would crash the next. One repetition covers servers that end for other reasons; the
# limit applies to all servers and retries of a request together.
MAX_LOST: Final = 2
FIRST_VERSION_DELAY_S: Final = 0.01
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0


@dataclass(frozen=True)
class Deadline:
    """A moment on the monotonic clock, set once for a whole call with all its requests and retries."""

    timeout_s: float
    at_s: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_s", time.monotonic() + self.timeout_s)

    def left_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at_s - time.monotonic())

    def check(self, request: Request) -> float:
        """Seconds left for a request.

        Raises:
            RequestTimeoutError: if there are none.
        """
        left_s = self.left_s()
        if left_s <= 0:
            raise timed_out(request, self.timeout_s)
        return left_s


def timed_out(request: Request, timeout_s: float) -> RequestTimeoutError:
    """The error for a call that ran out of time."""
    who = f"model {model_of(request)!r}" if model_of(request) else "the server"
    about = f" to request {id_of(request)}" if id_of(request) else ""
    return RequestTimeoutError(
        f"no answer from {who} within {timeout_s:g} s{about}; give the call a longer timeout_s, or look at the "
        f"server's load",
        model=model_of(request),
        request_id=id_of(request),
    )


def was_lost_too_often(request: Request, failures: Sequence[ClientError]) -> bool:
    """Return whether a request's connection was lost after sending as often as is allowed."""
    has_data = isinstance(request, InferRequest | StreamRequest)
    return has_data and sum(error.n_lost for error in failures) >= MAX_LOST


def retry_delay_s(request: Request, failures: Sequence[ClientError], *, retries: int, left_s: float) -> float | None:
    """Seconds to wait before a request is sent again; None if it must not be.

    Only what may be repeated is repeated, only after a failure that time or another server may heal, and only if the
    wait leaves time for an answer. A request whose connection was lost twice after sending is not sent again.

    Args:
        failures: of the request so far, the last one just now.
        retries: how often it may be sent again; a version that is not there is counted by itself.
    """
    changed = isinstance(failures[-1], VersionChangedError)
    n_failed = sum(isinstance(error, VersionChangedError) is changed for error in failures)
    if was_lost_too_often(request, failures):
        return None
    if not request.idempotent or n_failed > (N_VERSION_RETRIES if changed else retries):
        return None
    if changed:
        delay_s = 0.0 if n_failed == 1 else _jittered_s(FIRST_VERSION_DELAY_S, LONGEST_PAUSE_S, n_failed - 1)
    elif isinstance(failures[-1], ConnectionFailedError | ServerBusyError):
        delay_s = _jittered_s(FIRST_DELAY_S, LONGEST_DELAY_S, n_failed)
    else:
        return None
    return delay_s if delay_s < left_s else None


@dataclass(frozen=True)
class Pause:
    """A flow's wish to wait before it begins again with other versions; raises `error` in it if time is up.

    Attributes:
        n_begun: how often it has begun, from 1.
    """

    n_begun: int
    error: ClientError

    def delay_s(self, left_s: float) -> float:
        """Seconds to wait: none at first, as what was remembered may just have been old."""
        delay_s = 0.0 if self.n_begun == 1 else _jittered_s(FIRST_PAUSE_S, LONGEST_PAUSE_S, self.n_begun - 1)
        if delay_s >= left_s:
            raise self.error
        return delay_s


def _jittered_s(first_s: float, longest_s: float, n: int) -> float:
    """Doubling from time to time; the jitter keeps clients that failed together from coming back together."""
    delay_s: float = min(longest_s, first_s * 2 ** min(n - 1, 10))
    return delay_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
