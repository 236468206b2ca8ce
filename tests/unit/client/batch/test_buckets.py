"""Batch jobs whose files or parts are in a bucket of a local S3 server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.s3_server import s3_server, use_store
from tests.unit.client.batch.job_server import Server, paths_in, rows, write_tone

from tritone import BatchError, FileAccessError
from tritone.messages import Request
from tritone.remote_files import filesystem, write_file


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with s3_server() as url:
        yield url


def test_recordings_and_parts_in_a_bucket(
    server: Server, tones: Path, store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_store(monkeypatch, store)
    filesystem("s3://any").call_s3("create_bucket", Bucket="music")
    for path in paths_in(tones):
        write_file(f"s3://music/in/{Path(path).relative_to(tones)}", Path(path).read_bytes())
    write_file("s3://music/in/bad.wav", b"no audio")
    stop = threading.Event()
    server.fail, server.row_s = (lambda request: stop.set() if len(server.n_rows) > 3 else None), 0.02
    first = server.run("s3://music/in/", "s3://music/out", stop=stop, concurrency=1)
    assert 0 < first.n_done < 11
    server.fail = lambda request: None
    second = server.run("s3://music/in/", "s3://music/out", resume=True)
    assert second.complete
    assert second.errors == {"unreadable": 1}
    for name in filesystem("s3://any").ls("music/out"):
        filesystem("s3://any").get(name, str(tmp_path / "copy" / Path(name).name))
    found = rows(tmp_path / "copy")
    names = [f"s3://music/in/{Path(path).relative_to(tones)}" for path in paths_in(tones)]
    assert found["path"].tolist() == sorted([*names, "s3://music/in/bad.wav"])
    error = found.set_index("path")["error"]["s3://music/in/bad.wav"]
    assert error.startswith("s3://music/in/bad.wav: ")


def test_a_second_process_in_a_bucket_does_not_replace_parts(
    server: Server, tones: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, store)
    filesystem("s3://any").call_s3("create_bucket", Bucket="two")

    def fail(request: Request) -> None:  # the other process writes the first part meanwhile
        if not filesystem("s3://any").exists("two/part-00000.parquet"):
            write_file("s3://two/part-00000.parquet", b"of the other process")

    server.fail = fail
    with pytest.raises(BatchError) as caught:
        server.run(tones, "s3://two")
    assert caught.value.reason == "running"


def test_a_part_whose_response_was_lost_is_written_once(
    server: Server, tones: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, store)
    filesystem("s3://any").call_s3("create_bucket", Bucket="lost")
    lost: list[str] = []

    def write_and_lose(url: str, content: bytes, **options: Any) -> None:
        write_file(url, content, **options)
        if url not in lost and url.endswith(".parquet"):
            lost.append(url)
            raise FileAccessError(f"{url}: no response", url=url, reason="unreachable")

    monkeypatch.setattr("tritone.batch.parts.write_file", write_and_lose)
    summary = server.run(tones, "s3://lost", retry_s=30.0)
    assert summary.complete
    assert lost
    assert server.run(tones, "s3://lost", resume=True).n_new == 0


def test_credentials_that_expire_stop_the_job_without_rows_of_errors(
    server: Server, store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_store(monkeypatch, store)
    filesystem("s3://any").call_s3("create_bucket", Bucket="expiring")
    for number in range(3):
        write_file(f"s3://expiring/{number}.wav", write_tone(tmp_path / "a.wav").read_bytes())

    def expired(url: str) -> Any:
        raise FileAccessError(f"{url}: expired", url=url, reason="expired_credentials")

    monkeypatch.setattr("tritone.batch.file_calls.open_file", expired)
    with pytest.raises(BatchError) as caught:
        server.run("s3://expiring/", tmp_path / "out")
    assert caught.value.reason == "storage"
    assert not list((tmp_path / "out").glob("*.parquet"))
    monkeypatch.undo()
    use_store(monkeypatch, store)
    assert server.run("s3://expiring/", tmp_path / "out", resume=True).errors == {}
