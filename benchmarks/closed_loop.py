"""A closed loop of clients: each sends its next request when the previous response has arrived."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Client(Protocol):
    """One connection to a server, with the requests that it sends."""

    def call(self, index: int) -> bool:
        """Send the request of this index, counted without end, and return whether the response is a success."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True)
class LoopResult:
    """Results of a closed loop.

    Attributes:
        per_s: successful responses per second.
        n_failed: other responses, and lost connections.
        generator_cpu_s: CPU time of this process, in seconds.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    n: int
    n_failed: int
    generator_cpu_s: float


def closed_loop(connect: Callable[[], Client], *, n_clients: int, seconds: float) -> LoopResult:
    """Run clients, each in a thread with a connection of its own.

    Raises:
        OSError: a client cannot connect.
    """
    clients = [connect() for _ in range(n_clients)]
    times: list[list[float]] = [[] for _ in range(n_clients)]
    failed = [0] * n_clients
    gate = threading.Barrier(n_clients + 1)
    deadline_s = float("inf")
    errors: list[Exception] = []

    def run(place: int) -> None:
        gate.wait()
        try:
            load(place)
        except Exception as error:  # raised below: a trial with fewer clients is not the one that was asked for
            errors.append(error)

    def load(place: int) -> None:
        client = clients[place]
        index = place
        while time.perf_counter() < deadline_s:
            began_s = time.perf_counter()
            if client.call(index):
                times[place].append(time.perf_counter() - began_s)
            else:
                failed[place] += 1
            index += 1
        client.close()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(n_clients)]
    for thread in threads:
        thread.start()
    cpu_before_s, began_s = time.process_time(), time.perf_counter()
    deadline_s = began_s + seconds
    gate.wait()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    took_s = time.perf_counter() - began_s
    everything = np.array([each for some in times for each in some] or [np.nan])
    return LoopResult(
        per_s=sum(map(len, times)) / took_s,
        p50_ms=1e3 * float(np.quantile(everything, 0.5)),
        p99_ms=1e3 * float(np.quantile(everything, 0.99)),
        max_ms=1e3 * float(everything.max()),
        n=sum(map(len, times)),
        n_failed=sum(failed),
        generator_cpu_s=time.process_time() - cpu_before_s,
    )
