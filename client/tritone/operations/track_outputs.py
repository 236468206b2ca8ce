"""The outputs of a recommender for a batch of one, checked and parsed.

Shapes: K tracks of a response.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np

from tritone.exceptions import ServerError
from tritone.messages import Array, InferResponse
from tritone.results.recommendations import AppliedMood, Reason, UnknownIds

T = TypeVar("T")
_NUMBERS: Final = ("scores", "total")  # all other outputs are text


def n_tracks_of(response: InferResponse, *, most: int) -> int:
    """Return the number of tracks of a response.

    Raises:
        ServerError: there are more than requested, or the output has another shape.
    """
    shape = response.outputs["item_ids"].shape if "item_ids" in response.outputs else (1, 0)
    if len(shape) != 2 or shape[1] > most:
        raise invalid_output(response, "item_ids", f"expected shape (1, n) with n at most {most}, got {shape}")
    return int(shape[1])


def row_of(response: InferResponse, name: str, size: int) -> list[Any]:
    """Return the only row of an output of shape (1, size).

    Raises:
        ServerError: the output is missing, or of another shape or type.
    """
    if name not in response.outputs:
        raise invalid_output(response, name, "it is missing", reason="missing_output")
    array = response.outputs[name]
    if array.shape != (1, size):
        raise invalid_output(response, name, f"expected shape {(1, size)}, got {array.shape}")
    row: list[Any] = array[0].tolist()
    kinds = (int, float) if name in _NUMBERS else (str,)
    if not all(isinstance(value, kinds) for value in row):
        kind = "numbers" if name in _NUMBERS else "text"
        raise invalid_output(response, name, f"expected {kind}, got {array.dtype}")
    return row


def parsed(response: InferResponse, name: str, parse: Callable[[Any], T], values: list[Any]) -> list[T]:
    """Return the parsed values of an output.

    Raises:
        ServerError: a value cannot be parsed.
    """
    try:
        return [parse(value) for value in values]
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise invalid_output(response, name, problem) from error


def invalid_output(response: InferResponse, name: str, problem: str, *, reason: str = "invalid_output") -> ServerError:
    """Return the error for an output that is not as expected."""
    return ServerError(
        f"invalid output {name!r} of model {response.model!r} version {response.version}: {problem}; check that it is "
        f"a recommender and was exported by the same release",
        model=response.model,
        request_id=response.request_id,
        reason=reason,
        output=name,
    )


def check_finite(scores: Array) -> None:
    """Raise `ValueError` if a number is NaN or infinite."""
    if not np.isfinite(scores).all():
        raise ValueError("expected finite numbers, got NaN or infinity")


def parse_reasons(text: str) -> tuple[Reason, ...]:
    """Parse a JSON list of reasons; an empty text contains none."""
    found = json.loads(text) if text else []
    return tuple(
        Reason(
            str(each["base_model"]),
            str(each["because"]),
            str(each["id"]),
            float(each["amount"]),
            str(each.get("title", "")) or None,
            str(each.get("artist", "")) or None,
        )
        for each in found
    )


def parse_unknown(text: str) -> tuple[UnknownIds, AppliedMood]:
    """Parse `{"user": true, "history": ["x"], ..., "mood_used": {...}}`, or ""."""
    found = json.loads(text) if text else {}
    used = found.get("mood_used") or {}
    strengths = {str(name): float(strength) for name, strength in used.get("strengths", {}).items()}
    mood = AppliedMood(str(used.get("source", "none")), strengths)
    lists = {name: tuple(map(str, found.get(name, ()))) for name in ("history", "skipped", "friends", "exclude")}
    user, no_mood, audio, events = (bool(found.get(name, False)) for name in ("user", "mood", "audio", "events"))
    return UnknownIds(user=user, mood=no_mood, audio=audio, events=events, **lists), mood
