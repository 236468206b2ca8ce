"""The recommender's errors.

```
RecommenderError
├── ArtifactError   the artifact is missing, damaged, or of another version
├── KeyFileError    the key for pseudonyms is missing or too short
└── InvalidRequestError   one request cannot be answered; the others of its call are
```

They do not derive from the client's root: the backend runs where nothing but NumPy and SciPy is installed.
"""

from __future__ import annotations


class RecommenderError(Exception):
    """Root of what the recommender raises on purpose."""


class ArtifactError(RecommenderError):
    """The artifact is missing, damaged, or of another version."""


class KeyFileError(RecommenderError):
    """The key for pseudonyms is missing or too short."""


class InvalidRequestError(RecommenderError, ValueError):
    """One request cannot be answered."""
