"""Listening logs: read from any table, cleaned with a report, split without leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tritone_training.data.interactions import (
    CleaningRules,
    Columns,
    ListeningFiles,
    held_out_counts,
    load_friends,
    load_listening,
    load_log,
    load_metadata,
    load_tags,
    split_log,
)
from tritone_training.data.interactions.simulated import SIMULATED, SimulatedItem, simulate
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest

ROWS = [("ann", "a b", 3), ("ann", "c", 1), ("bob", "c", 2), ("bob", "d", 5)]


def write(
    path: Path, separator: str, rows: list[tuple[object, ...]], header: tuple[str, ...] = ("user", "item", "plays")
) -> Path:
    lines = [separator.join(map(str, row)) for row in [header, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pairs(log: object) -> list[tuple[str, str, float]]:
    return [
        (log.users[u], log.items[i], float(p))  # type: ignore[attr-defined]
        for u, i, p in zip(log.user, log.item, log.plays, strict=True)  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|", "::"])
def test_separators_are_found(tmp_path: Path, separator: str) -> None:
    log = load_log(write(tmp_path / "log.dat", separator, ROWS))
    assert pairs(log) == sorted((u, i, float(p)) for u, i, p in ROWS)
    assert log.report["n_in"] == log.report["n_used"] == 4


def test_a_comma_in_a_name_is_no_separator(tmp_path: Path) -> None:
    rows = [("ann", "Crosby, Stills, Nash", 3), ("bob", "Earth, Wind & Fire", 1)]
    assert {row[1] for row in pairs(load_log(write(tmp_path / "log.tsv", "\t", rows)))} == {row[1] for row in rows}


def test_parquet_with_numbers_as_ids_and_dates(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"uid": [1, 1, 2], "track": [10, 11, 10], "n": [1.0, 2.0, 3.0], "when": pd.to_datetime(["2020-01-01"] * 3)}
    )
    frame.to_parquet(tmp_path / "log.parquet")
    log = load_log(tmp_path / "log.parquet", Columns(plays="n", time="when"))
    assert pairs(log) == [("1", "10", 1.0), ("1", "11", 2.0), ("2", "10", 3.0)]
    assert log.time is not None
    assert log.time.tolist() == [1577836800.0] * 3


def test_columns_by_name_or_by_what_is_usual(tmp_path: Path) -> None:
    named = write(tmp_path / "a.csv", ",", ROWS, ("who", "what", "n"))
    assert len(load_log(named, Columns(user="who", item="what", plays="n"))) == 4
    usual = write(tmp_path / "b.csv", ",", ROWS, ("userID", "artistID", "weight"))
    assert len(load_log(usual)) == 4
    with pytest.raises(
        DataError, match=r"no column of the user found: expected a usual name, got 'who', 'what', 'n'; .*--user"
    ):
        load_log(named)
    with pytest.raises(DataError, match="has no column 'whom' for the user; found are 'who'"):
        load_log(named, Columns(user="whom", item="what"))


def test_without_counts_every_row_is_one_listen(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ",", [("ann", "a"), ("ann", "a"), ("bob", "b")], ("user", "item"))
    assert pairs(load_log(path)) == [("ann", "a", 2.0), ("bob", "b", 1.0)]


def test_cleaning_reports_what_it_left_out(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        ("ann", "c", 4),  # merged
        ("", "c", 1),
        ("cas", "", 1),
        ("cas", "c", "many"),
        ("cas", "c", "nan"),
        ("cas", "c", "inf"),
        ("cas", "c", 0),
        ("cas", "c", -3),
        ("cas", "c", 1e12),
    ]
    log = load_log(write(tmp_path / "log.tsv", "\t", rows))
    assert log.report["n_in"] == 13
    assert log.report["n_used"] == 4
    assert log.report["n_merged"] == 1
    assert log.report["dropped"] == {
        "no_user": 1,
        "no_item": 1,
        "count_not_a_finite_number": 3,
        "count_not_above_0": 2,
        "count_impossible": 1,
    }
    assert ("ann", "c", 5.0) in pairs(log)
    assert sum(log.report["dropped"].values()) + log.report["n_merged"] + log.report["n_used"] == log.report["n_in"]


def test_ids_that_are_no_utf8_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"user,item,plays\nann,a,1\n\xff\xfe,a,1\nbob,\xc3\x28,2\nbob,b,1\n")
    log = load_log(tmp_path / "log.csv")
    assert log.report["dropped"] == {"id_not_utf8": 2}
    assert [row[:2] for row in pairs(log)] == [("ann", "a"), ("bob", "b")]


def test_ratings_are_averaged_and_low_ones_left_out(tmp_path: Path) -> None:
    rows = [("ann", "a", 5), ("ann", "a", 3), ("ann", "b", 1), ("bob", "a", 4)]
    path = write(tmp_path / "log.csv", ",", rows, ("user", "item", "rating"))
    log = load_log(path, rules=CleaningRules(least_rating=3))
    assert pairs(log) == [("ann", "a", 4.0), ("bob", "a", 4.0)]
    assert log.report["dropped"] == {"rating_too_low": 1}


def test_bots_are_left_out_by_the_stated_rule(tmp_path: Path) -> None:
    rows = [(f"user {n}", f"item {n % 7}", 1) for n in range(50)] + [("bot", f"item {n}", 1) for n in range(1_200)]
    path = write(tmp_path / "log.csv", ",", rows)
    assert load_log(path).report["dropped"] == {"bot": 1_200}
    assert len(load_log(path, rules=CleaningRules(bot_factor=0))) == 1_250


def test_support_filters_are_off_unless_asked_for_and_repeat(tmp_path: Path) -> None:
    rows = [("ann", "a", 1), ("ann", "b", 1), ("bob", "a", 1), ("bob", "b", 1), ("cas", "c", 1), ("cas", "a", 1)]
    path = write(tmp_path / "log.csv", ",", rows)
    assert len(load_log(path)) == 6
    log = load_log(path, rules=CleaningRules(min_items_per_user=2, min_users_per_item=2))
    assert {row[0] for row in pairs(log)} == {"ann", "bob"}  # without c, cas has one item left and goes too
    assert log.report["dropped"] == {"too_little_support": 2}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"user,item,plays\n", "no rows are left of 0 after cleaning"),
        (b"user,item,plays\n,a,1\n", "no rows are left of 1 after cleaning \\(no_user 1\\)"),
    ],
)
def test_an_empty_log_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        load_log(tmp_path / "log.csv")
    with pytest.raises(DataError, match="no such file"):
        load_log(tmp_path / "missing.csv")


def test_a_log_with_one_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ",", [("ann", f"item {n}", 1) for n in range(40)])
    with pytest.raises(DataError, match="expected at least two"):
        load_listening(TrainRequest(out=tmp_path, data=path))


def test_random_splits_are_seeded_and_leave_everybody_something(tmp_path: Path) -> None:
    rows = [(f"user {u}", f"item {i}", 1) for u in range(60) for i in range(u % 12 + 1)]
    log = load_log(write(tmp_path / "log.csv", ",", rows))
    train, held_out = split_log(log, fraction=0.2, seed=1)
    assert len(train) + len(held_out) == len(log)
    assert len(held_out) == pytest.approx(0.2 * len(log), rel=0.2)
    assert set(train.user.tolist()) == set(log.user.tolist())
    assert not set(pairs(train)) & set(pairs(held_out))
    again, other = split_log(log, fraction=0.2, seed=1)[1], split_log(log, fraction=0.2, seed=2)[1]
    assert pairs(again) == pairs(held_out)
    assert pairs(other) != pairs(held_out)


def test_with_times_the_latest_are_held_out(tmp_path: Path) -> None:
    rows = [(f"user {n % 9}", f"item {n}", 1, 1_600_000_000 + n) for n in range(100)]
    path = write(tmp_path / "log.csv", ",", rows, ("user", "item", "plays", "timestamp"))
    train, held_out = split_log(load_log(path), fraction=0.1, seed=0)
    assert train.time is not None
    assert held_out.time is not None
    assert train.time.max() < held_out.time.min()
    assert len(held_out) == 10


@pytest.mark.parametrize("n_moments", [1, 3])
def test_coarse_times_hold_out_as_much_as_fine_ones(tmp_path: Path, n_moments: int) -> None:
    rows = [(f"user {n % 9}", f"item {n}", f"2020-0{n % n_moments + 1}") for n in range(90)]
    log = load_log(write(tmp_path / "log.csv", ",", rows, ("user", "item", "date")))
    train, held_out = split_log(log, fraction=0.1, seed=0)
    assert len(held_out) == 9
    assert train.time is not None
    assert held_out.time is not None
    assert train.time.max() <= held_out.time.min()
    assert pairs(split_log(log, fraction=0.1, seed=0)[1]) == pairs(held_out)
    assert pairs(split_log(log, fraction=0.1, seed=1)[1]) != pairs(held_out)


def test_one_listen_with_a_time_cannot_be_split(tmp_path: Path) -> None:
    log = load_log(write(tmp_path / "log.csv", ",", [("ann", "a", "2020-01")], ("user", "item", "date")))
    with pytest.raises(DataError, match=r"1 listens of 1 users cannot be split.*expected several listens"):
        split_log(log, fraction=0.1, seed=0)


def test_what_is_learnt_from_is_not_chosen_by(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", ",", ROWS)
    valid = write(tmp_path / "valid.csv", ",", [("ann", "c", 1), ("ann", "d", 2), ("eve", "c", 1)])
    request = TrainRequest(out=tmp_path, data=ListeningFiles(interactions=log, valid=valid))
    listening = load_listening(request)
    assert pairs(listening.valid) == [("ann", "d", 2.0), ("eve", "c", 1.0)]
    assert listening.report["parts"]["valid"]["n_in_log_too"] == 1
    assert listening.report["parts"]["valid"]["n_used"] == 2
    write(tmp_path / "valid.csv", ",", ROWS[:3])
    with pytest.raises(DataError, match=r"valid\.csv: all 3 of its listens are in log\.csv too"):
        load_listening(request)


def test_files_that_would_not_be_looked_at_are_refused(tmp_path: Path) -> None:
    log = write(tmp_path / "log.csv", ",", ROWS)
    for files, says in (
        (ListeningFiles(interactions=log, tag_names=log), "--tag-names holds the names of --item-tags"),
        (ListeningFiles(friends=log), "--friends belongs to a log: give --interactions too"),
        (ListeningFiles(item_tags=log), "--item-tags belongs to a log: give --interactions too"),
    ):
        with pytest.raises(DataError, match=says):
            load_listening(TrainRequest(out=tmp_path, data=files))


def test_times_in_milliseconds_and_as_text(tmp_path: Path) -> None:
    header = ("user", "item", "timestamp")
    for name, stamps in {
        "ms": (1_600_000_000_000, 1_600_000_001_000),
        "text": ("2020-09-13T12:26:40Z", "2020-09-13 12:26:41"),
    }.items():
        path = write(tmp_path / name, ",", [("ann", "a", stamps[0]), ("bob", "a", stamps[1])], header)
        log = load_log(path)
        assert log.time is not None
        assert log.time.tolist() == [1_600_000_000.0, 1_600_000_001.0]


def test_friends_are_pairs_in_either_direction_once(tmp_path: Path) -> None:
    rows = [("ann", "bob"), ("bob", "ann"), ("cas", "cas"), ("", "ann"), ("cas", "ann")]
    path = write(tmp_path / "friends.tsv", "\t", rows, ("userID", "friendID"))
    assert load_friends(path) == [("ann", "bob"), ("ann", "cas")]


def test_tags_with_names(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.tsv", "\t", [("ann", "a", 1), ("ann", "a", 1), ("bob", "b", 2)], ("user", "item", "tagID")
    )
    names = write(tmp_path / "names.tsv", "\t", [(1, "sad songs"), (2, "Jazz")], ("tagID", "tagValue"))
    tags = load_tags(path, names=names)
    assert list(zip(tags.users, tags.items, tags.tags, strict=True)) == [
        ("ann", "a", "sad songs"),
        ("bob", "b", "Jazz"),
    ]
    assert tags.report["n_in"] == 3


def test_usual_metadata_columns_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", ",", [("a", "So What", "Miles Davis", "Jazz")], ("id", "name", "artist", "genre"))
    assert load_metadata(path).rows == {"a": {"title": "So What", "artist": "Miles Davis", "genre": "Jazz"}}


def test_tags_of_held_out_pairs_do_not_tell(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = sorted({(f"user {rng.integers(9)}", f"item {rng.integers(40)}", 1) for _ in range(200)})
    log = write(tmp_path / "log.csv", ",", rows)
    tags = write(tmp_path / "tags.csv", ",", [(u, i, "good") for u, i, _ in rows], ("user", "item", "tag"))
    files = ListeningFiles(interactions=log, item_tags=tags)
    listening = load_listening(TrainRequest(out=tmp_path, data=files))
    assert listening.test is not None
    held_out = {row[:2] for part in (listening.valid, listening.test) for row in pairs(part)}
    assert held_out
    assert not held_out & set(zip(listening.tags.users, listening.tags.items, strict=True))
    assert len(listening.tags) == len(rows) - len(held_out)
    assert held_out_counts(listening.test, ["nobody"]).tolist() == [0]


def test_the_simulated_log_is_marked_and_reproducible() -> None:
    items = [SimulatedItem(f"{n}", ("a" if n % 2 else "b", "c"), {"title": str(n)}) for n in range(60)]
    world, again, other = (simulate(items, seed=seed, n_listeners=50, mean_items=12) for seed in (1, 1, 2))
    assert world.log.source == SIMULATED
    assert "simulated" in world.log.report["licence"]
    assert pairs(world.log) == pairs(again.log)
    assert world.friends == again.friends
    assert pairs(world.log) != pairs(other.log)
    assert np.bincount(world.log.user).min() >= 3
    assert world.friends
    assert len(world.tags)
