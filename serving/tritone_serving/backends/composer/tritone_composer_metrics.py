"""Metrics of the backend, which Triton publishes with its own."""

from __future__ import annotations

from typing import Any


class Counters:
    """Counters of the engine; this class ignores every count."""

    def add_frames(self, n_frames: int) -> None:
        """Count a run of the graph and its frames, over all pieces in it."""

    def add_notes(self, n_notes: int) -> None:
        """Count the onsets of notes in the frames that were sent."""

    def add_bar(self) -> None:
        """Count the end of a bar, or of a piece."""

    def add_cancelled(self) -> None:
        """Count a piece whose client cancelled or disconnected."""

    def add_refused(self) -> None:
        """Count a piece that ended with an error."""

    def set_active(self, n_streams: int) -> None:
        """Set the number of unfinished pieces."""


class TritonCounters(Counters):
    """Counters in Triton; each call is a message to the server's process."""

    def __init__(self, pb_utils: Any, labels: dict[str, str]) -> None:
        family = pb_utils.MetricFamily

        def metric(name: str, description: str, kind: Any) -> Any:
            # Kept: a metric leaves the endpoint with the last reference to its family.
            self._families.append(family(name=f"tritone_composer_{name}", description=description, kind=kind))
            return self._families[-1].Metric(labels=labels)

        self._families: list[Any] = []
        self._runs = metric("runs_total", "Runs of the graph", family.COUNTER)
        self._frames = metric("frames_total", "Frames generated, over all pieces", family.COUNTER)
        self._notes = metric("notes_total", "Onsets of notes, over all pieces", family.COUNTER)
        self._bars = metric("bars_total", "Bars completed, over all pieces", family.COUNTER)
        self._cancelled = metric("cancelled_total", "Pieces whose client cancelled or disconnected", family.COUNTER)
        self._refused = metric("refused_total", "Pieces that ended with an error", family.COUNTER)
        self._active = metric("active_streams", "Unfinished pieces", family.GAUGE)
        self._active.set(0)

    def add_frames(self, n_frames: int) -> None:
        """See `Counters`."""
        self._runs.increment(1)
        self._frames.increment(n_frames)

    def add_notes(self, n_notes: int) -> None:
        """See `Counters`."""
        self._notes.increment(n_notes)

    def add_bar(self) -> None:
        """See `Counters`."""
        self._bars.increment(1)

    def add_cancelled(self) -> None:
        """See `Counters`."""
        self._cancelled.increment(1)

    def add_refused(self) -> None:
        """See `Counters`."""
        self._refused.increment(1)

    def set_active(self, n_streams: int) -> None:
        """See `Counters`."""
        self._active.set(n_streams)


def make_counters(pb_utils: Any, labels: dict[str, str]) -> Counters:
    """Return the counters of a model; on a server without metrics they count nothing."""
    try:
        return TritonCounters(pb_utils, labels)
    except pb_utils.TritonModelException as error:
        pb_utils.Logger.log_warn(f"composer: no metrics: {error}")
        return Counters()
