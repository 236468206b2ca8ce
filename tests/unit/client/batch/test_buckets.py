"""Batch jobs whose files or parts are in a bucket of a local S3 server."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.batch_jobs import rows
from tests.support.s3_server import s3_server, use_store
from tests.unit.client.batch.job_server import Server, paths_in, write_tone
from tests.unit.client.writers import FakeWriters

from tritone import BatchError, FileAccessError, MusicClient
from tritone.batch import BatchOptions, run_batch
from tritone.messages import Request
from tritone.remote_files import filesystem, list_folder, open_file, write_file


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
    summary = server.run(tones, "s3://lost", outage_timeout_s=30.0)
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


@pytest.mark.parametrize("busy_name", ["00.wav", "10.wav"])
def test_an_object_that_stays_busy_among_others_is_a_row(
    server: Server, store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, busy_name: str
) -> None:
    use_store(monkeypatch, store)
    bucket = f"busy-{busy_name[:2]}"
    filesystem("s3://any").call_s3("create_bucket", Bucket=bucket)
    for number in range(11):
        write_file(f"s3://{bucket}/{number:02d}.wav", write_tone(tmp_path / "a.wav").read_bytes())
    opened: Counter[str] = Counter()

    def open_or_fail(url: str) -> Any:
        opened[url] += 1
        if url.endswith(busy_name):
            raise FileAccessError(f"{url}: busy", url=url, reason="busy")
        return open_file(url)

    monkeypatch.setattr("tritone.batch.file_calls.open_file", open_or_fail)
    summary = server.run(f"s3://{bucket}/", tmp_path / "out", outage_timeout_s=30.0)
    assert summary.complete
    assert summary.errors == {"busy": 1}
    found = rows(tmp_path / "out").set_index("path")["error_type"].dropna()
    assert found.to_dict() == {f"s3://{bucket}/{busy_name}": "busy"}
    assert opened[f"s3://{bucket}/{busy_name}"] <= 5


def test_errors_of_scores_in_a_bucket_name_the_object(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_store(monkeypatch, store)
    filesystem("s3://any").call_s3("create_bucket", Bucket="scores")
    for name, content in (("empty.mid", b""), ("text.mid", b"no music")):
        write_file(f"s3://scores/{name}", content)
    with MusicClient(transport=FakeWriters(), retries=0) as music:
        job = BatchOptions(source="s3://scores/", out=f"{tmp_path}/part-%05d.parquet", operation="predict")
        assert run_batch(music, job).errors == {"empty": 1, "not_midi": 1}
    for path, error in rows(tmp_path).set_index("path")["error"].items():
        assert error.startswith(f"{path}: ")
        assert "None" not in error
        assert "<file object>" not in error


def test_wildcards_in_the_name_of_an_output_have_no_meaning(
    server: Server, tones: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, store)
    filesystem("s3://any").call_s3("create_bucket", Bucket="marks")
    write_file("s3://marks/results [v2]/below/part-00009.parquet", b"not of the job")
    assert server.run(tones, "s3://marks/results [v2]", resume=True).n_new == 10
    again = server.run(tones, "s3://marks/results [v2]", resume=True)
    assert (again.n_new, again.n_done) == (0, 10)
    names = list_folder("s3://marks/results [v2]")
    assert set(names) >= {"part.job.json", "part.files.jsonl.gz", "part-00000.parquet"}
    assert "part-00009.parquet" not in {name.rpartition("/")[2] for name in names}
    assert list_folder("s3://marks/nothing") == []


def test_a_job_that_another_process_records_meanwhile_is_not_started(
    server: Server, tones: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(monkeypatch, store)
    filesystem("s3://any").call_s3("create_bucket", Bucket="both")

    def write_after_another(url: str, content: bytes, **options: Any) -> None:
        if url.endswith("part.job.json"):
            write_file(url, b"of the other process")
        write_file(url, content, **options)

    monkeypatch.setattr("tritone.batch.jobs.write_file", write_after_another)
    with pytest.raises(BatchError) as caught:
        server.run(tones, "s3://both")
    assert caught.value.reason == "running"
    assert list_folder("s3://both") == ["part.files.jsonl.gz", "part.job.json"]


@pytest.mark.parametrize("is_conditional", [True, False])
def test_an_object_that_exists_is_not_replaced(
    store: str, monkeypatch: pytest.MonkeyPatch, *, is_conditional: bool
) -> None:
    use_store(monkeypatch, store)
    files = filesystem("s3://any")
    if not files.exists("exists"):
        files.call_s3("create_bucket", Bucket="exists")
    if not is_conditional:
        monkeypatch.setattr(files, "pipe_file", lambda name, content, mode: pytest.fail("was replaced"))
    else:
        monkeypatch.setattr(files, "exists", lambda name: False)  # written after the check
    files.call_s3("put_object", Bucket="exists", Key="a", Body=b"first")
    with pytest.raises(FileAccessError) as caught:
        write_file("s3://exists/a", b"second", if_exists="error")
    assert caught.value.reason == "exists"
    assert files.cat_file("exists/a") == b"first"
