"""Logs cleaned in a database on disk equal those cleaned in memory with pandas."""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
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
from tritone_training.data.interactions.reading import keep_log
from tritone_training.data.interactions.scratch import FOLDER_VARIABLE
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest

Draw = Callable[[np.random.Generator, int], list[Any]]
N_SEEDS = 6


def _chosen(*values: Any) -> Draw:
    return lambda rng, n: [values[index] for index in rng.integers(0, len(values), n)]


def _mostly(usual: Draw, rare: Draw, share: float = 0.1) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> list[Any]:
        return [
            b if is_rare else a
            for a, b, is_rare in zip(usual(rng, n), rare(rng, n), rng.random(n) < share, strict=True)
        ]

    return draw


def _numbered(name: str, n_different: int) -> Draw:
    return lambda rng, n: [f"{name}{number}" for number in rng.integers(0, n_different, n)]


_IDS: Mapping[str, Draw] = {
    "names": _mostly(
        _numbered("u", 30), _chosen(None, "", " u1 ", "Jo\u0301ga", "Jóga", "nan", "null", "u\u200b", "a\nb")
    ),
    "numbers": _mostly(
        lambda rng, n: [str(x) for x in rng.integers(0, 30, n)], _chosen(None, "nan", "NULL", " 7", "-3")
    ),
    "points": _mostly(lambda rng, n: [f"{x}.0" for x in rng.integers(0, 30, n)], _chosen(None, "5", "12,0")),
    "not_utf8": _mostly(_numbered("ä", 20), _chosen("\udce4", "x\udcff", None, "a\x01")),
}
_COUNTS: Mapping[str, Draw | None] = {
    "none": None,
    "whole": _mostly(
        lambda rng, n: [str(x) for x in rng.integers(1, 9, n)], _chosen(None, "0", "-1", "x", "1e20", "inf", " 3 ")
    ),
    "decimal": _mostly(lambda rng, n: [f"{x:.3f}" for x in rng.random(n) * 9], _chosen("2,5", None, "1 234")),
    "thousands": _mostly(lambda rng, n: [str(x) for x in rng.integers(1, 999, n)], _chosen("1.234.567", "2.345")),
    "flags": _chosen("true", "false", "yes", "no", None),
    "flags_and_numbers": _chosen("true", "1", "2"),
}
_TIMES: Mapping[str, Draw | None] = {
    "none": None,
    "seconds": _mostly(
        lambda rng, n: [str(x) for x in rng.integers(1.5e9, 1.6e9, n)], _chosen(None, "never", "1.55e9", "2012")
    ),
    "fractions": lambda rng, n: [f"{x:.3f}" for x in rng.integers(1.5e9, 1.6e9, n) + rng.integers(0, 9, n) / 8],
    "milliseconds": lambda rng, n: [str(x) for x in rng.integers(1_500_000_000_000, 1_600_000_000_000, n)],
    "iso": _mostly(
        lambda rng, n: [str(np.datetime64(int(x), "s")) for x in rng.integers(1.5e9, 1.6e9, n)],
        _chosen(
            "2012-02-30",
            "2012-03-04T05:06:07+02:00",
            "2012-03-04 05:06:07.25Z",
            "2012",
            None,
            "2012-01-01 00:00 UTC",
            "",
        ),
    ),
    "mixed": _chosen("2012-03-04", "1500000000", "1500000001", "yesterday", "Mar 5 2012 10:11"),
    "mixed_dates": _chosen("2012-03-04", "2012-03-05", "2012-03-06 12:00", "1500000000", "Mar 5 2012 10:11", "2012"),
    "compact": lambda rng, n: [
        str(20120000 + 100 * m + d) for m, d in zip(rng.integers(1, 13, n), rng.integers(1, 32, n), strict=True)
    ],
    "months": lambda rng, n: [f"2012{m:02d}" for m in rng.integers(1, 13, n)],
    "points": lambda rng, n: [
        f"{d}.{m}.2012" for m, d in zip(rng.integers(1, 13, n), rng.integers(1, 28, n), strict=True)
    ],
    "long_ago": lambda rng, n: [str(x) for x in rng.integers(1, 1e6, n)],
}
_RULES = (
    CleaningRules(),
    CleaningRules(most_events=3),
    CleaningRules(min_items_per_user=3, min_users_per_item=4),
    CleaningRules(bot_factor=0, most_events=0),
    CleaningRules(bot_factor=1e-3),
)


def _table(seed: int, n: int) -> tuple[pd.DataFrame, Columns]:
    rng = np.random.default_rng(seed)

    def one_of(kinds: Mapping[str, Any]) -> Any:
        return kinds[list(kinds)[int(rng.integers(len(kinds)))]]

    columns = {"user": one_of(_IDS)(rng, n), "item": one_of(_IDS)(rng, n)}
    counts, times = one_of(_COUNTS), one_of(_TIMES)
    what = "rating" if rng.random() < 0.3 else "plays"
    if counts is not None:
        columns[what] = counts(rng, n)
    if times is not None:
        columns["time"] = times(rng, n)
    if rng.random() < 0.4:
        columns["skipped"] = _chosen("0", "1", "true", None, "no")(rng, n)
    return pd.DataFrame(columns, dtype=object), Columns()


def _write(frame: pd.DataFrame, path: Path, separator: str) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(frame.columns)
        writer.writerows([["" if cell is None else cell for cell in row] for row in frame.itertuples(index=False)])


def assert_equal(found: Log, expected: Log) -> None:
    assert found.source == expected.source
    assert list(found.users) == list(expected.users)
    assert list(found.items) == list(expected.items)
    for name in ("user", "item", "plays", "time", "last_time"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            np.testing.assert_array_equal(one, other, err_msg=name)
    assert (found.sequences is None) == (expected.sequences is None)
    if found.sequences is not None and expected.sequences is not None:
        for name in ("user", "item", "skipped", "time"):
            np.testing.assert_array_equal(
                getattr(found.sequences, name), getattr(expected.sequences, name), err_msg=name
            )
    assert found.report == expected.report


def _result(load: Callable[..., Log], path: Path, columns: Columns, rules: CleaningRules) -> Log | str:
    try:
        return load(path, columns, rules=rules)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(N_SEEDS))
@pytest.mark.parametrize("separator", ["\t", ","])
def test_dirty_text_tables_give_the_same_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, separator: str
) -> None:
    monkeypatch.setattr(cleaning_module, "_FEWEST_ROWS", 60)  # several ranges of users
    monkeypatch.setattr(cleaning_module, "_BYTES_A_ROW", 1 << 40)
    for number in range(8):
        frame, columns = _table(100 * seed + number, 400)
        rules = replace(_RULES[number % len(_RULES)], least_rating=3.0 if number % 3 == 0 else None)
        path = tmp_path / f"log{number}.csv"
        _write(frame, path, separator)
        found, expected = (_result(load, path, columns, rules) for load in (load_log, load_in_memory))
        if isinstance(found, str) or isinstance(expected, str):
            assert found == expected
        else:
            assert_equal(found, expected)


# Column -> kinds of types, of which all parts of a log have the same one -> types.
_PARQUET: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "user": (
        ("'u' || (i * 7919 % 37)",),
        ("(i * 7919 % 37)::INTEGER", "(i * 7919 % 37)::DOUBLE", "(i % 37)::DECIMAL(9, 1)"),
    ),
    "item": (
        ("'i' || (i * 104729 % 23)", "('i' || (i % 5))::BLOB"),
        ("(i * 104729 % 23)::UBIGINT", "(i % 9)::TINYINT"),
    ),
    "plays": (
        (
            "(i % 5)::INTEGER",
            "CASE WHEN i % 11 = 0 THEN 'nan'::DOUBLE WHEN i % 13 = 0 THEN 'inf'::DOUBLE ELSE i % 7 / 8 END",
            "(i % 7 / 4)::FLOAT",
            "(i % 9)::DECIMAL(9, 2)",
        ),
        ("i % 2 = 0",),
        ("CASE WHEN i % 3 > 0 THEN (i % 5)::VARCHAR ELSE '2,5' END", "(i % 4)::VARCHAR"),
    ),
    "time": (
        ("1500000000 + i * 7", "(1500000000 + i * 7) * 1000", "(1500000000 + i / 8)::DOUBLE"),
        ("20120101 + i % 28",),
        ("(20120101 + i % 28)::DOUBLE",),
        (
            "TIMESTAMP '2012-01-01' + INTERVAL (i * 977) MILLISECONDS",
            "TIMESTAMPTZ '2012-01-01 00:00:00+02' + INTERVAL (i) SECONDS",
            "CASE WHEN i % 9 > 0 THEN TIMESTAMP_NS '2012-01-01 00:00:00.123456789' END",
            "CASE WHEN i % 7 = 0 THEN 'infinity' ELSE '2012-01-01' END::TIMESTAMP",
            "DATE '2012-01-01' + (i % 300)::INTEGER",
        ),
        ("strftime(TIMESTAMP '2012-01-01' + INTERVAL (i) SECONDS, '%Y-%m-%dT%H:%M:%S.%f')", "(2000 + i % 20)::VARCHAR"),
        ("NULL::INTEGER",),
    ),
    "skipped": (("i % 6 = 0", "(i % 2)::INTEGER", "CASE WHEN i % 3 = 0 THEN 'yes' END"),),
}


def _write_parquet(
    rng: np.random.Generator, types: Mapping[str, tuple[str, ...]], path: Path, first: int, n: int
) -> None:
    chosen = [f"{options[int(rng.integers(len(options)))]} AS {name}" for name, options in types.items()]
    rng.shuffle(chosen)
    duckdb.execute(f"COPY (SELECT {', '.join(chosen)} FROM range({first}, {first + n}) x(i)) TO '{path}'")  # noqa: S608


@pytest.mark.parametrize("seed", range(N_SEEDS))
def test_parquet_parts_of_different_types_give_the_same_log(tmp_path: Path, seed: int) -> None:
    for number in range(4):
        rng = np.random.default_rng(1_000 * seed + number)
        names = ["user", "item", *(name for name in ("plays", "time", "skipped") if rng.random() < 0.7)]
        types = {name: _PARQUET[name][int(rng.integers(len(_PARQUET[name])))] for name in names}
        folder = tmp_path / f"log{number}"
        folder.mkdir()
        for part in range(int(rng.integers(1, 4))):
            _write_parquet(rng, types, folder / f"part-{part}.parquet", 300 * part, 300)
        found, expected = (_result(load, folder, Columns(), CleaningRules()) for load in (load_log, load_in_memory))
        if isinstance(found, str) or isinstance(expected, str):
            assert found == expected
        else:
            assert_equal(found, expected)


@pytest.mark.parametrize("times", list(_TIMES))
def test_splits_of_a_log_in_files_equal_those_of_a_log_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: str
) -> None:
    monkeypatch.setattr(stored_log, "_VALUES_AT_ONCE", 7)
    monkeypatch.setattr(log_module, "_EVENTS_AT_ONCE", 11)
    monkeypatch.setattr(log_module, "_LINES_AT_ONCE", 13)
    rng = np.random.default_rng(5)
    columns = {"user": _numbered("u", 30)(rng, 600), "item": _numbered("i", 40)(rng, 600)}
    draw = _TIMES[times]
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
    columns = {"user": _numbered("u", 30)(rng, 600), "item": _numbered("i", 40)(rng, 600)}
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
