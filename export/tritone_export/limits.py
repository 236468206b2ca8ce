"""A declaration's limits as the parameter `limits` of config.pbtxt, which the serving backends check requests against.

```json
{"axes": {"frame": {"max": 4096, "total": 8192}},
 "inputs": {"noise": {"axes": ["frame", "note"], "finite": true, "min": 0, "below": 1}}}
```

Axes have `min` (1 if left out), `max` and `total` (rows times size). Inputs have the names of their axes and, where
they are limited, `min` or `above`, `max` or `below`, `also` (values outside the range), `finite`, `n_values` (the name
of the metadata entry that holds the number of values), `meter` and `words`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tritone_training.declaration import Axis, Tensor

PARAMETER: Final = "limits"
AXIS_KEYS: Final = frozenset({"min", "max", "total"})
INPUT_KEYS: Final = frozenset({"axes", "min", "max", "above", "below", "also", "finite", "n_values", "meter", "words"})


def limits_text(inputs: Sequence[Tensor]) -> str:
    """Return the limits of a model's inputs as compact JSON."""
    axes = {
        axis.name: limits for tensor in inputs for axis in tensor.axes if axis.size is None and (limits := _axis(axis))
    }
    entries = {"axes": axes, "inputs": {tensor.name: _input(tensor) for tensor in inputs}}
    return json.dumps(entries, separators=(",", ":"), sort_keys=True)


def is_limited(text: str) -> bool:
    """Return whether a config's parameter `limits` lets a backend refuse requests; unreadable text counts as limits."""
    if not text:
        return False
    try:
        entries = json.loads(text)
        return bool(entries["axes"]) or any(entry.keys() - {"axes"} for entry in entries["inputs"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return True


def _axis(axis: Axis) -> dict[str, int]:
    limits = {"min": axis.min_size, "max": axis.max_size, "total": axis.max_total}
    return {key: value for key, value in limits.items() if value is not None}


def _input(tensor: Tensor) -> dict[str, Any]:
    entry: dict[str, Any] = {"axes": [axis.name for axis in tensor.axes]}
    limits = tensor.limits
    if limits is None:
        return entry
    if limits.minimum is not None:
        entry["above" if limits.exclusive_minimum else "min"] = limits.minimum
    if limits.maximum is not None:
        entry["below" if limits.exclusive_maximum else "max"] = limits.maximum
    if tensor.dtype in ("FP32", "FP16"):
        entry["finite"] = limits.finite
    if limits.also:
        entry["also"] = list(limits.also)
    if limits.n_values_key is not None:
        entry["n_values"] = limits.n_values_key
    if limits.is_meter:
        entry["meter"] = True
    if limits.words is not None:
        entry["words"] = list(limits.words)
    return entry
