"""A circuit breaker for what the backend depends on but can do without."""

from __future__ import annotations

import time
from collections.abc import Callable


class CircuitBreaker:
    """Blocks calls for some time after a failure, since errors take as long as responses.

    Attributes:
        pause_s: how long it stays open after a failure, in seconds.
    """

    def __init__(self, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.pause_s = pause_s
        self._clock = clock
        self._open_until_s = clock()

    @property
    def is_open(self) -> bool:
        """Whether the last failure was less than `pause_s` ago."""
        return self._clock() < self._open_until_s

    def record_failure(self) -> None:
        """Open the circuit for `pause_s`."""
        self._open_until_s = self._clock() + self.pause_s
