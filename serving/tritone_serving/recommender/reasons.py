"""Why an item was recommended: summands that add up to its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from tritone_serving.recommender.batch import Batch
from tritone_serving.recommender.ensemble import loud
from tritone_serving.recommender.members.base import Part
from tritone_serving.recommender.members.taste import Taste, whole_taste
from tritone_serving.recommender.question import Floats, Reason
from tritone_serving.recommender.ranking import Ranked
from tritone_serving.recommender.scorer import Scored

if TYPE_CHECKING:
    from tritone_serving.recommender.recommender import Recommender

_ENSEMBLE: Final = "ensemble"
_NOTHING: Final = 1e-12
_MOST_NAMED: Final = 20  # causes of one member for one item, the strongest; the others are summed up

_MOST_AT_ONCE: Final = 4 << 20  # summands: some 100 MB with all that is made of them


def reasons_of(
    recommender: Recommender,
    batch: Batch,
    row: int,
    *,
    ranked: Ranked,
    scored: Scored,
) -> tuple[tuple[Reason, ...], ...]:
    """Reasons for one question's answer, by item, the weightiest first.

    A friend is named only if the question named them: stored friends are summed up without a name.

    Args:
        scored: the batch's.
    """
    found: list[list[Reason]] = [[] for _ in ranked.items]
    scorer, weights = recommender.scorer, scored.weights.of(row)
    known = ranked.items < scorer.n_heard
    for column, (name, member_scores) in enumerate(scored.members.items()):
        counts = np.where(known, weights.heard[0, column], weights.unheard[0, column]).astype(np.float64)
        if not counts.any():
            continue
        member = scorer.members[name]
        for some in _slices(len(ranked.items), int(batch.history.counts[row])):
            items = ranked.items[some]
            raw = member_scores[row, items]
            parts = [whole_taste(raw)] if isinstance(member, Taste) else list(member.parts(batch, row, items))
            for part in _shared(parts, loud(raw, scorer.scales[name]) * counts[some]):
                because = "friends_listening" if part.because == "history" and batch.borrowed[row] else part.because
                causes = [_name(recommender, batch, row, part.because, int(cause)) for cause in part.causes]
                _add(found[some], name, because, part, causes)
    extras = {
        "novelty": ranked.novelty,
        "diversity": ranked.diversity,
        "unheard": np.where(known, 0, weights.bias[0]),
    }
    for place, reasons in enumerate(found):
        for because, amounts in extras.items():
            if amounts[place]:
                reasons.append(Reason(_ENSEMBLE, because, "", float(amounts[place])))
    return tuple(tuple(sorted(reasons, key=lambda reason: -abs(reason.amount))) for reasons in found)


def _slices(n_items: int, n_history: int) -> list[slice]:
    """So many items at a time that a summand for each of them and each of the history fits into little memory."""
    size = max(1, _MOST_AT_ONCE // max(n_history, 1))
    return [slice(start, start + size) for start in range(0, n_items, size)]


def _shared(parts: Sequence[Part], heard: Floats) -> list[Part]:
    """Divide what the ensemble heard of a member (n,) among its causes, in proportion to their amounts."""
    total = np.zeros(len(heard))
    for part in parts:
        total += part.amounts.astype(np.float64).sum(1)
    factors = np.divide(heard, total, out=np.zeros(len(total)), where=np.abs(total) > _NOTHING)
    return [Part(part.because, part.causes, (part.amounts * factors[:, None]).astype(np.float32)) for part in parts]


def _add(found: list[list[Reason]], name: str, because: str, part: Part, names: Sequence[str]) -> None:
    """A part's summands to each item's reasons; causes without a name, and the weaker of many, become one."""
    is_named = np.array([bool(each) for each in names], np.bool_)
    for reasons, amounts in zip(found, part.amounts.astype(np.float64), strict=True):
        told = np.flatnonzero(is_named & (amounts != 0))
        if len(told) > _MOST_NAMED:
            told = told[np.argpartition(-np.abs(amounts[told]), _MOST_NAMED - 1)[:_MOST_NAMED]]
        reasons += [Reason(name, because, names[cause], float(amounts[cause])) for cause in told.tolist()]
        rest = np.ones(len(amounts), np.bool_)
        rest[told] = False
        if nameless := float(amounts[rest].sum()):
            reasons.append(Reason(name, because, "", nameless))


def _name(recommender: Recommender, batch: Batch, row: int, because: str, cause: int) -> str:
    if cause < 0:
        return ""
    if because == "history":
        return recommender.item_ids[cause]
    if because == "friend":
        return batch.friend_ids[row].get(cause, "")
    if because == "tag":
        return recommender.tags[cause]
    return ""
