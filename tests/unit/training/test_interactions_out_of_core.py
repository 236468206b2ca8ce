"""Logs cleaned in a database on disk equal those cleaned in memory with pandas."""

from __future__ import annotations

import csv
import hashlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.support.generated_logs import (
    PARQUET_TYPES,
    RULES,
    TIMES,
    assert_equal,
    dirty_table,
    numbered,
    result_of,
    write_parquet,
)
from tests.support.pandas_log import load_in_memory

from tritone_training.data.interactions import (
    CleaningRules,
    Columns,
    ListeningFiles,
    Log,
    listening,
    load_listening,
    load_log,
    split_log,
    stored_log,
)
from tritone_training.data.interactions import cleaning as cleaning_module
from tritone_training.data.interactions import log as log_module
from tritone_training.data.interactions.listening import three_parts
from tritone_training.data.interactions.log_reading import keep_log
from tritone_training.data.interactions.scratch import FOLDER_VARIABLE
from tritone_training.kind import TrainRequest

N_SEEDS = 6


def _write(frame: pd.DataFrame, path: Path, separator: str) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(frame.columns)
        writer.writerows([["" if cell is None else cell for cell in row] for row in frame.itertuples(index=False)])


@pytest.mark.parametrize("seed", range(N_SEEDS))
@pytest.mark.parametrize("separator", ["\t", ","])
def test_dirty_text_tables_give_the_same_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, separator: str
) -> None:
    monkeypatch.setattr(cleaning_module, "_FEWEST_ROWS", 60)  # several ranges of users
    monkeypatch.setattr(cleaning_module, "_BYTES_A_ROW", 1 << 40)
    for number in range(8):
        frame, columns = dirty_table(100 * seed + number, 400)
        rules = replace(RULES[number % len(RULES)], least_rating=3.0 if number % 3 == 0 else None)
        path = tmp_path / f"log{number}.csv"
        _write(frame, path, separator)
        found, expected = (result_of(load, path, columns, rules) for load in (load_log, load_in_memory))
        if isinstance(found, str) or isinstance(expected, str):
            assert found == expected
        else:
            assert_equal(found, expected)


@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_parquet_parts_of_different_types_give_the_same_log(tmp_path: Path, seed: int) -> None:
    for number in range(4):
        rng = np.random.default_rng(1_000 * seed + number)
        names = ["user", "item", *(name for name in ("plays", "time", "skipped") if rng.random() < 0.7)]
        types = {name: PARQUET_TYPES[name][int(rng.integers(len(PARQUET_TYPES[name])))] for name in names}
        folder = tmp_path / f"log{number}"
        folder.mkdir()
        for part in range(int(rng.integers(1, 4))):
            write_parquet(rng, types, folder / f"part-{part}.parquet", 300 * part, 300)
        found, expected = (result_of(load, folder, Columns(), CleaningRules()) for load in (load_log, load_in_memory))
        if isinstance(found, str) or isinstance(expected, str):
            assert found == expected
        else:
            assert_equal(found, expected)


@pytest.mark.parametrize("times", list(TIMES))
def test_splits_of_a_log_in_files_equal_those_of_a_log_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: str
) -> None:
    monkeypatch.setattr(stored_log, "_VALUES_AT_ONCE", 7)
    monkeypatch.setattr(log_module, "_EVENTS_AT_ONCE", 11)
    monkeypatch.setattr(log_module, "_LINES_AT_ONCE", 13)
    rng = np.random.default_rng(5)
    columns = {"user": numbered("u", 30)(rng, 600), "item": numbered("i", 40)(rng, 600)}
    draw = TIMES[times]
    if draw is not None:
        columns["time"] = draw(rng, 600)
    path = tmp_path / "log.csv"
    _write(pd.DataFrame(columns, dtype=object), path, ",")
    stored = keep_log(path)
    whole = stored.load()
    shuffled = rng.permutation(len(whole))
    assert whole.take(shuffled).fingerprint() == whole.fingerprint()
    for one, other in zip(three_parts(stored, 3), three_parts(whole, 3), strict=True):
        assert_equal(one, other)
        assert one.fingerprint() == other.fingerprint()
        lines = sorted(
            f"{one.users[u]}\t{one.items[i]}\t{n:g}" for u, i, n in zip(one.user, one.item, one.plays, strict=True)
        )
        assert one.fingerprint() == hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_the_latest_pairs_are_held_out_and_ties_drawn_as_by_a_sort() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        time = rng.integers(0, 1 + seed % 7 * 10, 200 + seed).astype(np.float64)
        order = np.lexsort((np.random.default_rng(seed).permutation(len(time)), time))
        expected = np.zeros(len(time), np.bool_)
        expected[order[int(0.9 * (len(time) - 1)) + 1 :]] = True
        log = Log("test", ["u"], [str(n) for n in range(len(time))], np.zeros(len(time), np.int32),
                  np.arange(len(time), dtype=np.int32), np.ones(len(time), np.float32), time)  # fmt: skip
        train, held_out = split_log(log, fraction=0.1, seed=seed)
        np.testing.assert_array_equal(held_out.item, np.flatnonzero(expected))
        assert len(train) + len(held_out) == len(log)


def test_large_logs_stay_in_files_until_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(listening, "_MOST_IN_MEMORY", 0)
    rng = np.random.default_rng(5)
    columns = {"user": numbered("u", 30)(rng, 600), "item": numbered("i", 40)(rng, 600)}
    _write(pd.DataFrame(columns, dtype=object), tmp_path / "log.csv", ",")
    request = TrainRequest(out=tmp_path, data=ListeningFiles(interactions=tmp_path / "log.csv"), seed=1, progress=False)
    data = load_listening(request)
    assert len(list(tmp_path.glob("tritone-read-*"))) == 1
    monkeypatch.setattr(listening, "_MOST_IN_MEMORY", 10**9)
    expected = load_listening(request)
    assert_equal(data.whole().train, expected.whole().train)
    assert data.report == expected.report
    del data
    assert list(tmp_path.glob("tritone-read-*")) == []


@pytest.mark.parametrize("n_most", [1, 7, 10**6])
def test_ranges_of_users_cover_all_users_once(n_most: int) -> None:
    counts = np.array([3, 9, 0, 1, 2, 40, 1, 1])
    ranges = cleaning_module.ranges_of_users(counts, n_most)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(counts)
    assert all(end == first for (_, end), (first, _) in itertools.pairwise(ranges))
    assert all(counts[first:end].sum() <= n_most or end - first == 1 for first, end in ranges)
