"""Selection of the strength of moods that are inferred from the last plays, on the validation split.

A query asks for the next item of a listener who played something shortly before. The ensemble ranks all items with and
without the mood of these plays. The strength with the largest gain in NDCG@10 less its standard error is chosen, and 0
if no strength gains more than that. Logs without times or recommenders without moods have no queries.
Shapes: Q queries, I items, S strengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tritone_serving.recommender import Recommender, RecommendRequest
from tritone_serving.recommender.ensemble import log_scaled
from tritone_serving.recommender.moods import LARGEST_STRENGTH, MoodInference
from tritone_training.data.interactions import Log
from tritone_training.kinds.recommender.ensemble.offline import AT_ONCE, RemoteNetworks, remote_scores

STRENGTHS: Final = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, LARGEST_STRENGTH)
_MOST_QUERIES: Final = 3_000
_LEAST_LISTENERS: Final = 10  # with queries; fewer give no error of the gain
_N_BEST: Final = 10
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MoodQueries:
    """Listeners shortly after their last plays, and the items that they played next.

    Attributes:
        requests: (Q,) with the last plays as history.
        users: (Q,) number of the listener in the log.
        targets: (Q,) index of the next item.
    """

    requests: Sequence[RecommendRequest]
    users: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.requests)

    def take(self, kept: npt.NDArray[np.int64]) -> MoodQueries:
        """Return some of the queries."""
        return MoodQueries([self.requests[each] for each in kept.tolist()], self.users[kept], self.targets[kept])


def mood_queries(recommender: Recommender, before: Log, held_out: Log, within_s: float) -> MoodQueries:
    """Return a query for each held-out listen to a new item, shortly after another play.

    Args:
        recommender: knows the items.
        before: the training split.
        held_out: held-out listens, of the same users and items.
        within_s: longest time between the plays of the history and the target.
    """
    nothing = MoodQueries([], np.zeros(0, np.int64), np.zeros(0, np.int64))
    if before.sequences is None or held_out.sequences is None:
        return nothing
    if before.sequences.time is None or held_out.sequences.time is None:
        return nothing
    later = held_out.sequences.take(~held_out.sequences.skipped)
    earlier = before.sequences.take(~before.sequences.skipped)
    assert earlier.time is not None  # noqa: S101 - checked above
    assert later.time is not None  # noqa: S101 - checked above
    known = {name: index for index, name in enumerate(recommender.item_ids)}
    rows = {name: row for row, name in enumerate(before.users)}
    starts, ends = later.starts(len(held_out.users)), earlier.starts(len(before.users))
    pairs = before.matrix()
    requests, users, targets = [], [], []
    for user, name in enumerate(held_out.users):
        row = rows.get(name)
        if row is None:
            continue
        old = slice(int(ends[row]), int(ends[row + 1]))
        heard = {before.items[item] for item in pairs.indices[pairs.indptr[row] : pairs.indptr[row + 1]].tolist()}
        names = [before.items[item] for item in earlier.item[old].tolist()]
        times = earlier.time[old].tolist()
        for event in range(int(starts[user]), int(starts[user + 1])):
            item, at_s = held_out.items[int(later.item[event])], float(later.time[event])
            last = [index for index, each in enumerate(times) if at_s - within_s <= each < at_s]
            if item in known and item not in heard and last:
                requests.append(
                    RecommendRequest(
                        user=name,
                        history=[names[index] for index in last],
                        times=[times[index] for index in last],
                        at_s=at_s,
                    )
                )
                users.append(user)
                targets.append(known[item])
            names.append(item)
            times.append(at_s)
            heard.add(item)
    return MoodQueries(requests, np.array(users, np.int64), np.array(targets, np.int64))


def gains_by_strength(recommender: Recommender, networks: RemoteNetworks, queries: MoodQueries) -> Floats:
    """Return the NDCG@10 of each query by each of `STRENGTHS`, (Q, S).

    Args:
        recommender: infers moods with a strength of 1.
        networks: of the remote base models.
        queries: Q.
    """
    found = np.zeros((len(queries), len(STRENGTHS)))
    n_listened, scales = recommender.scorer.n_listened, recommender.scorer.scales
    for start in range(0, len(queries), AT_ONCE):
        requests = queries.requests[start : start + AT_ONCE]
        resolved = recommender.resolve(requests, use_precomputed=False)
        scored = recommender.score(resolved, remote_scores=remote_scores(resolved.remote_inputs, networks))
        column = list(scored.base_models).index("mood")
        fits = log_scaled(np.array(scored.base_models["mood"]), scales["mood"])
        weights = np.repeat(scored.weights.cold[:, column, None], fits.shape[1], axis=1)
        weights[:, :n_listened] = scored.weights.listened[:, column, None]
        by_mood = weights * fits
        for row in range(len(requests)):
            target = queries.targets[start + row]
            consumed = resolved.batch.consumed.row(row)[0]
            for strength_index, strength in enumerate(STRENGTHS):
                scores = scored.ensemble[row] + (strength - 1) * by_mood[row]
                scores[consumed] = -np.inf
                # Ties count half, so that an order by chance gains nothing.
                rank = (scores > scores[target]).sum() + ((scores == scores[target]).sum() - 1) / 2
                found[start + row, strength_index] = 1 / np.log2(rank + 2) if rank < _N_BEST else 0.0
    return found


def select_mood_inference(
    recommender: Recommender, networks: RemoteNetworks, before: Log, held_out: Log, *, seed: int
) -> dict[str, Any] | None:
    """Return the manifest entry `inferred_mood`, with the metrics of the choice; None if there are no queries.

    Args:
        recommender: infers moods with a strength of 1.
        networks: of the remote base models.
        before: the training split.
        held_out: the validation split.
        seed: draws a sample of many queries.
    """
    if "mood" not in recommender.scorer.base_models:
        return None
    queries = mood_queries(recommender, before, held_out, MoodInference.within_s)
    if not len(queries):
        return None
    if len(queries) > _MOST_QUERIES:
        drawn = np.random.default_rng(seed).choice(len(queries), _MOST_QUERIES, replace=False)
        queries = queries.take(np.sort(drawn))
    gains = gains_by_strength(recommender, networks, queries)
    strength = best_strength(gains, queries.users)
    metrics = {f"{each:g}": round(float(gain), 4) for each, gain in zip(STRENGTHS, gains.mean(0), strict=True)}
    return {**asdict(MoodInference(strength)), "ndcg@10": metrics, "n_queries": len(queries)}


def best_strength(gains: Floats, users: npt.NDArray[np.int64]) -> float:
    """Return the strength whose gain over 0 is the largest after a standard error is taken off; 0 if none is above 0.

    Args:
        gains: (Q, S) NDCG@10 by each of `STRENGTHS`.
        users: (Q,) number of the listener; queries of one listener are not independent.
    """
    _, index = np.unique(users, return_inverse=True)
    counts = np.bincount(index)
    if len(counts) < _LEAST_LISTENERS:
        return 0.0
    lowest = []
    for strength_index in range(len(STRENGTHS)):
        change = gains[:, strength_index] - gains[:, 0]
        off = np.bincount(index, change) - change.mean() * counts
        lowest.append(float(change.mean()) - float(np.sqrt((off**2).sum())) / len(change))
    best = int(np.argmax(lowest))  # the first, which is 0, if all are equal
    return STRENGTHS[best] if lowest[best] > 0 else 0.0


def inference_of_strength_1() -> Mapping[str, Any]:
    """Return the manifest entry with which moods are inferred for `select_mood_inference`."""
    return asdict(MoodInference(1.0))
