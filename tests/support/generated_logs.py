"""Generated listening logs with cells of all kinds, valid and invalid, and the comparison of two logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from tritone_training.data.interactions import CleaningRules, Columns, Log
from tritone_training.exceptions import DataError

Draw = Callable[[np.random.Generator, int], list[Any]]


def chosen(*values: Any) -> Draw:
    return lambda rng, n: [values[index] for index in rng.integers(0, len(values), n)]


def mostly(usual: Draw, rare: Draw, share: float = 0.1) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> list[Any]:
        return [
            b if is_rare else a
            for a, b, is_rare in zip(usual(rng, n), rare(rng, n), rng.random(n) < share, strict=True)
        ]

    return draw


def numbered(name: str, n_different: int) -> Draw:
    return lambda rng, n: [f"{name}{number}" for number in rng.integers(0, n_different, n)]


_IDS: Mapping[str, Draw] = {
    "names": mostly(
        numbered("u", 30), chosen(None, "", " u1 ", "Jo\u0301ga", "Jóga", "nan", "null", "u\u200b", "a\nb")
    ),
    "numbers": mostly(lambda rng, n: [str(x) for x in rng.integers(0, 30, n)], chosen(None, "nan", "NULL", " 7", "-3")),
    "points": mostly(lambda rng, n: [f"{x}.0" for x in rng.integers(0, 30, n)], chosen(None, "5", "12,0")),
    "not_utf8": mostly(numbered("ä", 20), chosen("\udce4", "x\udcff", None, "a\x01")),
}
_COUNTS: Mapping[str, Draw | None] = {
    "none": None,
    "whole": mostly(
        lambda rng, n: [str(x) for x in rng.integers(1, 9, n)], chosen(None, "0", "-1", "x", "1e20", "inf", " 3 ")
    ),
    "decimal": mostly(lambda rng, n: [f"{x:.3f}" for x in rng.random(n) * 9], chosen("2,5", None, "1 234")),
    "thousands": mostly(lambda rng, n: [str(x) for x in rng.integers(1, 999, n)], chosen("1.234.567", "2.345")),
    "flags": chosen("true", "false", "yes", "no", None),
    "flags_and_numbers": chosen("true", "1", "2"),
}
TIMES: Mapping[str, Draw | None] = {
    "none": None,
    "seconds": mostly(
        lambda rng, n: [str(x) for x in rng.integers(1.5e9, 1.6e9, n)], chosen(None, "never", "1.55e9", "2012")
    ),
    "fractions": lambda rng, n: [f"{x:.3f}" for x in rng.integers(1.5e9, 1.6e9, n) + rng.integers(0, 9, n) / 8],
    "milliseconds": lambda rng, n: [str(x) for x in rng.integers(1_500_000_000_000, 1_600_000_000_000, n)],
    "iso": mostly(
        lambda rng, n: [str(np.datetime64(int(x), "s")) for x in rng.integers(1.5e9, 1.6e9, n)],
        chosen(
            "2012-02-30",
            "2012-03-04T05:06:07+02:00",
            "2012-03-04 05:06:07.25Z",
            "2012",
            None,
            "2012-01-01 00:00 UTC",
            "",
        ),
    ),
    "mixed": chosen("2012-03-04", "1500000000", "1500000001", "yesterday", "Mar 5 2012 10:11"),
    "mixed_dates": chosen("2012-03-04", "2012-03-05", "2012-03-06 12:00", "1500000000", "Mar 5 2012 10:11", "2012"),
    "compact": lambda rng, n: [
        str(20120000 + 100 * m + d) for m, d in zip(rng.integers(1, 13, n), rng.integers(1, 32, n), strict=True)
    ],
    "months": lambda rng, n: [f"2012{m:02d}" for m in rng.integers(1, 13, n)],
    "points": lambda rng, n: [
        f"{d}.{m}.2012" for m, d in zip(rng.integers(1, 13, n), rng.integers(1, 28, n), strict=True)
    ],
    "long_ago": lambda rng, n: [str(x) for x in rng.integers(1, 1e6, n)],
}
RULES = (
    CleaningRules(),
    CleaningRules(most_events=3),
    CleaningRules(min_items_per_user=3, min_users_per_item=4),
    CleaningRules(bot_factor=0, most_events=0),
    CleaningRules(bot_factor=1e-3),
)


def dirty_table(seed: int, n: int) -> tuple[pd.DataFrame, Columns]:
    rng = np.random.default_rng(seed)

    def one_of(kinds: Mapping[str, Any]) -> Any:
        return kinds[list(kinds)[int(rng.integers(len(kinds)))]]

    columns = {"user": one_of(_IDS)(rng, n), "item": one_of(_IDS)(rng, n)}
    counts, times = one_of(_COUNTS), one_of(TIMES)
    what = "rating" if rng.random() < 0.3 else "plays"
    if counts is not None:
        columns[what] = counts(rng, n)
    if times is not None:
        columns["time"] = times(rng, n)
    if rng.random() < 0.4:
        columns["skipped"] = chosen("0", "1", "true", None, "no")(rng, n)
    return pd.DataFrame(columns, dtype=object), Columns()


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


def result_of(load: Callable[..., Log], path: Path, columns: Columns, rules: CleaningRules) -> Log | str:
    try:
        return load(path, columns, rules=rules)
    except DataError as error:
        return str(error)


# Column -> kinds of types, of which all parts of a log have the same one -> types.
PARQUET_TYPES: Mapping[str, tuple[tuple[str, ...], ...]] = {
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


def write_parquet(
    rng: np.random.Generator, types: Mapping[str, tuple[str, ...]], path: Path, first: int, n: int
) -> None:
    columns = [f"{options[int(rng.integers(len(options)))]} AS {name}" for name, options in types.items()]
    rng.shuffle(columns)
    duckdb.execute(f"COPY (SELECT {', '.join(columns)} FROM range({first}, {first + n}) x(i)) TO '{path}'")  # noqa: S608
