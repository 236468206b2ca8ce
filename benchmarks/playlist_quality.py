"""Compare playlists with random walks, interpolation and shortest paths: smoothness, variety and progress.

    python -m benchmarks.playlist_quality [--data LOG --item-tags FILE ...] [--out docs/benchmarks] [--json]

Half of the listeners of a log fit the recommender's vectors; the other half measure: two tracks are similar in their
listening if many of the same held-out listeners play both (cosine of their listeners). No method has seen these
listeners, so smoothness is not measured by what a method optimises. Without --data, the listening is simulated over the
embedded corpus. Start and end are drawn among the tracks with enough listeners in both halves.

    playlist                 `Recommender.playlist`, without an artist gap and with the default one
    linear interpolation     at each position the unused track nearest to the line from start to end
    shortest path            in the graph of 10 nearest neighbours, by (1 - similarity) ** 2; of any length
    random walk              on the same graph, from start
    similar                  the tracks most similar to start, best first (mixes only)
    random                   tracks drawn at random

smoothness: mean and smallest similarity of neighbours, by held-out listening and by the method's own vectors.
variety: 1 - mean similarity of all pairs by held-out listening, and the number of different artists and tags per track.
progress: rank correlation of the position with (similarity to end - similarity to start), by held-out listening.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import dijkstra
from scipy.stats import spearmanr

from tritone_serving.recommender import PlaylistRequest, Recommender, write_artifact
from tritone_serving.recommender.playlist_vectors import TrackVectors
from tritone_training.data.interactions import ListeningData, ListeningFiles, load_listening
from tritone_training.hyperparameters import from_preset
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.config import PRESETS
from tritone_training.kinds.recommender.fitting.base_models import fit_base_models, manifest_of
from tritone_training.kinds.recommender.fitting.interaction_dataset import build_dataset

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Method = Callable[[int, int | None, int], Sequence[int]]

KEY = b"a key for the benchmark of playlists"
N_NEIGHBOURS = 10
LEAST_LISTENERS = 5
RESULT = "playlists.json"
LISTENERS = 2_000  # of the simulation
COLUMNS = ("smooth", "smooth_min", "own", "own_min", "variety", "artists", "tags", "progress")


@dataclass(frozen=True, eq=False)
class Judge:
    """Measures playlists by listeners that no method has seen.

    Attributes:
        vectors: (I, E) sparse, the held-out listeners of each item, of norm 1.
        own: (I, D) vectors of the recommender.
        artists: (I,) text, empty where unknown.
        tags: (I, G) sparse.
    """

    vectors: sparse.csr_matrix
    own: Floats
    artists: Sequence[str]
    tags: sparse.csr_matrix

    def metrics(self, items: Sequence[int], ends: tuple[int, int] | None) -> dict[str, float]:
        """Return the metrics of one playlist; progress only for paths."""
        listening = self.vectors[list(items)]
        pairs = np.asarray((listening @ listening.T).todense())
        steps = np.diagonal(pairs, 1)
        own = np.einsum("id,id->i", self.own[list(items[1:])], self.own[list(items[:-1])])
        n = len(items)
        known = [self.artists[item] for item in items if self.artists[item]]
        found = {
            "smooth": float(steps.mean()),
            "smooth_min": float(steps.min()),
            "own": float(own.mean()),
            "own_min": float(own.min()),
            "variety": 1 - float((pairs.sum() - np.trace(pairs)) / (n * (n - 1))),
            "artists": len(set(known)) / max(len(known), 1),
            "tags": int((self.tags[list(items)].getnnz(axis=0) > 0).sum()) / n,
            "n": float(n),
        }
        if ends is not None:
            start, end = (np.asarray((listening @ self.vectors[each].T).todense()).ravel() for each in ends)
            towards = (end - start)[1:-1]
            found["progress"] = (
                float(spearmanr(np.arange(len(towards)), towards)[0]) if len(towards) > 1 and np.ptp(towards) else 0.0
            )
        return found


class Rivals:
    """The other methods, which use the same vectors, of the items with enough listeners.

    `Recommender.playlist` prefers well-known items too, but may use all.
    """

    def __init__(self, vectors: Floats, rng: np.random.Generator) -> None:
        """Build the graph of nearest neighbours of the items that have vectors."""
        self.vectors, self.rng = vectors, rng
        self.known = np.flatnonzero(vectors.any(1))
        rows, columns, values = [], [], []
        for item in self.known.tolist():
            similar = vectors @ vectors[item]
            similar[item] = -np.inf
            near = np.argpartition(-similar, N_NEIGHBOURS)[:N_NEIGHBOURS]
            rows += [item] * N_NEIGHBOURS
            columns += near.tolist()
            values += similar[near].tolist()
        n = len(vectors)
        self.neighbours = [np.array(columns[at : at + N_NEIGHBOURS]) for at in range(0, len(columns), N_NEIGHBOURS)]
        self.row = {item: row for row, item in enumerate(self.known.tolist())}
        costs = np.maximum(1 - np.array(values), 1e-3) ** 2
        graph = sparse.csr_matrix((costs, (rows, columns)), (n, n))
        self.graph = graph.maximum(graph.T)

    def interpolate(self, start: int, end: int | None, n: int) -> list[int]:
        """Return the unused item nearest to the line, at each position."""
        assert end is not None
        used, items = {start, end}, [start]
        for share in np.arange(1, n - 1) / (n - 1):
            similar = self.vectors @ ((1 - share) * self.vectors[start] + share * self.vectors[end])
            best = next(item for item in np.argsort(-similar).tolist() if item not in used)
            used.add(best)
            items.append(best)
        return [*items, end]

    def shortest(self, start: int, end: int | None, n: int) -> list[int]:
        """Return the shortest path in the graph, whatever its length; start and end if there is none."""
        assert end is not None
        before = dijkstra(self.graph, directed=False, indices=start, return_predecessors=True)[1]
        items = [end]
        while items[-1] != start and before[items[-1]] >= 0:
            items.append(int(before[items[-1]]))
        return items[::-1] if items[-1] == start else [start, end]

    def walk(self, start: int, end: int | None, n: int) -> list[int]:
        """Return a random walk without repeats, which jumps where all neighbours are used; it ends with `end`."""
        items = [start]
        used = {start, end}
        while len(items) < n - (end is not None):
            near = [each for each in self.neighbours[self.row[items[-1]]].tolist() if each not in used]
            items.append(int(self.rng.choice(near)) if near else self._any(used))
            used.add(items[-1])
        return items if end is None else [*items, end]

    def random(self, start: int, end: int | None, n: int) -> list[int]:
        """Return items drawn at random."""
        used = {start, end}
        items = [start]
        while len(items) < n - (end is not None):
            items.append(self._any(used))
            used.add(items[-1])
        return items if end is None else [*items, end]

    def similar(self, start: int, end: int | None, n: int) -> list[int]:
        """Return the items most similar to `start`."""
        return np.argsort(-(self.vectors @ self.vectors[start]), kind="stable")[:n].tolist()

    def _any(self, used: set[int | None]) -> int:
        while True:
            item = int(self.rng.choice(self.known))
            if item not in used:
                return item


def halves(listening: ListeningData, seed: int) -> tuple[ListeningData, sparse.csr_matrix, list[str]]:
    """Return the data with half of the listeners, and the listening of the others (U, I) with its item ids."""
    log = listening.train
    other = np.random.default_rng(seed).random(len(log.users)) < 0.5
    kept = log.take(~other[log.user])
    held = log.take(other[log.user]).matrix()
    held.data[:] = 1
    data = ListeningData(kept, listening.valid, None, [], listening.tags, listening.metadata, listening.report)
    return data, held, list(log.items)


def fit(data: ListeningData, folder: Path) -> Recommender:
    """Fit the item vectors and the local base models on half of the listeners; all base models weigh the same."""
    config = from_preset(PRESETS, "default", {"n_neighbours": 100, "taste": False})
    dataset = build_dataset(data, config, KEY)
    parts = fit_base_models(dataset, config, metadata=data.metadata, on_step=lambda step: lambda done, total: None)
    weights = {segment: dict.fromkeys(parts.base_models, 1.0) for segment in ("warm", "short", "cold")}
    manifest = {**manifest_of(parts, dataset, config, KEY), "ensembles": {"a": {"warm_from": 10, "weights": weights}}}
    write_artifact(folder, manifest, parts.arrays)
    return Recommender.open(folder, key=KEY)


def compare(recommender: Recommender, held: sparse.csr_matrix, items: list[str], options: argparse.Namespace) -> Any:
    """Return method -> means of its metrics, for paths and for mixes."""
    rng = np.random.default_rng(options.seed)
    at = {name: index for index, name in enumerate(items)}
    columns = np.array([at.get(name, -1) for name in recommender.item_ids])
    by_item = sparse.csc_matrix(held)
    listeners = sparse.vstack(
        [by_item[:, [each]].T if each >= 0 else sparse.csr_matrix((1, held.shape[0])) for each in columns.tolist()]
    ).tocsr()
    lengths = np.sqrt(np.asarray(listeners.multiply(listeners).sum(1)).ravel())
    unit = sparse.csr_matrix(sparse.diags_array(1 / np.maximum(lengths, 1e-9)) @ listeners)
    n_items = len(recommender.item_ids)
    own = TrackVectors.of(recommender.artifact, recommender.resolver.n_listeners).vectors
    tags = recommender.artifact.rows("tags.by_item") if "tags.by_item.starts" in recommender.artifact.arrays else None
    by_tag = (
        sparse.csr_matrix((n_items, 1))
        if tags is None
        else sparse.csr_matrix((tags.values, tags.columns, tags.starts), (n_items, len(recommender.catalogue.tags)))
    )
    judge = Judge(unit, own, recommender.catalogue.artists or [""] * n_items, by_tag)
    n_listeners = recommender.resolver.n_listeners
    rivals = Rivals(own * (n_listeners >= LEAST_LISTENERS)[:, None], rng)
    usable = np.flatnonzero((lengths**2 >= LEAST_LISTENERS) & (n_listeners >= LEAST_LISTENERS) & own.any(1))

    def playlist(gap: int | None, **given: Any) -> Method:
        def make(start: int, end: int | None, n: int) -> list[int]:
            ids = recommender.item_ids
            request = PlaylistRequest(ids[start], None if end is None else ids[end], n, artist_gap=gap, **given)
            return [recommender.resolver.item(item) or 0 for item in recommender.playlist(request).items]

        return make

    paths: dict[str, Method] = {
        "playlist, no artist gap": playlist(0),
        "playlist": playlist(None),
        "playlist, diversity 0": playlist(0, diversity=0.0),
        "linear interpolation": rivals.interpolate,
        "shortest path": rivals.shortest,
        "random walk": rivals.walk,
        "random": rivals.random,
    }
    mixes: dict[str, Method] = {
        "playlist, no artist gap": playlist(0),
        "playlist": playlist(None),
        "playlist, diversity 0": playlist(0, diversity=0.0),
        "playlist, diversity 1": playlist(0, diversity=1.0),
        "similar": rivals.similar,
        "random walk": rivals.walk,
        "random": rivals.random,
    }
    found: dict[str, dict[str, Any]] = {"paths": {}, "mixes": {}}
    drawn = [rng.choice(usable, 2, replace=False).tolist() for _ in range(options.n)]
    for kind, methods in (("paths", paths), ("mixes", mixes)):
        for name, method in methods.items():
            each = []
            for start, end in drawn:
                ends = (start, end) if kind == "paths" else None
                each.append(judge.metrics(method(start, end if ends else None, options.length), ends))
            found[kind][name] = {metric: round(float(np.mean([one[metric] for one in each])), 4) for metric in each[0]}
    return {"n_items": n_items, "n_usable": len(usable), "n": options.n, "length": options.length, **found}


def table(methods: dict[str, dict[str, float]]) -> str:
    """Return a Markdown table."""
    shown = [name for name in (*COLUMNS, "n") if name in next(iter(methods.values()))]
    lines = ["| method | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name, metrics in methods.items():
        lines.append(f"| {name} | " + " | ".join(f"{metrics[each]:.3f}" for each in shown) + " |")
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot smoothness against variety of every method and data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(results), 2, figsize=(11, 4.2 * len(results)), squeeze=False)
    for row, (data, result) in zip(axes, results.items(), strict=True):
        for axis, kind in zip(row, ("paths", "mixes"), strict=True):
            for name, metrics in result[kind].items():
                axis.scatter(metrics["variety"], metrics["smooth"], label=name)
            axis.set_xlabel("variety (1 - mean similarity of all pairs, held-out listening)")
            axis.set_ylabel("similarity of neighbours (held-out listening)")
            axis.set_title(f"{kind}, {data}")
            axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Compare, print the tables, and write the result and its plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="listening log; simulated listening over the embedded corpus if none")
    parser.add_argument("--item-tags", type=Path, help="with --data: tags of items")
    parser.add_argument("--tag-names", type=Path, help="with --item-tags: names of the tags")
    parser.add_argument("--item-column", help="with --data: column of the item's id")
    parser.add_argument("--plays-column", help="with --data: column of the play counts")
    parser.add_argument("--name", default="simulated", help="name of the data in the result")
    parser.add_argument("-n", type=int, default=200, help="number of pairs of start and end")
    parser.add_argument("--length", type=int, default=20, help="tracks in a playlist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help=f"folder for {RESULT} and its plot; results of other names are kept")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.data is None:
        from tritone_training.data.interactions.listening import of_world
        from tritone_training.data.interactions.simulated import simulated_world

        world = simulated_world(seed=options.seed, n_listeners=LISTENERS, progress=False)
        listening = of_world(world, seed=options.seed)
    else:
        files = ListeningFiles(
            interactions=options.data,
            item_tags=options.item_tags,
            tag_names=options.tag_names,
            item_column=options.item_column,
            plays_column=options.plays_column,
        )
        request = TrainRequest(data=files, out=Path(), seed=options.seed, progress=False)
        listening = load_listening(request)
    data, held, items = halves(listening, options.seed)
    with tempfile.TemporaryDirectory(prefix="tritone-playlists-") as folder:
        result = compare(fit(data, Path(folder)), held, items, options)
    if options.out is not None:
        path = options.out / RESULT
        results = {**(json.loads(path.read_text()) if path.is_file() else {}), options.name: result}
        path.write_text(json.dumps(results, indent=1) + "\n")
        draw(results, path.with_suffix(".png"))
    if options.json:
        sys.stdout.write(json.dumps(result) + "\n")
        return
    print(f"{result['n']} playlists of {result['length']} tracks, {result['n_items']:,} items")
    for kind in ("paths", "mixes"):
        print(f"\n{kind}\n\n{table(result[kind])}")


if __name__ == "__main__":
    main()
