"""Bulk inference on a local Ray, against a real server."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.busy_server import busy_server
from tests.engines.model_server import ModelServer
from tests.engines.workers import SlowClassify, wait_for_workers

import tritone.ray
from tritone import MusicClient
from tritone.batch import OPERATIONS

pytestmark = pytest.mark.usefixtures("ray_cluster")

FEW = 0.25  # an actor waits for the server most of the time, and reading needs a CPU too


def pool(n: int = 2) -> Any:
    import ray

    return ray.data.ActorPoolStrategy(size=n)


def paths(music: Path) -> list[str]:
    return sorted(str(path) for path in music.iterdir())


def dataset(music: Path, n_repeats: int = 1) -> Any:
    import ray

    return ray.data.from_items([{"path": path, "copy": copy} for copy in range(n_repeats) for path in paths(music)])


def classified(data: Any, server: str, **options: Any) -> list[dict[str, Any]]:
    given = {
        "fn_constructor_kwargs": {"server": server},
        "compute": pool(),
        "batch_size": 4,
        "num_cpus": FEW,
        **options,
    }
    return data.map_batches(tritone.ray.Classify, **given).take_all()


def assert_as_the_sdk(rows: list[dict[str, Any]], music: Path, server: ModelServer) -> None:
    assert sorted(row["path"] for row in rows) == paths(music)
    with MusicClient(server.address) as client:
        for row in rows:
            if row["error"] is None:
                expected = client.classify(row["path"])
                assert row["label"] == expected.label
                assert dict(row["probabilities"]) == pytest.approx(expected.probabilities, abs=1e-6)
                assert dict(row["emotions"]) == pytest.approx(expected.emotions, abs=1e-6)
                assert (row["duration_s"], row["model_version"]) == (expected.duration_s, "1")
    [broken] = [row for row in rows if row["error"] is not None]
    assert Path(broken["path"]).name == "broken.wav"
    assert broken["error_type"] == "unreadable"
    assert broken["label"] is None
    assert broken["probabilities"] is None


def test_paths_are_classified_as_by_the_sdk(music: Path, server: ModelServer) -> None:
    rows = classified(dataset(music), server.address)
    assert_as_the_sdk(rows, music, server)
    assert {row["copy"] for row in rows} == {0}


def test_contents_of_files_are_classified_as_by_the_sdk(music: Path, server: ModelServer) -> None:
    import ray

    files = ray.data.read_binary_files(str(music), include_paths=True)
    rows = classified(files, server.address)
    assert "bytes" not in rows[0]
    assert_as_the_sdk(rows, music, server)


def test_embeddings_are_those_of_the_sdk(music: Path, server: ModelServer) -> None:
    options = {"server": server.address, "concurrency": 3}
    results = dataset(music).map_batches(
        tritone.ray.Embed, fn_constructor_kwargs=options, compute=pool(1), num_cpus=FEW, batch_format="pyarrow"
    )
    with MusicClient(server.address) as client:
        for row in results.take_all():
            if row["error"] is None:
                np.testing.assert_allclose(row["embedding"], client.embed(row["path"]), atol=1e-6)
            else:
                assert (row["error_type"], row["embedding"]) == ("unreadable", None)


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


def test_a_missing_file_is_an_error_of_its_row(music: Path, server: ModelServer) -> None:
    import ray

    data = ray.data.from_items([{"path": str(music / "00.wav")}, {"path": str(music / "gone.wav")}])
    errors = {Path(row["path"]).name: row["error_type"] for row in classified(data, server.address)}
    assert errors["00.wav"] is None
    assert errors["gone.wav"] is not None


def test_one_of_several_servers_may_be_down(music: Path, server: ModelServer) -> None:
    assert_as_the_sdk(classified(dataset(music), f"127.0.0.1:9,{server.address}"), music, server)


def test_a_server_of_the_node_by_its_environment(music: Path, server: ModelServer) -> None:
    rows = classified(
        dataset(music), "127.0.0.1:$NODE_TRITON_PORT", runtime_env={"env_vars": {"NODE_TRITON_PORT": str(server.port)}}
    )
    assert_as_the_sdk(rows, music, server)


def test_a_killed_worker_loses_and_repeats_no_row(music: Path, server: ModelServer, tmp_path: Path) -> None:

    data = dataset(music, n_repeats=10).repartition(20)
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
    assert Counter((row["path"], row["copy"]) for row in rows) == Counter(
        (path, copy) for copy in range(10) for path in paths(music)
    )
    assert {row["error_type"] for row in rows} == {None, "unreadable"}


def test_a_restarted_server_loses_no_row(music: Path, server: ModelServer, tmp_path: Path) -> None:
    def restart() -> None:
        wait_for_workers(tmp_path, 2)
        server.stop()
        time.sleep(1)
        server.start()

    thread = threading.Thread(target=restart)
    thread.start()
    rows = (
        dataset(music, n_repeats=10)
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
    assert Counter(row["error_type"] for row in rows) == {None: 120, "unreadable": 10}


def test_a_busy_server_gets_fewer_requests_at_once(music: Path) -> None:
    with busy_server(n_parallel=3) as busy:
        options = {"server": busy.url, "concurrency": 16}
        rows = classified(dataset(music, n_repeats=10), "", fn_constructor_kwargs=options, batch_size=65)
    assert Counter(row["error_type"] for row in rows) == {None: 120, "unreadable": 10}
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
