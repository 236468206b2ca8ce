"""Measure how fitting and scoring scale with users and items, on simulated listening: time, memory, and a plot.

```
python -m benchmarks.scale_recommender                           # four small sizes, minutes
python -m benchmarks.scale_recommender --sizes all --out docs/benchmarks     # up to 1,000,000 users x 200,000 items
python -m benchmarks.scale_recommender --engine ray --workers 2              # on a local Ray; spark likewise
```
Each size runs in a process of its own, so that its peak memory is its own. The listening is simulated: item popularity
falls like 1 / rank ** 0.8, and users belong to taste groups. `taste_vae` and validation are left out; what grows with
the log is fitted: the item-item models, user-kNN, popularity. Recommendations are computed for stored users, one after
the other in this process, without a server and without precomputed lists. Values with `cpu` are CPU time of this
process; `engine` has those of the engine's tasks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from tritone_training.kinds.recommender.engines import Engine

# users, items, plays
SIZES = {
    "2k": (2_000, 17_000, 100_000),
    "8k": (8_000, 20_000, 400_000),
    "50k": (50_000, 30_000, 2_500_000),
    "200k": (200_000, 80_000, 10_000_000),
    "1M": (1_000_000, 200_000, 50_000_000),
}
# A large catalogue, for `candidate_recall`; not one of `all`, whose sizes grow in all directions.
LARGE_CATALOGUE = "1M-items"
MEASURED = {**SIZES, LARGE_CATALOGUE: (50_000, 1_000_000, 10_000_000)}
N_NEIGHBOURS = {LARGE_CATALOGUE: 30}  # else 100
SMALL = ("2k", "8k", "50k", "200k")
N_TASTES = 50
N_WARM_UP = 50
N_REQUESTS = 1_000
KEY = b"a key for simulated listeners"
RESULT = "recommender-scale.json"
FIRST_SERIES = "local, 1 worker"


def simulate(n_users: int, n_items: int, n_plays: int, seed: int = 0) -> sparse.csr_matrix:
    """Return (U, I) plays, built in blocks of users to limit memory."""
    rng = np.random.default_rng(seed)
    fame = 1 / np.arange(1, n_items + 1) ** 0.8
    group = rng.integers(0, N_TASTES, n_items)  # taste group of each item
    own = [np.flatnonzero(group == taste) for taste in range(N_TASTES)]
    curves = [np.cumsum(fame[items]) / fame[items].sum() for items in own]
    everyone = np.cumsum(fame) / fame.sum()
    each = n_plays // n_users
    starts, columns = [0], []
    block = 20_000
    for start in range(0, n_users, block):
        n = min(block, n_users - start)
        draws = np.searchsorted(everyone, rng.random((n, each))).astype(np.int32)
        taste = rng.integers(0, N_TASTES, n)
        for number in range(N_TASTES):
            mine = np.flatnonzero(taste == number)
            places = np.searchsorted(curves[number], rng.random((len(mine), each * 7 // 10)))
            draws[mine, : each * 7 // 10] = own[number][places]
        draws.sort(axis=1)
        kept = np.ones(draws.shape, np.bool_)
        kept[:, 1:] = draws[:, 1:] != draws[:, :-1]
        columns.append(draws[kept])
        starts.extend((starts[-1] + np.cumsum(kept.sum(1))).tolist())
    indices = np.concatenate(columns)
    plays = rng.integers(1, 100, len(indices)).astype(np.float32)
    return sparse.csr_matrix((plays, indices, np.array(starts)), shape=(n_users, n_items))


def measure(name: str, keep: Path | None, engine: Engine) -> dict[str, Any]:
    """Fit one size, write the artifact and recommend to stored users; return times and memory of this process."""
    from tritone_serving.recommender import write_artifact
    from tritone_training.hyperparameters import from_preset
    from tritone_training.kinds.recommender.config import PRESETS
    from tritone_training.kinds.recommender.fitting.base_models import fit_base_models, manifest_of
    from tritone_training.kinds.recommender.fitting.interaction_dataset import dataset_of_matrix

    n_users, n_items, n_plays = MEASURED[name]
    plays = simulate(n_users, n_items, n_plays)
    simulated_mb = peak_mb()
    config = from_preset(PRESETS, "default", {"n_neighbours": N_NEIGHBOURS.get(name, 100)})

    def cpu_s() -> float:
        """CPU time of this process and of the engine's tasks in other processes."""
        return time.process_time() + (0 if engine.name == "local" and engine.n_workers == 1 else engine.use.cpu_s)

    began_s, worked_s = time.perf_counter(), cpu_s()
    dataset = dataset_of_matrix(plays, config, KEY)
    steps: dict[str, float] = {}
    current = [("dataset", worked_s)]

    def on_step(step: str) -> Any:
        now_s = cpu_s()
        steps[current[0][0]] = steps.get(current[0][0], 0.0) + now_s - current[0][1]
        current[0] = (step, now_s)
        return lambda done, total: None

    parts = fit_base_models(dataset, config, metadata={}, on_step=on_step, engine=engine)
    on_step("end")
    fit_s, fit_cpu_s = time.perf_counter() - began_s, cpu_s() - worked_s
    weights = {segment: dict.fromkeys(parts.base_models, 1.0) for segment in ("warm", "short", "cold")}
    for base_model, described in parts.base_models.items():
        described["scale"] = 0.0 if base_model == "popularity" else 0.01
    manifest = {**manifest_of(parts, dataset, config, KEY), "ensembles": {"a": {"warm_from": 10, "weights": weights}}}
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        write_artifact(Path(folder), manifest, parts.arrays)
        write_s = time.perf_counter() - began_s
        disk_mb = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
        digest = digest_of(Path(folder))
        base_models = list(parts.base_models)
        del parts, dataset, plays
        fit_mb = peak_mb()
        latency = measure_latency(Path(folder)) if engine.name == "local" else {}  # the artifact is the same
        if keep is not None:
            shutil.copytree(folder, keep / name)
    return {
        "size": name,
        "n_users": n_users,
        "n_items": n_items,
        "n_plays": n_plays,
        "base_models": base_models,
        "engine": engine.describe(),
        "steps_cpu_s": {step: round(seconds, 1) for step, seconds in steps.items()},
        "fit_s": round(fit_s, 1),
        "fit_cpu_s": round(fit_cpu_s, 1),
        "write_s": round(write_s, 1),
        "peak_mb": round(fit_mb),
        "simulation_mb": round(simulated_mb),
        "artifact_mb": round(disk_mb),
        "artifact_sha256": digest,
        **latency,
    }


def opened_engine(options: argparse.Namespace) -> Engine:
    """Open the engine of the options."""
    from tritone_training.kind import TrainRequest
    from tritone_training.kinds.recommender.engines import open_engine

    return open_engine(
        TrainRequest(
            out=Path("unused"),
            engine=options.engine,
            workers=options.workers,
            engine_address=options.engine_address,
        )
    )


def digest_of(folder: Path) -> str:
    """Return the SHA-256 digest of all arrays of an artifact, so that fits on different engines can be compared."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.npy")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def measure_latency(folder: Path) -> dict[str, float]:
    """Return the latency of recommendations to successive stored users, in milliseconds."""
    from tritone_serving.recommender import Recommender, RecommendRequest, RecommendResponse
    from tritone_serving.recommender.memory import keep_freed_memory

    keep_freed_memory()  # as the backend does
    recommender = Recommender.open(folder, key=KEY)
    users = np.linspace(0, recommender.artifact.n_users - 1, N_WARM_UP + N_REQUESTS).astype(int)
    latencies_ms, cpu_ms = [], []
    for user in np.random.default_rng(0).permutation(users).tolist():
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        [found] = recommender.recommend([RecommendRequest(user=f"user-{user}")])
        latencies_ms.append((time.perf_counter() - began_s) * 1e3)
        cpu_ms.append((time.thread_time() - began_cpu_s) * 1e3)
        assert isinstance(found, RecommendResponse)
        assert len(found.items) == 10
    latencies_ms, cpu_ms = latencies_ms[N_WARM_UP:], cpu_ms[N_WARM_UP:]
    return {
        "answer_p50_ms": round(float(np.percentile(latencies_ms, 50)), 2),
        "answer_p99_ms": round(float(np.percentile(latencies_ms, 99)), 2),
        "answer_cpu_p99_ms": round(float(np.percentile(cpu_ms, 99)), 2),
    }


def peak_mb() -> float:
    """Return the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot time and memory by engine, and latency, over the number of plays."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.8))
    series: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        series.setdefault(_series(row), []).append(row)
    for name, fits in series.items():
        plays = [row["n_plays"] for row in fits]
        axes[0].plot(plays, [row["fit_s"] for row in fits], marker="o", label=name)
        axes[1].plot(plays, [_memory_gb(row) for row in fits], marker="o", label=name)
    measured = [row for row in rows if "answer_p50_ms" in row and _series(row) == FIRST_SERIES]
    plays = [row["n_plays"] for row in measured]
    axes[1].plot(plays, [row["artifact_mb"] / 1024 for row in measured], color="grey", linestyle=":", label="artifact")
    for quantile in ("p50", "p99"):
        axes[2].plot(plays, [row[f"answer_{quantile}_ms"] for row in measured], marker="o", label=quantile)
    axes[2].axhline(20, color="grey", linestyle=":")
    for axis, label in zip(axes, ("fit, s", "peak memory, driver and workers, GB", "latency, ms"), strict=True):
        axis.set_ylabel(label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("plays (simulated)")
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _series(row: dict[str, Any]) -> str:
    engine = row["engine"]
    return f"{engine['name']}, {engine['workers']} worker{'s' if engine['workers'] > 1 else ''}"


def _memory_gb(row: dict[str, Any]) -> float:
    """Return the peak memory of the driver and of all workers; pages that they share count for each of them."""
    engine = row["engine"]
    workers_mb = 0 if _series(row) == FIRST_SERIES else engine["worker_peak_mb"] * engine["workers"]
    return float(row["peak_mb"] + workers_mb) / 1024


def main() -> None:
    """Run each size in a process of its own; exit with status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", default=",".join(SMALL), help=f"some of {', '.join(MEASURED)}, separated by commas, or all"
    )
    parser.add_argument("--out", type=Path, help=f"folder for {RESULT} and its plot; results of other sizes are kept")
    parser.add_argument("--keep", type=Path, help="folder for the artifacts, as SIZE; without it they are removed")
    parser.add_argument("--latency", type=Path, help="only measure an artifact from --keep")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--engine", help="execution engine of the fit: local (default), ray or spark")
    parser.add_argument("--workers", type=int, help="number of parallel workers of the engine")
    parser.add_argument("--engine-address", help="running cluster; without it, this computer")
    options = parser.parse_args()
    if options.latency:
        print(json.dumps(measure_latency(options.latency)))
        return
    if options.one:
        with opened_engine(options) as engine:
            print(json.dumps(measure(options.one, options.keep, engine)))
        return
    names = list(SIZES) if options.sizes == "all" else options.sizes.split(",")
    rows = _measured_before(options.out) if options.out else []
    if unknown := [name for name in names if name not in MEASURED]:
        parser.error(f"--sizes: expected some of {', '.join(MEASURED)}, got {', '.join(unknown)}")
    if options.keep and (existing := [options.keep / name for name in names if (options.keep / name).exists()]):
        parser.error(f"--keep: {', '.join(map(str, existing))} exists already; remove it, or name another folder")
    failed = []
    for name in names:
        command = [sys.executable, "-m", "benchmarks.scale_recommender", "--one", name]
        for option in ("keep", "engine", "workers", "engine_address"):
            if (value := getattr(options, option)) is not None:
                command += [f"--{option.replace('_', '-')}", str(value)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            print(f"{name}: failed\n{ended.stderr[-2000:]}", file=sys.stderr)
            failed.append(name)
            continue
        print(ended.stdout.splitlines()[-1], flush=True)
        row = json.loads(ended.stdout.splitlines()[-1])
        rows = [each for each in rows if (each["size"], _series(each)) != (name, _series(row))] + [row]
        if options.out:  # after each size, since the largest take long
            rows.sort(key=lambda each: (_series(each), list(MEASURED).index(each["size"])))
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / RESULT).write_text(json.dumps(rows, indent=2) + "\n")
            draw(rows, (options.out / RESULT).with_suffix(".png"))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _measured_before(folder: Path) -> list[dict[str, Any]]:
    """Return earlier results, so that what is not measured again stays in the plot."""
    path = folder / RESULT
    return list(json.loads(path.read_text())) if path.is_file() else []


if __name__ == "__main__":
    main()
