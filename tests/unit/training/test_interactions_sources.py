"""Logs in several files: folders, globs and buckets, parts that do not fit together, and full disks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from tests.support.s3_server import failing_store, s3_server, use_store

from tritone_training.data.interactions import Log, load_log
from tritone_training.data.interactions import scratch as scratch_module
from tritone_training.data.interactions.scratch import FOLDER_VARIABLE, MEMORY_VARIABLE, open_scratch, temporary_folder
from tritone_training.data.tables import location_of, sources, url_of
from tritone_training.exceptions import DataError

ROWS = "SELECT 'u' || (i % 7) AS user, 'i' || (i % 5) AS item, 1500000000 + i AS time FROM range({first}, {end}) x(i)"


def write_part(path: Path, query: str = ROWS, *, first: int = 0, n: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    duckdb.execute(f"COPY ({query.format(first=first, end=first + n)}) TO '{path}'")
    return path


def write_parts(folder: Path) -> Path:
    for part in range(3):
        write_part(folder / f"day={part}" / f"part-{part}.parquet", first=40 * part)
    return folder


def same(one: Log, other: Log) -> bool:
    assert one.sequences is not None
    assert other.sequences is not None
    return one.fingerprint() == other.fingerprint() and np.array_equal(one.sequences.item, other.sequences.item)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, store: str, tmp_path: Path) -> str:
    import s3fs

    use_store(monkeypatch, store)
    files = s3fs.S3FileSystem()
    name = tmp_path.name.replace("_", "-").lower()[:40]
    files.mkdir(name)
    files.put(str(write_parts(tmp_path / "for-bucket")), f"{name}/log", recursive=True)
    return f"s3://{name}/log"


@pytest.mark.parametrize("pattern", ["*/*.parquet", "**/*.parquet", "day=?/part-[0-2].parquet"])
def test_a_glob_reads_the_parts_of_a_folder(tmp_path: Path, pattern: str) -> None:
    folder = write_parts(tmp_path / "log")
    log = load_log(folder / pattern)
    assert same(log, load_log(folder))
    assert log.report["n_in"] == 120
    assert log.source == Path(pattern).name


def test_the_order_of_the_parts_does_not_change_the_log(tmp_path: Path) -> None:
    for name, order in (("one", (0, 1, 2)), ("other", (2, 0, 1))):
        for part, first in enumerate(order):
            write_part(tmp_path / name / f"part-{part}.parquet", first=40 * first)
    assert same(load_log(tmp_path / "one"), load_log(tmp_path / "other"))


def test_compressed_text_parts_are_read(tmp_path: Path) -> None:
    import gzip

    for part in range(2):
        rows = "".join(f"u{i % 7},i{i % 5},{1500000000 + i}\n" for i in range(40 * part, 40 * part + 40))
        (tmp_path / f"part-{part}.csv.gz").write_bytes(gzip.compress(f"user,item,time\n{rows}".encode()))
    assert same(load_log(tmp_path / "*.csv.gz"), load_log(write_part(tmp_path / "all.parquet", n=80)))


def test_a_glob_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no files match '\*\.parquet' in "):
        load_log(tmp_path / "*.parquet")


def test_a_bucket_gives_the_same_log_by_prefix_glob_and_object(tmp_path: Path, bucket: str) -> None:
    local = load_log(tmp_path / "for-bucket")
    assert same(load_log(Path(bucket)), local)
    assert same(load_log(Path(f"{bucket}/*/*.parquet")), local)
    one = load_log(Path(f"{bucket}/day=1/part-1.parquet"))
    assert same(one, load_log(tmp_path / "for-bucket" / "day=1" / "part-1.parquet"))


def test_urls_given_as_paths_keep_their_slashes() -> None:
    assert url_of(Path("s3://bucket/a/*.parquet")) == "s3://bucket/a/*.parquet"
    assert url_of(Path("gs://bucket")) == "gs://bucket"
    assert url_of(Path("plays.csv")) is None
    assert location_of(Path("s3://bucket/a")) == "s3://bucket/a"
    assert location_of(Path("logs/*.csv")) == str(Path.cwd() / "logs" / "*.csv")


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(DataError, match="unsupported URL scheme"):
        load_log(Path("ftp://host/plays.csv"))


def test_a_file_url_is_a_local_file(tmp_path: Path) -> None:
    path = write_part(tmp_path / "log.parquet")
    assert same(load_log(Path(f"file://{path}")), load_log(path))


def test_a_missing_object_is_refused(bucket: str) -> None:
    with pytest.raises(DataError, match=r"no files found"):
        load_log(Path(f"{bucket}/nothing"))


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [(400, "ExpiredToken", "credentials have expired"), (403, "AccessDenied", "access is denied")],
)
def test_expired_credentials_and_denied_access_are_named(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, says: str
) -> None:
    with failing_store(status, code) as url:
        use_store(monkeypatch, url)
        with pytest.raises(DataError, match=says):
            load_log(Path("s3://bucket/log/*.parquet"))


def test_an_object_that_vanishes_after_listing_is_named(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    listed = list(sources.list_files(bucket))
    gone = sources.list_files
    monkeypatch.setattr(
        sources,
        "list_files",
        lambda url: [*gone(url), type(listed[0])(f"{bucket}/day=2/part-9.parquet")],
    )
    with pytest.raises(DataError, match=r"part-9\.parquet: was deleted since the parts of s3://"):
        load_log(Path(bucket))


def test_damaged_parts_are_named(tmp_path: Path, bucket: str) -> None:
    import s3fs

    folder = tmp_path / "for-bucket"
    part = folder / "day=1" / "part-1.parquet"
    part.write_bytes(part.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"day=1/part-1\.parquet: is damaged"):
        load_log(folder)
    s3fs.S3FileSystem().put(str(part), f"{bucket}/day=1/part-1.parquet")
    with pytest.raises(DataError, match=rf"^{bucket}/day=1/part-1\.parquet: is damaged"):
        load_log(Path(bucket))


def test_a_part_that_is_damaged_inside_is_named(tmp_path: Path) -> None:
    write_part(tmp_path / "log" / "part-0.parquet")
    part = write_part(tmp_path / "log" / "part-1.parquet", n=5_000)
    content = bytearray(part.read_bytes())
    content[100:1_500] = os.urandom(1_400)
    part.write_bytes(content)
    with pytest.raises(DataError, match=r"part-1\.parquet: is damaged"):
        load_log(tmp_path / "log")


def test_a_part_that_vanishes_while_reading_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritone_training.data.interactions import log_reading

    folder = write_parts(tmp_path / "log")
    stage = log_reading.stage_table

    def after_removal(*given: Any) -> Any:
        (folder / "day=2" / "part-2.parquet").unlink()
        return stage(*given)

    monkeypatch.setattr(log_reading, "stage_table", after_removal)
    with pytest.raises(DataError, match=r"part-2\.parquet: was deleted while"):
        load_log(folder)


HARMLESS = {
    "extra": "SELECT 'u1' AS user, 'i1' AS item, 1500000000 AS time, [1, 2] AS more",
    "order": "SELECT 1500000000 AS time, 'i1' AS item, 'u1' AS user",
    "smaller": "SELECT 'u1' AS user, 'i1' AS item, 1500000000::INTEGER AS time",
    "unsigned": "SELECT 'u1' AS user, 'i1' AS item, 1500000000::UBIGINT AS time",
    "empty": "SELECT 'u1' AS user, 'i1' AS item, 1500000000 AS time WHERE false",
}


@pytest.mark.parametrize("query", HARMLESS.values(), ids=HARMLESS)
def test_harmless_differences_between_parts_are_accepted(tmp_path: Path, query: str) -> None:
    write_part(tmp_path / "part-0.parquet")
    write_part(tmp_path / "part-1.parquet", query)
    assert load_log(tmp_path).report["n_in"] == 40 + ("WHERE false" not in query)


DRIFT = {
    "missing": (
        "SELECT 'u1' AS user, 1500000000 AS time",
        r"part part-1\.parquet has no column 'item': expected the same columns in all parts, got 'user', 'time' there",
    ),
    "renamed": (
        "SELECT 'u1' AS listener_key, 'i1' AS item, 1500000000 AS time",
        r"part part-1\.parquet has no column 'user': .* got 'listener_key', 'item', 'time' there; rename",
    ),
    "time": (
        "SELECT 'u1' AS user, 'i1' AS item, TIMESTAMP '2020-01-01' AS time",
        r"part-1\.parquet: column 'time' has another type than in part-0\.parquet: expected numbers .* got times",
    ),
    "ids": (
        "SELECT 1 AS user, 'i1' AS item, 1500000000 AS time",
        r"part-1\.parquet: column 'user' has another type .* expected text \(VARCHAR\), got numbers \(INTEGER\)",
    ),
    "lists": (
        "SELECT ['u1'] AS user, 'i1' AS item, 1500000000 AS time",
        r"column 'user'.*(cannot be the user|lists)|no column of the user",
    ),
}


@pytest.mark.parametrize("drift", DRIFT)
def test_parts_that_do_not_fit_together_are_named(tmp_path: Path, drift: str) -> None:
    query, says = DRIFT[drift]
    write_part(tmp_path / "part-0.parquet")
    write_part(tmp_path / "part-1.parquet", query)
    with pytest.raises(DataError, match=says):
        load_log(tmp_path)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("tritone-read-*"))


def test_temporary_files_are_removed_also_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "temporary"))
    load_log(write_part(tmp_path / "log.parquet"))
    (tmp_path / "bad.csv").write_text("user,item\n,\n")
    with pytest.raises(DataError, match="no rows are left"):
        load_log(tmp_path / "bad.csv")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_files_of_a_killed_process_are_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    code = (
        "import time\nfrom tritone_training.data.interactions.scratch import temporary_folder\n"
        "with temporary_folder() as folder:\n    (folder / 'x').write_text('x')\n    print('ready', flush=True)\n"
        "    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with temporary_folder() as other:
            assert len(left(tmp_path)) == 2, "the folder of a running process stays"
            assert other.exists()
        process.send_signal(signal.SIGKILL)
    with temporary_folder() as mine:
        assert left(tmp_path) == [mine.name]
    assert left(tmp_path) == []


def _raises(error: Exception) -> Callable[..., Any]:
    def run(*_given: Any, **_options: Any) -> Any:
        raise error

    return run


@pytest.mark.parametrize(
    "error",
    [
        duckdb.IOException("Could not write file: No space left on device"),
        duckdb.OutOfMemoryException("failed to offload data block: max_temp_directory_size"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_full_disk_is_named_with_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with (
        pytest.raises(DataError, match=f"no space left .* set {FOLDER_VARIABLE}"),
        open_scratch() as scratch,
        scratch.errors(),
    ):
        raise error
    assert left(tmp_path) == []


def test_a_disk_that_is_too_small_for_spilling_stops_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(MEMORY_VARIABLE, "64MB")
    with open_scratch() as scratch:
        scratch.run("SET max_temp_directory_size = '1MB'")
        with pytest.raises(DataError, match="no space left"):
            scratch.run("CREATE TEMP TABLE big AS SELECT i, hash(i) AS h FROM range(20_000_000) x(i) ORDER BY h")


@pytest.mark.parametrize("value", ["", "much", "1MB", "-2GB"])
def test_an_invalid_memory_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, value)
    with pytest.raises(DataError, match=f"invalid {MEMORY_VARIABLE}"):
        load_log(write_part(tmp_path / "log.parquet"))


def test_a_folder_for_temporary_files_that_is_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(DataError, match=f"set {FOLDER_VARIABLE}"):
        load_log(write_part(tmp_path / "log.parquet"))


def test_the_default_memory_respects_the_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MEMORY_VARIABLE, raising=False)
    (tmp_path / "limit").write_text(f"{4 << 30}\n")
    monkeypatch.setattr(scratch_module, "_CGROUP_LIMITS", (tmp_path / "limit", tmp_path / "none"))
    with open_scratch() as scratch:
        assert scratch.memory_bytes == 512 << 20
