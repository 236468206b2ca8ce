"""Where people read (stderr) and where machines read (stdout, `--json`)."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console

people = Console(stderr=True, highlight=False)


def fail(message: str) -> None:
    """Print one error message for people."""
    people.print(f"[bold red]error:[/] {_escaped(message)}", soft_wrap=True)


def say(message: str) -> None:
    """Print one line for people, without markup."""
    people.print(_escaped(message), soft_wrap=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; numbers that are not finite become null, which JSON can say."""
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
