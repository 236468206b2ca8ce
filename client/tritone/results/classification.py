"""Result of classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, overload

import numpy as np
import numpy.typing as npt

from tritone.exceptions import InvalidInputError
from tritone.files import File, PathLike
from tritone.results.frames import require_pandas
from tritone.results.json_result import (
    NUMBER,
    NUMBER_BY_NAME,
    STRING,
    JsonResult,
    array_of,
    json_result,
    object_of,
    optional,
)


@dataclass(frozen=True)
class TimelineWindow(JsonResult):
    """The probabilities and emotions in one window of 3 s.

    Attributes:
        start_s: start of the window in the recording.
        probabilities: by label, in the order of the model.
        emotions: expected fraction of listeners who feel each emotion, in the order of the model; None if the model was
            not trained on emotions.
    """

    start_s: float
    probabilities: Mapping[str, float]
    emotions: Mapping[str, float] | None = None

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "start_s": NUMBER,
        "probabilities": NUMBER_BY_NAME,
        "emotions": optional(NUMBER_BY_NAME),
    }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "start_s": float(self.start_s),
            "probabilities": _plain(self.probabilities),
            "emotions": None if self.emotions is None else _plain(self.emotions),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the window whose `to_dict` gave the values; those of earlier releases are without emotions."""
        emotions = values.get("emotions")
        return cls(
            float(values["start_s"]), _plain(values["probabilities"]), None if emotions is None else _plain(emotions)
        )


@json_result
class Classification(JsonResult):
    """The classification of a recording.

    Values are means over the windows of the recording. The last window overlaps the one before it, so the end of a
    recording has slightly more weight.

    Attributes:
        label: the most probable label.
        probabilities: by label, the most probable first; at most `top` of them.
        emotions: expected fraction of listeners who feel each emotion, the strongest first; None if the model was not
            trained on emotions.
        tags: activation 0..1 by tag, the strongest first; None if the model has no tags.
        timeline: one entry per window, in order of time.
        embedding: (256,) float32, L2-normalised.
        model: the model's name.
        model_version: the version of the model.
        duration_s: the recording's length.
        request_ids: the ids of the requests in the log of the server.
        decode_s: seconds spent on decoding, mixing down and resampling.
        request_s: seconds spent on requests, including waits.
        notes: remarks on the recording, such as channels that cancel each other.
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

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "label": STRING,
        "probabilities": NUMBER_BY_NAME,
        "emotions": optional(NUMBER_BY_NAME),
        "tags": optional(NUMBER_BY_NAME),
        "timeline": array_of(object_of(TimelineWindow)),
        "embedding": array_of(NUMBER),
        "model": STRING,
        "model_version": STRING,
        "duration_s": NUMBER,
        "request_ids": array_of(STRING),
        "decode_s": NUMBER,
        "request_s": NUMBER,
        "notes": array_of(STRING),
    }

    def __repr__(self) -> str:
        best = ", ".join(f"{name}: {value:.3f}" for name, value in list(self.probabilities.items())[:3])
        more = ", ..." if len(self.probabilities) > 3 else ""
        return (
            f"Classification(label={self.label!r}, probabilities={{{best}{more}}}, "
            f"{self.duration_s:.1f} s in {len(self.timeline)} windows, {self.model} v{self.model_version})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "label": self.label,
            "probabilities": _plain(self.probabilities),
            "emotions": None if self.emotions is None else _plain(self.emotions),
            "tags": None if self.tags is None else _plain(self.tags),
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the result whose `to_dict` gave the values.

        Raises:
            KeyError, TypeError, ValueError: a value is missing or of another type.
        """
        emotions, tags = values["emotions"], values["tags"]
        return cls(
            label=values["label"],
            probabilities=_plain(values["probabilities"]),
            emotions=None if emotions is None else _plain(emotions),
            tags=None if tags is None else _plain(tags),
            timeline=tuple(TimelineWindow.from_dict(window) for window in values["timeline"]),
            embedding=np.array(values["embedding"], np.float32),
            model=values["model"],
            model_version=values["model_version"],
            duration_s=float(values["duration_s"]),
            request_ids=tuple(values["request_ids"]),
            decode_s=float(values["decode_s"]),
            request_s=float(values["request_s"]),
            notes=tuple(values["notes"]),
        )

    def to_pandas(self, values: Literal["probabilities", "emotions"] = "probabilities") -> Any:
        """Return the timeline as a `pandas.DataFrame`: a row for each window, a column for each label or emotion.

        Raises:
            InvalidInputError: another name, or emotions of a model that was not trained on emotions.
            MissingExtraError: pandas is not installed.
        """
        if values not in ("probabilities", "emotions"):
            raise InvalidInputError(
                f"invalid values: expected probabilities or emotions, got {values!r}", argument="values"
            )
        rows = [getattr(each, values) for each in self.timeline]
        if None in rows:
            raise InvalidInputError(
                f"model {self.model!r} was not trained on emotions: expected probabilities, got {values!r}",
                argument="values",
            )
        pandas = require_pandas()
        return pandas.DataFrame(rows, index=pandas.Index([each.start_s for each in self.timeline], name="start_s"))

    def _repr_html_(self) -> str:
        """Return the result for a notebook."""
        from tritone.results.html import classification_html

        return classification_html(self)

    @overload
    def plot(self, target: PathLike, *, format: str | None = None) -> Path: ...
    @overload
    def plot(self, target: File, *, format: str) -> File: ...
    def plot(self, target: Any, *, format: str | None = None) -> Any:  # noqa: A002
        """Plot the probability of each label over the recording.

        Args:
            target: a path, whose file is replaced in one step, or a binary file object.
            format: `png`, `svg` or `pdf`; the path's suffix if None.

        Returns:
            The path, or the file object.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            InvalidInputError: if the plot cannot be written there.
        """
        from tritone.plots import plot_timeline

        return plot_timeline(self, target, format)


def _plain(values: Mapping[str, float]) -> dict[str, float]:
    """Return a copy with plain floats, which JSON supports."""
    return {str(name): float(value) for name, value in values.items()}
