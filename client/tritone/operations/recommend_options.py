"""What a caller may ask of a recommender, the checks of it, and the tensors that say it.

Shapes: L ids of a list. Everything is sent for a batch of one.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from tritone.constants import (
    EMOTIONS,
    LARGEST_OFFSET,
    N_DIVERSE_MAX,
    N_EXPLAINED_MAX,
    N_FRIENDS_MAX,
    N_ID_BYTES_MAX,
    N_IDS_MAX,
    N_RECOMMENDED_MAX,
    SEARCH_FIELDS,
    WAYS_TO_BE_ALIKE,
)
from tritone.exceptions import InvalidInputError
from tritone.messages import Array
from tritone.operations.options import check_count, is_number, scalar

# Text, its UTF-8 bytes (logs are not always decoded), or an integer, which stands for its decimal digits.
Id: TypeAlias = str | bytes | int | np.integer[Any]
Ids: TypeAlias = Iterable[Id]
Weights: TypeAlias = Iterable[float] | npt.NDArray[Any]

_LARGEST_INTEGER_BITS: Final = 128  # UUIDs; Python refuses to write very large integers as digits
_BY_SOUND: Final = tuple(way for way in WAYS_TO_BE_ALIKE if way != "listening")


@dataclass(frozen=True, eq=False)
class Wanted:
    """What `recommend` was asked, as it was passed in; the recording goes a way of its own."""

    user_id: Id | None
    history: Ids | None
    weights: Weights | None
    skipped: Ids | None
    friends: Ids | None
    mood: str | None
    n: int
    exclude: Ids | None
    filter_listened: bool
    diversity: float
    novelty: float
    explain: bool | int

    @property
    def n_reasons(self) -> int | None:
        """Largest number of reasons for each track: 0 for no reasons, None for all."""
        if isinstance(self.explain, bool | np.bool_):
            return None if self.explain else 0
        return int(self.explain)

    def inputs(self) -> dict[str, Array]:
        """As tensors; what is left at its default is left out, for the model has the same.

        Raises:
            InvalidInputError: says what cannot be.
        """
        inputs = {"k": _count(self.n)}
        if self.user_id is not None:
            inputs["user_id"] = text([check_id("user_id", self.user_id)])
        for name in ("history", "skipped", "friends", "exclude"):
            ids = check_ids(name, getattr(self, name))
            if ids:
                inputs[name] = text(ids)
            if name == "friends" and (n_friends := len(set(ids))) > N_FRIENDS_MAX:
                raise InvalidInputError(
                    f"friends holds {n_friends:,} different ids; expected at most {N_FRIENDS_MAX:,}"
                )
        weights = check_weights(self.weights, inputs["history"].size if "history" in inputs else 0)
        if weights is not None and weights.size:
            inputs["weights"] = weights[None]
        if self.mood is not None:
            inputs["mood"] = text([check_mood(self.mood).encode()])
        for name in ("diversity", "novelty"):
            share = check_share(name, getattr(self, name))
            if share:
                inputs[name] = scalar(share, 1, np.float32)
        if not _check_truth("filter_listened", self.filter_listened):
            inputs["filter_listened"] = scalar(False, 1, np.bool_)
        if _check_explain(self.explain):
            inputs["explain"] = scalar(True, 1, np.bool_)
        self._check_costly()
        return inputs

    def _check_costly(self) -> None:
        """Check the number of items where each one is costly for the server."""
        for most, wish in ((N_EXPLAINED_MAX, "explain"), (N_DIVERSE_MAX, "diversity")):
            if self.n > most and getattr(self, wish):
                raise InvalidInputError(f"n is {self.n}; expected a whole number from 1 to {most} with {wish}")


def likeness_inputs(track_id: Id | None, *, has_audio: bool, by: str, n: int) -> dict[str, Array]:
    """What `similar` was asked, as tensors.

    Raises:
        InvalidInputError: says what cannot be.
    """
    if (track_id is None) != has_audio:
        given = "neither of track_id and audio is" if track_id is None else "both of track_id and audio are"
        raise InvalidInputError(f"{given} given; expected one of them: what should the tracks be like?")
    if not isinstance(by, str) or by not in WAYS_TO_BE_ALIKE:
        raise InvalidInputError(f"by is {reprlib.repr(by)}; expected one of {', '.join(WAYS_TO_BE_ALIKE)}")
    if has_audio and by not in _BY_SOUND:
        raise InvalidInputError(
            f"by is {by!r}, but nobody has listened to a recording that is only now passed in; "
            f"expected {' or '.join(_BY_SOUND)}"
        )
    inputs = {"k": _count(n), "by": text([by.encode()])}
    if track_id is not None:
        inputs["similar_to"] = text([check_id("track_id", track_id)])
    return inputs


def search_inputs(query: Any, *, by: Any, limit: Any, offset: Any) -> dict[str, Array]:
    """Return the tensors of a search for tracks.

    Raises:
        InvalidInputError: an argument cannot be used.
    """
    encoded = check_id("query", query, what="a title, an artist or an id")
    # As the server does: characters of no width, such as U+200B, and control characters are no query either.
    if all(each.isspace() or unicodedata.category(each) in ("Cc", "Cf") for each in encoded.decode()):
        raise InvalidInputError("query is blank; expected a title, an artist or an id")
    if by is not None and (not isinstance(by, str) or by not in SEARCH_FIELDS):
        raise InvalidInputError(
            f"by is {reprlib.repr(by)}; expected one of {', '.join(SEARCH_FIELDS)}, or None for all"
        )
    inputs = {
        "query": text([encoded]),
        "k": scalar(check_count("limit", limit, least=1, most=N_RECOMMENDED_MAX), 1, np.int32),
    }
    if check_count("offset", offset, least=0, most=LARGEST_OFFSET):
        inputs["offset"] = scalar(int(offset), 1, np.int32)
    if by is not None:
        inputs["query_field"] = text([by.encode()])
    return inputs


def text(values: list[bytes]) -> Array:
    """(1, L) of UTF-8."""
    row = np.empty((1, len(values)), np.object_)
    row[0] = values
    return row


def check_id(name: str, value: Any, *, what: str = "an id as in the listening log") -> bytes:
    """Check an id: text, its UTF-8 bytes, or an integer.

    Args:
        what: what is expected, for the error.

    Returns:
        the id as UTF-8; an integer as its decimal digits.

    Raises:
        InvalidInputError: it is something else, empty, too long, or no valid text.
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        value = int(value)
        if value.bit_length() > _LARGEST_INTEGER_BITS:
            raise InvalidInputError(f"{name} is an integer of {value.bit_length():,} bits; expected {what}")
        value = str(value)
    if not isinstance(value, str | bytes):
        kind = type(value).__name__
        is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
        hint = f"; convert it first, as in {str(int(value))!r}" if is_whole else ""
        raise InvalidInputError(f"{name} is {reprlib.repr(value)} ({kind}); expected {what}, as text or integer{hint}")
    if not value:
        raise InvalidInputError(f"{name} is empty; expected {what}")
    try:
        encoded = value.encode() if isinstance(value, str) else bytes(value)
        encoded.decode()
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{name} is {reprlib.repr(value)}, which is no text that UTF-8 can hold ({error.reason}); decode the log "
            f"with the encoding it was written in"
        ) from None
    if len(encoded) > N_ID_BYTES_MAX:
        raise InvalidInputError(f"{name} has {len(encoded):,} bytes; expected at most {N_ID_BYTES_MAX:,}")
    return encoded


def check_ids(name: str, values: Any) -> list[bytes]:
    """Check a list of ids; none at all for None.

    Raises:
        InvalidInputError: names the first that is no id, or says that there are too many.
    """
    if values is None:
        return []
    listed = _listed(values)
    if listed is None:
        raise InvalidInputError(
            f"{name} is {reprlib.repr(values)} ({type(values).__name__}); expected a list of ids, or None for none"
        )
    ids = [check_id(f"{name}[{place}]", value) for place, value in enumerate(listed)]
    if len(ids) > N_IDS_MAX:
        raise InvalidInputError(f"{name} holds more than {N_IDS_MAX:,} ids; pass the latest or the weightiest ones")
    return ids


def check_weights(values: Any, n_history: int) -> npt.NDArray[np.float32] | None:
    """Check how much each track of a history was listened to.

    Returns:
        (L,), or None.

    Raises:
        InvalidInputError: they do not belong to the history, or the first that is no weight.
    """
    if values is None:
        return None
    expected = "expected a number, 0 or more, for each track of history, or None for 1 each"
    weights = _listed(values)
    if weights is None:
        raise InvalidInputError(f"weights is {reprlib.repr(values)}; {expected}")
    if len(weights) != n_history:
        raise InvalidInputError(f"weights holds {len(weights):,} numbers, history {n_history:,} ids; {expected}")
    for place, weight in enumerate(weights):
        if not is_number(weight) or not 0 <= weight <= np.finfo(np.float32).max:
            hint = " (use skipped for items that were rejected)" if is_number(weight) and weight < 0 else ""
            raise InvalidInputError(f"weights[{place}] is {reprlib.repr(weight)}; {expected}{hint}")
    return np.array(weights, np.float32)


def check_mood(mood: Any) -> str:
    """Check an emotion's name.

    Raises:
        InvalidInputError: has those that are known.
    """
    if not isinstance(mood, str) or mood not in EMOTIONS:
        raise InvalidInputError(f"mood is {reprlib.repr(mood)}; expected one of {', '.join(EMOTIONS)}, or None for any")
    return str(mood)


def check_share(name: str, value: Any) -> float:
    """Check a number from 0 to 1.

    Raises:
        InvalidInputError: it is none.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise InvalidInputError(f"{name} is {reprlib.repr(value)}; expected a number from 0 to 1 (0: none of it)")
    return float(value)


def _listed(values: Any) -> list[Any] | None:
    """The values, but no more than show that there are too many; None if they are no list of something."""
    if isinstance(values, str | bytes | Mapping):  # one id is no list; a mapping would lose its values
        return None
    try:
        each = iter(values)
    except TypeError:
        return None
    return list(islice(each, N_IDS_MAX + 1))


def _check_truth(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise InvalidInputError(f"{name} is {reprlib.repr(value)}; expected True or False")
    return bool(value)


def _check_explain(value: Any) -> bool:
    """Check whether reasons are wanted: True, False, or how many for each track."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if not isinstance(value, int | np.integer) or value < 1:
        raise InvalidInputError(
            f"explain is {reprlib.repr(value)}; expected True, False, or how many reasons for each track, 1 or more"
        )
    return True


def _count(n: int) -> Array:
    return scalar(check_count("n", n, least=1, most=N_RECOMMENDED_MAX), 1, np.int32)
