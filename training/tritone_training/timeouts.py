"""Timeouts that an environment variable sets."""

from __future__ import annotations

import os
from typing import Final

from tritone_training.exceptions import TrainingError

_LONGEST_S: Final = 86_400.0


def timeout_of(variable: str, default_s: float) -> float:
    """Return the seconds in an environment variable; the default if it is not set or empty.

    Raises:
        TrainingError: it is not a number from 1 to 86,400.
    """
    text = os.environ.get(variable)
    try:
        value = default_s if not text else float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= _LONGEST_S:
        raise TrainingError(f"{variable}: expected 1 to {_LONGEST_S:g} seconds, got {text!r}")
    return value
