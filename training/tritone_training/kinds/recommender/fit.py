"""Every member fitted on the training part: arrays and manifest entries of the artifact, no weights yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tritone_serving.recommender.artifact import rows_arrays, text_arrays
from tritone_serving.recommender.pseudonyms import key_check
from tritone_serving.recommender.rows import Rows
from tritone_training._exceptions import TrainingError
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.neighbourhoods import ease_near, graph_near, neighbourhoods
from tritone_training.kinds.recommender.own_tags import ease_ratios, item_knn_ratios, tag_ratios
from tritone_training.kinds.recommender.said import said_of
from tritone_training.kinds.recommender.tables import (
    MOST_DUAL_USERS,
    ease_table,
    graph_of,
    graph_table,
    item_knn_table,
    item_vectors,
    item_vectors_drawn,
    ridge,
)
from tritone_training.kinds.recommender.world import World

OnStep = Callable[[str], Callable[[int, int], None]]


@dataclass
class Parts:
    """An artifact in the making.

    Attributes:
        arrays: name -> array.
        members: the manifest's entries.
    """

    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    members: dict[str, dict[str, Any]] = field(default_factory=dict)


def fit_members(
    world: World,
    config: RecommenderConfig,
    *,
    metadata: Mapping[str, Mapping[str, str]],
    on_step: OnStep,
) -> Parts:
    """Fit all members but `taste_vae` and those that need sound.

    Raises:
        TrainingError: hyper-parameters are so extreme that something is not finite, or cannot be solved.
    """
    parts = Parts()
    _base(parts, world, metadata)
    _popularity(parts, world)
    listening = world.listening(config.tag_weight)
    large = world.n_items > config.ease_most_items and world.n_users > MOST_DUAL_USERS
    items = _items_among_neighbours if large else _items_among_all
    try:
        items(parts, world, listening, config, on_step)
    except np.linalg.LinAlgError as error:
        raise TrainingError(f"the item-item members cannot be solved ({error}); raise ease_l2 or graph_l2") from error
    _people(parts, world, listening, config)
    _tags(parts, world, config)
    _check_finite(parts)
    return parts


def _check_finite(parts: Parts) -> None:
    for name, array in parts.arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            member = name.partition(".")[0]
            raise TrainingError(
                f"{member}: what was fitted holds numbers that are not finite; set its hyper-parameters less extremely"
            )


def _items_among_all(
    parts: Parts, world: World, listening: sparse.csr_matrix, config: RecommenderConfig, on_step: OnStep
) -> None:
    tagged = world.tagged.nnz > 0
    table = item_knn_table(listening, config.item_knn_shrink, config.n_neighbours, on_step("item-kNN"))
    _item_item(parts, "item_knn", table, config)
    if tagged:
        own = item_knn_ratios(world, table, config.tag_weight, listening, config.item_knn_shrink)
        parts.arrays.update(rows_arrays("item_knn.own", own))
    said = said_of(world, config.ease_tags)
    solved = ridge(sparse.csr_matrix(sparse.vstack([world.weights, said.rows])), config.ease_l2)
    _item_item(parts, "ease", ease_table(solved, config.n_neighbours, on_step("EASE")), config)
    if tagged:
        parts.arrays.update(rows_arrays("ease.own", ease_ratios(world, solved, said)))
    del solved, said
    graph = graph_of(world.weights)
    table = graph_table(graph, config.graph_l2, config.n_neighbours, on_step("graph filter"))
    _item_item(parts, "graph", table, config)
    parts.arrays["vectors"] = item_vectors(graph, config.n_factors)


def _items_among_neighbours(
    parts: Parts, world: World, listening: sparse.csr_matrix, config: RecommenderConfig, on_step: OnStep
) -> None:
    """The same members where the items' dense matrices would be too large.

    EASE learns from listening alone here: what one user's tags did to it could not be taken back.
    """
    n = config.n_neighbours
    near = neighbourhoods(listening, n, config.item_knn_shrink, on_step("item-kNN"))
    table = near.table(n, near.cosines)
    _item_item(parts, "item_knn", table, config)
    if world.tagged.nnz > 0:
        own = item_knn_ratios(world, table, config.tag_weight, listening, config.item_knn_shrink)
        parts.arrays.update(rows_arrays("item_knn.own", own))
        near = neighbourhoods(world.weights, n, config.item_knn_shrink, on_step("EASE's neighbours"))
    _item_item(parts, "ease", ease_near(near, n, config.ease_l2, on_step("EASE")), config)
    parts.members["ease"]["among"] = n
    del near, table
    graph = graph_of(world.weights)
    near = neighbourhoods(graph.edges, n, 0.0, on_step("graph's neighbours"))
    table = graph_near(near, graph.degrees, n, config.graph_l2, on_step("graph filter"))
    _item_item(parts, "graph", table, config)
    parts.members["graph"]["among"] = n
    del near, table
    on_step("vectors")
    parts.arrays["vectors"] = item_vectors_drawn(graph, config.n_factors)


def manifest_of(parts: Parts, world: World, config: RecommenderConfig, key: bytes) -> dict[str, Any]:
    """What recommender.json says before the ensemble's weights are known."""
    return {
        "n_items": world.n_items,
        "n_users": world.n_users,
        "members": parts.members,
        "circle": {"damping": config.friends_damping, "second": config.friends_second},
        "weighting": {"power": config.power, "skip": config.skip},
        "key_check": key_check(key),
        "personal_data": (
            "per user, under a keyed pseudonym: items and how often they were played, which friends are users too, "
            "which items the user tagged; the key is not in this folder"
        ),
    }


def _base(parts: Parts, world: World, metadata: Mapping[str, Mapping[str, str]]) -> None:
    parts.arrays["users"] = world.pseudonyms
    parts.arrays.update(text_arrays("items", world.items))
    parts.arrays.update(rows_arrays("history", Rows.from_csr(world.plays)))
    parts.arrays.update(rows_arrays("friends", Rows.from_csr(world.friends)))
    for name, column in (("titles", "title"), ("artists", "artist")):
        texts = [metadata.get(item, {}).get(column, "") for item in world.items]
        if any(texts):
            parts.arrays.update(text_arrays(name, texts))


def _popularity(parts: Parts, world: World) -> None:
    counts = np.diff(sparse.csc_matrix(world.plays).indptr)
    shares = np.log1p(counts) / max(np.log1p(counts.max(initial=0)), 1e-9)
    parts.arrays["popularity.shares"] = shares.astype(np.float32)
    parts.members["popularity"] = {"kind": "popularity"}


def _item_item(parts: Parts, name: str, table: sparse.csr_matrix, config: RecommenderConfig) -> None:
    parts.arrays.update(rows_arrays(name, Rows.from_csr(table)))
    parts.members[name] = {"kind": "item_item", "damping": config.damping}


def _people(parts: Parts, world: World, listening: sparse.csr_matrix, config: RecommenderConfig) -> None:
    counts = np.bincount(listening.indices, minlength=world.n_items)
    rarity = np.log((world.n_users + 1) / (counts + 1)).astype(np.float32)
    keys = _likeness_keys(listening, rarity)
    parts.arrays["user_knn.means"] = (np.asarray(keys.sum(1)).ravel() / world.n_items).astype(np.float32)
    parts.arrays.update(rows_arrays("listening", Rows.from_csr(listening)))
    parts.arrays.update(rows_arrays("listeners", Rows.from_csr(_drawn(keys, config.user_knn_people).T)))
    parts.arrays["listeners.rarity"] = rarity
    held_back = np.maximum(counts, 1).astype(np.float64) ** -config.user_knn_damping
    parts.arrays["user_knn.held_back"] = held_back.astype(np.float32)
    parts.members["user_knn"] = {
        "kind": "user_knn",
        "metric": "cosine",
        "n_neighbours": config.user_knn_neighbours,
        "sharpness": config.user_knn_sharpness,
        **_drawn_people(world, config),
    }
    if world.friends.nnz:
        parts.members["social"] = {"kind": "social", "base": config.social_base, **_drawn_people(world, config)}


def _likeness_keys(listening: sparse.csr_matrix, rarity: npt.NDArray[np.float32]) -> sparse.csr_matrix:
    """(U, I) listening weighted by rarity, each user of length 1."""
    keys = listening.astype(np.float32, copy=True)
    keys.data *= rarity[keys.indices]
    lengths = np.sqrt(np.asarray(keys.multiply(keys).sum(1)).ravel())
    keys.data *= np.repeat(1 / np.maximum(lengths, 1e-9), np.diff(keys.indptr)).astype(np.float32)
    return keys


def _drawn_people(world: World, config: RecommenderConfig) -> dict[str, int]:
    """How many people were drawn, where not all may be neighbours."""
    return {"drawn": config.user_knn_people} if world.n_users > config.user_knn_people else {}


def _drawn(keys: sparse.csr_matrix, n: int) -> sparse.csr_matrix:
    """The rows of n people drawn at random, the others empty: whoever asks is compared with these alone."""
    if keys.shape[0] <= n:
        return keys
    chosen = np.zeros(keys.shape[0], np.bool_)
    chosen[np.random.default_rng(0).permutation(keys.shape[0])[:n]] = True
    counts = np.where(chosen, np.diff(keys.indptr), 0)
    stays = np.repeat(chosen, np.diff(keys.indptr))
    starts = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_matrix((keys.data[stays], keys.indices[stays], starts), shape=keys.shape)


def _tags(parts: Parts, world: World, config: RecommenderConfig) -> None:
    if not world.tags.nnz:
        return
    counts = np.bincount(world.tags.indices, minlength=len(world.tag_names))
    idf = np.log(world.n_items / np.maximum(counts, 1)).astype(np.float32)
    weighted = sparse.csr_matrix(world.tags @ sparse.diags_array(idf))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    unit = sparse.csr_matrix(sparse.diags_array(1 / np.maximum(lengths, 1e-9)) @ weighted, dtype=np.float32)
    parts.arrays.update(rows_arrays("tags.by_item", Rows.from_csr(unit)))
    parts.arrays.update(rows_arrays("tags.by_tag", Rows.from_csr(sparse.csr_matrix(unit.T))))
    parts.arrays.update(text_arrays("tags", world.tag_names))
    parts.members["tags"] = {"kind": "tags", "n_profile": config.n_profile_tags}
    if world.tagged.nnz:
        parts.arrays.update(rows_arrays("tags.own", tag_ratios(world, idf)))
