"""Simulated listening over the embedded corpus, for demos and tests.

Each listener has a taste (some collections, a preference for a tempo and for minor or major) and friends of similar
taste. Pieces are drawn by taste and popularity, play counts have a heavy tail, and some listeners give tags. Every base
model of the ensemble therefore finds structure in the data, but metrics on them are not valid for real listeners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tritone_training.corpus import load_corpus
from tritone_training.data.interactions.log import Log, TagTable

SIMULATED: Final = "simulated listening over the embedded corpus (no real people)"
N_LISTENERS: Final = 400
_N_TASTES: Final = 6
_FRIENDS_EACH: Final = 3
_OF_KIND: Final = 2.0  # weight of the kind of a piece relative to other words
_UNHEARD: Final = 0.03  # share of pieces without plays, which have only tags


@dataclass(frozen=True, eq=False)
class SimulatedWorld:
    """Simulated listeners.

    Attributes:
        friends: pairs of user ids.
        metadata: the actual metadata of every piece.
    """

    log: Log
    friends: list[tuple[str, str]]
    tags: TagTable
    metadata: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class SimulatedItem:
    """A piece of a simulation.

    Attributes:
        words: the tags that listeners may give it; the first is its kind.
    """

    id: str
    words: tuple[str, ...]
    metadata: Mapping[str, str]


def simulated_world(*, seed: int, n_listeners: int = N_LISTENERS, progress: bool = True) -> SimulatedWorld:
    """Return simulated listeners for the embedded corpus; equal seeds give equal results."""
    return simulate(corpus_items(progress=progress), seed=seed, n_listeners=n_listeners)


def corpus_items(*, progress: bool = True) -> list[SimulatedItem]:
    """Return the pieces of the embedded corpus with their collection, mode, pace, period and metre as words."""
    corpus = load_corpus(progress=progress)
    items = []
    for track in corpus.tracks:
        mode = "minor" if track.key and "minor" in track.key.lower() else "major"
        pace = "slow" if track.tempo_bpm < 90 else "fast" if track.tempo_bpm > 130 else "walking"
        words = (track.collection, mode, pace, track.period, track.metre or "free")
        items.append(SimulatedItem(track.id, words, {"title": track.title, "artist": track.composer}))
    return items


def simulate(items: Sequence[SimulatedItem], *, seed: int, n_listeners: int, mean_items: float = 30) -> SimulatedWorld:
    """Return simulated listeners for the given pieces."""
    rng = np.random.default_rng(seed)
    words = sorted({word for item in items for word in item.words})
    has = np.array(
        [[_OF_KIND if word == item.words[0] else float(word in item.words) for word in words] for item in items]
    )  # (I, words)
    tastes = rng.normal(0, 1.6, (_N_TASTES, len(words)))
    hidden = rng.normal(0, 1, (len(items), 8))  # independent of the words: only friends and similar users reveal it
    hidden_tastes = rng.normal(0, 0.9, (_N_TASTES, 8))
    fame = np.log(rng.zipf(1.6, len(items)).clip(1, 200))
    fame[rng.random(len(items)) < _UNHEARD] = -np.inf
    group = rng.integers(0, _N_TASTES, n_listeners)
    own = rng.normal(0, 0.5, (n_listeners, len(words)))
    liking = (tastes[group] + own) @ has.T / np.sqrt(has.sum(1)) + hidden_tastes[group] @ hidden.T + fame
    users, played, plays = [], [], []
    n_most = int(np.isfinite(fame).sum())
    for listener in range(n_listeners):
        n_items = int(np.clip(rng.lognormal(np.log(mean_items), 0.6), 3, max(3, n_most // 2)))
        chosen = np.argsort(-(liking[listener] + rng.gumbel(0, 1, len(items))))[: min(n_items, n_most)]
        users.append(np.full(len(chosen), listener))
        played.append(chosen)
        plays.append(np.ceil(rng.lognormal(1.5 + 0.3 * np.clip(liking[listener, chosen], -3, 3), 0.8)))
    names = [f"listener-{listener:04d}" for listener in range(n_listeners)]
    user, item = np.concatenate(users), np.concatenate(played)
    order = np.lexsort((item, user))
    log = Log(
        SIMULATED,
        names,
        [each.id for each in items],
        user[order].astype(np.int64),
        item[order].astype(np.int64),
        np.concatenate(plays)[order].astype(np.float32),
        None,
        {
            "source": SIMULATED,
            "n_in": len(user),
            "n_used": len(user),
            "n_users": n_listeners,
            "n_items": len(items),
            "simulated": True,
            "licence": "simulated; no personal data",
        },
    )
    return SimulatedWorld(
        log,
        friend_pairs(rng, group, names),
        assigned_tags(rng, items, log, source=SIMULATED),
        {each.id: dict(each.metadata) for each in items},
    )


def friend_pairs(rng: np.random.Generator, group: npt.NDArray[np.int64], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of friends, mostly of the same taste.

    Args:
        rng: source of randomness.
        group: (U,) group of equal taste of each listener.
        names: (U,) ids.
    """
    pairs: set[tuple[str, str]] = set()
    for listener in range(len(names)):
        alike = np.flatnonzero(group == group[listener])
        for _ in range(int(rng.poisson(_FRIENDS_EACH))):
            pool = alike if rng.random() < 0.8 else np.arange(len(names))
            other = int(rng.choice(pool))
            if other != listener:
                pairs.add((min(names[listener], names[other]), max(names[listener], names[other])))
    return sorted(pairs)


def assigned_tags(rng: np.random.Generator, items: Sequence[SimulatedItem], log: Log, *, source: str) -> TagTable:
    """Return tags for a tenth of the listens, and some for pieces without plays."""
    tagged = np.flatnonzero(rng.random(len(log)) < 0.1)
    pairs = list(zip(log.user[tagged].tolist(), log.item[tagged].tolist(), strict=True))
    unplayed = set(range(len(items))) - set(log.item.tolist())
    pairs += [(int(rng.integers(len(log.users))), item) for item in sorted(unplayed) for _ in range(2)]
    rows = [(items[item].id, str(rng.choice(items[item].words[:3])), log.users[user]) for user, item in pairs]
    return TagTable(
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
        {"source": source, "n_in": len(rows), "n_used": len(rows), "given_by_users": True},
    )
