"""Compare recommendations from candidates with those from all items: recall, scores, latency and memory.

```
python -m benchmarks.scale_recommender --sizes 1M-items --keep /tmp/artifacts        # simulated listeners
python -m benchmarks.candidate_recall /tmp/artifacts/1M-items
python -m benchmarks.candidate_recall ARTIFACT --key recommender.key                 # of a trained recommender
```
The requests are histories of stored users, so that no ids of users are needed: whole ones with their plays, three items
of them in order (session), one item (short), and none (cold). Each way of scoring runs in a process of its own, which
makes one request after the other, and then the whole histories in batches of 64; its private memory before and after
that is `anonymous`. recall@100 is the part of the 100 best of all items that are among the 100 best of the candidates.
Networks (`taste_vae`, `taste_sequence`) are left out.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arguments import count
from benchmarks.scale_recommender import KEY
from tritone_serving.recommender import Recommender, RecommendRequest, RecommendResponse, read_key
from tritone_serving.recommender.candidates import CandidateScores, CandidateSettings
from tritone_serving.recommender.memory import keep_freed_memory

K = 100
BATCH = 64
N_WARM_UP = 30
EXACT = 0
KINDS = ("whole", "session", "short", "cold")


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--key", type=Path, help="key file of the artifact; by default that of scale_recommender")
    parser.add_argument("--per-model", type=count, nargs="+", default=[500, 2_000])
    parser.add_argument("--requests", type=count, default=300, help="requests of each kind (300)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--responses", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        print(json.dumps(measure(arguments)))
        return
    with tempfile.TemporaryDirectory(prefix="tritone-candidates-") as folder:
        measured = [run(arguments, n, Path(folder)) for n in [EXACT, *arguments.per_model]]
        exact = measured[0]
        for row, n in zip(measured[1:], arguments.per_model, strict=True):
            for kind in KINDS:
                row["kinds"][kind].update(compared(Path(folder), kind, n))
    result = {"artifact": arguments.artifact.name, "n_items": exact.pop("n_items"), "rows": measured}
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"artifact {result['artifact']}: {result['n_items']:,} items; latency in milliseconds")
    columns = ("scored", "requests", "p50 / p99", "processor time, p50 / p99", "candidates")
    columns += ("recall@100, mean / minimum", "largest difference of scores")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in measured:
        for kind, each in row["kinds"].items():
            recall = f"{each['recall']:.4f} / {each['min_recall']:.2f}" if "recall" in each else ""
            apart = f"{each['difference']:.1e}" if "difference" in each else ""
            print(
                f"| {row['scored']} | {kind} | {each['p50_ms']:.1f} / {each['p99_ms']:.1f} | "
                f"{each['cpu_p50_ms']:.1f} / {each['cpu_p99_ms']:.1f} | "
                f"{each['n_candidates']:,.0f} | {recall} | {apart} |"
            )
    for row in measured:
        print(
            f"{row['scored']}: opened in {row['open_s']:.2f} s;",
            f"batches of {BATCH}: {row['batch_cpu_ms']:.1f} ms of a core each;",
            f"anonymous memory {row['anonymous_mb']:.0f} MiB before, {row['anonymous_after_mb']:.0f} MiB after; "
            f"{row['batch_peak_mb']:.0f} MiB allocated at once for a batch",
        )


def run(arguments: argparse.Namespace, per_model: int, folder: Path) -> dict[str, Any]:
    """Measure one way of scoring in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.candidate_recall", str(arguments.artifact), "--worker", str(per_model)]
    command += ["--responses", str(folder), "--requests", str(arguments.requests)]
    if arguments.key is not None:
        command += ["--key", str(arguments.key)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"scoring {per_model or 'all'}: ended with {ended.returncode}: {ended.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make all requests with one way of scoring, and save the responses."""
    keep_freed_memory()  # as the backend does
    per_model: int = arguments.worker
    settings = None if per_model == EXACT else CandidateSettings(from_items=1, per_model=per_model)
    began_s = time.perf_counter()
    key = KEY if arguments.key is None else read_key(arguments.key)
    recommender = Recommender.open(arguments.artifact, key=key, candidates=settings)
    result: dict[str, Any] = {
        "scored": "all items" if per_model == EXACT else f"{per_model} per model",
        "n_items": recommender.artifact.n_items,
        "open_s": round(time.perf_counter() - began_s, 3),
        "kinds": {},
    }
    sets = requests_of(recommender, arguments.requests)
    for request in sets["whole"][:N_WARM_UP]:
        recommender.recommend([request])
    result["anonymous_mb"] = anonymous_mb()
    for kind, requests in sets.items():
        times, cpu_times, items, scores, n_candidates = [], [], [], [], []
        for request in requests:
            began_s, cpu_s = time.perf_counter(), time.thread_time()
            [found] = recommender.recommend([request])
            cpu_times.append(time.thread_time() - cpu_s)
            times.append(time.perf_counter() - began_s)
            if not isinstance(found, RecommendResponse):
                raise found
            items.append([recommender.resolver.item(name) for name in found.items])
            scores.append(found.scores)
        for request in requests[:50]:
            local = recommender.score_local(recommender.resolve([request], use_precomputed=False))
            scored = local.scores[0].items if isinstance(local, CandidateScores) else None
            n_candidates.append(recommender.artifact.n_items if scored is None else len(scored))
        result["kinds"][kind] = {
            "p50_ms": round(1e3 * float(np.quantile(times, 0.5)), 3),
            "p99_ms": round(1e3 * float(np.quantile(times, 0.99)), 3),
            "cpu_p50_ms": round(1e3 * float(np.quantile(cpu_times, 0.5)), 3),
            "cpu_p99_ms": round(1e3 * float(np.quantile(cpu_times, 0.99)), 3),
            "n_candidates": float(np.mean(n_candidates)),
        }
        np.savez(arguments.responses / f"{kind}-{per_model}.npz", items=np.array(items), scores=np.array(scores))
    cpu_s = time.thread_time()
    for start in range(0, len(sets["whole"]), BATCH):
        recommender.recommend(sets["whole"][start : start + BATCH])
    result["batch_cpu_ms"] = round(1e3 * (time.thread_time() - cpu_s) / len(sets["whole"]), 3)
    result["anonymous_after_mb"] = anonymous_mb()
    tracemalloc.start()
    recommender.recommend(sets["whole"][:BATCH])
    result["batch_peak_mb"] = round(tracemalloc.get_traced_memory()[1] / 2**20, 1)
    return result


def requests_of(recommender: Recommender, n: int) -> dict[str, list[RecommendRequest]]:
    """Return n requests of each kind, from the histories of users drawn at random."""
    history = recommender.artifact.rows("history")
    rng = np.random.default_rng(0)
    found: dict[str, list[RecommendRequest]] = {kind: [] for kind in KINDS}
    users = rng.permutation(np.flatnonzero(history.counts >= 3))[:n]
    for user in users.tolist():
        columns, plays = history.row(user)
        names = [recommender.item_ids[item] for item in columns.tolist()]
        some = [names[index] for index in rng.choice(len(names), 3, replace=False).tolist()]
        found["whole"].append(RecommendRequest(history=names, weights=np.array(plays, np.float32), k=K))
        found["session"].append(RecommendRequest(history=some, times=[100.0, 200.0, 300.0], k=K))
        found["short"].append(RecommendRequest(history=some[:1], k=K))
        found["cold"].append(RecommendRequest(k=K))
    return found


def compared(folder: Path, kind: str, per_model: int) -> dict[str, float]:
    """Return the recall of the responses from candidates, and how far their scores are from those of all items."""
    exact, found = (np.load(folder / f"{kind}-{each}.npz") for each in (EXACT, per_model))
    recalls, apart = [], 0.0
    for items, scores, others, other_scores in zip(
        exact["items"], exact["scores"], found["items"], found["scores"], strict=True
    ):
        shared, first, second = np.intersect1d(items, others, return_indices=True)
        # Items that tie with the last one are as good as it.
        ties = np.setdiff1d(others, items)
        n_ties = int(np.isclose(other_scores[np.isin(others, ties)], scores[-1], rtol=1e-5).sum())
        recalls.append((len(shared) + n_ties) / len(items))
        apart = max(apart, float(np.abs(scores[first] - other_scores[second]).max(initial=0)))
    return {
        "recall": round(float(np.mean(recalls)), 5),
        "min_recall": round(float(np.min(recalls)), 3),
        "difference": apart,
    }


def anonymous_mb() -> float:
    """Return the private memory of this process in MiB."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return round(int(found[1]) / 1024, 1) if found else 0.0


if __name__ == "__main__":
    main()
