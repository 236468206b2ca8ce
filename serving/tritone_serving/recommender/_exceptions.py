"""Exceptions raised by the recommender.

```
RecommenderError
├── ArtifactError         the artifact is missing, damaged, or of another format version
├── KeyFileError          the key file for pseudonyms is missing, unreadable or too short
└── InvalidRequestError   a request is invalid; other requests of the same call are not affected
```

They do not derive from the client's exceptions, because the backend runs where only NumPy and SciPy are installed.
"""

from __future__ import annotations


class RecommenderError(Exception):
    """Base class of the exceptions raised by the recommender."""


class ArtifactError(RecommenderError):
    """Raised when an artifact is missing, damaged, or of another format version."""


class KeyFileError(RecommenderError):
    """Raised when the key file for pseudonyms is missing, unreadable or too short."""


class InvalidRequestError(RecommenderError, ValueError):
    """Raised when a request is invalid or contains nothing that the recommender knows."""
