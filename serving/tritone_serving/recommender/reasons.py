"""Explanations of recommendations: each score as a sum of contributions with their causes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from tritone_serving.recommender.base_models.base import LocalBaseModel, ScoreParts, whole
from tritone_serving.recommender.base_models.content import Tags
from tritone_serving.recommender.base_models.remote import RemoteBaseModel
from tritone_serving.recommender.batch import RequestBatch
from tritone_serving.recommender.catalogue import Catalogue
from tritone_serving.recommender.ensemble import log_scaled
from tritone_serving.recommender.ranking import Ranked
from tritone_serving.recommender.requests import Floats, ScoreReason
from tritone_serving.recommender.resolving import Resolver
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.scorer import EnsembleScorer, Scored

_ENSEMBLE: Final = "ensemble"
_NOTHING: Final = 1e-12
_MOST_NAMED: Final = 20  # strongest causes that are listed per item and base model; the others are summed up

_MOST_AT_ONCE: Final = 4 << 20  # contributions computed at a time; takes about 100 MB


class Explainer:
    """Attributes recommendations of one artifact to their causes."""

    def __init__(self, scorer: EnsembleScorer, resolver: Resolver, catalogue: Catalogue, *, min_friends: int) -> None:
        """Keep what names causes.

        Args:
            scorer: base models and ensembles.
            resolver: reads the listening of friends.
            catalogue: names of items and tags.
            min_friends: smallest number of friends whose shared listening may be named.
        """
        self._scorer = scorer
        self._resolver = resolver
        self._catalogue = catalogue
        self._min_friends = min_friends

    def reasons_of(
        self,
        batch: RequestBatch,
        row: int,
        *,
        ranked: Ranked,
        scored: Scored,
        is_trusted: bool,
    ) -> tuple[tuple[ScoreReason, ...], ...]:
        """Return the reasons for each item recommended for one request, in descending order of their amounts.

        A reason names a friend only if a trusted caller listed that friend in the request; stored friends are summed up
        without names. It names an item that friends listen to only if at least `min_friends` of them do.

        Args:
            row: index of the request in the batch.
            ranked: the recommended items.
            scored: scores of the whole batch.
            is_trusted: whether the caller may use all users' data. For other callers, an item that fewer than
                `min_friends` friends listen to is not attributed to friends at all.
        """
        found: list[list[ScoreReason]] = [[] for _ in ranked.items]
        scorer, weights = self._scorer, scored.weights.of(row)
        known = ranked.items < scorer.n_listened
        shared = self._shared_causes(batch, row) if batch.borrowed[row] else None
        for column, (name, model_scores) in enumerate(scored.base_models.items()):
            counts = np.where(known, weights.listened[0, column], weights.cold[0, column]).astype(np.float64)
            if not counts.any():
                continue
            base_model = scorer.base_models[name]
            for some in _slices(len(ranked.items), int(batch.history.counts[row])):
                items = ranked.items[some]
                raw = model_scores[row, scored.positions(items)]
                # A network's scores cannot be attributed to single items of a history.
                parts = (
                    [whole("history", raw)]
                    if isinstance(base_model, RemoteBaseModel)
                    else list(base_model.parts(batch, row, items))
                )
                for part in _distributed(parts, log_scaled(raw, scorer.scales[name]) * counts[some]):
                    because = "friends_listening" if part.because == "history" and batch.borrowed[row] else part.because
                    causes = [self._name(batch, row, part.because, int(cause)) for cause in part.causes]
                    if shared is not None:
                        causes = shared.names(part, causes, base_model)
                    is_hidden = part.because == "friend" and not is_trusted
                    shown = _without_few(part, found[some], self._min_friends) if is_hidden else part
                    texts = self._catalogue.texts_of if part.because == "history" else _no_texts
                    _add(found[some], name, because, shown, causes, texts=texts)
        extras = {
            "novelty": ranked.novelty,
            "diversity": ranked.diversity,
            "cold_item": np.where(known, 0, weights.bias[0]),
        }
        for index, reasons in enumerate(found):
            for because, amounts in extras.items():
                if amounts[index]:
                    reasons.append(ScoreReason(_ENSEMBLE, because, "", float(amounts[index])))
        return tuple(tuple(sorted(reasons, key=lambda reason: -reason.amount)) for reasons in found)

    def _shared_causes(self, batch: RequestBatch, row: int) -> _SharedCauses:
        friends = batch.friends.row(row)[0].astype(np.int64)
        return _SharedCauses(self._resolver.listening_of(friends), len(self._catalogue.item_ids), self._min_friends)

    def _name(self, batch: RequestBatch, row: int, because: str, cause: int) -> str:
        if cause < 0:
            return ""
        if because == "history":
            return self._catalogue.item_ids[cause]
        if because == "friend":
            return batch.friend_ids[row].get(cause, "")
        if because == "tag":
            return self._catalogue.tags[cause]
        return ""


class _SharedCauses:
    """Counts of friends by item and tag, to hide those that fewer than `least` have in common."""

    def __init__(self, listening: Rows, n_items: int, least: int) -> None:
        self._listening, self._n_items, self._least = listening, n_items, least

    def names(self, part: ScoreParts, names: list[str], base_model: LocalBaseModel | RemoteBaseModel) -> list[str]:
        """Return the names of a part's causes, empty where too few friends share the cause."""
        if part.because == "history":
            counts = np.bincount(self._listening.columns, minlength=self._n_items)
        elif part.because == "tag" and isinstance(base_model, Tags):
            consumed = self._listening.to_csr(self._n_items)
            tagged = consumed.astype(np.bool_) @ base_model.by_item.to_csr(base_model.table.n_rows).astype(np.bool_)
            counts = np.asarray(tagged.getnnz(axis=0))
        else:
            return names
        return [
            name if cause >= 0 and counts[cause] >= self._least else ""
            for name, cause in zip(names, part.causes.tolist(), strict=True)
        ]


def _without_few(part: ScoreParts, found: list[list[ScoreReason]], least: int) -> ScoreParts:
    """Return the part without items that few friends account for; move their amounts to the reason `listeners`."""
    few = (part.amounts != 0).sum(1) < least
    for reasons, amount, is_few in zip(found, part.amounts.astype(np.float64).sum(1), few, strict=True):
        if is_few and amount:
            reasons.append(ScoreReason(_ENSEMBLE, "listeners", "", float(amount)))
    return ScoreParts(part.because, part.causes, np.where(few[:, None], 0, part.amounts).astype(np.float32))


def _slices(n_items: int, n_history: int) -> list[slice]:
    """Return slices of items such that the contributions of all history items to each slice fit into memory."""
    size = max(1, _MOST_AT_ONCE // max(n_history, 1))
    return [slice(start, start + size) for start in range(0, n_items, size)]


def _distributed(parts: Sequence[ScoreParts], contributions: Floats) -> list[ScoreParts]:
    """Distribute a base model's contributions (n,) to the ensemble over its causes, in proportion to their amounts."""
    total = np.zeros(len(contributions))
    for part in parts:
        total += part.amounts.astype(np.float64).sum(1)
    factors = np.divide(contributions, total, out=np.zeros(len(total)), where=np.abs(total) > _NOTHING)
    return [
        ScoreParts(part.because, part.causes, (part.amounts * factors[:, None]).astype(np.float32)) for part in parts
    ]


def _add(
    found: list[list[ScoreReason]],
    name: str,
    because: str,
    part: ScoreParts,
    names: Sequence[str],
    *,
    texts: Callable[[int], tuple[str, str]],
) -> None:
    """Append the contributions of a part to each item's reasons; unnamed and weak causes are merged into one reason.

    Args:
        texts: returns title and artist of a cause.
    """
    is_named = np.array([bool(each) for each in names], np.bool_)
    for reasons, amounts in zip(found, part.amounts.astype(np.float64), strict=True):
        listed = np.flatnonzero(is_named & (amounts != 0))
        if len(listed) > _MOST_NAMED:
            listed = listed[np.argpartition(-np.abs(amounts[listed]), _MOST_NAMED - 1)[:_MOST_NAMED]]
        for cause in listed.tolist():
            title, artist = texts(int(part.causes[cause]))
            reasons.append(ScoreReason(name, because, names[cause], float(amounts[cause]), title, artist))
        rest = np.ones(len(amounts), np.bool_)
        rest[listed] = False
        if unnamed := float(amounts[rest].sum()):
            reasons.append(ScoreReason(name, because, "", unnamed))


def _no_texts(cause: int) -> tuple[str, str]:
    """Return no title and no artist, for causes that are not items."""
    return "", ""
