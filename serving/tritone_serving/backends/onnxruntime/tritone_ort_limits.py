"""Limits of a model's inputs, from the config's parameter `limits`: sizes of axes and ranges of values.

`tritone export` writes the parameter from the model's declaration. Without it nothing is checked, since other models
may accept NaN. The messages are those of the Python client,
`invalid <input>: expected <...>, got <value>`.

Shapes: B rows of a request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritone_ort_session import SessionError

Array = np.ndarray[Any, Any]

PARAMETER = "limits"
_AXIS_KEYS = {"min", "max", "total"}
_INPUT_KEYS = {"axes", "min", "max", "above", "below", "also", "finite", "n_values", "meter", "words"}


@dataclass(frozen=True)
class AxisLimits:
    """Sizes that an axis may have.

    Attributes:
        least: smallest size.
        most: largest size; None for no limit.
        total: largest number of rows times size, in one request and in one run; None for no limit.
    """

    least: int = 1
    most: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class ValueLimits:
    """Values that an input may hold.

    Attributes:
        axes: names of the axes after the batch axis.
        least: smallest value, or the bound below it.
        most: largest value, or the bound above it.
        above: whether `least` itself is refused.
        below: whether `most` itself is refused.
        also: values that are allowed outside the range.
        finite: whether NaN and infinity are refused; None if the values do not matter.
        is_meter: whether the last axis holds (steps in a bar, index of the first step in its bar), or zeros.
        words: the only texts allowed.
    """

    axes: tuple[str, ...]
    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False
    also: tuple[float, ...] = ()
    finite: bool | None = None
    is_meter: bool = False
    words: tuple[str, ...] | None = None


@dataclass(frozen=True)
class RequestLimits:
    """Limits of all inputs of a model."""

    inputs: Mapping[str, ValueLimits]
    axes: Mapping[str, AxisLimits] = field(default_factory=dict)

    def problem(
        self, feed: Mapping[str, Array], n_rows: int, *, batched: bool = True, only_sizes: bool = False
    ) -> str | None:
        """Check one request.

        Args:
            feed: arrays by input name, whose types and ranks have been checked.
            n_rows: B.
            batched: whether the arrays' first axis is the batch.

        Returns:
            An error message for the sender; None if the request is valid.
        """
        if n_rows < 1:
            return "invalid request: expected 1 row or more, got 0"
        problem = self._size_problem(feed, n_rows, batched=batched)
        if problem is not None or only_sizes:
            return problem
        return self._value_problem(feed, n_rows, batched=batched)

    def totals(self, feed: Mapping[str, Array], *, batched: bool = True) -> dict[str, tuple[int, int]]:
        """Return (size, largest rows times size in one run) by axis, for axes with such a limit."""
        return {
            axis: (size, limits.total)
            for _, axis, size in self._sizes(feed, batched=batched)
            if (limits := self.axes.get(axis)) is not None and limits.total is not None
        }

    def _sizes(self, feed: Mapping[str, Array], *, batched: bool) -> list[tuple[str, str, int]]:
        """Return (input, axis, size) of each named axis."""
        return [
            (name, axis, size)
            for name, array in feed.items()
            if name in self.inputs
            for axis, size in zip(self.inputs[name].axes, array.shape[1:] if batched else array.shape, strict=True)
        ]

    def _size_problem(self, feed: Mapping[str, Array], n_rows: int, *, batched: bool) -> str | None:
        by_axis: dict[str, dict[str, int]] = {}
        for name, axis, size in self._sizes(feed, batched=batched):
            by_axis.setdefault(axis, {})[name] = size
        for axis, sizes in by_axis.items():
            if len(set(sizes.values())) > 1:
                shown = ", ".join(f"{size} for {name}" for name, size in sizes.items())
                return f"invalid inputs: expected equal sizes of axis {axis}, got {shown}"
            limits, size = self.axes.get(axis), next(iter(sizes.values()))
            if limits is None:
                continue
            if size < limits.least or (limits.most is not None and size > limits.most):
                expected = f"{limits.least} to {limits.most}" if limits.most is not None else f"{limits.least} or more"
                return f"invalid {next(iter(sizes))}: expected a size of {expected} along axis {axis}, got {size}"
            if limits.total is not None and n_rows * size > limits.total:
                return (
                    f"invalid {next(iter(sizes))}: expected at most {limits.total} along axis {axis} in all rows of a "
                    f"request, got {n_rows * size} ({n_rows} rows of {size})"
                )
        return None

    def _value_problem(self, feed: Mapping[str, Array], n_rows: int, *, batched: bool) -> str | None:
        for name, limits in self.inputs.items():
            array = feed.get(name)
            if array is None or not array.size:
                continue
            place = _first_violation(limits, array)
            if place is not None:
                row = f"row {place[0]}: " if batched and n_rows > 1 else ""
                return row + _described(name, limits, array, place, batched=batched)
        return None


def read_limits(config: dict[str, Any], session: Any) -> RequestLimits | None:
    """Read a config's limits.

    Args:
        config: as Triton hands it to a backend.
        session: its ONNX file's metadata hold numbers that depend on the version, such as the number of items.

    Returns:
        None if the config has none.

    Raises:
        SessionError: the parameter is damaged, or does not fit the config's inputs.
    """
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    if PARAMETER not in parameters:
        return None
    try:
        entries = json.loads(parameters[PARAMETER])
        axes = {name: _axis_limits(each) for name, each in entries["axes"].items()}
        numbers = {**parameters, **session.get_modelmeta().custom_metadata_map}
        inputs = {name: _value_limits(each, numbers) for name, each in entries["inputs"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SessionError(f"parameter {PARAMETER} is damaged ({error}); export the model again") from error
    ranks = {tensor["name"]: len(_dims(tensor)) for tensor in config["input"]}
    for name, each in inputs.items():
        if name not in ranks or len(each.axes) != ranks[name]:
            raise SessionError(
                f"parameter {PARAMETER} does not fit the config's inputs: {name} has axes {list(each.axes)}, expected "
                f"{ranks.get(name, 'an input of that name')}; export the model again"
            )
    return RequestLimits(inputs, axes)


def non_finite(array: Array) -> bool:
    """Return whether a floating-point tensor holds NaN or infinity."""
    return array.dtype.kind == "f" and not np.isfinite(array).all()


def _dims(tensor: dict[str, Any]) -> list[Any]:
    reshape = tensor.get("reshape")
    return list(reshape["shape"] if reshape else tensor["dims"])


def _axis_limits(entry: dict[str, Any]) -> AxisLimits:
    _refuse_unknown(entry, _AXIS_KEYS)
    return AxisLimits(entry.get("min", 1), entry.get("max"), entry.get("total"))


def _value_limits(entry: dict[str, Any], numbers: Mapping[str, str]) -> ValueLimits:
    _refuse_unknown(entry, _INPUT_KEYS)
    most, below = entry.get("max", entry.get("below")), "below" in entry
    n_values = numbers.get(entry.get("n_values", ""))
    if n_values:  # empty for a version that accepts any value
        most, below = int(n_values) - 1, False
    return ValueLimits(
        axes=tuple(entry["axes"]),
        least=entry.get("min", entry.get("above")),
        most=most,
        above="above" in entry,
        below=below,
        also=tuple(entry.get("also", ())),
        finite=entry.get("finite"),
        is_meter=bool(entry.get("meter")),
        words=tuple(entry["words"]) if "words" in entry else None,
    )


def _refuse_unknown(entry: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(entry) - known):
        raise ValueError(f"unknown entry {', '.join(unknown)}")


def _first_violation(limits: ValueLimits, array: Array) -> tuple[int, ...] | None:
    """Return the index of the first value that is not allowed; None if all are allowed."""
    kind = array.dtype.kind
    if limits.words is not None:
        return _index_of(~np.isin(array.astype(np.str_), limits.words))
    if kind not in "fiu" or not (limits.finite or limits.least is not None or limits.most is not None):
        return None
    smallest, largest = _smallest_and_largest(array)
    inside = (
        limits.finite is False or (math.isfinite(smallest) and math.isfinite(largest))  # NaN would be both
    ) and _is_inside(limits, np.array([smallest, largest], array.dtype)).all()
    if not inside:
        wrong = ~_is_inside(limits, array)
        if limits.finite is not False and kind == "f":
            wrong |= ~np.isfinite(array)
        for value in limits.also:
            wrong &= array != value
        if wrong.any():
            return _index_of(wrong)
    if limits.is_meter:
        length, index = array[..., 0], array[..., 1]
        wrong = index >= np.maximum(length, 1)
        if wrong.any():
            return _index_of(wrong)
    return None


def _smallest_and_largest(array: Array) -> tuple[Any, Any]:
    """Return the extreme values, both NaN if any value is NaN.

    Works row by row, so that a row is still in the CPU cache for its second pass.
    """
    if array.ndim < 2 or array.size < 1 << 16:
        return array.min(), array.max()
    smallest = np.array([row.min() for row in array])
    return smallest.min(), np.array([row.max() for row in array]).max()


def _is_inside(limits: ValueLimits, values: Array) -> Array:
    """Return whether each value is in the range; False for NaN if there is a range."""
    inside = np.ones(values.shape, np.bool_)
    if limits.least is not None:
        least = _as_type(limits.least, values.dtype)
        inside &= values > least if limits.above else values >= least
    if limits.most is not None:
        most = _as_type(limits.most, values.dtype)
        inside &= values < most if limits.below else values <= most
    return inside


def _as_type(bound: float, dtype: Any) -> Any:
    # Round a bound such as 0.001 to the input's type. Integers stay unchanged, since 2**31 does not fit every type.
    return dtype.type(bound) if dtype.kind == "f" else bound


def _index_of(wrong: Array) -> tuple[int, ...] | None:
    places = np.argwhere(wrong)
    return tuple(int(each) for each in places[0]) if len(places) else None


def _described(name: str, limits: ValueLimits, array: Array, place: tuple[int, ...], *, batched: bool) -> str:
    """Return the message `invalid <input>: expected <values>, got <value>`."""
    if limits.is_meter:
        return meter_problem(name, *array[place[0]])
    inner = place[1:] if batched else place
    where = f"{name}[{', '.join(map(str, inner))}]" if inner and array[0].size > 1 else name
    value = array[place]
    shown = repr(str(value)[:80]) if limits.words is not None else str(value)
    return f"invalid {where}: expected {expected_values(limits, whole=array.dtype.kind in 'iu')}, got {shown}"


def meter_problem(name: str, length: Any, index: Any) -> str:
    """Return the error message for an invalid meter."""
    return (
        f"invalid {name}: expected the time steps of a bar and the index of the first step in its bar, counted from 0, "
        f"or [0, 0] if they are not known, got [{length}, {index}]"
    )


def expected_values(limits: ValueLimits, *, whole: bool) -> str:
    """Describe the allowed values in the words that the Python client uses."""
    if limits.words is not None:
        return f"one of {', '.join(word for word in limits.words if word)}"
    what = "a whole number" if whole else "a number"
    least = None if limits.least is None else _shown(limits.least)
    most = None if limits.most is None else _shown(limits.most)
    if least is None and most is None:
        text = "a finite number"
    elif least is None:
        text = f"{what} below {most}" if limits.below else f"{what}, at most {most}"
    elif most is None:
        text = f"{what} above {least}" if limits.above else f"{what}, {least} or more"
    elif limits.above:
        text = f"{what} above {least} and {'below' if limits.below else 'at most'} {most}"
    else:
        text = f"{what} from {least} to {'below ' * limits.below}{most}"
    return "".join([text, *(f", or {_shown(value)}" for value in limits.also)])


def _shown(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"
