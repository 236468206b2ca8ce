"""Add items without listeners to an artifact, so that they are recommended by tags, words and sound without a new fit.

New items come last, so the indices of all other items, and with them the trained base models, stay valid. They are
scored like the other items without listeners, see `ensemble`. Precomputed rankings are brought up to date.
Shapes: I items, N items added, U users, G tags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.array_validation import rows_of
from tritone_serving.recommender.artifact import EMBEDDINGS, N_FITTED, Array, Artifact, rows_arrays, text_arrays
from tritone_serving.recommender.base_models import open_base_models
from tritone_serving.recommender.batch import RequestBatch, weigh
from tritone_serving.recommender.exceptions import ArtifactError
from tritone_serving.recommender.moods import AppliedMood
from tritone_serving.recommender.requests import Floats, UnknownInputs
from tritone_serving.recommender.rows import Rows
from tritone_serving.recommender.scorer import EnsembleScorer

MOOD_CENTRE: Final = "items.mood_centre"
MOOD_SPREAD: Final = "items.mood_spread"
_MOODS: Final = "items.moods"
_USERS_AT_ONCE: Final = 256
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class NewItem:
    """An item to add or to update.

    Attributes:
        id: normalised id.
        title: empty if unknown.
        artist: empty if unknown.
        words: its tags and words of metadata, named as in training; unknown ones are ignored.
        embedding: (256,) of norm 1 of its recording; None without one.
        emotions: (9,) of the recording; None without one, or if the network was not trained on emotions.
    """

    id: str
    title: str = ""
    artist: str = ""
    words: frozenset[str] = frozenset()
    embedding: Floats | None = None
    emotions: Floats | None = None


@dataclass(frozen=True)
class AddedItems:
    """What `with_items` changed.

    Attributes:
        added: ids of new items.
        updated: ids of items that were known and changed.
        unchanged: ids of items that are as given already.
        texts_only: ids among `updated` and `unchanged` that were in the last fit: their tags and words are
            used from the next fit.
        n_words_known: words of the given items that some item of the last fit has.
        n_words: all words of the given items.
        n_lists_changed: users whose precomputed ranking changed.
    """

    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    texts_only: tuple[str, ...] = ()
    n_words_known: int = 0
    n_words: int = 0
    n_lists_changed: int = 0


@dataclass(eq=False)
class _Draft:
    """An artifact under change."""

    manifest: dict[str, Any]
    arrays: dict[str, Array]
    changed: set[int] = field(default_factory=set)


def with_items(
    artifact: Artifact, items: Sequence[NewItem], *, on_progress: OnProgress = lambda done, total: None
) -> tuple[dict[str, Any], dict[str, Array], AddedItems]:
    """Return the manifest and the arrays of an artifact with more items, and what changed.

    An item of the last fit keeps its tags and words, which the base models were fitted on; its title, artist and
    recording are updated. An item that was added after the fit is replaced.

    Args:
        artifact: the opened artifact; it is not changed.
        items: with unique ids.
        on_progress: called with the number of users whose rankings are up to date, and of all users.

    Raises:
        ArtifactError: the artifact has arrays of unknown purpose with an entry for each item.
    """
    n_before = artifact.n_items
    n_fitted = int(artifact.manifest.get(N_FITTED, n_before))
    index = {name: number for number, name in enumerate(artifact.texts("items"))}
    added = [item for item in items if item.id not in index]
    index.update({item.id: n_before + number for number, item in enumerate(added)})
    manifest = {name: value for name, value in artifact.manifest.items() if name not in ("arrays", "format")}
    draft = _Draft({**manifest, "n_items": n_before + len(added), N_FITTED: n_fitted}, dict(artifact.arrays))
    if added:
        _extend(artifact, draft, len(added))
    items_by_index = {index[item.id]: item for item in items}
    _put_texts(artifact, draft, items_by_index, added)
    n_words, n_known = _put_words(artifact, draft, items_by_index, n_fitted)
    _put_sounds(draft, items_by_index)
    updated = [
        item.id for item_index, item in items_by_index.items() if item_index < n_before and item_index in draft.changed
    ]
    n_lists = 0
    if added or any(item_index >= n_fitted for item_index in draft.changed):
        n_lists = _update_lists(Artifact(artifact.folder, draft.manifest, draft.arrays), draft, n_fitted, on_progress)
    return (
        draft.manifest,
        draft.arrays,
        AddedItems(
            added=tuple(item.id for item in added),
            updated=tuple(updated),
            unchanged=tuple(
                item.id
                for item_index, item in items_by_index.items()
                if item_index < n_before and item_index not in draft.changed
            ),
            texts_only=tuple(item.id for item_index, item in items_by_index.items() if item_index < n_fitted),
            n_words_known=n_known,
            n_words=n_words,
            n_lists_changed=n_lists,
        ),
    )


def _extend(artifact: Artifact, draft: _Draft, n_added: int) -> None:
    """Add entries for new items to all arrays that are indexed by item; texts are added by `_put_texts`."""
    n_items = artifact.n_items
    for name, array in artifact.arrays.items():
        table = name.removesuffix(".starts")
        rows = rows_of(name, artifact.manifest["base_models"])
        if rows is None and name.endswith((".columns", ".values", ".times", ".ids", ".ends")):
            continue
        if rows is None and len(array) == n_items + (table != name):
            raise ArtifactError(
                f"{artifact.folder}: items cannot be added, because this version of Tritone does not know the array "
                f"{name}, which may have an entry for each item; train again with the new items in --metadata"
            )
        if rows != "I" or name.endswith(".ends"):
            continue
        if table != name:
            draft.arrays[name] = np.concatenate([array, np.full(n_added, array[-1], array.dtype)])
        else:
            value = {"popularity_penalty": 1.0, "rarity": np.log(artifact.n_users + 1)}.get(
                name.rpartition(".")[2], 0.0
            )
            draft.arrays[name] = np.concatenate([array, np.full((n_added, *array.shape[1:]), value, array.dtype)])


def _put_texts(
    artifact: Artifact, draft: _Draft, items_by_index: Mapping[int, NewItem], added: Sequence[NewItem]
) -> None:
    draft.arrays.update(text_arrays("items", [*artifact.texts("items"), *(item.id for item in added)]))
    for name, attribute in (("titles", "title"), ("artists", "artist")):
        known = f"{name}.ends" in artifact.arrays
        if not known and not any(getattr(item, attribute) for item in items_by_index.values()):
            continue
        before = artifact.texts(name) if known else [""] * artifact.n_items
        texts = [*before, *[""] * len(added)]
        for item_index, item in items_by_index.items():
            text = getattr(item, attribute)
            is_added = item_index >= artifact.manifest.get(N_FITTED, artifact.n_items)
            if texts[item_index] != text and (text or is_added):
                texts[item_index] = text
                draft.changed.add(item_index)
        draft.arrays.update(text_arrays(name, texts))


def _put_words(
    artifact: Artifact, draft: _Draft, items_by_index: Mapping[int, NewItem], n_fitted: int
) -> tuple[int, int]:
    """Replace the tags of items that were added after the fit; return the numbers of words, and of known ones."""
    n_words = sum(len(item.words) for item in items_by_index.values())
    if "tags.ends" not in artifact.arrays:
        return n_words, 0
    vocabulary = {name: number for number, name in enumerate(artifact.texts("tags"))}
    by_item = artifact.rows("tags.by_item")
    fitted = by_item.columns[: by_item.starts[n_fitted]]
    idf = np.log(n_fitted / np.maximum(np.bincount(fitted, minlength=len(vocabulary)), 1)).astype(np.float32)
    starts = draft.arrays["tags.by_item.starts"]
    table = Rows(starts, by_item.columns, by_item.values)
    columns, values = [], []
    n_known = 0
    for item_index in range(n_fitted, table.n_rows):
        tags, weights = table.row(item_index)
        if item_index in items_by_index:
            found = np.array(
                sorted(vocabulary[word] for word in items_by_index[item_index].words if word in vocabulary), np.int32
            )
            n_known += len(found)
            length = float(np.linalg.norm(idf[found]))
            given = idf[found] / max(length, 1e-9)
            if not np.array_equal(found, tags) or not np.array_equal(given, weights):
                draft.changed.add(item_index)
            tags, weights = found, given
        columns.append(tags)
        values.append(weights)
    n_known += sum(
        len(item.words & vocabulary.keys()) for item_index, item in items_by_index.items() if item_index < n_fitted
    )
    more = Rows.from_lists(columns, values)
    kept = slice(int(by_item.starts[n_fitted]))
    whole = Rows(
        np.concatenate([by_item.starts[: n_fitted + 1], by_item.starts[n_fitted] + more.starts[1:]]),
        np.concatenate([by_item.columns[kept], more.columns]),
        np.concatenate([by_item.values[kept], more.values]),
    )
    draft.arrays.update(rows_arrays("tags.by_item", whole))
    turned = sparse.csr_matrix(whole.to_csr(len(vocabulary)).T)
    draft.arrays.update(rows_arrays("tags.by_tag", Rows.from_csr(turned)))
    return n_words, n_known


def _put_sounds(draft: _Draft, items_by_index: Mapping[int, NewItem]) -> None:
    if EMBEDDINGS not in draft.arrays:
        return
    embeddings = np.array(draft.arrays[EMBEDDINGS])
    has_moods = _MOODS in draft.arrays and MOOD_CENTRE in draft.arrays
    moods = np.array(draft.arrays[_MOODS]) if has_moods else np.zeros(0)
    for item_index, item in items_by_index.items():
        if item.embedding is None:
            continue
        if not np.allclose(embeddings[item_index], item.embedding, atol=1e-6):
            embeddings[item_index] = item.embedding
            draft.changed.add(item_index)
        if has_moods and item.emotions is not None:
            moods[item_index] = (item.emotions - draft.arrays[MOOD_CENTRE]) / draft.arrays[MOOD_SPREAD]
    draft.arrays[EMBEDDINGS] = embeddings
    if has_moods:
        draft.arrays[_MOODS] = moods


def _update_lists(artifact: Artifact, draft: _Draft, n_fitted: int, on_progress: OnProgress) -> int:
    """Score the items added after the fit for all users, and put them into the rankings; return how many changed.

    A stored ranking is the top of the complete one. A new item is inserted only above its last item: below it, items
    that are not stored might rank higher.
    """
    names = [name.split(".")[1] for name in draft.arrays if name.startswith("lists.") and name.endswith(".starts")]
    if not names:
        return 0
    scorer = EnsembleScorer(artifact, open_base_models(artifact), None)
    history = artifact.rows("history")
    lists = {arm: artifact.rows(f"lists.{arm}") for arm in names}
    made: dict[str, tuple[list[npt.NDArray[Any]], list[Floats]]] = {arm: ([], []) for arm in names}
    changed: set[int] = set()
    for start in range(0, artifact.n_users, _USERS_AT_ONCE):
        users = np.arange(start, min(start + _USERS_AT_ONCE, artifact.n_users))
        batch = _stored_batch(artifact, history, users)
        for arm, (columns, values) in made.items():
            scores = scorer.score_cold(batch, [arm] * batch.n, n_fitted)  # (b, N)
            for user, new in zip(users.tolist(), scores, strict=True):
                before, amounts = lists[arm].row(user)
                items, ranked = _merged(before, amounts, new, n_fitted)
                if not np.array_equal(items, before):
                    changed.add(user)
                columns.append(items)
                values.append(ranked)
        on_progress(len(users) + start, artifact.n_users)
    for arm, (columns, values) in made.items():
        draft.arrays.update(rows_arrays(f"lists.{arm}", Rows.from_lists(columns, values)))
    return len(changed)


def _merged(
    items: npt.NDArray[np.int32], scores: Floats, new: Floats, n_fitted: int
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Return a ranking with the items from `n_fitted` on ranked by their new scores (N,)."""
    if not len(items):
        return items, scores
    last, size = scores[-1], len(items)
    kept = items < n_fitted
    better = np.flatnonzero(new >= last)
    if kept.all() and not len(better):
        return items, scores
    every = np.concatenate([items[kept], (better + n_fitted).astype(items.dtype)])
    amounts = np.concatenate([scores[kept], new[better]]).astype(np.float32)
    order = np.argsort(-amounts, kind="stable")[:size]
    return every[order], amounts[order]


def _stored_batch(artifact: Artifact, history: Rows, users: npt.NDArray[np.int64]) -> RequestBatch:
    """Return a batch of stored users with their histories, without friends, which say nothing about new items."""
    stored = history.take(users)
    weights = [weigh(stored.row(row)[1], artifact.manifest["weighting"]) for row in range(len(users))]
    n = len(users)
    nobody = Rows.from_lists([np.zeros(0, np.int64)] * n, [np.zeros(0, np.float32)] * n)
    weighted = Rows(stored.starts, stored.columns, np.concatenate([np.zeros(0, np.float32), *weights]))
    return RequestBatch(
        users=users,
        history=weighted,
        consumed=stored,
        friends=nobody,
        social_neighbourhood=nobody,
        embeddings=None,
        moods=[AppliedMood()] * n,
        unknown=[UnknownInputs()] * n,
        friend_ids=[{}] * n,
        borrowed=np.zeros(n, np.bool_),
        is_known=np.ones(n, np.bool_),
    )
