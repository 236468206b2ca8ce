"""Items that are scored as if nobody listened to them, to learn how to rank new items.

Scores by tags and sound do not depend on listening, so a hidden item has the scores that it would have as a new item.
All other base models cannot score new items: their scores of hidden items are set to 0.
Shapes: B users, I items that somebody listens to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender import Recommender
from tritone_serving.recommender.base_models.content import Sound, Tags
from tritone_training.kinds.recommender.weight_fitting import Collector

Floats = npt.NDArray[np.float32]
_SHARE: Final = 0.2  # of the items with tags or sound


@dataclass(frozen=True, eq=False)
class HiddenItems:
    """The hidden items, and the base models that can score them by content.

    Attributes:
        is_hidden: (I,).
        content: names of those base models.
    """

    is_hidden: npt.NDArray[np.bool_]
    content: Sequence[str]

    @classmethod
    def draw(cls, recommender: Recommender, seed: int) -> HiddenItems | None:
        """Draw a fifth of the items with content; None if there are no cold items with content to rank."""
        n_listened = recommender.scorer.n_listened
        has_content = np.zeros(recommender.artifact.n_items, np.bool_)
        content = []
        for name, base_model in recommender.scorer.base_models.items():
            if isinstance(base_model, Tags):
                knows = base_model.by_item.counts > 0
            elif isinstance(base_model, Sound):
                knows = np.asarray(base_model.embeddings).any(1)
            else:
                continue
            content.append(name)
            has_content |= knows
        possible = np.flatnonzero(has_content[:n_listened])
        if not has_content[n_listened:].any() or len(possible) < 2:
            return None
        n = max(1, round(_SHARE * len(possible)))
        # Sorted by id and drawn by a generator of its own, so that the same seed draws the same items.
        possible = possible[np.argsort(np.array(recommender.item_ids)[possible])]
        chosen = np.random.default_rng([seed, n_listened]).choice(possible, n, replace=False)
        is_hidden = np.zeros(n_listened, np.bool_)
        is_hidden[chosen] = True
        return cls(is_hidden, content)

    def collector(
        self, consumed: sparse.csr_matrix, wanted: sparse.csr_matrix, n_held_out: npt.NDArray[np.int64]
    ) -> Collector:
        """Return a collector of candidates among the items that somebody listens to."""
        n = len(self.is_hidden)
        return Collector(consumed[:, :n], wanted[:, :n], n_held_out, self.is_hidden)

    def scores(self, base_models: Mapping[str, Floats]) -> dict[str, Floats]:
        """Return the scores (B, I) of every base model as if the hidden items had no listeners."""
        n = len(self.is_hidden)
        found = {name: np.array(each[:, :n]) for name, each in base_models.items()}
        for name, each in found.items():
            if name not in self.content:
                each[:, self.is_hidden] = 0
        return found
