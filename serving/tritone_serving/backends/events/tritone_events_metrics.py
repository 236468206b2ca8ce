"""Metrics of the backend, exposed at Triton's metrics endpoint.

Counts are accumulated in this process and reported a few times per second by a thread, because each report is a message
to the server's process.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

PERIOD_S = 0.25
_PREFIX = "tritone_events_"
COUNTERS: Mapping[str, str] = {
    "events_total": "Events by outcome: new, duplicate, refused or denied",
    "unstored_total": "Valid events that were refused because the store failed",
    "pruned_total": "Events removed because their retention was over, or their user had too many",
    "calls_total": "Execute calls; events_total divided by this is the mean batch size",
    "seconds_total": "Seconds spent in execute calls",
}

Labels = tuple[tuple[str, str], ...]


class EventCounts:
    """Thread-safe counters; `take` returns and resets them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Labels]] = Counter()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to the counter `name`, one of `COUNTERS`."""
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]

    def take(self) -> dict[tuple[str, Labels], float]:
        """Return what was counted since the last call."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return dict(taken)


class EventReporter:
    """Reports the counts to Triton from a thread until it is closed."""

    def __init__(self, pb_utils: Any, counts: EventCounts, labels: Mapping[str, str]) -> None:
        self._counts = counts
        self._labels = dict(labels)
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._closing = threading.Event()
        family = pb_utils.MetricFamily
        # Kept, because a metric is removed from the endpoint with the last reference to its family.
        self._families = {
            name: family(name=_PREFIX + name, description=text, kind=family.COUNTER) for name, text in COUNTERS.items()
        }
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Report the remaining counts and stop the thread."""
        self._closing.set()
        self._thread.join()
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        while not self._closing.wait(PERIOD_S):
            self._report()
        self._report()

    def _report(self) -> None:
        for (name, labels), amount in self._counts.take().items():
            if (name, labels) not in self._metrics:
                self._metrics[name, labels] = self._families[name].Metric(labels={**self._labels, **dict(labels)})
            self._metrics[name, labels].increment(amount)


def make_reporter(pb_utils: Any, counts: EventCounts, labels: Mapping[str, str]) -> EventReporter | None:
    """Return a reporter; None on a server without metrics."""
    try:
        return EventReporter(pb_utils, counts, labels)
    except pb_utils.TritonModelException as error:
        pb_utils.Logger.log_warn(f"events: no metrics: {error}")
        return None
