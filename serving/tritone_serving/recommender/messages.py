"""Bounds what an error says of what it was given: it has to fit into the headers of an answer."""

from __future__ import annotations

from typing import Any, Final

LONGEST_ID: Final = 80  # characters
LONGEST_MESSAGE: Final = 1_000  # gRPC writes a character as up to 12 bytes of its headers, which end at 16 KiB


def shown(value: Any, longest: int = LONGEST_ID) -> str:
    """As `repr`, cut."""
    if isinstance(value, str | bytes):
        return f"{value[:longest]!r}{'...' if len(value) > longest else ''}"
    return cut(repr(value), longest)


def cut(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """The beginning of a text."""
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."
