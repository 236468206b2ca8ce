"""Recordings per second of `tritone batch`, Ray and Spark, each against the same server with the same number of calls.

    make test-engines ARGS=--collect-only  # creates .venv-engines
    .venv-engines/bin/python -m benchmarks.throughput_jobs --server localhost:8001 --recordings 600

The start of Ray and Spark is not counted: each engine first runs on a few recordings. Ray makes new actors for every
data set, so their start (seconds) is part of its time; give it enough recordings.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import tritone.ray
import tritone.spark
from tritone import MusicClient
from tritone.batch import BatchOptions, run_batch

N_WORKERS = 2
CONCURRENCY = 8  # of each worker
RATE_HZ = 22_050


def make_recordings(folder: Path, n: int, duration_s: float) -> list[str]:
    rng = np.random.default_rng(1)
    folder.mkdir()
    paths = [folder / f"{number:05}.wav" for number in range(n)]
    for path in paths:
        soundfile.write(path, rng.uniform(-0.5, 0.5, round(duration_s * RATE_HZ)).astype(np.float32), RATE_HZ)
    return [str(path) for path in paths]


def by_batch(server: str, out: Path) -> Callable[[list[str]], int]:
    def run(paths: list[str]) -> int:
        manifest = out / f"{len(paths)}.txt"
        manifest.write_text("".join(f"{path}\n" for path in paths))
        options = BatchOptions(
            source=str(manifest), out=str(out / f"{len(paths)}-%05d.parquet"), concurrency=N_WORKERS * CONCURRENCY
        )
        with MusicClient(server) as music:
            return run_batch(music, options).n_done

    return run


def by_ray(server: str) -> Callable[[list[str]], int]:
    import ray

    ray.init(num_cpus=N_WORKERS, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)

    def run(paths: list[str]) -> int:
        data = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=2 * N_WORKERS)
        results = data.map_batches(
            tritone.ray.Classify,
            fn_constructor_kwargs={"server": server, "concurrency": CONCURRENCY},
            compute=ray.data.ActorPoolStrategy(size=N_WORKERS),
            num_cpus=0.25,
            batch_size=64,
        ).materialize()
        return int(results.count())

    return run


def by_spark(server: str) -> Callable[[list[str]], int]:
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # or workers are those of the first python3 in PATH
    builder = SparkSession.builder.master(f"local[{N_WORKERS}]").config("spark.ui.enabled", "false")
    spark: Any = builder.config("spark.driver.memory", "1g").getOrCreate()
    classify = tritone.spark.Classify(server=server, concurrency=CONCURRENCY)

    def run(paths: list[str]) -> int:
        frame = spark.createDataFrame([(path,) for path in paths], "path string").repartition(N_WORKERS)
        results = frame.mapInPandas(classify, classify.schema(frame))
        return len(results.select("path", "label").collect())

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="localhost:8001")
    parser.add_argument("--recordings", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each recording")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = make_recordings(Path(folder) / "music", arguments.recordings, arguments.seconds)
        engines = {
            "tritone batch": lambda: by_batch(arguments.server, Path(folder)),
            "Ray": lambda: by_ray(arguments.server),
            "Spark": lambda: by_spark(arguments.server),
        }
        for name, start in engines.items():
            run = start()
            run(paths[:16])
            began_s = time.perf_counter()
            n = run(paths)
            took_s = time.perf_counter() - began_s
            assert n == len(paths), (name, n)
            print(f"{name:14} {n / took_s:7.1f} recordings/s ({took_s:.1f} s)", flush=True)


if __name__ == "__main__":
    main()
