"""Fitting of the base models on the training split, as arrays and manifest entries of the artifact."""

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
from tritone_training.exceptions import TrainingError
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.engines import IN_PROCESS, Engine
from tritone_training.kinds.recommender.fitting.factorization import item_factors
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset
from tritone_training.kinds.recommender.fitting.neighbourhoods import ease_near, graph_near, neighbourhoods
from tritone_training.kinds.recommender.fitting.order import markov_table, stored_order, transition_table
from tritone_training.kinds.recommender.fitting.side_info import ease_ratios, item_knn_ratios, side_info_of, tag_ratios
from tritone_training.kinds.recommender.fitting.tables import (
    MOST_DUAL_USERS,
    ease_table,
    graph_of,
    graph_table,
    item_knn_table,
    item_vectors,
    item_vectors_drawn,
    ridge,
)

OnStep = Callable[[str], Callable[[int, int], None]]


@dataclass
class ArtifactParts:
    """Arrays and manifest entries of an artifact under construction.

    Attributes:
        arrays: name -> array.
        base_models: base model -> manifest entry.
    """

    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    base_models: dict[str, dict[str, Any]] = field(default_factory=dict)


def fit_base_models(
    dataset: InteractionDataset,
    config: RecommenderConfig,
    *,
    metadata: Mapping[str, Mapping[str, str]],
    on_step: OnStep,
    engine: Engine = IN_PROCESS,
) -> ArtifactParts:
    """Fit all base models except `taste_vae` and those based on recordings.

    Args:
        dataset: the training split.
        config: hyper-parameters.
        metadata: item -> column -> text, for titles and artists.
        on_step: called with the name of a step; returns its progress callback.
        engine: computes what grows with the log; the result does not depend on it.

    Raises:
        EngineError: the engine lost its workers.
        TrainingError: fitted values are not finite, or a system cannot be solved.
    """
    parts = ArtifactParts()
    _base(parts, dataset, metadata)
    _popularity(parts, dataset)
    listening = dataset.listening(config.tag_weight)
    large = dataset.n_items > config.ease_most_items and dataset.n_users > MOST_DUAL_USERS
    items = _items_among_neighbours if large else _items_among_all
    try:
        items(parts, dataset, listening, config, on_step, engine=engine)
    except np.linalg.LinAlgError as error:
        raise TrainingError(
            f"the item-item base models cannot be solved ({error}); raise ease_l2 or graph_l2"
        ) from error
    _people(parts, dataset, listening, config)
    _tags(parts, dataset, config)
    _order(parts, dataset, config, engine)
    _check_finite(parts)
    return parts


def _check_finite(parts: ArtifactParts) -> None:
    for name, array in parts.arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            base_model = name.partition(".")[0]
            raise TrainingError(f"{base_model}: fitted values are not finite; choose less extreme hyper-parameters")


def _items_among_all(
    parts: ArtifactParts,
    dataset: InteractionDataset,
    listening: sparse.csr_matrix,
    config: RecommenderConfig,
    on_step: OnStep,
    *,
    engine: Engine,
) -> None:
    tagged = dataset.tagged.nnz > 0
    table = item_knn_table(listening, config.item_knn_shrink, config.n_neighbours, on_step("item-kNN"), engine)
    _item_item(parts, "item_knn", table, config)
    if tagged:
        own = item_knn_ratios(dataset, table, config.tag_weight, listening, config.item_knn_shrink)
        parts.arrays.update(rows_arrays("item_knn.own_tags", own))
    side_info = side_info_of(dataset, config.ease_tags)
    solved = ridge(sparse.csr_matrix(sparse.vstack([dataset.weights, side_info.rows])), config.ease_l2, engine)
    _item_item(parts, "ease", ease_table(solved, config.n_neighbours, on_step("EASE"), engine), config)
    if tagged:
        parts.arrays.update(rows_arrays("ease.own_tags", ease_ratios(dataset, solved, side_info)))
    del solved, side_info
    graph = graph_of(dataset.weights)
    table = graph_table(graph, config.graph_l2, config.n_neighbours, on_step("graph filter"), engine)
    _item_item(parts, "graph", table, config)
    parts.arrays["vectors"] = item_vectors(graph, config.n_factors)
    _factorization(parts, dataset, config, on_step("matrix factorization"), engine)


def _items_among_neighbours(
    parts: ArtifactParts,
    dataset: InteractionDataset,
    listening: sparse.csr_matrix,
    config: RecommenderConfig,
    on_step: OnStep,
    *,
    engine: Engine,
) -> None:
    """As `_items_among_all`, for catalogues whose dense item-item matrices would be too large.

    EASE is fitted without side information here, because the effect of a user's own tags could not be removed.
    """
    n = config.n_neighbours
    near = neighbourhoods(listening, n, config.item_knn_shrink, on_step("item-kNN"), engine)
    table = near.table(n, near.cosines)
    _item_item(parts, "item_knn", table, config)
    if dataset.tagged.nnz > 0:
        own = item_knn_ratios(dataset, table, config.tag_weight, listening, config.item_knn_shrink)
        parts.arrays.update(rows_arrays("item_knn.own_tags", own))
        near = neighbourhoods(dataset.weights, n, config.item_knn_shrink, on_step("EASE's neighbours"), engine)
    _item_item(parts, "ease", ease_near(near, n, config.ease_l2, on_step("EASE"), engine), config)
    parts.base_models["ease"]["among"] = n
    del near, table
    graph = graph_of(dataset.weights)
    near = neighbourhoods(graph.edges, n, 0.0, on_step("graph's neighbours"), engine)
    table = graph_near(near, graph.degrees, n, config.graph_l2, on_step("graph filter"), engine=engine)
    _item_item(parts, "graph", table, config)
    parts.base_models["graph"]["among"] = n
    del near, table
    on_step("vectors")
    parts.arrays["vectors"] = item_vectors_drawn(graph, config.n_factors, engine)


def manifest_of(
    parts: ArtifactParts, dataset: InteractionDataset, config: RecommenderConfig, key: bytes
) -> dict[str, Any]:
    """Return the manifest without the ensemble's weights."""
    return {
        "n_items": dataset.n_items,
        "n_users": dataset.n_users,
        "base_models": parts.base_models,
        "social_neighbourhood": {"damping": config.friends_damping, "second": config.friends_second},
        "weighting": {"power": config.power, "skip": config.skip},
        "key_check": key_check(key),
        "personal_data": (
            "per user, under a keyed pseudonym: items and how often they were played, which friends are users too, "
            "which items the user tagged"
            + (", the order and times of the latest listens and skips" if dataset.sequences is not None else "")
            + "; the key is not in this folder"
        ),
    }


def _base(parts: ArtifactParts, dataset: InteractionDataset, metadata: Mapping[str, Mapping[str, str]]) -> None:
    parts.arrays["users"] = dataset.pseudonyms
    parts.arrays.update(text_arrays("items", dataset.items))
    parts.arrays.update(rows_arrays("history", Rows.from_csr(dataset.plays)))
    parts.arrays.update(rows_arrays("friends", Rows.from_csr(dataset.friends)))
    for name, column in (("titles", "title"), ("artists", "artist")):
        texts = [metadata.get(item, {}).get(column, "") for item in dataset.items]
        if any(texts):
            parts.arrays.update(text_arrays(name, texts))


def _popularity(parts: ArtifactParts, dataset: InteractionDataset) -> None:
    counts = np.diff(sparse.csc_matrix(dataset.plays).indptr)
    shares = np.log1p(counts) / max(np.log1p(counts.max(initial=0)), 1e-9)
    parts.arrays["popularity.shares"] = shares.astype(np.float32)
    parts.base_models["popularity"] = {"kind": "popularity"}
    heard = dataset.plays.astype(np.bool_)
    means = np.asarray(heard @ shares).ravel() / np.maximum(np.diff(dataset.plays.indptr), 1)
    parts.base_models["mainstream"] = {"kind": "mainstream", "average": round(float(means.mean()), 6)}


def _order(parts: ArtifactParts, dataset: InteractionDataset, config: RecommenderConfig, engine: Engine) -> None:
    """Add the order of listening and its base models, if the log has an order."""
    if dataset.sequences is None or not len(dataset.sequences):
        return
    parts.arrays.update(stored_order(dataset.sequences, dataset.n_users))
    for name, table, decay in (
        ("transitions", transition_table, config.transition_decay),
        ("markov", markov_table, 0.0),
    ):
        fitted = table(dataset.sequences, dataset.n_items, config, engine)
        parts.arrays.update(rows_arrays(name, Rows.from_csr(fitted)))
        parts.base_models[name] = {"kind": "transitions", "decay": decay}


def _item_item(parts: ArtifactParts, name: str, table: sparse.csr_matrix, config: RecommenderConfig) -> None:
    parts.arrays.update(rows_arrays(name, Rows.from_csr(table)))
    parts.base_models[name] = {"kind": "item_item", "damping": config.damping}


def _factorization(
    parts: ArtifactParts,
    dataset: InteractionDataset,
    config: RecommenderConfig,
    on_progress: Callable[[int, int], None],
    engine: Engine,
) -> None:
    if not config.factorization_size:
        return
    settings = {"unobserved": config.factorization_unobserved, "l2": config.factorization_l2}
    listened = sparse.csr_matrix(dataset.plays > 0, dtype=np.float32)
    factors = item_factors(listened, size=config.factorization_size, on_progress=on_progress, engine=engine, **settings)
    parts.arrays["factorization.factors"] = factors
    parts.base_models["factorization"] = {"kind": "factorization", **settings}


def _people(
    parts: ArtifactParts, dataset: InteractionDataset, listening: sparse.csr_matrix, config: RecommenderConfig
) -> None:
    counts = np.bincount(listening.indices, minlength=dataset.n_items)
    rarity = np.log((dataset.n_users + 1) / (counts + 1)).astype(np.float32)
    vectors = _user_vectors(listening, rarity)
    parts.arrays["user_knn.means"] = (np.asarray(vectors.sum(1)).ravel() / dataset.n_items).astype(np.float32)
    parts.arrays.update(rows_arrays("listening", Rows.from_csr(listening)))
    parts.arrays.update(rows_arrays("listeners", Rows.from_csr(_sampled(vectors, config.user_knn_people).T)))
    parts.arrays["listeners.rarity"] = rarity
    popularity_penalty = np.maximum(counts, 1).astype(np.float64) ** -config.user_knn_damping
    parts.arrays["user_knn.popularity_penalty"] = popularity_penalty.astype(np.float32)
    parts.base_models["user_knn"] = {
        "kind": "user_knn",
        "metric": "cosine",
        "n_neighbours": config.user_knn_neighbours,
        "sharpness": config.user_knn_sharpness,
        **_sample_size(dataset, config),
    }
    if dataset.friends.nnz:
        parts.base_models["social"] = {"kind": "social", "base": config.social_base, **_sample_size(dataset, config)}


def _user_vectors(listening: sparse.csr_matrix, rarity: npt.NDArray[np.float32]) -> sparse.csr_matrix:
    """Return listening weighted by rarity, each user of norm 1 (U, I)."""
    vectors = listening.astype(np.float32, copy=True)
    vectors.data *= rarity[vectors.indices]
    lengths = np.sqrt(np.asarray(vectors.multiply(vectors).sum(1)).ravel())
    vectors.data *= np.repeat(1 / np.maximum(lengths, 1e-9), np.diff(vectors.indptr)).astype(np.float32)
    return vectors


def _sample_size(dataset: InteractionDataset, config: RecommenderConfig) -> dict[str, int]:
    """Return the size of the sample of candidate neighbours as a manifest entry, if there is one."""
    return {"drawn": config.user_knn_people} if dataset.n_users > config.user_knn_people else {}


def _sampled(vectors: sparse.csr_matrix, n: int) -> sparse.csr_matrix:
    """Return the rows of a random sample of n users, with the other rows empty."""
    if vectors.shape[0] <= n:
        return vectors
    chosen = np.zeros(vectors.shape[0], np.bool_)
    chosen[np.random.default_rng(0).permutation(vectors.shape[0])[:n]] = True
    counts = np.where(chosen, np.diff(vectors.indptr), 0)
    kept = np.repeat(chosen, np.diff(vectors.indptr))
    starts = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_matrix((vectors.data[kept], vectors.indices[kept], starts), shape=vectors.shape)


def _tags(parts: ArtifactParts, dataset: InteractionDataset, config: RecommenderConfig) -> None:
    if not dataset.tags.nnz:
        return
    counts = np.bincount(dataset.tags.indices, minlength=len(dataset.tag_names))
    idf = np.log(dataset.n_items / np.maximum(counts, 1)).astype(np.float32)
    weighted = sparse.csr_matrix(dataset.tags @ sparse.diags_array(idf))
    lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(1)).ravel())
    unit = sparse.csr_matrix(sparse.diags_array(1 / np.maximum(lengths, 1e-9)) @ weighted, dtype=np.float32)
    parts.arrays.update(rows_arrays("tags.by_item", Rows.from_csr(unit)))
    parts.arrays.update(rows_arrays("tags.by_tag", Rows.from_csr(sparse.csr_matrix(unit.T))))
    parts.arrays.update(text_arrays("tags", dataset.tag_names))
    parts.base_models["tags"] = {"kind": "tags", "n_profile": config.n_profile_tags}
    if dataset.tagged.nnz:
        parts.arrays.update(rows_arrays("tags.own_tags", tag_ratios(dataset, idf)))
