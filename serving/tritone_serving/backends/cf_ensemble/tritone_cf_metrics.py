"""Metrics of the backend, exposed at Triton's metrics endpoint.

Counts are accumulated in this process and reported to the server a few times per second by a thread, because each
report is an inter-process message that takes as long as the scoring of a base model.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tritone_serving.recommender.remote_kinds import REMOTE_KINDS

PERIOD_S = 0.25
_PREFIX = "tritone_recommender_"
# name -> help text; labels besides model and version are source, arm or base_model
COUNTERS: Mapping[str, str] = {
    "answers_total": "Queries answered, by source and arm",
    "refused_total": "Queries rejected as invalid or failed",
    "calls_total": "Execute calls; answers_total divided by this is the mean batch size",
    "seconds_total": "Seconds spent in execute calls",
    "base_model_seconds_total": "Seconds spent scoring by each base model; for remote ones, seconds of waiting",
    "base_model_calls_total": "Batches scored by each base model",
    "text_fallbacks_total": "Searches answered by words only because the sentence encoder failed",
    "taste_fallbacks_total": "Execute calls processed without taste_vae because it failed",
    "sequence_fallbacks_total": "Execute calls processed without taste_sequence because it failed",
    "event_fallbacks_total": "Execute calls processed without recorded events because the event store failed",
}
FALLBACKS: Mapping[str, str] = {each.name: each.fallback_counter for each in REMOTE_KINDS.values()}
COVERAGE = "catalogue_coverage"

Labels = tuple[tuple[str, str], ...]


class MetricCounts:
    """Thread-safe counters; `take` returns and resets them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self.changed = threading.Event()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to the counter `name`, one of `COUNTERS`."""
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]
        if not self.changed.is_set():
            self.changed.set()

    def take(self) -> dict[tuple[str, Labels], float]:
        """Return what was counted since the last call."""
        self.changed.clear()
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return dict(taken)


class Coverage:
    """Tracks which items were recommended since the server started, by arm.

    The instances of a model share a memory-mapped file, so that an item recommended by two of them counts once.
    """

    def __init__(self, arms: Sequence[str], n_items: int, index_of: Callable[[str], int], shared: Path | None) -> None:
        """Open the shared file, or create it.

        Args:
            arms: names of the artifact's ensembles.
            n_items: number of items in the catalogue.
            index_of: returns the index of an item id.
            shared: the file to map; None counts this instance only.
        """
        self._arms = {arm: row for row, arm in enumerate(arms)}
        self._index_of = index_of
        shape = (len(arms), n_items)
        self._seen = np.zeros(shape, np.bool_) if shared is None else _mapped(shared, shape)
        self._is_new = True

    def add(self, arm: str, items: Iterable[str]) -> None:
        """Record recommended items."""
        row = self._seen[self._arms[arm]]
        indices = [self._index_of(item) for item in items]
        if not row[indices].all():
            row[indices] = True
            self._is_new = True

    def take(self) -> dict[str, float]:
        """Return the share of the catalogue by arm; empty if nothing has changed since the last call."""
        if not self._is_new:
            return {}
        self._is_new = False
        return {arm: float(self._seen[row].mean()) for arm, row in self._arms.items()}


def _mapped(path: Path, shape: tuple[int, int]) -> Any:
    size = shape[0] * shape[1]
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, size)  # filled with zeros; other instances find it at full size
    finally:
        os.close(descriptor)
    return np.memmap(path, np.bool_, "r+", shape=shape)


class Reporter:
    """Reports the counts to Triton from a thread until it is closed."""

    def __init__(self, pb_utils: Any, counts: MetricCounts, coverage: Coverage, labels: Mapping[str, str]) -> None:
        self._counts = counts
        self._coverage = coverage
        self._labels = dict(labels)
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._closing = threading.Event()
        family = pb_utils.MetricFamily
        # Kept, because a metric is removed from the endpoint with the last reference to its family.
        self._families = {
            name: family(name=_PREFIX + name, description=text, kind=family.COUNTER) for name, text in COUNTERS.items()
        }
        self._families[COVERAGE] = family(
            name=_PREFIX + COVERAGE,
            description="Share of the catalogue recommended since the model was loaded, by arm",
            kind=family.GAUGE,
        )
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Report the remaining counts and stop the thread."""
        self._closing.set()
        self._counts.changed.set()
        self._thread.join()
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._report()
            self._closing.wait(PERIOD_S)
            self._counts.changed.wait()
        self._report()

    def _report(self) -> None:
        for (name, labels), amount in self._counts.take().items():
            self._metric(name, labels).increment(amount)
        for arm, share in self._coverage.take().items():
            self._metric(COVERAGE, (("arm", arm),)).set(share)

    def _metric(self, name: str, labels: Labels) -> Any:
        if (name, labels) not in self._metrics:
            self._metrics[name, labels] = self._families[name].Metric(labels={**self._labels, **dict(labels)})
        return self._metrics[name, labels]
