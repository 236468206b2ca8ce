"""The workers of a local Ray and a local Spark read a log of Parquet files like one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from tests.engines.conftest import N_WORKERS
from tests.support.generated_logs import assert_equal

from tritone_training.data.interactions import ListeningFiles, parts_staging
from tritone_training.data.interactions.part_reading import LogPart, PartRows, UnreadablePart, read_part
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.training_data import prepare

TIMED = "TIMESTAMPTZ '2020-01-01 00:00:00+02' + INTERVAL (i * 977) SECONDS AS time, i % 11 = 0 AS skipped"
COUNTED = "(i % 9) / 8 AS plays"


@pytest.fixture(params=["ray", "spark"])
def name(request: pytest.FixtureRequest) -> str:
    request.getfixturevalue({"ray": "ray_cluster", "spark": "spark"}[request.param])
    return str(request.param)


def write_parts(folder: Path, columns: str) -> Path:
    folder.mkdir()
    ids = "CASE WHEN i % 50 = 0 THEN NULL ELSE 'u ' || (i * 7919 % 37) END AS user, 'i' || (i * 104729 % 23) AS item"
    for part in range(5):
        rows = f"SELECT {ids}, {columns} FROM range({300 * part}, {300 * part + 400}) x(i)"  # noqa: S608
        duckdb.execute(f"COPY ({rows}) TO '{folder}/part-{part}.parquet'")
    return folder


@pytest.mark.parametrize("columns", [TIMED, COUNTED], ids=["timed", "counted"])
def test_a_glob_is_read_as_by_one_process(name: str, columns: str, tmp_path: Path) -> None:
    log = write_parts(tmp_path / "log", columns) / "*.parquet"
    given = TrainRequest(out=tmp_path / "run", data=ListeningFiles(interactions=log), progress=False)
    expected = prepare(given)
    found = prepare(replace(given, engine=name, workers=N_WORKERS, read="workers"))
    assert found.reading is not None
    assert (found.reading["name"], found.reading["workers"], found.reading["n_tasks"]) == (name, N_WORKERS, 5)
    assert found.listening.report == expected.listening.report
    for part in ("train", "valid", "test"):
        assert_equal(getattr(found.listening, part), getattr(expected.listening, part))


def sees_nothing(part: LogPart) -> PartRows | UnreadablePart:
    return read_part(replace(part, location=f"/elsewhere{part.location}"))


def loses_the_last(part: LogPart) -> PartRows | UnreadablePart:
    Path(part.location).with_name("part-4.parquet").unlink(missing_ok=True)
    return read_part(part)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (sees_nothing, r"part-0\.parquet: worker .* cannot read it .*, but this process can: .*--read driver"),
        (loses_the_last, r"part-4\.parquet: was deleted while .* was being read"),
    ],
)
def test_a_part_that_no_worker_finds_is_named(
    name: str, task: Callable[[LogPart], object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_staging, "read_part", task)
    log = write_parts(tmp_path / "log", COUNTED)
    given = TrainRequest(out=tmp_path / "run", data=ListeningFiles(interactions=log), progress=False)
    with pytest.raises(DataError, match=says):
        prepare(replace(given, engine=name, workers=N_WORKERS, read="workers"))
