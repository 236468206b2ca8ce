"""Types for command-line arguments, which are checked before the measurement."""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """Parse a whole number, 1 or larger.

    Raises:
        argparse.ArgumentTypeError: the text is something else.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or larger, got {text!r}")
    return value


def amount(text: str) -> float:
    """Parse a finite number above 0.

    Raises:
        argparse.ArgumentTypeError: the text is something else.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return value
