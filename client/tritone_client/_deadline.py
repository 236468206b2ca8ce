"""How long a call may still take, and how long to wait before it is tried again."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Final

from tritone_client._exceptions import (
    ClientError,
    ConnectionFailedError,
    RequestTimeoutError,
    ServerBusyError,
)
from tritone_client._messages import Request, id_of, model_of

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 2.0


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


def retry_delay_s(request: Request, error: ClientError, *, n_failed: int, retries: int, left_s: float) -> float | None:
    """Seconds to wait before a request is sent again; None if it must not be.

    Only what may be repeated is repeated, only after a failure that time may heal, and only if the wait
    leaves time for an answer. The jitter keeps clients that failed together from coming back together.
    """
    if not request.idempotent or n_failed > retries:
        return None
    if not isinstance(error, ConnectionFailedError | ServerBusyError):
        return None
    longest_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** (n_failed - 1))
    delay_s = longest_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
    return delay_s if delay_s < left_s else None
