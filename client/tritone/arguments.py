"""Checks of arguments that several operations share, and the tensors made of them.

Shapes: L ids of a list.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from tritone.constants import EMOTIONS, N_ID_BYTES_MAX, N_IDS_MAX
from tritone.exceptions import InvalidInputError, InvalidModelNameError
from tritone.messages import Array

# Text, its UTF-8 bytes (logs are not always decoded), or an integer, which stands for its decimal digits.
Id: TypeAlias = str | bytes | int | np.integer[Any]
Ids: TypeAlias = Iterable[Id]
# An emotion, or the strengths (0..1) of some emotions.
Mood: TypeAlias = str | Mapping[str, float]
Weights: TypeAlias = Iterable[float] | npt.NDArray[Any]
Times: TypeAlias = Iterable[float | datetime | None] | npt.NDArray[Any]

_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LATEST_S: Final = 4_102_444_800  # 2100; later times are probably milliseconds
_LARGEST_INTEGER_BITS: Final = 128  # UUIDs; Python refuses to write very large integers as digits


class _Short(reprlib.Repr):
    """Values in at most some hundred characters, integers included that Python refuses to write as digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 200

    def repr_int(self, x: int, level: int) -> str:
        """Return an integer, or its size if it has many digits."""
        n_bits = x.bit_length()
        return f"an integer of {n_bits:,} bits" if n_bits > _LARGEST_INTEGER_BITS else super().repr_int(x, level)


shown: Final = _Short().repr  # a value in an error


def check_model_name(model: str) -> str:
    """Return the name of a model if it is safe as a folder, in a URL, in a log and as the label of a metric.

    Triton takes the name of a model from its folder and accepts more names than these.

    Raises:
        InvalidModelNameError: it is not.
    """
    if not isinstance(model, str) or not _MODEL_NAME.fullmatch(model):
        raise InvalidModelNameError(
            f"invalid model name: expected up to 128 letters, digits, '_', '-' and '.', as in genre_cnn, beginning "
            f"with a letter, a digit or '_', got {reprlib.repr(model)}",
            argument="model",
        )
    return model


def check_count(name: str, value: int, *, least: int, most: int) -> int:
    """Return a whole number within its bounds.

    Raises:
        InvalidInputError: it is something else.
    """
    if not is_whole(value) or not least <= value <= most:
        raise InvalidInputError(
            f"invalid {name}: expected a whole number from {least} to {most}, got {shown(value)}",
            argument=name.partition("[")[0],
        )
    return int(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number and not a bool."""
    is_plain = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    try:
        return is_plain and math.isfinite(value)
    except OverflowError:  # an int beyond the largest float
        return False


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer and not a bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_names(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Check the names of arguments that a mapping gives.

    Args:
        what: of whom the arguments are, for the message.

    Raises:
        InvalidInputError: a name is unknown.
    """
    known = tuple(known)
    for name in names:
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else "none"
            raise InvalidInputError(f"unknown argument of {what}: expected {expected}, got {name!r}", argument=name)


def check_bool(name: str, value: Any) -> bool:
    """Return a truth value as a plain bool.

    Raises:
        InvalidInputError: it is something else.
    """
    if not isinstance(value, bool | np.bool_):
        raise _invalid(name, f"expected True or False, got {shown(value)}")
    return bool(value)


def check_share(name: str, value: Any) -> float:
    """Return a number from 0 to 1.

    Raises:
        InvalidInputError: it is something else.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise _invalid(name, f"expected a number from 0 to 1, got {shown(value)}")
    return float(value)


def check_id(name: str, value: Any, *, what: str = "an id as in the listening log") -> bytes:
    """Check an id: text, its UTF-8 bytes, or an integer.

    Args:
        what: what is expected, for the error.

    Returns:
        the id as UTF-8; an integer as its decimal digits.

    Raises:
        InvalidInputError: the value is of another type, empty, too long or invalid text.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = int(value)
        if value.bit_length() > _LARGEST_INTEGER_BITS:
            raise _invalid(name, f"expected {what}, got an integer of {value.bit_length():,} bits")
        value = str(value)
    if not isinstance(value, str | bytes):
        kind = type(value).__name__
        is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
        hint = f"; convert it first, as in {str(int(value))!r}" if is_whole else ""
        raise _invalid(name, f"expected {what}, as text or integer, got {reprlib.repr(value)} ({kind}){hint}")
    if not value:
        raise _invalid(name, f"expected {what}, got empty text")
    try:
        encoded = value.encode() if isinstance(value, str) else bytes(value)
        encoded.decode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise _invalid(
            name,
            f"expected text that UTF-8 can encode, got {reprlib.repr(value)} ({error.reason}); decode "
            f"the log with its own encoding",
        ) from None
    if len(encoded) > N_ID_BYTES_MAX:
        raise _invalid(name, f"expected at most {N_ID_BYTES_MAX:,} bytes, got {len(encoded):,}")
    return encoded


def check_ids(name: str, values: Any) -> list[bytes]:
    """Return a list of ids in UTF-8; empty for None.

    Raises:
        InvalidInputError: an id is invalid, or there are too many.
    """
    if values is None:
        return []
    listed = _listed(values)
    if listed is None:
        raise _invalid(name, f"expected a list of ids, or None, got {reprlib.repr(values)} ({type(values).__name__})")
    ids = [check_id(f"{name}[{index}]", value) for index, value in enumerate(listed)]
    if len(ids) > N_IDS_MAX:
        raise _invalid(
            name, f"expected at most {N_IDS_MAX:,} ids, got more; pass the latest or those with the largest weights"
        )
    return ids


def check_weights(values: Any, n_history: int) -> npt.NDArray[np.float32] | None:
    """Return the weights of the tracks of a history, (L,), or None.

    Raises:
        InvalidInputError: a weight is invalid, or their number differs from that of the history.
    """
    if values is None:
        return None
    expected = "expected a number, 0 or more, for each track of history, or None for 1 each"
    weights = _listed(values)
    if weights is None:
        raise InvalidInputError(f"invalid weights: {expected}, got {reprlib.repr(values)}", argument="weights")
    if len(weights) != n_history:
        raise InvalidInputError(
            f"invalid weights: {expected}, got {len(weights):,} for {n_history:,} ids", argument="weights"
        )
    for index, weight in enumerate(weights):
        if not is_number(weight) or not 0 <= weight <= np.finfo(np.float32).max:
            hint = (
                "; use skipped for tracks that the user skipped or disliked" if is_number(weight) and weight < 0 else ""
            )
            raise InvalidInputError(
                f"invalid weights[{index}]: {expected}, got {reprlib.repr(weight)}{hint}", argument="weights"
            )
    return np.array(weights, np.float32)


def check_times(values: Any, n_history: int) -> npt.NDArray[np.int64] | None:
    """Return the times of the tracks of a history in whole seconds since 1970, 0 where unknown, (L,), or None.

    Raises:
        InvalidInputError: a time is invalid, or their number differs from that of the history.
    """
    if values is None:
        return None
    expected = "expected seconds since 1970, a datetime with a zone, or None if unknown, for each track of history"
    times = _listed(values)
    if times is None:
        raise InvalidInputError(f"invalid times: {expected}, got {reprlib.repr(values)}", argument="times")
    if len(times) != n_history:
        raise InvalidInputError(
            f"invalid times: {expected}, got {len(times):,} for {n_history:,} ids", argument="times"
        )
    found = np.zeros(len(times), np.int64)
    for index, each in enumerate(times):
        if each is None:
            continue
        seconds = each.timestamp() if isinstance(each, datetime) and each.tzinfo is not None else each
        if not is_number(seconds) or not 0 <= seconds <= _LATEST_S:
            hint = "; add its zone" if isinstance(each, datetime) else ""
            hint = hint or ("; divide milliseconds by 1,000" if is_number(each) and each > _LATEST_S else "")
            raise InvalidInputError(
                f"invalid times[{index}]: {expected}, got {reprlib.repr(each)}{hint}", argument="times"
            )
        found[index] = int(seconds)
    return found


def check_mood(mood: Any) -> dict[str, float]:
    """Return the strengths of a mood: an emotion by name, or a mapping from emotions to strengths.

    Raises:
        InvalidInputError: an emotion is unknown, a strength is not a number from 0 to 1, or all are 0.
    """
    if isinstance(mood, str):
        mood = {mood: 1.0}
    if not isinstance(mood, Mapping):
        raise InvalidInputError(
            f"invalid mood: expected an emotion, a mapping from emotions to strengths from 0 to 1, or None, got "
            f"{reprlib.repr(mood)}",
            argument="mood",
        )
    strengths: dict[str, float] = {}
    for name, strength in mood.items():
        if not isinstance(name, str) or name not in EMOTIONS:
            raise InvalidInputError(
                f"unknown mood: expected one of {', '.join(EMOTIONS)}, or None, got {reprlib.repr(name)}",
                argument="mood",
            )
        if not is_number(strength) or not 0 <= strength <= 1:
            raise InvalidInputError(
                f"invalid mood: expected a strength of {name} from 0 to 1, got {shown(strength)}", argument="mood"
            )
        strengths[name] = float(strength)
    if not any(strengths.values()):
        raise InvalidInputError(
            "invalid mood: expected a strength above 0 for at least one emotion, got none; leave it out for no mood",
            argument="mood",
        )
    return strengths


def mood_input(mood: Any) -> dict[str, Array]:
    """Return a mood as the input that a recommender takes it by: its name, or the strengths of all emotions (1, 9).

    Raises:
        InvalidInputError: as `check_mood`.
    """
    strengths = check_mood(mood)
    if isinstance(mood, str):
        return {"mood": text([mood.encode()])}
    return {"mood_strengths": np.array([[strengths.get(name, 0.0) for name in EMOTIONS]], np.float32)}


def scalar(value: float, n_batch: int, dtype: type[np.generic]) -> Array:
    """Return a number for each row of a batch, (n_batch, 1)."""
    return np.full((n_batch, 1), value, dtype)


def text(values: list[bytes]) -> Array:
    """Return texts in UTF-8 as (1, L)."""
    row = np.empty((1, len(values)), np.object_)
    row[0] = values
    return row


def _invalid(name: str, problem: str) -> InvalidInputError:
    """Return the error for an argument, or for an element of one, such as `history[3]`."""
    return InvalidInputError(f"invalid {name}: {problem}", argument=name.partition("[")[0])


def _listed(values: Any) -> list[Any] | None:
    """Return the values, at most one more than the limit; None if they are not a list."""
    if isinstance(values, str | bytes | Mapping):  # a single id is not a list, and a mapping would lose its values
        return None
    try:
        each = iter(values)
    except TypeError:
        return None
    return list(islice(each, N_IDS_MAX + 1))
