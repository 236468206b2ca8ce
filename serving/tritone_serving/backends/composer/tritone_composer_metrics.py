"""The backend's own metrics, at Triton's metrics endpoint."""

from __future__ import annotations

from typing import Any


class Counters:
    """What the engine counts; this one forgets it."""

    def add_frames(self, n_frames: int) -> None:
        """A run wrote so many frames, over all pieces in it."""

    def add_notes(self, n_notes: int) -> None:
        """So many notes were struck in what was sent."""

    def add_bar(self) -> None:
        """A piece reached the end of a bar, or its own."""

    def add_cancelled(self) -> None:
        """A piece was given up because its client cancelled or went away."""

    def add_refused(self) -> None:
        """A piece ended with an error that is told to its client."""

    def set_active(self, n_streams: int) -> None:
        """So many pieces are under way."""


class TritonCounters(Counters):
    """Counts in Triton; each call is a message to the server's process."""

    def __init__(self, pb_utils: Any, labels: dict[str, str]) -> None:
        family = pb_utils.MetricFamily

        def metric(name: str, description: str, kind: Any) -> Any:
            # Kept: a metric leaves the endpoint with the last reference to its family.
            self._families.append(family(name=f"tritone_composer_{name}", description=description, kind=kind))
            return self._families[-1].Metric(labels=labels)

        self._families: list[Any] = []
        self._runs = metric("runs_total", "Runs of the graph", family.COUNTER)
        self._frames = metric("frames_total", "Frames written, over all pieces", family.COUNTER)
        self._notes = metric("notes_total", "Notes struck, over all pieces", family.COUNTER)
        self._bars = metric("bars_total", "Bars completed, over all pieces", family.COUNTER)
        self._cancelled = metric("cancelled_total", "Pieces given up as nobody listened any more", family.COUNTER)
        self._refused = metric("refused_total", "Pieces that ended with an error", family.COUNTER)
        self._active = metric("active_streams", "Pieces under way", family.GAUGE)
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
    """Counters of a model; on a server without metrics, such as count nothing."""
    try:
        return TritonCounters(pb_utils, labels)
    except pb_utils.TritonModelException as error:
        pb_utils.Logger.log_warn(f"composer: no metrics: {error}")
        return Counters()
