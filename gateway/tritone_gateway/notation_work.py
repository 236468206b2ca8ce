"""Reading and writing of MusicXML and ABC, in two threads of their own.

A long score takes minutes, which a caller who goes away does not shorten. In the threads that all routes share, a few
such scores would stop every other request.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from tritone import Grid, to_grid
from tritone.music.notation import notation_format
from tritone_gateway.problems import ProblemError

T = TypeVar("T")
N_THREADS: Final = 2
MAX_WAITING: Final = 16
MAX_WAIT_S: Final = 60.0


class NotationWork:
    """Runs functions that read or write notation."""

    def __init__(self, *, max_wait_s: float = MAX_WAIT_S) -> None:
        """Prepare the threads, which the first call starts.

        Args:
            max_wait_s: how long a caller waits for its turn and the result.
        """
        self._threads = ThreadPoolExecutor(N_THREADS, thread_name_prefix="tritone-notation")
        self._max_wait_s = max_wait_s
        self._lock = threading.Lock()
        self._n_present = 0

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return the result of a function.

        Raises:
            ProblemError: 503, too many scores wait, or this one has taken too long.
        """
        with self._lock:
            if self._n_present >= N_THREADS + MAX_WAITING:
                raise _busy("too many scores in MusicXML or ABC are being converted; try again, or use MIDI")
            self._n_present += 1
        running = self._threads.submit(function, *arguments)
        running.add_done_callback(self._count_end)  # a function that has begun ends later than its caller's wait
        try:
            return await asyncio.wait_for(asyncio.wrap_future(running), self._max_wait_s)
        except TimeoutError:
            raise _busy(
                f"the conversion takes longer than {self._max_wait_s:g} s; send a shorter score, or use MIDI"
            ) from None

    def close(self) -> None:
        """End the threads when their present work is done."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count_end(self, _running: object) -> None:
        with self._lock:
            self._n_present -= 1


async def read_notation(content: bytes, work: NotationWork) -> bytes | Grid:
    """Return a file's notation as a grid; other files as they are.

    Raises:
        InvalidScoreError: it cannot be read.
        ProblemError: as `NotationWork.run`.
    """
    if notation_format(content) is None:
        return content
    return await work.run(to_grid, content)


def _busy(why: str) -> ProblemError:
    return ProblemError(503, "overloaded", "The gateway is busy", why, headers={"Retry-After": "10"})
