"""Result of `inspire`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Self

from tritone.music.piece import Piece
from tritone.results.classification import Classification
from tritone.results.json_result import NUMBER, STRING, JsonResult, json_result, object_of, optional
from tritone.results.recommendations import Recommendations


@json_result
class Inspiration(JsonResult):
    """A composed piece, how it sounds, and tracks like it.

    Attributes:
        piece: with the seed, and the model that composed it.
        classification: of the piece, rendered; its timeline begins with the frames that the model read or wrote, so
            with the end of a long prompt. It has no tags.
        recommendations: tracks that sound like the piece, best first.
        mood: as requested; None without one.
        render_s: seconds that the server spent on rendering.
        request_s: seconds that the request took, including waits.
        model: name of the model that did all of it.
        model_version: the version of that model.
        request_id: the id of the request in the log of the server.
    """

    piece: Piece
    classification: Classification
    recommendations: Recommendations
    mood: str | None
    render_s: float = field(repr=False)
    request_s: float
    model: str
    model_version: str
    request_id: str = field(repr=False)

    json_properties: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "piece": object_of(Piece),
        "classification": object_of(Classification),
        "recommendations": object_of(Recommendations),
        "mood": optional(STRING),
        "render_s": NUMBER,
        "request_s": NUMBER,
        "model": STRING,
        "model_version": STRING,
        "request_id": STRING,
    }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the result whose `to_dict` gave the values.

        Raises:
            InvalidScoreError: a value of the piece is not as `Grid` expects it.
            KeyError, TypeError, ValueError: a value is missing or of another type.
        """
        return super().from_dict(
            {
                **values,
                "piece": Piece.from_dict(values["piece"]),
                "classification": Classification.from_dict(values["classification"]),
                "recommendations": Recommendations.from_dict(values["recommendations"]),
            }
        )

    def _repr_html_(self) -> str:
        """Return the result for a notebook."""
        parts = (self.piece, self.classification, self.recommendations)
        return "".join(part._repr_html_() for part in parts)  # the methods that notebooks call
