"""Words of items, from tags and metadata, as a sparse matrix.

Side information helps with items of few listeners, or none. A user's tag is used only if the training split contains a
listen of that user to the item; otherwise it could reveal a held-out listen. Tags without a user are always used.
Shapes: T items, W words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import sparse

from tritone_training.data.interactions.listening import ListeningData
from tritone_training.data.interactions.reading import words_of

_LEAST_ITEMS: Final = 3  # items with a word; rarer words cannot generalise


def words_matrix(listening: ListeningData, items: Sequence[str]) -> sparse.csr_matrix:
    """Return the weights of words `log(1 + count) x rarity` (T, W), each row of norm 1 or 0."""
    indices = {name: index for index, name in enumerate(items)}
    log = listening.train
    consumed = {
        (log.users[u], log.items[i]) for u, i in zip(log.user.tolist(), log.item.tolist(), strict=True)
    }  # fmt: skip
    side_info: Counter[tuple[int, str]] = Counter()
    for item, tag, user in zip(listening.tags.items, listening.tags.tags, listening.tags.users, strict=True):
        if item in indices and (not user or (user, item) in consumed):
            side_info[indices[item], tag] += 1
    for item, row in listening.metadata.items():
        if item in indices:
            side_info.update((indices[item], word) for word in words_of(row))
    n_items = Counter(word for _, word in side_info)
    columns = {word: index for index, word in enumerate(sorted(w for w, n in n_items.items() if n >= _LEAST_ITEMS))}
    entries = [(item, columns[word], n) for (item, word), n in side_info.items() if word in columns]
    counts = sparse.csr_matrix(
        (
            np.log1p(np.array([n for _, _, n in entries], np.float32)),
            (np.array([i for i, _, _ in entries], np.int64), np.array([c for _, c, _ in entries], np.int64)),
        ),
        shape=(len(items), len(columns)),
    )
    rarity = np.log(len(items) / np.maximum(counts.getnnz(axis=0), 1))
    weighted = sparse.csr_matrix(counts @ sparse.diags_array(rarity))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    return sparse.csr_matrix(sparse.diags_array(1 / np.maximum(lengths, 1e-9)) @ weighted, dtype=np.float32)
