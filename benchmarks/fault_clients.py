"""Clients of a service under fault injection: each sends requests without pause and records the outcomes."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from tritone import MusicClient, TritoneError

RATE_HZ = 22_050
N_CLIENTS = 4
# Length of the recordings in seconds; the long one fills the shared memory with a few requests.
CLIP_S, LONG_CLIP_S = 3.0, 60.0
TIMEOUT_S = 20.0
PAUSE_S = 0.02


@dataclass(frozen=True)
class TimedCall:
    """One call, with times on the monotonic clock; `error` is empty if it succeeded."""

    begun_s: float
    ended_s: float
    error: str = ""


class Clients:
    """Threads that classify generated sound with the SDK, without pause."""

    def __init__(self, addresses: Sequence[str], *, retries: int | None, long_clips: bool = False) -> None:
        self.calls: list[TimedCall] = []
        self._addresses, self._retries, self._long_clips = list(addresses), retries, long_clips
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(N_CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S + 5)

    def _ask(self, number: int) -> None:
        rng = np.random.default_rng(number)
        given = {} if self._retries is None else {"retries": self._retries}
        seconds = LONG_CLIP_S if self._long_clips and number % 2 else CLIP_S
        with MusicClient(self._addresses, timeout_s=TIMEOUT_S, **given) as music:  # type: ignore[arg-type]
            while not self._stop.is_set():
                sound = rng.uniform(-0.5, 0.5, int(seconds * RATE_HZ)).astype(np.float32)
                begun_s, failure = time.monotonic(), ""
                try:
                    music.classify((sound, RATE_HZ))
                except TritoneError as error:
                    failure = f"{type(error).__name__}: {error}"
                self.calls.append(TimedCall(begun_s, time.monotonic(), failure))
                time.sleep(PAUSE_S)


def seen(calls: Sequence[TimedCall], fault_s: float) -> dict[str, Any]:
    """Return the effect of a fault that began at `fault_s`: lost calls and the longest gap between responses."""
    lost = [call for call in calls if call.error]
    answered = sorted(call.ended_s for call in calls if not call.error and call.ended_s > fault_s)
    moments = [fault_s, *answered]
    # Clients that still wait when the load ends extend the last gap.
    moments.append(max([call.ended_s for call in calls], default=fault_s))
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    return {
        "requests": len(calls),
        "lost": len(lost),
        "longest_gap_s": max(gaps, default=0.0),
        "errors": sorted({shortened(call.error) for call in lost})[:3],
    }


def shortened(message: str, n_chars: int = 110) -> str:
    """Return an error message as one short line, without parts that differ from call to call."""
    line = " ".join(message.split()).replace("|", "/")
    head, found, tail = line.partition(" to request ")
    line = head + "".join(tail.partition(":")[1:]) if found else line
    line = re.sub(r"127\.0\.0\.\d+:\d+", "HOST:PORT", re.sub(r"tritone-\d+-[\w-]*", "tritone-*", line))
    line = re.sub(r"/\S*/tritone-chaos-\w+/", "", line)
    return line if len(line) <= n_chars else f"{line[:n_chars]} ..."
