"""Bulk inference on a local Ray, against a real server."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.engines.busy_server import busy_server
from tests.engines.model_server import ModelServer
from tests.engines.workers import SlowClassify, wait_for_workers
from tests.support.bulk_rows import (
    assert_classified_as_by_the_sdk,
    assert_embedded_as_by_the_sdk,
    assert_errors,
    assert_one_row_for_each_copy,
    paths,
    paths_and_copies,
    write_good_and_bad_files,
)

import tritone.ray
from tritone import MusicClient
from tritone.batch import OPERATIONS

pytestmark = pytest.mark.usefixtures("ray_cluster")

FEW = 0.25  # an actor waits for the server most of the time, and reading needs a CPU too


def pool(n: int = 2) -> Any:
    import ray

    return ray.data.ActorPoolStrategy(size=n)


def dataset(music: Path) -> Any:
    import ray

    return ray.data.from_items([{"path": path, "copy": 0} for path in paths(music)])


def dataset_of_copies(music: Path) -> Any:
    import ray

    return ray.data.from_items([{"path": path, "copy": copy} for path, copy in paths_and_copies(music)])


def classified(data: Any, server: str, **options: Any) -> list[dict[str, Any]]:
    given = {
        "fn_constructor_kwargs": {"server": server},
        "compute": pool(),
        "batch_size": 4,
        "num_cpus": FEW,
        **options,
    }
    return data.map_batches(tritone.ray.Classify, **given).take_all()


def test_paths_are_classified_as_by_the_sdk(music: Path, server: ModelServer) -> None:
    rows = classified(dataset(music), server.address)
    assert_classified_as_by_the_sdk(rows, music, server.address)
    assert {row["copy"] for row in rows} == {0}


def test_contents_of_files_are_classified_as_by_the_sdk(music: Path, server: ModelServer) -> None:
    import ray

    files = ray.data.read_binary_files(str(music), include_paths=True)
    rows = classified(files, server.address)
    assert "bytes" not in rows[0]
    assert_classified_as_by_the_sdk(rows, music, server.address)


def test_embeddings_are_those_of_the_sdk(music: Path, server: ModelServer) -> None:
    options = {"server": server.address, "concurrency": 3}
    results = dataset(music).map_batches(
        tritone.ray.Embed, fn_constructor_kwargs=options, compute=pool(1), num_cpus=FEW, batch_format="pyarrow"
    )
    assert_embedded_as_by_the_sdk(results.take_all(), music, server.address, unknown=None)


def test_recommendations_are_those_of_the_sdk(server: ModelServer) -> None:
    import ray

    data = ray.data.from_items([{"user": "a", "listened": ["piece/60", "piece/7"]}, {"user": "b", "listened": ["x"]}])
    rows = data.map_batches(
        tritone.ray.Call,
        fn_constructor_args=["recommend"],
        fn_constructor_kwargs={"inputs": {"history": "listened"}, "arguments": {"n": 3}, "server": server.address},
        compute=pool(1),
        num_cpus=FEW,
    ).take_all()
    known, unknown = sorted(rows, key=lambda row: str(row["user"]))
    with MusicClient(server.address) as client:
        expected = client.recommend(history=["piece/60", "piece/7"], n=3)
    assert known["error"] is None
    assert json.loads(known["result"]) | {"request_id": None} == expected.to_dict() | {"request_id": None}
    assert (unknown["result"], unknown["error_type"]) == (None, "rejected")


def test_files_that_cannot_be_used_are_errors_of_their_rows(server: ModelServer, tmp_path: Path) -> None:
    import ray

    expected = write_good_and_bad_files(tmp_path)
    by_path = ray.data.from_items([{"path": path} for path in expected])
    assert_errors(classified(by_path, server.address), expected)
    by_content = ray.data.read_binary_files(str(tmp_path), include_paths=True)
    present = {path: kind for path, kind in expected.items() if kind != "missing"}
    assert_errors(classified(by_content, server.address), present)


def test_one_of_several_servers_may_be_down(music: Path, server: ModelServer) -> None:
    rows = classified(dataset(music), f"127.0.0.1:9,{server.address}")
    assert_classified_as_by_the_sdk(rows, music, server.address)


def test_a_server_of_the_node_by_its_environment(music: Path, server: ModelServer) -> None:
    rows = classified(
        dataset(music), "127.0.0.1:$NODE_TRITON_PORT", runtime_env={"env_vars": {"NODE_TRITON_PORT": str(server.port)}}
    )
    assert_classified_as_by_the_sdk(rows, music, server.address)


def test_a_killed_worker_loses_and_repeats_no_row(music: Path, server: ModelServer, tmp_path: Path) -> None:
    data = dataset_of_copies(music).repartition(20)
    results = data.map_batches(
        SlowClassify,
        fn_constructor_kwargs={"server": server.address, "folder": str(tmp_path)},
        compute=pool(),
        batch_size=4,
        num_cpus=FEW,
    )
    killed = []

    def kill() -> None:
        killed.append(wait_for_workers(tmp_path, 2)[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    rows = results.take_all()
    thread.join()
    assert killed
    assert set(map(int, (path.name for path in tmp_path.iterdir()))) - set(killed)
    assert_one_row_for_each_copy(rows, music)


def test_a_restarted_server_loses_no_row(music: Path, server: ModelServer, tmp_path: Path) -> None:
    def restart() -> None:
        wait_for_workers(tmp_path, 2)
        server.stop()
        time.sleep(1)
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    rows = (
        dataset_of_copies(music)
        .repartition(20)
        .map_batches(
            SlowClassify,
            fn_constructor_kwargs={"server": server.address, "folder": str(tmp_path)},
            compute=pool(),
            batch_size=4,
            num_cpus=FEW,
        )
        .take_all()
    )
    thread.join()
    assert_one_row_for_each_copy(rows, music)


def test_a_busy_server_gets_fewer_requests_at_once(music: Path) -> None:
    with busy_server(n_parallel=3) as busy:
        options = {"server": busy.url, "concurrency": 16}
        rows = classified(dataset_of_copies(music), "", fn_constructor_kwargs=options, batch_size=65)
    assert_one_row_for_each_copy(rows, music)
    assert busy.n_refused > 0
    assert busy.most <= 8  # of 32


def test_a_server_that_stays_away_fails_the_job(music: Path) -> None:
    options = {"fn_constructor_kwargs": {"server": "127.0.0.1:9", "wait_s": 0}, "compute": pool(1), "num_cpus": FEW}
    with pytest.raises(Exception, match="ConnectionFailedError"):
        classified(dataset(music), "", **options)


def test_all_operations_of_batch_jobs_have_columns() -> None:
    import pyarrow as pa

    nothing = pa.table({"path": pa.array([], pa.string())})
    for name, operation in OPERATIONS.items():
        table = tritone.ray.Call(name, inputs={"path": "path"})(nothing)
        assert table.column_names == ["path", *operation.columns, "error", "error_type"]
        assert pa.null() not in table.schema.types


def test_a_missing_column_fails_the_job_plainly(music: Path, server: ModelServer) -> None:
    with pytest.raises(Exception, match="no column 'file' in the data: expected file, got path, copy") as raised:
        classified(dataset(music), "", fn_constructor_kwargs={"server": server.address, "path_column": "file"})
    assert "InvalidInputError" in str(raised.value)
