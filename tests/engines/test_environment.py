"""The local Ray and the local Spark of these tests compute in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd


def test_ray_runs_in_other_processes(ray_cluster: None) -> None:
    import ray

    def own_id() -> int:
        return os.getpid()

    process = ray.remote(own_id)
    assert os.getpid() not in ray.get([process.remote() for _ in range(4)])


def test_ray_data_passes_arrays(ray_cluster: None) -> None:
    import ray

    data = ray.data.from_items([{"n": n} for n in range(8)]).map_batches(lambda batch: {"square": batch["n"] ** 2})
    assert sorted(row["square"] for row in data.take_all()) == [n**2 for n in range(8)]


def test_spark_passes_frames(spark: Any) -> None:
    def process(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            yield pd.DataFrame({"n": np.square(frame["id"]), "pid": os.getpid()})

    rows = spark.range(8).mapInPandas(process, "n long, pid long").collect()
    assert sorted(row.n for row in rows) == [n**2 for n in range(8)]
    assert os.getpid() not in {row.pid for row in rows}
