"""The order of listening in logs: times, skips, and files with one user a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tritone_training.data.interactions import (
    MOST_EVENTS,
    Columns,
    ListeningFiles,
    Log,
    is_sequence_file,
    last_pairs,
    load_listening,
    load_log,
    load_sequences,
    split_log,
)
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest

SEQUENCES = "u1 a b c d\nu2 c a e\nu3 b c\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def sequence(log: Log, user: str) -> list[str]:
    assert log.sequences is not None
    return [log.items[item] for item in log.sequences.items_of(len(log.users))[log.users.index(user)]]


def test_a_file_of_sequences_keeps_the_order_of_each_user(tmp_path: Path) -> None:
    path = write(tmp_path / "train.txt", SEQUENCES)
    assert is_sequence_file(path)
    log = load_log(path)
    assert [sequence(log, user) for user in log.users] == [["a", "b", "c", "d"], ["c", "a", "e"], ["b", "c"]]
    assert log.plays.tolist() == [1.0] * len(log)
    assert log.time is None
    assert log.report["n_in"] == log.report["n_used"] == 9


@pytest.mark.parametrize(
    "text",
    [
        "user,item\nu1,a\nu2,b c\n",
        "user\titem\nu1\ta\n",
        "user item\nu1 a\nu2 b\n",  # the same number of words in each line: may be a table separated by blanks
        "u1\nu2 a\n",
        "",
        "u1 a b\nu1 c\n",  # a text, or a user with two lines
    ],
)
def test_tables_are_no_files_of_sequences(tmp_path: Path, text: str) -> None:
    assert not is_sequence_file(write(tmp_path / "log.txt", text))


def test_lines_of_one_item_and_a_header_are_read_as_sequences_on_demand(tmp_path: Path) -> None:
    log = load_sequences(write(tmp_path / "test.txt", "user item\nu1 a\n\nu2 b\nu1 c\n"))
    assert [sequence(log, user) for user in log.users] == [["a", "c"], ["b"]]


def test_a_repeated_item_is_played_twice(tmp_path: Path) -> None:
    log = load_sequences(write(tmp_path / "train.txt", "u1 a b a\nu2 a c\n"))
    assert dict(
        zip([log.items[i] for i in log.item[log.user == 0]], log.plays[log.user == 0].tolist(), strict=True)
    ) == {
        "a": 2.0,
        "b": 1.0,
    }
    assert sequence(log, "u1") == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"u1 a b\nu2\n", "line 2 has no item"),
        (b"", "is empty"),
        (b"u1 a \xff\n", "is not UTF-8"),
    ],
)
def test_damaged_files_of_sequences_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_sequences(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_sequences(tmp_path / "missing.txt")


def test_the_last_item_of_each_user_is_held_out(tmp_path: Path) -> None:
    log = load_log(write(tmp_path / "train.txt", SEQUENCES + "u4 a\n"))
    train, held_out = split_log(log, fraction=0.1, seed=0)
    assert [(held_out.users[u], held_out.items[i]) for u, i in zip(held_out.user, held_out.item, strict=True)] == [
        ("u1", "d"),
        ("u2", "e"),
        ("u3", "c"),
    ]
    assert [sequence(train, user) for user in train.users] == [["a", "b", "c"], ["c", "a"], ["b"], ["a"]]
    before = log.take(last_pairs(log, 2))
    assert [before.items[i] for i in before.item] == ["c", "a"]  # u3 would have nothing left


def test_listening_from_a_file_of_sequences_has_no_test_split(tmp_path: Path) -> None:
    files = ListeningFiles(interactions=write(tmp_path / "train.txt", SEQUENCES))
    listening = load_listening(TrainRequest(out=tmp_path, data=files, progress=False))
    assert listening.test is None
    assert len(listening.valid) == 3
    assert listening.report["parts"]["valid"]["how"] == "the last item of each listener"


TIMES = """user,item,time,skipped
ann,a,30,0
ann,b,10,0
ann,c,10,0
ann,a,20,false
ann,d,40,1
ann,x,50,yes
bob,a,5,
bob,c,,0
bob,b,later,0
bob,d,900,0
"""


def test_times_order_the_listens_and_skips_are_no_listens(tmp_path: Path) -> None:
    log = load_log(write(tmp_path / "log.csv", TIMES))
    # Equal times keep the order of the file; rows without a readable time, and skips of items nobody plays, are left
    # out.
    assert sequence(log, "ann") == ["b", "c", "a", "a"]
    assert sequence(log, "bob") == ["a", "d"]
    assert log.sequences is not None
    assert log.sequences.time is not None
    ann = log.sequences.user == log.users.index("ann")
    assert log.sequences.time[ann].tolist() == [10, 10, 20, 30, 40]
    assert log.sequences.skipped[ann].tolist() == [False] * 4 + [True]
    assert log.report["n_skips"] == 2
    assert log.report["dropped"] == {"time_unreadable": 2}
    pair = (log.user == log.users.index("ann")) & (log.item == log.items.index("a"))
    assert log.time is not None
    assert log.last_time is not None
    assert (log.time[pair].tolist(), log.last_time[pair].tolist(), log.plays[pair].tolist()) == ([20], [30], [2])


def test_a_column_of_skips_holds_flags_only(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", "user,item,time,skipped\nann,a,1,maybe\n")
    with pytest.raises(DataError, match="holds 'maybe': expected 0 or 1"):
        load_log(path)
    with pytest.raises(DataError, match="cannot be both"):
        load_log(path, Columns(time="time", skipped="time"))


def test_a_temporal_split_leaves_no_later_events_in_training(tmp_path: Path) -> None:
    rows = [f"u{u},i{(u + t) % 9},{100 * t + u}" for t in range(10) for u in range(6)]
    rows += ["u0,i0,5000"]  # played again, after everything that is held out
    log = load_log(write(tmp_path / "log.csv", "\n".join(["user,item,time", *rows])))
    train, held_out = split_log(log, fraction=0.2, seed=0)
    assert held_out.time is not None
    assert train.sequences is not None
    assert train.sequences.time is not None
    assert train.sequences.time.max() <= held_out.time.min()
    pairs = set(zip(held_out.user.tolist(), held_out.item.tolist(), strict=True))
    assert not pairs & set(zip(train.sequences.user.tolist(), train.sequences.item.tolist(), strict=True))


def test_only_the_latest_events_of_a_user_are_kept(tmp_path: Path) -> None:
    n = MOST_EVENTS + 50
    text = f"u1 {' '.join(f'i{k}' for k in range(n))}\nu2 i0 i1\n"
    log = load_log(write(tmp_path / "train.txt", text))
    assert sequence(log, "u1") == [f"i{k}" for k in range(50, n)]
    assert sequence(log, "u2") == ["i0", "i1"]
    assert np.bincount(log.user).tolist() == [n, 2]  # counts are complete


def test_a_log_without_times_has_no_order(tmp_path: Path) -> None:
    log = load_log(write(tmp_path / "log.csv", "user,item,plays\nann,a,2\nann,b,1\nbob,b,4\n"))
    assert log.sequences is None
    assert log.last_time is None
    with pytest.raises(DataError, match="neither times nor an order"):
        last_pairs(log)
