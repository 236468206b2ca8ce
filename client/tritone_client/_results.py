"""What the SDK answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TimelineWindow:
    """What the model heard in one window of 3 s.

    Attributes:
        start_s: where the window begins in the recording.
        probabilities: by label, the labels in the model's own order.
    """

    start_s: float
    probabilities: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {"start_s": self.start_s, "probabilities": dict(self.probabilities)}


@dataclass(frozen=True, eq=False)
class Classification:
    """What the model thinks of one recording.

    The values of the whole recording are plain means over its windows. The last window overlaps the one
    before it, so the end of a recording counts a little more than the rest.

    Attributes:
        label: the most probable one.
        probabilities: by label, the most probable first; `top` of them if that was asked.
        emotions: fraction of listeners who would feel each, the strongest first; None if the model was
            not trained on emotions.
        tags: activation 0..1 by tag, the strongest first; None if the model knows no tags.
        timeline: one entry a window, in order of time.
        embedding: (256,) float32, L2-normalised.
        model: the model's name.
        model_version: which of its versions answered.
        duration_s: the recording's length.
        request_ids: one a request, as the server's log has them.
        decode_s: seconds spent on decoding, mixing down and resampling.
        request_s: seconds spent on requests for this recording, waiting included.
        notes: remarks on the recording, such as channels that cancel each other, so that one of them was used.
    """

    label: str
    probabilities: Mapping[str, float]
    emotions: Mapping[str, float] | None
    tags: Mapping[str, float] | None
    timeline: tuple[TimelineWindow, ...] = field(repr=False)
    embedding: npt.NDArray[np.float32] = field(repr=False)
    model: str
    model_version: str
    duration_s: float
    request_ids: tuple[str, ...] = field(repr=False)
    decode_s: float = field(repr=False)
    request_s: float = field(repr=False)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        best = ", ".join(f"{name}: {value:.3f}" for name, value in list(self.probabilities.items())[:3])
        more = ", ..." if len(self.probabilities) > 3 else ""
        return (
            f"Classification(label={self.label!r}, probabilities={{{best}{more}}}, "
            f"{self.duration_s:.1f} s in {len(self.timeline)} windows, {self.model} v{self.model_version})"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "label": self.label,
            "probabilities": dict(self.probabilities),
            "emotions": None if self.emotions is None else dict(self.emotions),
            "tags": None if self.tags is None else dict(self.tags),
            "timeline": [window.to_dict() for window in self.timeline],
            "embedding": self.embedding.tolist(),
            "model": self.model,
            "model_version": self.model_version,
            "duration_s": self.duration_s,
            "request_ids": list(self.request_ids),
            "decode_s": self.decode_s,
            "request_s": self.request_s,
            "notes": list(self.notes),
        }

    def plot(self, path: str | Path) -> Path:
        """Draw the timeline as a picture: each label's probability over the recording.

        Args:
            path: `.png`, `.svg` or `.pdf`; replaced in one step if it exists.

        Returns:
            The path.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            InvalidInputError: if the picture cannot be written there.
        """
        from tritone_client._plot import plot_timeline

        return plot_timeline(self, Path(path))
