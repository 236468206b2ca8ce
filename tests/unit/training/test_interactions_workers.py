"""Logs that workers read, a part each, equal those that this process reads, and what stops such a reading."""

from __future__ import annotations

import errno
import gzip
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.generated_logs import PARQUET_TYPES, RULES, assert_equal, dirty_table, result_of, write_parquet
from tests.support.s3_server import s3_server, use_store

from tritone_training.data.interactions import (
    CleaningRules,
    Columns,
    ListeningFiles,
    Log,
    ReadingWorkers,
    keep_log,
    load_log,
    part_reading,
    parts_staging,
)
from tritone_training.data.interactions import cleaning as cleaning_module
from tritone_training.data.interactions.part_reading import LogPart, UnreadablePart
from tritone_training.data.interactions.scratch import FOLDER_VARIABLE, Scratch
from tritone_training.data.tables import sources
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.engines import EngineError, LocalEngine, open_engine
from tritone_training.kinds.recommender.training_data import prepare

N_SEEDS = 6
ROWS = "'u' || (i % 7) AS user, 'i' || (i % 5) AS item"


@contextmanager
def in_process() -> Iterator[LocalEngine]:
    with LocalEngine(1) as engine:
        yield engine


IN_PROCESS = ReadingWorkers(in_process, is_required=True)


def load_by_workers(path: Path, columns: Columns | None = None, *, rules: CleaningRules | None = None) -> Log:
    return keep_log(path, columns or Columns(), rules=rules, workers=IN_PROCESS).load()


def assert_same(path: Path, columns: Columns | None = None, rules: CleaningRules | None = None) -> Log | str:
    """Check that workers read a log as this process does, or stop with the same message; return either."""
    given = columns or Columns(), rules or CleaningRules()
    found, expected = (result_of(load, path, *given) for load in (load_by_workers, load_log))
    if isinstance(found, str) or isinstance(expected, str):
        assert found == expected
    else:
        assert_equal(found, expected)
        assert found.fingerprint() == expected.fingerprint()
    return found


def write(path: Path, columns: str = ROWS, *, first: int = 0, n: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    duckdb.execute(f"COPY (SELECT {columns} FROM range({first}, {first + n}) x(i)) TO '{path}'")  # noqa: S608
    return path


def write_parts(folder: Path, columns: str = f"{ROWS}, 1500000000 + i AS time") -> Path:
    for part in range(3):
        write(folder / f"part-{part}.parquet", columns, first=40 * part)
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slices of each file, and several ranges of users."""
    monkeypatch.setattr(parts_staging, "ROWS_OF_A_PART", 37)
    monkeypatch.setattr(cleaning_module, "_FEWEST_ROWS", 60)
    monkeypatch.setattr(cleaning_module, "_BYTES_A_ROW", 1 << 40)


@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_parts_of_different_types_give_the_same_log(small: None, tmp_path: Path, seed: int) -> None:
    for number in range(5):
        rng = np.random.default_rng(1_000 * seed + number)
        names = ["user", "item", *(name for name in ("plays", "time", "skipped") if rng.random() < 0.6)]
        types = {name: PARQUET_TYPES[name][int(rng.integers(len(PARQUET_TYPES[name])))] for name in names}
        folder = tmp_path / f"log{number}"
        folder.mkdir()
        for part in range(int(rng.integers(1, 5))):
            # Parts without rows, and rows that occur in several parts.
            n = int(rng.choice([0, 1, 37, 200]))
            write_parquet(rng, types, folder / f"part-{part}.parquet", int(rng.integers(0, 300)), n)
        rules = replace(RULES[number % len(RULES)], least_rating=1.0 if number % 2 else None)
        columns = Columns(rating="plays") if "plays" in names and number % 3 == 0 else Columns()
        assert_same(folder, columns, rules)


@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_dirty_texts_give_the_same_log(small: None, tmp_path: Path, seed: int) -> None:
    for number in range(6):
        frame, columns = dirty_table(100 * seed + number, 300)
        folder = tmp_path / f"log{number}"
        folder.mkdir()
        try:
            for part, begin in enumerate(range(0, 300, 110)):
                texts = frame[begin : begin + 110]
                names = ", ".join(f"{name}::VARCHAR AS {name}" for name in texts)
                with duckdb.connect() as database:
                    database.register("texts", texts)
                    database.execute(f"COPY (SELECT {names} FROM texts) TO '{folder}/part-{part}.parquet'")  # noqa: S608
        except duckdb.InvalidInputException:  # bytes that are not UTF-8, which Parquet has no texts for
            continue
        assert_same(folder, columns, RULES[number % len(RULES)])


CELLS = st.tuples(
    st.sampled_from(["u1", "u2", " u1", "u3 ", None, "", "7", "7.0", "nan"]),
    st.sampled_from(["i1", "i2", "I1", None, "a\nb", "12"]),
    st.sampled_from([1.0, 2.0, 0.1, 1e10, 0.0, -3.0, float("nan"), float("inf"), None]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.lists(CELLS, max_size=12), min_size=1, max_size=4), size=st.integers(1, 6))
def test_counts_of_any_parts_are_those_of_the_whole(
    parts: list[list[Any]], size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("log")
    with duckdb.connect() as database:
        database.execute("CREATE TABLE log (user VARCHAR, item VARCHAR, plays DOUBLE)")
        for number, rows in enumerate(parts):
            database.execute("DELETE FROM log")
            if rows:
                database.executemany("INSERT INTO log VALUES (?, ?, ?)", rows)
            database.execute(f"COPY log TO '{folder}/part-{number}.parquet'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_staging, "ROWS_OF_A_PART", size)
        assert_same(folder)


@pytest.mark.parametrize("pattern", ["", "*.parquet", "part-1.parquet", "part-[12].parquet"])
def test_folders_globs_and_files_are_read_alike(small: None, tmp_path: Path, pattern: str) -> None:
    found = assert_same(write_parts(tmp_path / "log") / pattern)
    assert isinstance(found, Log)
    assert found.report["n_in"] == {"part-1.parquet": 40, "part-[12].parquet": 80}.get(pattern, 120)


def test_folders_of_hive_are_columns(small: None, tmp_path: Path) -> None:
    for user in ("u 1", "u2", "__HIVE_DEFAULT_PARTITION__"):
        write(tmp_path / f"user={user}" / "part.parquet", "'i' || (i % 5) AS item, i::FLOAT / 3 AS plays")
    assert isinstance(assert_same(tmp_path), Log)


def test_equal_rows_travel_as_one(tmp_path: Path) -> None:
    path = write(tmp_path / "log.parquet", n=7_000)
    part = LogPart(str(path), "log", "log", {"user": '"user"', "item": '"item"'}, ("user", "item"), 0, 7_000, 7_000,
                   counts_equal=True, has_order=False)  # fmt: skip
    found = part_reading.read_part(part)
    assert isinstance(found, part_reading.PartRows)
    (tmp_path / "rows").write_bytes(found.rows)
    rows = duckdb.execute(f"SELECT count(*), sum(n) FROM read_parquet('{tmp_path}/rows')").fetchall()  # noqa: S608
    assert rows == [(35, 7_000)]
    assert found.n_ids == {"user": 7, "item": 5}


@pytest.mark.slow
def test_two_processes_read_and_prepare_the_same_data(small: None, tmp_path: Path) -> None:
    log = write_parts(tmp_path / "log", f"{ROWS}, TIMESTAMPTZ '2020-01-01' + INTERVAL (i * 977) SECONDS AS time")
    given = TrainRequest(out=tmp_path / "run", data=ListeningFiles(interactions=log), progress=False)
    expected = prepare(given)
    found = prepare(replace(given, engine="local", workers=2, read="workers"))
    assert expected.reading is None
    assert found.reading is not None
    assert (found.reading["workers"], found.reading["n_tasks"]) == (2, 6)
    assert found.reading["n_worker_processes"] >= 1
    assert found.listening.report == expected.listening.report
    for name in ("train", "valid", "test"):
        assert_equal(getattr(found.listening, name), getattr(expected.listening, name))


# --- which logs ------------------------------------------------------------------------------------------


def test_small_logs_and_other_formats_are_read_by_this_process(tmp_path: Path) -> None:
    def opened() -> Any:
        raise AssertionError("workers were started")

    csv = tmp_path / "log.csv"
    csv.write_text("user,item\nu1,i1\nu2,i2\n")
    lines = tmp_path / "lines.txt"
    lines.write_text("u1 i1 i2\nu2 i1\nu3 i1 i2 i3\n")
    packed = tmp_path / "log.parquet.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "log.parquet").read_bytes()))
    for path in (csv, lines, packed, tmp_path / "log.parquet"):
        assert_equal(keep_log(path, workers=ReadingWorkers(opened)).load(), load_log(path))
        if path.suffix != ".parquet":
            with pytest.raises(DataError, match=r"cannot be read by workers \(it.*--read workers out"):
                load_by_workers(path)
    with pytest.raises(AssertionError, match="started"):
        keep_log(tmp_path / "log.parquet", workers=ReadingWorkers(opened, least_rows=40))


def test_the_option_is_checked_before_the_log_is_read(tmp_path: Path) -> None:
    given = TrainRequest(out=tmp_path, data=ListeningFiles(interactions=tmp_path / "none"), read="everywhere")
    with pytest.raises(EngineError, match="expected one of driver, workers, got 'everywhere'"):
        open_engine(given)


def test_workers_do_not_import_pytorch() -> None:
    code = (
        "import sys\nfrom tritone_training.data.interactions import part_reading\n"
        "sys.exit(','.join({'torch', 'lightning'} & set(sys.modules)) or None)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


# --- buckets ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, store: str, tmp_path: Path) -> str:
    """A bucket with objects that are larger than what is read of a footer at once."""
    import s3fs

    use_store(monkeypatch, store)
    monkeypatch.setattr(sources, "_FOOTER_BYTES", 200)  # shorter than the footers, too
    files = s3fs.S3FileSystem()
    name = tmp_path.name.replace("_", "-").lower()[:40]
    files.mkdir(name)
    files.put(str(write_parts(tmp_path / "for-bucket")), f"{name}/log", recursive=True)
    return f"s3://{name}/log"


def test_objects_of_a_bucket_are_read_by_the_workers_only(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    for url in (bucket, f"{bucket}/*.parquet", f"{bucket}/part-1.parquet"):
        assert isinstance(assert_same(Path(url)), Log)
    write(tmp_path / "bytes.parquet", "('u' || (i % 7))::BLOB AS user, 'i' || (i % 5) AS item, i % 9 AS time")
    s3fs.S3FileSystem().put(str(tmp_path / "bytes.parquet"), f"{bucket}-bytes/part.parquet")
    assert isinstance(assert_same(Path(f"{bucket}-bytes")), Log)
    s3fs.S3FileSystem().put(str(tmp_path / "bytes.parquet"), f"{bucket}-id/part.parquet")

    def copies(*_given: Any) -> None:
        raise AssertionError("this process copied an object")

    monkeypatch.setattr(sources, "copy_object", copies)
    assert len(load_by_workers(Path(bucket))) == 35


def test_a_column_that_is_found_by_its_rows_is_read_by_this_process(bucket: str, tmp_path: Path) -> None:
    import s3fs

    path = write(tmp_path / "id.parquet", "'u' || (i % 7) AS user, 'i' || (i % 5) AS id, 'song' || (i % 5) AS title")
    s3fs.S3FileSystem().put(str(path), f"{bucket}-id/part.parquet")
    with pytest.raises(DataError, match="name it with --item-column"):
        load_by_workers(Path(f"{bucket}-id"))
    by_choice = keep_log(Path(f"{bucket}-id"), workers=replace(IN_PROCESS, is_required=False, least_rows=0))
    assert_equal(by_choice.load(), load_log(Path(f"{bucket}-id")))
    assert isinstance(assert_same(Path(f"{bucket}-id"), Columns(item="id")), Log)


@pytest.mark.slow
def test_two_processes_read_a_bucket(bucket: str, tmp_path: Path) -> None:
    given = TrainRequest(out=tmp_path, data=ListeningFiles(interactions=Path(bucket)), progress=False)
    found = prepare(replace(given, workers=2, read="workers"))
    expected = prepare(given)
    assert found.listening.report == expected.listening.report
    assert_equal(found.listening.train, expected.listening.train)


def test_an_object_that_vanishes_before_a_worker_reads_it_is_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    read = part_reading.read_part

    def after_removal(part: LogPart) -> Any:
        if s3fs.S3FileSystem().exists(f"{bucket}/part-2.parquet"):
            s3fs.S3FileSystem().rm(f"{bucket}/part-2.parquet")
        return read(part)

    monkeypatch.setattr(parts_staging, "read_part", after_removal)
    with pytest.raises(DataError, match=r"part-2\.parquet: was deleted since the parts of s3:.* were listed"):
        load_by_workers(Path(bucket))


def test_workers_without_credentials_are_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_credentials(part: LogPart) -> UnreadablePart:
        return UnreadablePart("node-7", f"{part.shown}: no credentials", is_missing=False)

    monkeypatch.setattr(parts_staging, "read_part", no_credentials)
    with pytest.raises(DataError, match=r"worker node-7 cannot read the log: s3://.*: no credentials; .*--read driver"):
        load_by_workers(Path(bucket))


# --- bad input -------------------------------------------------------------------------------------------


def before_reading(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Change something after the parts were listed, before the first one is read."""
    read, changes = part_reading.read_part, [change]

    def run(part: LogPart) -> Any:
        if changes:
            changes.pop()()
        return read(part)

    monkeypatch.setattr(parts_staging, "read_part", run)


def test_a_part_that_vanishes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parts(tmp_path / "log")
    before_reading(monkeypatch, (folder / "part-2.parquet").unlink)
    with pytest.raises(DataError, match=r"part-2\.parquet: was deleted while .*log was being read"):
        load_by_workers(folder)


def test_a_part_that_is_written_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parts(tmp_path / "log")
    before_reading(monkeypatch, lambda: write(folder / "part-1.parquet", f"{ROWS}, i AS time", n=41))
    with pytest.raises(DataError, match=r"part-1\.parquet: was written while .* expected 40 rows, got 41"):
        load_by_workers(folder)


def test_a_part_that_gets_other_columns_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parts(tmp_path / "log")
    before_reading(monkeypatch, lambda: write(folder / "part-1.parquet", "'i1' AS item, i AS time"))
    with pytest.raises(DataError, match=r"part-1\.parquet: is damaged"):
        load_by_workers(folder)


def test_a_part_that_a_worker_does_not_see_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parts(tmp_path / "log")

    def elsewhere(part: LogPart) -> Any:
        return part_reading.read_part(replace(part, location=f"/elsewhere{part.location}"))

    monkeypatch.setattr(parts_staging, "read_part", elsewhere)
    says = r"part-0\.parquet: worker .* cannot read it \(No such file.*\), but this process can: .*--read driver"
    with pytest.raises(DataError, match=says):
        load_by_workers(folder)


@pytest.mark.parametrize("size", [10, 10**6])
def test_damaged_parts_stop_with_the_message_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts_staging, "ROWS_OF_A_PART", size)
    part = write_parts(Path("log")) / "part-1.parquet"
    content = bytearray(part.read_bytes())
    content[4:60] = b"\xff" * 56
    part.write_bytes(content)
    damaged = assert_same(Path("log"))
    assert isinstance(damaged, str)
    assert damaged.startswith("log/part-1.parquet: is damaged")
    part.write_bytes(content[:-20])
    assert str(assert_same(Path("log"))).startswith("log/part-1.parquet: is damaged")


@pytest.mark.parametrize(
    "columns",
    [
        f"{ROWS}, TIMESTAMP '2020-01-01' AS time",
        "'u1' AS user, 1500000000 AS time",
        "i AS user, 'i1' AS item, i AS time",
        "CASE WHEN i = 25 THEN 'a' || chr(0) ELSE 'u' END AS user, 'i' || chr(0) AS item, i AS time",
        "'u' AS user, 'i' || i AS item, '03/04/2012' AS time",
        f"{ROWS}, i AS time, 'perhaps' AS skipped",
    ],
)
def test_parts_that_do_not_fit_stop_with_the_message_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setattr(parts_staging, "ROWS_OF_A_PART", 16)
    write(tmp_path / "part-1.parquet", columns)
    assert_same(tmp_path)
    write(tmp_path / "part-0.parquet", f"{ROWS}, 1500000000 + i AS time")
    assert isinstance(assert_same(tmp_path), str)


@pytest.mark.parametrize("columns", ["'1e+20' AS user, 'i' AS item", f"{ROWS}, '1,234' AS plays"])
def test_columns_that_cannot_be_read_stop_with_the_message_of_one_process(tmp_path: Path, columns: str) -> None:
    for part in range(2):
        write(tmp_path / f"part-{part}.parquet", columns)
    assert isinstance(assert_same(tmp_path), str)


def test_a_log_without_valid_rows_stops_with_the_message_of_one_process(tmp_path: Path) -> None:
    write(tmp_path / "part-0.parquet", "NULL::VARCHAR AS user, 'i' AS item")
    assert "no rows are left of 40" in str(assert_same(tmp_path))
    write(tmp_path / "part-0.parquet", n=0)
    assert "it has a header and no rows" in str(assert_same(tmp_path))


@pytest.mark.parametrize("where", ["worker", "driver"])
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "temporary"))
    folder = write_parts(tmp_path / "log")

    def full(*_given: Any, **_options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "worker":
        run = Scratch.run

        def no_space(scratch: Scratch, query: str, *given: Any) -> Any:
            with scratch.errors():
                if query.startswith("COPY"):
                    full()
            return run(scratch, query, *given)

        monkeypatch.setattr(Scratch, "run", no_space)
    else:
        monkeypatch.setattr(Path, "write_bytes", full)
    says = f"no space left for temporary files of the log .* set {FOLDER_VARIABLE}"
    with pytest.raises(DataError, match=f"^worker .*{says}" if where == "worker" else says):
        load_by_workers(folder)
    assert list((tmp_path / "temporary").iterdir()) == []
