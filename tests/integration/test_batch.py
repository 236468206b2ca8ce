"""`tritone batch` on a real server: killed at any moment and started again, each file has one row."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
import soundfile
from tests.support.batch_jobs import command, rows
from tests.support.s3_server import s3_server, use_store

from tritone import MusicClient
from tritone.batch import BatchOptions, run_batch
from tritone.remote_files import filesystem, write_file
from tritone_serving import TritonServer

pytestmark = pytest.mark.triton

N_FILES = 60
RATE_HZ = 22_050


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    noise = np.random.default_rng(3).uniform(-0.5, 0.5, 4 * RATE_HZ).astype(np.float32)
    for number in range(N_FILES):
        path = folder / f"{number % 3}" / f"{number:03d}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.roll(noise, 1_000 * number), RATE_HZ)
    (folder / "broken.wav").write_bytes(b"RIFF" + bytes(100))
    (folder / "empty.wav").touch()
    return folder


def paths_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_job_that_is_killed_at_random_moments_has_every_file_once(
    server: TritonServer, recordings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    pace = ("--concurrency", 1, "--rows-per-part", 4)
    chance = random.Random(5)  # noqa: S311 - moments of a test
    n_rows_seen = [0]
    for _ in range(5):
        process = subprocess.Popen(command(recordings, server.grpc_url, out, *pace), stderr=subprocess.DEVNULL)
        n_parts = len(list(out.glob("*.parquet")))
        deadline_s = time.monotonic() + 30
        while len(list(out.glob("*.parquet"))) == n_parts and process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.wait()
        if list(out.glob("*.parquet")):
            found = rows(out)
            assert found["path"].is_unique
            n_rows_seen.append(len(found))
    done = subprocess.run(
        command(recordings, server.grpc_url, out, *pace), check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = rows(out)
    assert n_rows_seen[1] > 0
    assert found["path"].tolist() == paths_in(recordings)
    errors = found.set_index("path")["error_type"].dropna()
    assert {Path(path).name: kind for path, kind in errors.items()} == {
        "broken.wav": "unreadable",
        "empty.wav": "empty",
    }
    assert not [path for path in out.iterdir() if path.suffix == ".partial"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_what_is_done_and_ends_the_job(
    server: TritonServer, recordings: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    # Writing a part for each file takes much longer than the signal.
    arguments = command(recordings, server.grpc_url, out, "--concurrency", 1, "--rows-per-part", 1)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 30
    while not list(out.glob("*.parquet")) and time.monotonic() < deadline_s:
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=40)
    found = rows(out)
    assert found["path"].is_unique
    assert len(found) < N_FILES + 2
    assert process.returncode == 128 + number, stderr
    assert "--resume" in stderr
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert rows(out)["path"].tolist() == paths_in(recordings)


def test_results_equal_those_of_the_client(server: TritonServer, recordings: Path, tmp_path: Path) -> None:
    with MusicClient(server.grpc_url) as music:
        summary = run_batch(
            music, BatchOptions(source=str(recordings / "0"), out=f"{tmp_path}/part-%05d.parquet", operation="classify")
        )
        embedded = run_batch(
            music, BatchOptions(source=str(recordings / "0"), out=f"{tmp_path}/e-%05d.parquet", operation="embed")
        )
        assert summary.complete
        assert embedded.complete
        found = rows(tmp_path).set_index("path")
        vectors = duckdb.sql(f"SELECT path, embedding FROM read_parquet('{tmp_path}/e-*.parquet')").df()  # noqa: S608
        path = str(recordings / "0" / "000.wav")
        expected = music.classify(path)
        assert found["label"][path] == expected.label
        assert found["probabilities"][path] == pytest.approx(dict(expected.probabilities), abs=1e-5)
        assert found["emotions"][path] == pytest.approx(dict(expected.emotions or {}), abs=1e-5)
        assert vectors.set_index("path")["embedding"][path] == pytest.approx(expected.embedding, abs=1e-5)
    assert len(pd.read_parquet(tmp_path / "part-00000.parquet", engine="fastparquet")) == N_FILES / 3


@pytest.mark.slow
def test_a_job_waits_for_a_server_that_restarts(
    make_model_repository: Any, options_for: Any, recordings: Path, tmp_path: Path
) -> None:
    repository = make_model_repository(tmp_path / "repository")
    out = tmp_path / "out"
    with TritonServer.start(options_for(repository)) as first:
        urls = {"http_port": first.http_url, "grpc_port": first.grpc_url}
        ports = {name: int(url.rpartition(":")[2]) for name, url in urls.items()}
        arguments = command(recordings, first.grpc_url, out, "--concurrency", 1, "--rows-per-part", 5)
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        deadline_s = time.monotonic() + 30
        while not list(out.glob("*.parquet")) and time.monotonic() < deadline_s:
            time.sleep(0.005)
    with TritonServer.start(options_for(repository, **ports)):
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == 0, stderr
    found = rows(out)
    assert found["path"].tolist() == paths_in(recordings)
    assert found["error_type"].dropna().nunique() == 2  # only those of the two files that are no recordings


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with s3_server() as url:
        yield url


class TestBucket:
    @pytest.mark.slow
    def test_a_job_over_a_bucket_is_killed_and_goes_on(
        self,
        server: TritonServer,
        recordings: Path,
        store: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        use_store(monkeypatch, store)
        bucket = filesystem("s3://any")
        bucket.call_s3("create_bucket", Bucket="music")
        names = [str(Path(path).relative_to(recordings)) for path in paths_in(recordings)][:20]
        for name in names:
            write_file(f"s3://music/in/{name}", (recordings / name).read_bytes())
        pace = ("--concurrency", 1, "--rows-per-part", 3)
        arguments = command("s3://music/in", server.grpc_url, "s3://music/out", *pace)
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, env=dict(os.environ))
        deadline_s = time.monotonic() + 60
        while not bucket.exists("music/out/part-00001.parquet") and time.monotonic() < deadline_s:
            time.sleep(0.02)
        process.kill()
        process.wait()
        done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        for name in bucket.ls("music/out", detail=False):
            bucket.get_file(name, str(tmp_path / Path(name).name))
        assert rows(tmp_path)["path"].tolist() == sorted(f"s3://music/in/{name}" for name in names)
