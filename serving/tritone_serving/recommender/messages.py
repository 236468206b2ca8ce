"""Length limits of values quoted in error messages, which have to fit into the headers of a gRPC response."""

from __future__ import annotations

from typing import Any, Final

LONGEST_ID: Final = 80  # characters
LONGEST_MESSAGE: Final = 1_000  # a character takes up to 12 bytes in gRPC's headers, which are limited to 16 KiB


def shown(value: Any, longest: int = LONGEST_ID) -> str:
    """Return the `repr` of a value, truncated."""
    if isinstance(value, str | bytes):
        return f"{value[:longest]!r}{'...' if len(value) > longest else ''}"
    return cut(repr(value), longest)


def cut(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Return a text, truncated to `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."
