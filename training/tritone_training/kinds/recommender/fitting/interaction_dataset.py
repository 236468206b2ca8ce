"""Interactions, tags and friends as sparse matrices, the training data of the base models.

Shapes: U users, I items, G tags, A assignments of tags by users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.pseudonyms import pseudonyms
from tritone_training.data.interactions import ListeningData, Log, UserSequences, words_of
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.taste_vae.train import weigh_rows

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class InteractionDataset:
    """Training data, with users and items in the order of the artifact.

    Attributes:
        users: raw ids, ordered by pseudonym.
        pseudonyms: (U, 2).
        items: ids in descending order of popularity; items without listeners come last.
        plays: (U, I) play counts as logged.
        weights: (U, I) weights computed from the play counts.
        tagged: (U, I) 1 where a user tagged an item without a logged play.
        tags: (I, G) number of users who assigned each tag; words of metadata count once.
        tag_names: (G,).
        given: (A,) each, user, item and tag of the assignments in `tagged`.
        friends: (U, U) 0 or 1, symmetric.
        sequences: the order of listening; None if the log has none.
    """

    users: Sequence[str]
    pseudonyms: npt.NDArray[np.uint64]
    items: Sequence[str]
    plays: sparse.csr_matrix
    weights: sparse.csr_matrix
    tagged: sparse.csr_matrix
    tags: sparse.csr_matrix
    tag_names: Sequence[str]
    given: tuple[Ints, Ints, Ints]
    friends: sparse.csr_matrix
    sequences: UserSequences | None = None

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    def listening(self, tag_weight: float) -> sparse.csr_matrix:
        """Return the weights plus `tag_weight` for tagged items (U, I)."""
        return sparse.csr_matrix(self.weights + self.tagged * np.float32(tag_weight))


def build_dataset(
    listening: ListeningData, config: RecommenderConfig, key: bytes, more: Sequence[str] = ()
) -> InteractionDataset:
    """Build the dataset from the training split of a log.

    Args:
        listening: log, tags, metadata and friends.
        config: hyper-parameters.
        key: key of the users' pseudonyms.
        more: further items, such as those known from recordings only.
    """
    train = listening.train
    active = np.unique(train.user)
    raw = [train.users[index] for index in active.tolist()]
    pairs = pseudonyms(key, raw)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    users = [raw[index] for index in order.tolist()]
    user_places = {name: index for index, name in enumerate(users)}
    items = _items(listening, more)
    item_places = {name: index for index, name in enumerate(items)}
    plays = train.matrix(user_places, item_places)
    tags, names, given = _tags(listening, user_places, item_places, plays)
    tagged = sparse.csr_matrix(
        (np.ones(len(given[0]), np.float32), (given[0], given[1])), shape=plays.shape, dtype=np.float32
    )
    tagged.data[:] = 1
    return InteractionDataset(
        users,
        pairs[order],
        items,
        plays,
        weigh_rows(plays, config.power),
        tagged,
        tags,
        names,
        given,
        _friends(listening.friends, user_places),
        renumbered(train, user_places, item_places),
    )


def renumbered(log: Log, users: Mapping[str, int], items: Mapping[str, int]) -> UserSequences | None:
    """Return the sequences of a log with other indices of users and items; events without a given index are left out.

    Args:
        log: the log.
        users: id -> index.
        items: id -> index.
    """
    if log.sequences is None:
        return None
    user = np.array([users.get(name, -1) for name in log.users], np.int64)[log.sequences.user]
    item = np.array([items.get(name, -1) for name in log.items], np.int64)[log.sequences.item]
    known = (user >= 0) & (item >= 0)
    time = None if log.sequences.time is None else log.sequences.time[known]
    return UserSequences.ordered(user[known], item[known], time, log.sequences.skipped[known])


def dataset_of_matrix(plays: sparse.csr_matrix, config: RecommenderConfig, key: bytes) -> InteractionDataset:
    """Build a dataset from play counts (U, I) only, with numbered users and items; used by benchmarks."""
    n_users, n_items = plays.shape
    counts = np.bincount(plays.indices, minlength=n_items)
    best = np.argsort(-counts, kind="stable")
    pairs = pseudonyms(key, [f"user-{number}" for number in range(n_users)])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    plays = sparse.csr_matrix(plays[order])
    index = np.empty(n_items, np.int32)
    index[best] = np.arange(n_items, dtype=np.int32)
    plays.indices = index[plays.indices]
    plays.sort_indices()
    none = np.zeros(0, np.int64)
    return InteractionDataset(
        [f"user-{number}" for number in order.tolist()],
        pairs[order],
        [f"item-{number}" for number in best.tolist()],
        plays,
        weigh_rows(plays, config.power),
        sparse.csr_matrix(plays.shape, dtype=np.float32),
        sparse.csr_matrix((n_items, 0), dtype=np.float32),
        [],
        (none, none, none),
        sparse.csr_matrix((n_users, n_users), dtype=np.float32),
    )


def _items(listening: ListeningData, more: Sequence[str]) -> list[str]:
    train = listening.train
    counts = dict(zip(train.items, np.bincount(train.item, minlength=len(train.items)).tolist(), strict=True))
    consumed = {name for name, count in counts.items() if count}
    known = consumed | set(listening.tags.items) | set(listening.metadata) | set(more)
    return sorted(known, key=lambda name: (-counts.get(name, 0), name))


def _tags(
    listening: ListeningData, users: Mapping[str, int], items: Mapping[str, int], plays: sparse.csr_matrix
) -> tuple[sparse.csr_matrix, list[str], tuple[Ints, Ints, Ints]]:
    rows = [(items[i], t, users.get(u, -1)) for i, t, u in zip(
        listening.tags.items, listening.tags.tags, listening.tags.users, strict=True
    )]  # fmt: skip
    rows += [(items[item], word, -1) for item, row in listening.metadata.items() for word in sorted(words_of(row))]
    names = sorted({tag for _, tag, _ in rows})
    indices = {tag: index for index, tag in enumerate(names)}
    item = np.array([row[0] for row in rows], np.int64)
    tag = np.array([indices[row[1]] for row in rows], np.int64)
    user = np.array([row[2] for row in rows], np.int64)
    counts = sparse.csr_matrix(
        (np.ones(len(rows), np.float32), (item, tag)), shape=(len(items), len(names)), dtype=np.float32
    )
    played = np.repeat(np.arange(plays.shape[0]), np.diff(plays.indptr)) * plays.shape[1] + plays.indices
    unplayed = (user >= 0) & ~np.isin(user * plays.shape[1] + item, played)
    return counts, names, (user[unplayed], item[unplayed], tag[unplayed])


def _friends(pairs: Sequence[tuple[str, str]], users: Mapping[str, int]) -> sparse.csr_matrix:
    known = [(users[a], users[b]) for a, b in pairs if a in users and b in users]
    first, second = np.array([a for a, _ in known], np.int64), np.array([b for _, b in known], np.int64)
    both = sparse.csr_matrix(
        (np.ones(2 * len(known), np.float32), (np.concatenate([first, second]), np.concatenate([second, first]))),
        shape=(len(users), len(users)),
    )
    both.data[:] = 1
    return both
