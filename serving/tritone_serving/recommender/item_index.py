"""Items of an artifact by their ids, and the number of their listeners.

Shapes: I items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender.artifact import Artifact
from tritone_serving.recommender.texts import TextIndex, build_hash_table

Array = npt.NDArray[Any]


def item_arrays(artifact: Artifact) -> dict[str, Array]:
    """Return the hash table of the items' ids, `slots`, and `n_listeners` (I,)."""
    slots = build_hash_table(artifact.texts("items"))
    return {"slots": slots, "n_listeners": listener_counts(artifact).astype(np.int32)}


def listener_counts(artifact: Artifact) -> npt.NDArray[np.int64]:
    """Return the number of stored users who listen to each item (I,), from all listening data."""
    name = "listening" if "listening.starts" in artifact.arrays else "history"
    counts: npt.NDArray[np.int64] = np.bincount(artifact.rows(name).columns, minlength=artifact.n_items)
    return counts


class ItemIndex:
    """Finds items by their ids.

    Attributes:
        ids: positions of the ids.
        n_listeners: (I,) number of stored users who listen to each item.
    """

    def __init__(self, artifact: Artifact) -> None:
        """Read the index of an artifact, or compute it if the artifact was written without."""
        arrays = artifact.derive("items", item_arrays)
        self.n_listeners = arrays["n_listeners"]
        self.ids = TextIndex(artifact.arrays["items.ids"], artifact.arrays["items.ends"], arrays["slots"])
