"""A small recommender for tests: simulated listeners, an artifact, and all that is served beside it.

The listeners' ids are such as nothing else on a server would ever say.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import sparse

from tritone_export import ExportResult, export_kind
from tritone_serving.recommender import MOODS, Recommender, make_key, open_artifact, read_key, write_artifact
from tritone_serving.recommender.artifact import rows_arrays, text_arrays
from tritone_serving.recommender.pseudonyms import key_check, pseudonyms
from tritone_serving.recommender.rows import Rows
from tritone_training.artifact_export import ArtifactExport
from tritone_training.kinds.recommender.declaration import DECLARATION, RECORDING_RECOMMENDER
from tritone_training.kinds.recommender.export import from_artifact

Array = np.ndarray[Any, Any]

N_USERS = 60
N_ITEMS = 120
N_TASTE = 100  # the network knows the first so many items
EMBEDDING_SIZE = 256
TASTE_MODEL = "taste_vae"
TASTE_CONFIG = f"""
name: "{TASTE_MODEL}"
backend: "onnxruntime"
max_batch_size: 64
input [
  {{ name: "items" data_type: TYPE_INT64 dims: [ -1 ] }},
  {{ name: "weights" data_type: TYPE_FP32 dims: [ -1 ] }}
]
output [ {{ name: "scores" data_type: TYPE_FP32 dims: [ {N_TASTE} ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ }}
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
parameters {{ key: "inter_op_thread_count" value {{ string_value: "1" }} }}
"""


def user_id(number: int) -> str:
    """The id of a simulated listener."""
    return f"listener-zq{number:04d}@example.org"


def item_id(number: int) -> str:
    """The id of an item; 0 is the most popular one."""
    return f"track-{number}"


def make_artifact(
    folder: Path,
    key_file: Path,
    *,
    n_users: int = N_USERS,
    n_items: int = N_ITEMS,
    n_neighbours: int = 20,
    n_plays: int = 12,
    n_taste: int | None = None,
    n_listed: int = 0,
    arms: tuple[str, ...] = ("a",),
    seed: int = 0,
) -> Path:
    """Write an artifact: popularity, an item-item base model, `taste_vae` if asked for; arms differ in their weights.

    Args:
        n_listed: so many items are listed for each user in advance, by all base models but `taste_vae`.
    """
    rng = np.random.default_rng(seed)
    key = make_key(key_file)
    odds = 1 / np.arange(1, n_items + 1) ** 0.8
    rows = np.repeat(np.arange(n_users), n_plays)
    columns = rng.choice(n_items, n_users * n_plays, p=odds / odds.sum())
    plays = sparse.csr_matrix((rng.integers(1, 50, len(rows)).astype(np.float32), (rows, columns)), (n_users, n_items))
    plays.sum_duplicates()
    friends = sparse.random(n_users, n_users, min(0.1, 8 / n_users), format="csr", random_state=seed)
    friends = ((friends + friends.T) > 0).astype(np.float32)
    pairs = pseudonyms(key, [user_id(number) for number in range(n_users)])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    popularity = np.log1p(1e4 * odds / odds.sum()).astype(np.float32)
    arrays: dict[str, Array] = {
        "users": pairs[order],
        **text_arrays("items", [item_id(number) for number in range(n_items)]),
        **text_arrays("titles", [f"Song {number}" for number in range(n_items)]),
        **text_arrays("artists", ["" if number % 2 else "The Örtchen" for number in range(n_items)]),
        **rows_arrays("history", Rows.from_csr(plays[order])),
        **rows_arrays("friends", Rows.from_csr(friends[order][:, order])),
        "popularity.shares": popularity / popularity.max(),
        **rows_arrays("ease", Rows.from_csr(_neighbours(rng, n_items, n_neighbours))),
        **_listeners(plays[order]),
        **rows_arrays(
            "ease.own_tags", Rows.from_csr(sparse.random(n_users, n_items, 0.02, format="csr", random_state=seed))
        ),
        "vectors": _unit(rng.standard_normal((n_items, 16))),
        "items.embeddings": _unit(rng.standard_normal((n_items, EMBEDDING_SIZE))),
        "items.moods": rng.uniform(0, 1, (n_items, len(MOODS))).astype(np.float32),
    }
    base_models: dict[str, Any] = {
        "popularity": {"kind": "popularity"},
        "ease": {"kind": "item_item", "damping": 0.5},
        "user_knn": {"kind": "user_knn", "metric": "cosine", "n_neighbours": 20, "sharpness": 1.0},
        "social": {"kind": "social", "base": 0.1},
    }
    if n_taste is not None:
        base_models[TASTE_MODEL] = {"kind": "taste", "n_known": n_taste, "scale": 0.1, "fingerprint": "stand-in"}
    ensembles = {}
    for place, arm in enumerate(arms):
        heard = {"ease": 1.0, "user_knn": 0.2, "popularity": 0.05 + place}
        if n_taste is not None:
            heard[TASTE_MODEL] = 0.5
        weights = {"warm": heard, "short": heard, "cold": {"popularity": 1.0, "social": 0.2}}
        ensembles[arm] = {"warm_from": 5, "weights": weights}
    manifest = {
        "n_items": n_items,
        "n_users": n_users,
        "base_models": base_models,
        "ensembles": ensembles,
        "ab": {"salt": "spring", "shares": dict.fromkeys(arms, 1.0)},
        "key_check": key_check(key),
        "weighting": {"power": 0.0, "skip": 0.5},
        "data": {"source": "simulated listeners"},
        "metrics": {"ndcg@10": 0.25},
        "personal_data": "simulated",
    }
    write_artifact(folder, manifest, arrays)
    if n_listed:
        arrays.update(_lists(opened(folder, key_file), [user_id(number) for number in order.tolist()], n_listed))
        write_artifact(folder, manifest, arrays)
    return folder


def make_taste(repository: Path, n_taste: int = N_TASTE) -> None:
    """A network with `taste_vae`'s tensors: items (B, L) and weights (B, L) -> scores (B, T)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["inward", "items"], ["each"]),
            helper.make_node("Unsqueeze", ["weights", "two"], ["column"]),
            helper.make_node("Mul", ["each", "column"], ["weighted"]),
            helper.make_node("ReduceSum", ["weighted", "one"], ["taste"], keepdims=0),
            helper.make_node("MatMul", ["taste", "outward"], ["scores"]),
        ],
        TASTE_MODEL,
        [
            helper.make_tensor_value_info("items", TensorProto.INT64, ["batch", "item"]),
            helper.make_tensor_value_info("weights", TensorProto.FLOAT, ["batch", "item"]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", n_taste])],
        [
            numpy_helper.from_array(rng.standard_normal((n_taste, 8)).astype(np.float32), "inward"),
            numpy_helper.from_array(rng.standard_normal((8, n_taste)).astype(np.float32), "outward"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([2], np.int64), "two"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    version = repository / TASTE_MODEL / "1"
    version.mkdir(parents=True)
    onnx.save(model, str(version / "model.onnx"))
    config = TASTE_CONFIG.replace(f"[ {N_TASTE} ]", f"[ {n_taste} ]")
    (repository / TASTE_MODEL / "config.pbtxt").write_text(config)


def to_export(artifact: Path, key_file: Path | None) -> ArtifactExport:
    """What `tritone export` makes of a checkpoint with this artifact."""
    return from_artifact(open_artifact(artifact), info={"command": "tritone train recommender"}, key=key_file)


def publish(
    artifact: Path,
    key_file: Path | None,
    repository: Path,
    *,
    name: str | None = None,
    ensembles: bool = True,
    events: bool = False,
) -> tuple[ExportResult, ...]:
    """Export an artifact as the kind does, without its companion, and on demand with the model that stores events."""
    kind: Any = SimpleNamespace(
        name="recommender",
        companions=(),
        data_models=(),
        declarations=(DECLARATION,),
        ensembles=(RECORDING_RECOMMENDER,) if ensembles else (),
    )
    export = to_export(artifact, key_file)
    if not events:
        export = replace(export, artifacts=())
    return export_kind(export, kind, repository=repository, name=name)


def opened(version: Path, key_file: Path) -> Recommender:
    """The recommender of a version, in this process."""
    return Recommender.open(version, key=read_key(key_file))


def spoil_manifest(version: Path, **changes: Any) -> None:
    """Change what a manifest says."""
    path = version / "recommender.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _lists(recommender: Recommender, users: list[str], n: int) -> dict[str, Array]:
    """What each user is told, as training works it out."""
    from tritone_training.kinds.recommender.ensemble.offline import precompute_rankings

    world: Any = SimpleNamespace(users=users, n_users=len(users), n_items=len(recommender.item_ids))
    return precompute_rankings(recommender, {}, world, n, on_progress=lambda done, total: None)


def _neighbours(rng: np.random.Generator, n_items: int, n_neighbours: int) -> sparse.csr_matrix:
    """(I, I): what each item speaks for."""
    rows = np.repeat(np.arange(n_items), n_neighbours)
    strengths = rng.uniform(0.01, 0.3, len(rows)).astype(np.float32)
    table = sparse.csr_matrix((strengths, (rows, rng.integers(0, n_items, len(rows)))), (n_items, n_items))
    table.sum_duplicates()
    return table


def _listeners(plays: sparse.csr_matrix) -> dict[str, Array]:
    """What user-kNN and friends' listening read: by user, and by item with each user of length 1."""
    heard = (plays > 0).astype(np.float32)
    keys = sparse.csr_matrix(heard.multiply(1 / np.sqrt(np.maximum(heard.sum(axis=1), 1))))
    return {
        **rows_arrays("listening", Rows.from_csr(heard)),
        **rows_arrays("listeners", Rows.from_csr(sparse.csr_matrix(keys.T))),
        "listeners.rarity": np.ones(plays.shape[1], np.float32),
        "user_knn.popularity_penalty": np.ones(plays.shape[1], np.float32),
        "user_knn.means": (np.asarray(keys.sum(axis=1)).ravel() / plays.shape[1]).astype(np.float32),
    }


def _unit(rows: Array) -> Array:
    unit: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


ENCODER_MODEL = "sentence_encoder"
ENCODER_VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "sad", "sorrowful", "fast", "quick", "music", "piano")
_MEANINGS = {"sad": 0, "sorrowful": 0, "fast": 1, "quick": 1, "piano": 2}  # word -> direction of its embedding
_N_MEANINGS = 4
_ENCODER_CONFIG = f"""
name: "{ENCODER_MODEL}"
backend: "onnxruntime"
max_batch_size: 32
input [ {{ name: "tokens" data_type: TYPE_INT64 dims: [ -1 ] }} ]
output [ {{ name: "embedding" data_type: TYPE_FP32 dims: [ {_N_MEANINGS} ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ }}
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
parameters {{ key: "inter_op_thread_count" value {{ string_value: "1" }} }}
"""


def _meanings() -> Array:
    """The embedding of each token; those without a meaning share the last direction, weakly."""
    table = np.zeros((len(ENCODER_VOCABULARY), _N_MEANINGS), np.float32)
    table[1:, -1] = 0.01
    for word, meaning in _MEANINGS.items():
        table[ENCODER_VOCABULARY.index(word), meaning] = 1
    return table


def add_text_search(folder: Path) -> None:
    """Give items tags: "sad" to each tenth one, "fast" to the one after it; embedded by the stand-in encoder."""
    artifact = open_artifact(folder)
    by_tag = np.zeros((2, artifact.n_items), np.float32)
    by_tag[1, ::10] = by_tag[0, 1::10] = 1
    arrays = {
        **artifact.arrays,
        **text_arrays("search.tags", ["fast", "sad"]),
        **rows_arrays("search.by_tag", Rows.from_csr(sparse.csr_matrix(by_tag))),
        **text_arrays("search.vocabulary", ENCODER_VOCABULARY),
        "search.tag_embeddings": _unit(_meanings()[[ENCODER_VOCABULARY.index(tag) for tag in ("fast", "sad")]]),
    }
    encoder = {"model": ENCODER_MODEL, "n_features": _N_MEANINGS, "most_tokens": 16}
    manifest = {**artifact.manifest, "text_encoder": encoder}
    write_artifact(folder, manifest, {name: np.array(array) for name, array in arrays.items()})


def make_encoder(repository: Path) -> None:
    """A network with the sentence encoder's tensors: tokens (B, T) -> embedding (B, D) of norm 1."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["each"]),
            helper.make_node("ReduceSum", ["each", "one"], ["sum"], keepdims=0),
            helper.make_node("LpNormalization", ["sum"], ["embedding"], axis=1, p=2),
        ],
        ENCODER_MODEL,
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "token"])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", _N_MEANINGS])],
        [
            numpy_helper.from_array(_meanings(), "table"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    version = repository / ENCODER_MODEL / "1"
    version.mkdir(parents=True)
    onnx.save(model, str(version / "model.onnx"))
    (repository / ENCODER_MODEL / "config.pbtxt").write_text(_ENCODER_CONFIG)
