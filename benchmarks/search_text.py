"""Quality and latency of the search by descriptions: `python -m benchmarks.search_text --help`.

Tags of a listening log are queries whose relevant items are known: the items that carry the tag.

- hidden tags: a sample of tags is removed from the index. A query is the text of such a tag, relevant are all items
  that carry it.
- hidden pairs: a fifth of the (item, tag) pairs is removed. Relevant are the items of the removed pairs; items that are
  still known to carry the tag are left out of the ranking.

- catalogue (`--catalogue`): the queries of search_queries.tsv over the embedded catalogue, by kind. Of the first
  results, as many as there are relevant items and at most 5, the share that is relevant.

recall@20 is the number of relevant items among the first 20, divided by the number of relevant items or 20, whichever
is smaller. Half of the tags (by the hash of their text) are for validation, on which the weights were chosen.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from benchmarks.arguments import count
from tritone import MusicClient
from tritone_serving.recommender import Artifact
from tritone_serving.recommender.artifact import text_arrays
from tritone_serving.recommender.text_search import FusionWeights, TextRequest, TextSearch
from tritone_training.data.interactions import load_listening
from tritone_training.data.interactions.files import ListeningFiles
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.config import RecommenderConfig
from tritone_training.kinds.recommender.fitting.interaction_dataset import InteractionDataset, build_dataset
from tritone_training.kinds.recommender.fitting.text_index import text_search_arrays
from tritone_training.pretrained.sentence_encoder import load_sentence_encoder

_QUERIES: Final = Path(__file__).with_name("search_queries.tsv")
_FIRST: Final = 5  # results that are judged for queries over the catalogue
_K: Final = 20
_LEAST_ITEMS: Final = 10  # that carry a tag which becomes a query
_MOST_ITEMS: Final = 3_000
_HIDDEN_SHARE: Final = 0.2
_N_VALIDATION_GRID: Final = (0.35, 0.7, 1.4)

METHODS: Final[Mapping[str, FusionWeights]] = {
    "BM25 only": FusionWeights(meaning=0),
    "encoder only": FusionWeights(words=0),
    "fused": FusionWeights(),
}
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Query:
    """A query with its relevant items.

    Attributes:
        excluded: items that are left out of the ranking.
    """

    text: str
    relevant: frozenset[str]
    excluded: frozenset[str] = frozenset()


class CachedEmbeddings:
    """Embeds texts, each of them once."""

    def __init__(self) -> None:
        self._encoder = load_sentence_encoder()
        self._known: dict[str, Floats] = {}

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Return the embeddings (n, D)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.embed(new), strict=True))
        return np.stack([self._known[text] for text in texts])


def read_dataset(folder: Path) -> tuple[InteractionDataset, Mapping[str, Mapping[str, str]]]:
    """Return the Last.fm data of HetRec-2011 in a folder."""
    files = ListeningFiles(
        interactions=folder / "user_artists_train.dat",
        valid=folder / "user_artists_valid.dat",
        item_tags=folder / "user_taggedartists.dat",
        tag_names=folder / "tags.dat",
        metadata=folder / "artists.dat",
    )
    listening = load_listening(TrainRequest(out=Path(), data=files, progress=False))
    return build_dataset(listening, RecommenderConfig(), b"\0" * 32), listening.metadata


def artifact_of(
    dataset: InteractionDataset, metadata: Mapping[str, Mapping[str, str]], tags: sparse.csr_matrix, embed: Any
) -> Artifact:
    """Return an artifact with the arrays that the text search reads."""
    listeners = np.diff(sparse.csc_matrix(dataset.plays).indptr)
    names = [metadata.get(item, {}) for item in dataset.items]
    arrays = {
        **text_arrays("items", dataset.items),
        **text_arrays("titles", [each.get("title", each.get("name", "")) for each in names]),
        **text_arrays("artists", [each.get("artist", "") for each in names]),
        "popularity.shares": (np.log1p(listeners) / np.log1p(max(int(listeners.max()), 1))).astype(np.float32),
        **text_search_arrays(tags, dataset.tag_names, n_factors=RecommenderConfig().search_factors, embed=embed),
    }
    return Artifact(Path(), {"n_items": dataset.n_items}, arrays)


def tag_queries(dataset: InteractionDataset, *, most: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the columns of the tags for validation and for testing."""
    n_items = dataset.tags.getnnz(axis=0)
    fit = [
        index
        for index in np.flatnonzero((n_items >= _LEAST_ITEMS) & (n_items <= _MOST_ITEMS)).tolist()
        if ": " not in dataset.tag_names[index]
    ]
    order = np.random.default_rng(seed).permutation(fit).tolist()
    halves: tuple[list[int], list[int]] = ([], [])
    for index in order:
        half = halves[hashlib.sha256(dataset.tag_names[index].encode()).digest()[0] % 2]
        if len(half) < most:
            half.append(index)
    return halves


def hide_tags(dataset: InteractionDataset, columns: Sequence[int]) -> tuple[sparse.csr_matrix, list[Query]]:
    """Return the tags without some columns, and the queries for these."""
    kept = np.ones(dataset.tags.shape[1], np.float32)
    kept[list(columns)] = 0
    left = sparse.csr_matrix(dataset.tags @ sparse.diags_array(kept), dtype=np.float32)
    left.eliminate_zeros()
    by_tag = sparse.csc_matrix(dataset.tags)
    return left, [Query(dataset.tag_names[c], _items(dataset, by_tag, c)) for c in columns]


def hide_pairs(dataset: InteractionDataset, columns: Sequence[int], seed: int) -> tuple[sparse.csr_matrix, list[Query]]:
    """Return the tags without a share of the pairs, and queries for the items of the removed pairs."""
    pairs = sparse.coo_matrix(dataset.tags)
    hidden = np.random.default_rng(seed).random(pairs.nnz) < _HIDDEN_SHARE
    left, gone = (
        sparse.csr_matrix((pairs.data[each], (pairs.row[each], pairs.col[each])), shape=pairs.shape)
        for each in (~hidden, hidden)
    )
    left_by_tag, gone_by_tag = sparse.csc_matrix(left), sparse.csc_matrix(gone)
    queries = [
        Query(dataset.tag_names[c], relevant, _items(dataset, left_by_tag, c))
        for c in columns
        if (relevant := _items(dataset, gone_by_tag, c))
    ]
    return left, queries


def _items(dataset: InteractionDataset, by_tag: sparse.csc_matrix, column: int) -> frozenset[str]:
    found = by_tag.indices[by_tag.indptr[column] : by_tag.indptr[column + 1]].tolist()
    return frozenset(dataset.items[item] for item in found)


def recall(search: TextSearch, queries: Sequence[Query], embed: Any) -> float:
    """Return the mean recall@20."""
    total = 0.0
    for query in queries:
        k = min(10_000, _K + len(query.excluded))
        found = search.search(TextRequest(query.text, k), None if embed is None else embed([query.text])[0])
        best = [item for item in found.items if item not in query.excluded][:_K]
        total += len(query.relevant.intersection(best)) / min(_K, len(query.relevant))
    return total / len(queries)


def grid() -> list[FusionWeights]:
    """Return the weights that are compared on the validation half."""
    return [
        replace(FusionWeights(), meaning=meaning, factors=factors, popularity=popularity)
        for meaning, factors, popularity in itertools.product(_N_VALIDATION_GRID, (0.25, 0.5, 0.75), (0.02, 0.1))
    ]


def misspelt(text: str, seed: int) -> str:
    """Return a text with two adjacent letters of its longest word exchanged, or one left out."""
    rng = np.random.default_rng([seed, len(text)])
    word = max(text.split(), key=len)
    if len(word) < 5:
        return text
    at = int(rng.integers(1, len(word) - 2))
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return text.replace(word, swapped if rng.random() < 0.5 and swapped != word else word[:at] + word[at + 1 :])


def name_recall(search: TextSearch, names: Sequence[tuple[str, str]], embed: Any) -> float:
    """Return the share of (item, text) whose item is among the first 5 that are found by the text."""
    hits = 0
    for item, text in names:
        found = search.search(TextRequest(text, 5), None if embed is None else embed([text])[0])
        hits += item in found.items
    return hits / len(names)


def latencies_ms(call: Callable[[str], object], texts: Sequence[str]) -> tuple[float, float]:
    """Return p50 and p99 of calls, one after the other."""
    times = []
    for text in texts:
        start_s = time.perf_counter()
        call(text)
        times.append(1_000 * (time.perf_counter() - start_s))
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


def measure(folder: Path, *, n_queries: int, seed: int, choose: bool) -> dict[str, Any]:
    """Return all measurements."""
    torch.set_num_threads(1)
    embed = CachedEmbeddings()
    dataset, metadata = read_dataset(folder)
    valid, test = tag_queries(dataset, most=n_queries, seed=seed)
    report: dict[str, Any] = {"n_items": dataset.n_items, "n_valid": len(valid), "n_test": len(test), "methods": {}}
    if choose:
        report["validation"] = _choose(dataset, metadata, valid, embed, seed)
    left, by_tag = hide_tags(dataset, test)
    tagged = artifact_of(dataset, metadata, left, embed)
    left, by_pair = hide_pairs(dataset, test, seed)
    paired = artifact_of(dataset, metadata, left, embed)
    whole = artifact_of(dataset, metadata, dataset.tags, embed)
    rng = np.random.default_rng(seed)
    names = _names(dataset, metadata, rng.choice(min(5_000, dataset.n_items), n_queries, replace=False).tolist())
    wrong = [(item, misspelt(name, seed)) for item, name in names]
    for method, weights in METHODS.items():
        own = None if weights.meaning == 0 else embed
        for typos in (True, False):
            named = TextSearch(whole, weights=weights, typos=typos)
            row = {
                "names": name_recall(named, names, own),
                "misspelt names": name_recall(named, wrong, own),
            }
            if typos:
                row["hidden tags"] = recall(TextSearch(tagged, weights=weights), by_tag, own)
                row["hidden pairs"] = recall(TextSearch(paired, weights=weights), by_pair, own)
                texts = [query.text for query in by_tag]
                row["p50_ms"], row["p99_ms"] = latencies_ms(
                    lambda text, named=named, own=own: named.search(  # type: ignore[misc]
                        TextRequest(text), None if own is None else own([text])[0]
                    ),
                    texts,
                )
            report["methods"][method if typos else f"{method}, without typos"] = row
            print(method, "typos" if typos else "no typos", {k: round(v, 4) for k, v in row.items()}, flush=True)
    report["texts"] = [query.text for query in by_tag]
    return report


def catalogue_queries() -> list[tuple[str, str, list[str]]]:
    """Return kind, text and patterns of the relevant ids of each query over the embedded catalogue."""
    lines = _QUERIES.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(kind, text, patterns.split(",")) for kind, text, patterns in rows]


def measure_catalogue() -> dict[str, dict[str, float]]:
    """Return the mean precision of the queries over the embedded catalogue, by kind."""
    listening = load_listening(TrainRequest(out=Path(), progress=False))
    dataset = build_dataset(listening, RecommenderConfig(), b"\0" * 32)
    artifact = artifact_of(dataset, listening.metadata, dataset.tags, None)
    report = {}
    for typos in (True, False):
        search = TextSearch(artifact, typos=typos)
        scores: dict[str, list[float]] = {}
        for kind, text, patterns in catalogue_queries():
            n_relevant = sum(_matches(item, patterns) for item in dataset.items)
            if not n_relevant:
                raise ValueError(f"{_QUERIES}: no item of the catalogue answers {text!r}")
            n = min(_FIRST, n_relevant)
            found = search.search(TextRequest(text, n)).items
            scores.setdefault(kind, []).append(sum(_matches(item, patterns) for item in found) / n)
        report["with typos" if typos else "without typos"] = {
            **{kind: float(np.mean(each)) for kind, each in scores.items()},
            "all": float(np.mean([score for each in scores.values() for score in each])),
        }
    print("catalogue", report, flush=True)
    return report


def _matches(item: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(item, pattern) for pattern in patterns)


def served_latencies(server: str, texts: Sequence[str]) -> dict[str, float]:
    """Return p50 and p99 of `MusicClient.search` with a server, one request after the other."""
    with MusicClient(server) as music:
        p50, p99 = latencies_ms(music.search, texts)
    return {"p50_ms": p50, "p99_ms": p99}


def _names(
    dataset: InteractionDataset, metadata: Mapping[str, Mapping[str, str]], items: Sequence[int]
) -> list[tuple[str, str]]:
    named = [(dataset.items[item], metadata.get(dataset.items[item], {})) for item in items]
    return [(item, text) for item, row in named if (text := row.get("title", row.get("name", ""))).strip()]


def _choose(
    dataset: InteractionDataset,
    metadata: Mapping[str, Mapping[str, str]],
    columns: Sequence[int],
    embed: Any,
    seed: int,
) -> list[dict[str, Any]]:
    left, by_tag = hide_tags(dataset, columns)
    tagged = artifact_of(dataset, metadata, left, embed)
    left, by_pair = hide_pairs(dataset, columns, seed + 1)
    paired = artifact_of(dataset, metadata, left, embed)
    whole = artifact_of(dataset, metadata, dataset.tags, embed)
    chosen = np.random.default_rng(seed + 1).choice(min(5_000, dataset.n_items), len(columns), replace=False)
    wrong = [(item, misspelt(name, seed + 1)) for item, name in _names(dataset, metadata, chosen.tolist())]
    rows = []
    for weights in grid():
        tags, pairs = (
            recall(TextSearch(artifact, weights=weights), queries, embed)
            for artifact, queries in ((tagged, by_tag), (paired, by_pair))
        )
        names = name_recall(TextSearch(whole, weights=weights), wrong, embed)
        rows.append({**vars(weights), "hidden tags": tags, "hidden pairs": pairs, "misspelt names": names})
        print("validation", rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the Last.fm data of HetRec-2011")
    parser.add_argument(
        "--catalogue", action="store_true", help="queries with known answers over the embedded catalogue"
    )
    parser.add_argument("--queries", type=count, default=400, help="tags in each half")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choose", action="store_true", help="also compare weights on the validation half")
    parser.add_argument("--server", help="HOST:PORT of a server with a recommender, whose latency is measured too")
    parser.add_argument("--json", type=Path, help="write the measurements to a file")
    given = parser.parse_args(arguments)
    if given.data is None and not given.catalogue:
        parser.error("expected --data or --catalogue")
    report: dict[str, Any] = {}
    if given.data is not None:
        report |= measure(given.data, n_queries=given.queries, seed=given.seed, choose=given.choose)
    if given.catalogue:
        report["catalogue"] = measure_catalogue()
    if given.server is not None:
        texts = report.get("texts") or [text for _, text, _ in catalogue_queries()]
        report["served"] = served_latencies(given.server, texts)
        print("served", report["served"], flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
