"""The backend's own metrics, at Triton's metrics endpoint.

What is counted is kept here and told to the server's process a few times a second, from a thread of its own: each
telling is a message that takes as long as a base model's scoring.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PERIOD_S = 0.25
_PREFIX = "tritone_recommender_"
# name -> help, labels beside model and version
COUNTERS: Mapping[str, str] = {
    "answers_total": "Questions answered, by source of the answer and arm",
    "refused_total": "Questions that could not be answered",
    "calls_total": "Execute calls; answers_total over this is how many are scored together",
    "seconds_total": "Time in execute calls",
    "base_model_seconds_total": "Time that a base model took to score, of taste_vae to be waited for",
    "base_model_calls_total": "How often a base model scored",
    "taste_fallbacks_total": "Execute calls that were answered without taste_vae because it failed",
}
COVERAGE = "catalogue_coverage"

Labels = tuple[tuple[str, str], ...]


class MetricCounts:
    """Counters of this process; `take` returns and clears what has been counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gathered: Counter[tuple[str, Labels]] = Counter()
        self.changed = threading.Event()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count; `name` is one of `COUNTERS`."""
        with self._lock:
            self._gathered[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]
        self.changed.set()

    def take(self) -> dict[tuple[str, Labels], float]:
        """What was counted since the last time."""
        self.changed.clear()
        with self._lock:
            gathered, self._gathered = self._gathered, Counter()
        return dict(gathered)


class Coverage:
    """Which items were recommended since the server started, by arm.

    A file that the instances of a model map together, so that what two of them recommended counts once.
    """

    def __init__(self, arms: Sequence[str], n_items: int, place_of: Callable[[str], int], shared: Path | None) -> None:
        """Begin with what the other instances have recommended.

        Args:
            arms: of the artifact's ensembles.
            n_items: in the catalogue.
            place_of: item id -> 0..n_items - 1.
            shared: the file to map; None to count this instance alone.
        """
        self._arms = {arm: row for row, arm in enumerate(arms)}
        self._place_of = place_of
        shape = (len(arms), n_items)
        self._seen = np.zeros(shape, np.bool_) if shared is None else _mapped(shared, shape)
        self._is_new = True

    def add(self, arm: str, items: Iterable[str]) -> None:
        """These were recommended."""
        row = self._seen[self._arms[arm]]
        indices = [self._place_of(item) for item in items]
        if not row[indices].all():
            row[indices] = True
            self._is_new = True

    def take(self) -> dict[str, float]:
        """Arm -> share of the catalogue, if anything was added since the last time."""
        if not self._is_new:
            return {}
        self._is_new = False
        return {arm: float(self._seen[row].mean()) for arm, row in self._arms.items()}


def _mapped(path: Path, shape: tuple[int, int]) -> Any:
    size = shape[0] * shape[1]
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, size)  # zeros; whoever is second finds it long enough
    finally:
        os.close(descriptor)
    return np.memmap(path, np.bool_, "r+", shape=shape)


class Reporter:
    """Tells Triton what was counted, until it is closed; on a server without metrics it tells nobody."""

    def __init__(self, pb_utils: Any, counts: MetricCounts, coverage: Coverage, labels: Mapping[str, str]) -> None:
        self._counts = counts
        self._coverage = coverage
        self._labels = dict(labels)
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._closing = threading.Event()
        family = pb_utils.MetricFamily
        # Kept: a metric leaves the endpoint with the last reference to its family.
        self._families = {
            name: family(name=_PREFIX + name, description=text, kind=family.COUNTER) for name, text in COUNTERS.items()
        }
        self._families[COVERAGE] = family(
            name=_PREFIX + COVERAGE,
            description="Share of the catalogue that was recommended since the model was loaded, by arm",
            kind=family.GAUGE,
        )
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell the rest, and end."""
        self._closing.set()
        self._counts.changed.set()
        self._thread.join()
        self._metrics.clear()
        self._families.clear()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._tell()
            self._closing.wait(PERIOD_S)
            self._counts.changed.wait()
        self._tell()

    def _tell(self) -> None:
        for (name, labels), amount in self._counts.take().items():
            self._metric(name, labels).increment(amount)
        for arm, share in self._coverage.take().items():
            self._metric(COVERAGE, (("arm", arm),)).set(share)

    def _metric(self, name: str, labels: Labels) -> Any:
        if (name, labels) not in self._metrics:
            self._metrics[name, labels] = self._families[name].Metric(labels={**self._labels, **dict(labels)})
        return self._metrics[name, labels]
