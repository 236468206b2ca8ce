"""Tables as people have them: damaged, packed, wrongly quoted, in another encoding, with dates of any order."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tritone_serving.recommender.artifact import text_arrays
from tritone_training.data.interactions import (
    Columns,
    ListeningFiles,
    join_data,
    load_friends,
    load_listening,
    load_log,
    load_metadata,
    load_tags,
)
from tritone_training.data.interactions.log import Log
from tritone_training.data.tables import open_table
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest


def pairs(log: Log) -> list[tuple[str, str]]:
    return [(log.users[u], log.items[i]) for u, i in zip(log.user.tolist(), log.item.tolist(), strict=True)]


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", [lambda c: c[: len(c) // 2], lambda c: c[:8] + b"\xff" * 200 + c[208:], lambda c: b""]
)
def test_a_damaged_parquet_file_is_called_one(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "log.parquet"
    rows = {"user": [f"u{n % 50}" for n in range(5_000)], "item": [f"i{n * 7 % 900}" for n in range(5_000)]}
    pd.DataFrame(rows).to_parquet(path, compression="gzip")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"log\.parquet: is damaged, cut short or no Parquet file \("):
        load_log(path)


def test_parquet_is_read_by_the_types_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "log [1]*.parquet"  # no pattern of several files
    ids = [9_007_199_254_740_993, 9_007_199_254_740_995, None]  # a float would make them one
    table = pd.DataFrame(
        {
            "user": pd.array(ids, dtype="Int64"),
            "item": [12.0, 12.5, float("nan")],
            "time": pd.to_datetime(["2024-01-01T05:00:00+05:00"] * 3, utc=False),
        },
        index=[7, 8, 9],  # stored as a column of its own, and no part of the table
    )
    table.to_parquet(path)
    with open_table(path) as opened:
        read = opened.read()
    assert read["user"].tolist()[:2] == ["9007199254740993", "9007199254740995"]
    assert read["item"].tolist()[:2] == ["12.0", "12.5"]
    assert read[["user", "item"]].iloc[2].isna().all()
    assert read["time"].tolist() == ["2024-01-01T00:00:00.000000Z"] * 3


@pytest.mark.parametrize("separator", ["\t", ","])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["log.tsv.gz", "log.csv"])
def test_packed_tables_are_read_by_what_they_hold(
    tmp_path: Path, separator: str, pack: Callable[[bytes], bytes], name: str
) -> None:
    text = "\n".join(separator.join(row) for row in [("user", "item"), ("ann", "a b"), ("bob", "c")])
    (tmp_path / name).write_bytes(pack(text.encode()))
    assert pairs(load_log(tmp_path / name)) == [("ann", "a b"), ("bob", "c")]


def test_packed_tables_that_cannot_be_unpacked_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"user,item\nann,a\n" * 99)[:-12])
    with pytest.raises(DataError, match="is not a table that can be read"):
        load_log(tmp_path / "cut.gz")
    (tmp_path / "log.zip").write_bytes(b"PK\x03\x04" + b"\0" * 40)
    with pytest.raises(DataError, match="is a damaged ZIP archive"):
        load_log(tmp_path / "log.zip")


def test_stray_quotes_between_tabs_are_letters(tmp_path: Path) -> None:
    rows = ["user\titem", 'ann\t"Weird Al', 'bob\tTwelve Inch 12"', 'cas\t"Heroes"', 'dan\t"say ""hi"""', 'eve\tlast"']
    (tmp_path / "log.tsv").write_text("\n".join(rows) + "\n")
    log = load_log(tmp_path / "log.tsv")
    assert pairs(log) == [
        ("ann", '"Weird Al'), ("bob", 'Twelve Inch 12"'), ("cas", "Heroes"), ("dan", 'say "hi"'), ("eve", 'last"'),
    ]  # fmt: skip


def test_rows_that_a_stray_quote_swallowed_are_reported(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('user,item\nann,"a\nbob,b\ncas,c"\ndan,d\neve,e\n')
    log = load_log(tmp_path / "log.csv")
    assert log.report["dropped"] == {"id_of_several_lines": 1}
    assert pairs(log) == [("dan", "d"), ("eve", "e")]


def test_a_cut_parquet_file_is_said_to_lack_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pd.DataFrame({"user": ["ann", "bob"], "item": ["a", "b"]}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"\(its end is missing\)"):
        load_log(path)


# --- columns ------------------------------------------------------------------------------------


def test_one_column_is_not_two_things(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item\nann,a\nbob,b\n")
    with pytest.raises(
        DataError, match="column 'item' cannot be both the user and the item; name another with --item-"
    ):
        load_log(path, Columns(user="item", item="item"))
    with pytest.raises(DataError, match="column 'user' cannot be both the user and the plays"):
        load_log(path, Columns(plays="user"))
    with pytest.raises(DataError, match="column 'user' cannot be both the user and the friend"):
        load_friends(path, Columns(friend="user"))
    with pytest.raises(DataError, match="column 'item' cannot be both the item and the tag"):
        load_tags(path, Columns(tag="item"))
    path.write_text("user,item,item\nann,a,b\nbob,b,c\n")
    with pytest.raises(DataError, match="has two columns called 'item'; rename or remove one"):
        load_log(path)


def test_metadata_with_two_usual_names_keeps_both(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,name,title,composer,artist\na,Nom,So What,Evans,Davis\n")
    assert load_metadata(path).rows == {
        "a": {"title": "So What", "artist": "Davis", "name": "Nom", "composer": "Evans"}
    }


def test_metadata_and_tag_names_that_are_no_utf8_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(b"id,title,caf\xe9\na,m\xfasica,x\n\xff,So What,y\nb,Blue,z\n")
    table = load_metadata(path)
    assert table.rows == {"a": {"caf\\udce9": "x"}, "b": {"title": "Blue", "caf\\udce9": "z"}}
    counts = {name: table.report[name] for name in ("n_in", "n_used", "n_ids_not_utf8", "n_cells_not_utf8")}
    assert counts == {"n_in": 3, "n_used": 2, "n_ids_not_utf8": 1, "n_cells_not_utf8": 1}
    for row in table.rows.values():
        text_arrays("all", [*row, *row.values()])
    (tmp_path / "tags.csv").write_text("user,item,tag\nann,a,1\nann,a,2\nann,a,3\n")
    (tmp_path / "names.csv").write_bytes(b"tag,name\n1,m\xfasica\n2,pop\n3,\n")
    tags = load_tags(tmp_path / "tags.csv", names=tmp_path / "names.csv")
    assert list(tags.tags) == ["1", "pop", "3"]
    assert tags.report["n_names_not_utf8"] == 1
    (tmp_path / "names.csv").write_text("tag\n1\n")
    with pytest.raises(DataError, match="has one column, 'tag'; expected the tags' ids and their names"):
        load_tags(tmp_path / "tags.csv", names=tmp_path / "names.csv")


# --- dates --------------------------------------------------------------------------------------


def days(tmp_path: Path, *times: str) -> list[str]:
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user,item,date", *(f"u,i{n},{time}" for n, time in enumerate(times))]) + "\n")
    log = load_log(path)
    assert log.time is not None
    return [str(day) for day in np.array(log.time, "datetime64[s]").astype("datetime64[D]")]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (("05.06.2012", "18.06.2012"), ["2012-06-05", "2012-06-18"]),
        (("05.06.2012", "07.08.2012"), ["2012-06-05", "2012-08-07"]),
        (("05/06/2012", "18/06/2012"), ["2012-06-05", "2012-06-18"]),
        (("05/06/2012", "06/18/2012"), ["2012-05-06", "2012-06-18"]),
        (("5-6-2012 14:03", "6-18-2012 2:03 PM"), ["2012-05-06", "2012-06-18"]),
        (("2012-06-05", "2012-06-18T10:00:00+02:00"), ["2012-06-05", "2012-06-18"]),
        (("2012-06", "2012-07"), ["2012-06-01", "2012-07-01"]),
        (("18 Jun 2012", "June 5, 2012".replace(",", "")), ["2012-06-18", "2012-06-05"]),
    ],
)
def test_dates_are_read_by_one_rule_for_the_column(tmp_path: Path, times: tuple[str, ...], expected: list[str]) -> None:
    assert days(tmp_path, *times) == expected


def test_dates_of_ambiguous_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"such as '05/06/2012': no row shows whether the day comes first"):
        days(tmp_path, "05/06/2012", "07/08/2012")
    with pytest.raises(DataError, match=r"begin with the day \('18/06/2012'\), others with the month \('06/18/2012'\)"):
        days(tmp_path, "18/06/2012", "06/18/2012")


# --- options that would be ignored --------------------------------------------------------------


@pytest.mark.parametrize("name", ["user_column", "item_column", "plays_column", "rating_column", "time_column"])
def test_a_column_of_no_log_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"--{name.replace('_', '-')} names a column of a log"):
        load_listening(TrainRequest(tmp_path, progress=False, data=ListeningFiles(**{name: "x"})))


@pytest.mark.parametrize("name", ["tag_column", "friend_column"])
def test_a_column_of_no_table_is_refused(tmp_path: Path, name: str) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user,item\n" + "".join(f"u{row % 5},x{row % 7}\n" for row in range(35)))
    with pytest.raises(DataError, match=f"--{name.replace('_', '-')}"):
        load_listening(TrainRequest(tmp_path, data=ListeningFiles(interactions=log, **{name: "x"})))


def test_columns_and_tables_hold_for_a_log_given_as_data(tmp_path: Path) -> None:
    log, friends = tmp_path / "log.csv", tmp_path / "friends.csv"
    log.write_text("a,b\n" + "".join(f"u{row % 5},x{row % 7}\n" for row in range(35)))
    friends.write_text("a,friend\nu1,u2\n")
    files = ListeningFiles(friends=friends, user_column="a", item_column="b")
    listening = load_listening(TrainRequest(tmp_path, data=join_data(log, files)))
    assert listening.report["parts"]["log"]["columns"] == {"user": "a", "item": "b"}
    assert listening.friends == [("u1", "u2")]


def test_a_named_column_of_ratings_comes_before_plays(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,plays,score\nu1,a,9,2\nu2,b,9,3\n")
    assert load_log(path, Columns(rating="score")).plays.tolist() == [2, 3]
    assert load_log(path).plays.tolist() == [9, 9]
    with pytest.raises(DataError, match="expected play counts or ratings"):
        load_log(path, Columns(rating="score", plays="plays"))
