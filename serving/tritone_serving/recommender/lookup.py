"""Items and users of an artifact by their ids; users are found by their pseudonyms.

Shapes: I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.ids import normalize_id
from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.pseudonyms import pseudonym
from tritone_serving.recommender.texts import TextIndex, build_hash_table

Array = npt.NDArray[Any]

NOT_STORED: Final = -1  # in place of a row or an index


def item_arrays(artifact: Artifact) -> dict[str, Array]:
    """Return the hash table of the items' ids, `slots`, and `n_listeners` (I,)."""
    slots = build_hash_table(artifact.texts("items"))
    return {"slots": slots, "n_listeners": listener_counts(artifact).astype(np.int32)}


def listener_counts(artifact: Artifact) -> npt.NDArray[np.int64]:
    """Return the number of stored users who listen to each item (I,), from all listening data."""
    name = "listening" if "listening.starts" in artifact.arrays else "history"
    counts: npt.NDArray[np.int64] = np.bincount(artifact.rows(name).columns, minlength=artifact.n_items)
    return counts


class IdLookup:
    """Finds the indices of items and users by their ids.

    Attributes:
        n_listeners: (I,) number of stored users who listen to each item.
    """

    def __init__(self, artifact: Artifact, key: bytes) -> None:
        """Read the index of an artifact, or compute it if the artifact was written without.

        Args:
            artifact: the opened artifact.
            key: key of the users' pseudonyms.
        """
        arrays = artifact.derive("items", item_arrays)
        self.n_listeners = arrays["n_listeners"]
        self._ids = TextIndex(artifact.arrays["items.ids"], artifact.arrays["items.ends"], arrays["slots"])
        self._users = artifact.arrays["users"]
        self._key = key

    def item(self, name: str) -> int | None:
        """Return an item's index, None if it is unknown; the id may be in any form that `normalize_id` unifies."""
        index = self._ids.find(name)
        return self._ids.find(normalize_id(name)) if index is None else index

    def items(self, names: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
        """Return the indices of the known items and the ids of the unknown ones."""
        known, unknown = [], []
        for name in names:
            index = self.item(name)
            if index is None:
                unknown.append(name)
            else:
                known.append(index)
        return known, tuple(dict.fromkeys(unknown))

    def user(self, raw: str) -> int:
        """Return a user's row, -1 if no user of that id is stored.

        The id as given is tried first: artifacts of earlier versions hold ids that were not normalised.
        """
        row = self._row_of(raw)
        if row == NOT_STORED and (normalized := normalize_id(raw)) != raw:
            row = self._row_of(normalized)
        return row

    def _row_of(self, raw: str) -> int:
        digest = pseudonym(self._key, raw)
        high, low = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        index = int(np.searchsorted(self._users[:, 0], np.uint64(high)))
        while index < len(self._users) and int(self._users[index, 0]) == high:
            if int(self._users[index, 1]) == low:
                return index
            index += 1
        return NOT_STORED
