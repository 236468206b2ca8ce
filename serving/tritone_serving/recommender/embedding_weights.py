"""Check that the `genre_cnn` of a repository is the network that embedded a recommender's items.

Embeddings of separately trained networks are unrelated: similarities between them are noise. The recommender's manifest
and the network's model card both hold the SHA-256 of the network's weights, which are compared here. Needs only the
standard library, because the recommender's backend imports it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tritone_serving.repository import newest_version

CARD_FILENAME: Final = "model_card.json"
COMPANION_OF: Final = "companion_of"  # in the card of a second model with the network, which takes other inputs
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_KEEP_S: Final = 1.0  # new versions may be published at any time; reading all cards takes about a millisecond


def weights_digest(described: Any) -> str | None:
    """Return the digest of a network's weights from a card or manifest entry; None if it has none."""
    digest = described.get("weights_sha256") if isinstance(described, dict) else None
    return digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; empty if it is missing, cannot be read, or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


class EmbeddingWeights:
    """Compares a recommender's items with the networks of the same repository, at most once a second."""

    def __init__(self, repository: Path, embedded_by: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare the comparison.

        Args:
            repository: the folder of models.
            embedded_by: the manifest's entry: kind and `weights_sha256` of the network that embedded the items.
        """
        self._repository = repository
        self._kind = embedded_by.get("kind") if isinstance(embedded_by, dict) else None
        self._digest = weights_digest(embedded_by)
        self._clock = clock
        self._until_s = float("-inf")
        self._fits = True

    @property
    def fits(self) -> bool:
        """False if the repository holds networks of this kind and none of them embedded the items.

        True if that is unknown: the manifest or a card has no digest, or there is no such network.
        """
        if self._digest is None:
            return True
        now_s = self._clock()
        if now_s >= self._until_s:
            self._fits = self._compare()
            self._until_s = now_s + _KEEP_S
        return self._fits

    def _compare(self) -> bool:
        try:
            found = list(self._served())
        except OSError:
            return True
        return not found or None in found or self._digest in found

    def _served(self) -> Iterator[str | None]:
        """Yield the digest of each network of the kind; "" for an untrained backbone, None if unknown."""
        for folder in self._repository.iterdir():
            version = newest_version(folder)
            card = {} if version is None else read_json(version / CARD_FILENAME)
            if card.get("kind") == self._kind and COMPANION_OF not in card:
                yield weights_digest(card) or ("" if card.get("pretrained") else None)
