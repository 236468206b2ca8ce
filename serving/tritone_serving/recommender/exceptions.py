"""Exceptions raised by the recommender, and length limits of values quoted in their messages.

```
RecommenderError
├── ArtifactError         the artifact is missing, damaged, or of another format version
├── KeyFileError          the key file for pseudonyms is missing, unreadable or too short
└── InvalidRequestError   a request is invalid; other requests of the same call are not affected
```

They do not derive from the client's exceptions, because the backend runs where only NumPy and SciPy are installed.
Messages have to fit into the headers of a gRPC response.
"""

from __future__ import annotations

from typing import Any, Final


class RecommenderError(Exception):
    """Base class of the exceptions raised by the recommender."""


class ArtifactError(RecommenderError):
    """Raised when an artifact is missing, damaged, or of another format version."""


class KeyFileError(RecommenderError):
    """Raised when the key file for pseudonyms is missing, unreadable or too short."""


class InvalidRequestError(RecommenderError, ValueError):
    """Raised when a request is invalid or contains nothing that the recommender knows."""


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
