"""Ids, times and counts as table programs write them: one id for each spelling, moments, whole numbers."""

from __future__ import annotations

import gzip
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from tritone_cli.console import print_listening_report
from tritone_training.data.interactions import (
    Columns,
    ListeningFiles,
    load_friends,
    load_listening,
    load_log,
    load_metadata,
    load_tags,
)
from tritone_training.data.interactions.log import Log
from tritone_training.exceptions import DataError
from tritone_training.kind import TrainRequest
from tritone_training.kinds.recommender.fitting import recording_embeddings

LARGE = 1_152_921_504_606_846_976
NFD = unicodedata.normalize("NFD", "Jóga")


def pairs(log: Log) -> list[tuple[str, str]]:
    return [(log.users[u], log.items[i]) for u, i in zip(log.user.tolist(), log.item.tolist(), strict=True)]


def times(log: Log) -> dict[tuple[str, str], float]:
    assert log.time is not None
    return dict(zip(pairs(log), log.time.tolist(), strict=True))


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def parquet(path: Path, query: str) -> Path:
    with duckdb.connect() as database:
        database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


# --- Parquet written by pandas ------------------------------------------------------------------


def frame(n: int = 40) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user": [f"u{row % 5}" for row in range(n)],
            "item": [f"x{row}" for row in range(n)],
            # fastparquet writes nanoseconds alone as they are
            "ts": pd.to_datetime([1_700_000_000 + 100 * row for row in range(n)], unit="s").astype("datetime64[ns]"),
        }
    )


@pytest.mark.parametrize("order", ["filtered", "sorted", "shuffled", "duplicates", "text"])
def test_rows_of_a_parquet_table_with_a_stored_index_keep_their_times(tmp_path: Path, order: str) -> None:
    table = frame()
    table = {
        "filtered": table[table["item"] != "x7"],
        "sorted": table.sort_values("ts", ascending=False),
        "shuffled": table.sample(frac=1, random_state=0),
        "duplicates": table.set_index(pd.Index([row // 2 for row in range(40)])),
        "text": table.set_index(pd.Index([f"row {row}" for row in range(40)], name="label")),
    }[order]
    table.to_parquet(tmp_path / "log.parquet", index=True)
    log = load_log(tmp_path / "log.parquet")
    assert log.report["n_in"] == len(table)
    seconds = (table["ts"] - pd.Timestamp(0)) / pd.Timedelta(seconds=1)
    assert times(log) == dict(zip(zip(table["user"], table["item"], strict=True), seconds, strict=True))


@pytest.mark.parametrize("column", ["user", "ts"])
def test_an_index_is_a_column(tmp_path: Path, column: str) -> None:
    frame().set_index(column).to_parquet(tmp_path / "log.parquet", index=True)
    log = load_log(tmp_path / "log.parquet")
    assert len(log) == 40
    assert times(log)["u3", "x13"] == 1_700_001_300.0
    assert log.report["columns"] == {"user": "user", "item": "item", "time": "ts"}


def test_large_ids_in_a_column_with_empty_cells_stay_exact(tmp_path: Path) -> None:
    ids = [LARGE + row % 17 for row in range(40)]
    table = pd.DataFrame({"user": range(40), "item": pd.array([*ids[:39], None], dtype="Int64")})
    table.to_parquet(tmp_path / "log.parquet")
    log = load_log(tmp_path / "log.parquet")
    assert list(log.items) == [str(LARGE + row) for row in range(17)]
    assert log.report["dropped"] == {"no_item": 1}


def test_lists_are_ignored_unless_they_are_asked_for(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "log.parquet", "SELECT 'u' || range AS user, 'x' AS item, ['a', 'b'] AS tags FROM range(4)"
    )
    log = load_log(path)
    assert len(log) == 4
    assert log.report["notes"] == ["column 'tags' holds lists and is not read"]
    with pytest.raises(DataError, match="column 'tags' cannot be the item: expected one value in each cell, got lists"):
        load_log(path, Columns(item="tags"))
    path = parquet(tmp_path / "log.parquet", "SELECT ['u'] AS user, 'x' AS item")
    with pytest.raises(DataError, match=r"column 'user' cannot be the user: .* got lists; write a row for each value"):
        load_log(path)


# --- times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written_time", "n_naive"),
    [
        ("TIMESTAMPTZ '2023-11-14 22:13:20+00:00'", 0),
        ("TIMESTAMPTZ '2023-11-15 03:13:20+05:00'", 0),
        ("TIMESTAMP '2023-11-14 22:13:20'", 2),
        ("TIMESTAMP_NS '2023-11-14 22:13:20'", 2),
        ("TIMESTAMP_MS '2023-11-14 22:13:20'", 2),
        ("'2023-11-14T22:13:20Z'", 0),
        ("'2023-11-15T03:13:20+05:00'", 0),
        ("'2023-11-15 03:43:20.000+0530'", 0),
        ("'2023-11-14 22:13:20 UTC'", 0),
        ("'2023-11-14T23:13:20+01:00[Europe/Paris]'", 0),
        ("'2023-11-14 22:13:20'", 2),
        ("1700000000", 0),
        ("1700000000.0::DOUBLE", 0),
        ("1700000000000", 0),
        ("1700000000000000", 0),
        ("1700000000000000000", 0),
        ("20231114221320", 2),
    ],
)
def test_times_are_moments_in_every_form(tmp_path: Path, written_time: str, n_naive: int) -> None:
    query = f"SELECT 'u' || range AS user, 'x' AS item, {written_time} AS ts FROM range(2)"  # noqa: S608 - of this test
    path = parquet(tmp_path / "log.parquet", query)
    log = load_log(path)
    assert log.time is not None
    assert log.time.tolist() == [1_700_000_000.0] * 2
    assert log.report["times"]["n_without_zone"] == n_naive


def test_times_of_an_implausible_century_are_noted(tmp_path: Path) -> None:
    log = load_log(written(tmp_path / "log.csv", "user,item,time\na,x,1700000\nb,x,1700001\n"))
    assert log.report["notes"] == ["the median time is 1970-01-20: expected times from 1980 to 2100; check the unit"]


def test_offsets_may_differ_from_row_to_row(tmp_path: Path) -> None:
    path = written(
        tmp_path / "log.csv",
        "user,item,time\na,x,2023-11-15T03:13:20+05:00\nb,x,2023-11-14T22:13:20Z\nc,x,2023-11-14 22:13:20\n",
    )
    log = load_log(path)
    assert log.time is not None
    assert log.time.tolist() == [1_700_000_000.0] * 3
    assert log.report["times"] == {"n_without_zone": 1, "n_with_zone": 2}


@pytest.mark.parametrize(
    ("text", "day"), [("20231114", "2023-11-14"), ("202311", "2023-11-01"), ("2023", "2023-01-01")]
)
def test_dates_without_marks_are_no_seconds(tmp_path: Path, text: str, day: str) -> None:
    log = load_log(written(tmp_path / "log.csv", f"user,item,date\na,x,{text}\nb,x,{text}\n"))
    assert log.time is not None
    assert [str(pd.Timestamp(each, unit="s").date()) for each in log.time] == [day] * 2


# --- which columns ------------------------------------------------------------------------------


def test_a_column_id_that_numbers_the_rows_is_not_the_item(tmp_path: Path) -> None:
    rows = [f"{1_700_001_000 + 37 * row},{row % 3:03},it{row % 8},2" for row in range(24)]
    path = written(tmp_path / "log.csv", "\n".join(["id,user_id,song_name,plays", *rows]))
    log = load_log(path)
    assert sorted(log.items) == [f"it{row}" for row in range(8)]
    assert log.report["columns"] == {"user": "user_id", "item": "song_name", "plays": "plays"}
    assert "column 'id' numbers rows" in log.report["notes"][0]
    assert len(load_log(path, Columns(item="id")).items) == 24


def test_a_column_id_that_repeats_is_the_item(tmp_path: Path) -> None:
    log = load_log(written(tmp_path / "log.csv", "id,user_id,song_name\n7,a,X\n7,b,X\n8,b,Y\n"))
    assert list(log.items) == ["7", "8"]
    log = load_log(written(tmp_path / "log.csv", "id,user_id,country\n7,a,X\n8,b,X\n9,b,Y\n"))
    assert list(log.items) == ["7", "8", "9"]
    assert "although it differs in each row" in log.report["notes"][0]


@pytest.mark.parametrize("chosen", [Columns(), Columns(user="who")])
def test_a_table_without_a_header_is_called_one(tmp_path: Path, chosen: Columns) -> None:
    path = written(tmp_path / "log.csv", "001,it7,2,1700001000\n002,it10,3,1700001037\n")
    with pytest.raises(DataError, match="no header"):
        load_log(path, chosen)


def test_a_table_of_one_column_asks_for_the_separator(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has one column, 'user item': expected several, divided by tabs"):
        load_log(written(tmp_path / "log.csv", "user item\nann a\n"))


# --- ids ----------------------------------------------------------------------------------------


def test_unicode_forms_are_one_id(tmp_path: Path) -> None:
    rows = [f"00{row % 3},{(NFD if row % 2 else 'Jóga')} it{row % 8},1" for row in range(48)]
    log = load_log(written(tmp_path / "log.csv", "\n".join(["user,item,plays", *rows])))
    assert sorted(log.items) == [f"Jóga it{row}" for row in range(8)]
    assert log.report["ids"] == {"item": {"n_rows_normalized": 24}}


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\u200b", "\ufeff", "\u2003", "\u2060", "\t"])
def test_blanks_around_ids_do_not_count(tmp_path: Path, blank: str) -> None:
    text = f"user;item\nann;a\nann{blank};b\nbob;{blank}a{blank}\nbob;b\n{blank};a\n"
    log = load_log(written(tmp_path / "log.csv", text))
    assert pairs(log) == [("ann", "a"), ("ann", "b"), ("bob", "a"), ("bob", "b")]
    assert log.report["dropped"] == {"no_user": 1}
    assert log.report["ids"]["user"]["n_ids_merged"] == 1


def test_both_ids_of_one_user_are_merged_and_counted(tmp_path: Path) -> None:
    log = load_log(written(tmp_path / "log.csv", "user,item,plays\nann,a,1\nann\u00a0,a,2\nbob,b,1\n"))
    assert pairs(log) == [("ann", "a"), ("bob", "b")]
    assert log.plays.tolist() == [3.0, 1.0]
    assert log.report["ids"]["user"] == {"n_rows_normalized": 1, "n_ids_merged": 1}
    assert log.report["n_merged"] == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([12.0, 13.0, None], ["12", "13"]),
        ([12.0, 12.5, None], ["12.0", "12.5"]),
        ([-1.0, 0.0, None], ["-1", "0"]),
    ],
)
def test_numeric_ids_with_empty_cells_are_equal_in_csv_and_parquet(
    tmp_path: Path, values: list[float | None], expected: list[str]
) -> None:
    table = pd.DataFrame({"user": ["a", "b", "c"], "item": values})
    table.to_csv(tmp_path / "log.csv", index=False)
    table.to_parquet(tmp_path / "log.parquet")
    for path in (tmp_path / "log.csv", tmp_path / "log.parquet"):
        log = load_log(path)
        assert list(log.items) == expected
        assert log.report["dropped"] == {"no_item": 1}


def test_numbers_with_a_point_are_the_same_ids_in_json_and_decimals(tmp_path: Path) -> None:
    lines = '{"user": "a", "item": 12.0}\n{"user": "b", "item": 13.0}\n{"user": "c", "item": null}\n'
    assert list(load_log(written(tmp_path / "log.jsonl", lines)).items) == ["12", "13"]
    query = "SELECT 'u' || range AS user, (12 + range)::DECIMAL(18, 1) AS item FROM range(2)"
    assert list(load_log(parquet(tmp_path / "log.parquet", query)).items) == ["12", "13"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["007", "7.0"], ["007", "7.0"]),
        (["7", "7.0"], ["7"]),
        (["12.0", "a"], ["12.0", "a"]),
        (["12e5", "99e7"], ["12e5", "99e7"]),
        (["1.10", "1.1"], ["1.1", "1.10"]),
        (["9007199254740993", "9007199254740992"], ["9007199254740992", "9007199254740993"]),
        (["9007199254740991.0", "1.0"], ["1", "9007199254740991"]),
    ],
)
def test_only_whole_columns_of_numbers_lose_their_points(tmp_path: Path, cells: list[str], expected: list[str]) -> None:
    path = written(tmp_path / "log.csv", "user,item\n" + "".join(f"u{n},{cell}\n" for n, cell in enumerate(cells)))
    assert list(load_log(path).items) == expected


@pytest.mark.parametrize(
    "cells", [["1.152921504606847e+18", "12.0"], ["1.15292E+18", "3"], ["9007199254740992.0", "1.0"]]
)
def test_ids_that_lost_digits_are_refused(tmp_path: Path, cells: list[str]) -> None:
    path = written(tmp_path / "log.csv", "user,item\n" + "".join(f"u{n},{cell}\n" for n, cell in enumerate(cells)))
    with pytest.raises(DataError, match=r"column 'item' holds ids as floating-point numbers that have lost digits"):
        load_log(path)


@pytest.mark.parametrize("value", [f"({LARGE} + range)::DOUBLE", "1e300 * (range + 1)", "(16777216 + range)::FLOAT"])
def test_parquet_ids_that_lost_digits_are_refused(tmp_path: Path, value: str) -> None:
    query = f"SELECT 'u' || range AS user, {value} AS item FROM range(4)"  # noqa: S608 - of this test
    path = parquet(tmp_path / "log.parquet", query)
    with pytest.raises(DataError, match=r"have lost digits .* write the column as integers"):
        load_log(path)


def test_friends_tags_names_metadata_and_held_out_listens_share_the_ids(tmp_path: Path) -> None:
    log = written(tmp_path / "log.csv", "user,item\n1.0,Jóga\n1.0,b\n2.0,b\n2.0,c\n,c\n")
    valid = written(tmp_path / "valid.csv", f"user,item\n2 ,{NFD}\n")
    friends = written(tmp_path / "friends.csv", "user,friend\n1,2\u00a0\n2\u200b,1\n")
    tags = written(tmp_path / "tags.csv", f"item,tag\n{NFD},5.0\nb\u00a0,5.0\nc,\n")
    names = written(tmp_path / "names.csv", f"tag,name\n5,{NFD} \n")
    metadata = written(tmp_path / "songs.csv", f"id,title,year\n{NFD},Hyperballad,1999.0\n b,B,\n")
    files = ListeningFiles(log, valid=valid, friends=friends, item_tags=tags, tag_names=names, metadata=metadata)
    listening = load_listening(TrainRequest(out=tmp_path, data=files))
    assert listening.train.users == ["1", "2"]
    assert listening.friends == [("1", "2")]
    assert list(zip(listening.tags.items, listening.tags.tags, strict=True)) == [("Jóga", "Jóga"), ("b", "Jóga")]
    assert listening.metadata == {"Jóga": {"title": "Hyperballad", "year": "1999"}, "b": {"title": "B"}}
    assert [(listening.valid.users[0], listening.valid.items[0])] == [("2", "Jóga")]
    assert listening.report["parts"]["friends"]["n_in_log"] == 1


def test_the_printed_report_lists_what_was_read_and_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"u{row % 4}{' ' * (row % 2)},it{row % 5},2020-01-{row % 28 + 1:02}" for row in range(60)]
    log = written(tmp_path / "log.csv", "\n".join(["user,item,time", *rows]))
    friends = written(tmp_path / "friends.csv", "user,friend\nu1,u2 \n")
    files = ListeningFiles(interactions=log, friends=friends)
    report = load_listening(TrainRequest(out=tmp_path, data=files)).report
    print_listening_report(report)
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "log columns: user = 'user', item = 'item', time = 'time'" in text
    assert "log user: 30 rows had another Unicode form or blanks around the id" in text
    assert "log time: 60 times have no time zone and are read as UTC" in text
    assert "friends columns: user = 'user', friend = 'friend'" in text
    assert "friends friend: 1 rows had" in text


def test_missing_ids_of_other_programs(tmp_path: Path) -> None:
    log = load_log(written(tmp_path / "log.tsv", "user\titem\nann\ta\n\\N\tb\nnan\tb\nnan\tNull\n"))
    assert log.report["dropped"] == {"no_user": 1}
    assert log.report["ids"] == {"user": {"n_rows_like_missing": 2}, "item": {"n_rows_like_missing": 1}}
    assert list(log.users) == ["ann", "nan"]


def test_recordings_are_named_by_ids_in_either_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (f"{NFD}.wav", "Jóga.flac", "b .wav"):
        (tmp_path / name).touch()
    analysis = recording_embeddings.RecordingAnalysis(np.ones(256, np.float32), np.ones(9, np.float32))
    network = recording_embeddings.EmbeddingNetwork(lambda _: analysis, {})
    monkeypatch.setattr(recording_embeddings, "embedding_network", lambda _: network)
    listening = ListeningFiles(recordings=tmp_path, genre_checkpoint=tmp_path)
    heard = recording_embeddings.embed_recordings(TrainRequest(out=tmp_path, data=listening, progress=False))
    assert heard is not None
    assert sorted(heard.items) == ["Jóga", "b"]
    assert "is a second recording of 'Jóga'" in heard.problems[0]


# --- counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("separator", "cells", "expected"),
    [
        (";", ["2,5", "3"], [2.5, 3]),
        (";", ["1.234,5", "12"], [1234.5, 12]),
        (";", ["1.234.567", "1.234"], [1_234_567, 1_234]),
        (";", ["1,234.5", "12"], [1234.5, 12]),
        (",", ['"1,234"', "12"], [1_234, 12]),
        (",", ['"2,5"', "12"], [2.5, 12]),
        (";", ["1 234", "12\u00a0345"], [1_234, 12_345]),
        (",", ["1e3", "1.5"], [1_000, 1.5]),
        (",", ["true", "True"], [1, 1]),
    ],
)
def test_counts_are_read_as_people_write_them(
    tmp_path: Path, separator: str, cells: list[str], expected: list[float]
) -> None:
    rows: list[list[Any]] = [["user", "item", "plays"], *([f"u{n}", "x", cell] for n, cell in enumerate(cells))]
    log = load_log(written(tmp_path / "log.csv", "\n".join(map(separator.join, rows))))
    assert log.plays.tolist() == expected


def test_a_comma_that_may_be_both_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", "user;item;plays\nann;a;1,234\nbob;b;12\n")
    with pytest.raises(DataError, match=r"holds numbers like '1,234', and no row shows .* --plays-column"):
        load_log(path)


# --- siblings -----------------------------------------------------------------------------------


def test_all_tables_are_read_from_every_packing(tmp_path: Path) -> None:
    def packed(name: str, text: str, encoding: str = "utf-16") -> Path:
        (tmp_path / name).write_bytes(gzip.compress(text.encode(encoding)))
        return tmp_path / name

    assert load_friends(packed("friends", "sep=;\nuser;friend\nann;bob\n")) == [("ann", "bob")]
    tags = load_tags(packed("tags", "item,tag\na,5\n"), names=packed("names", "tag,name\n5,Jazz\n"))
    assert list(tags.tags) == ["Jazz"]
    assert load_metadata(packed("songs", '[{"id": 7, "title": "So What"}]')).rows == {"7": {"title": "So What"}}


# --- more of the same kinds ---------------------------------------------------------------------


def test_numbers_that_repeat_or_name_sessions_are_not_items(tmp_path: Path) -> None:
    songs = [f"song {row % 7}" for row in range(30)]
    for name, ids in {"joined": [row % 15 for row in range(30)], "sessions": [row // 3 for row in range(30)]}.items():
        rows = "".join(f"{row},u{row % 4},{song}\n" for row, song in zip(ids, songs, strict=True))
        log = load_log(written(tmp_path / f"{name}.csv", f"id,user,song_name\n{rows}"))
        assert log.report["columns"]["item"] == "song_name"
        assert len(log.items) == 7


def test_song_ids_are_used_when_names_are_present(tmp_path: Path) -> None:
    rows = "".join(f"{row % 7},u{row % 4},song {row % 7 // 2}\n" for row in range(30))
    log = load_log(written(tmp_path / "log.csv", f"id,user,song_name\n{rows}"))
    assert log.items == [str(item) for item in range(7)]


def test_names_of_users_are_not_items(tmp_path: Path) -> None:
    rows = "".join(f"{row % 7},u{row % 4},Ann {row % 4}\n" for row in range(30))
    log = load_log(written(tmp_path / "log.csv", f"id,user_id,name\n{rows}"))
    assert log.report["columns"]["item"] == "id"


@pytest.mark.parametrize("missing", ["nan", "NULL", "None", "<NA>", ""])
def test_among_numbers_words_for_missing_values_are_missing(tmp_path: Path, missing: str) -> None:
    log = load_log(written(tmp_path / "log.csv", f"user,item\n12.0,a\n{missing},b\n13.0,b\n"))
    assert log.users == ["12", "13"]
    assert log.report["dropped"] == {"no_user": 1}


def test_whole_numbers_with_a_decimal_comma(tmp_path: Path) -> None:
    log = load_log(written(tmp_path / "log.csv", "user;item\n12,0;a\n13,0;b\n"))
    assert log.users == ["12", "13"]
    thousands = load_log(written(tmp_path / "thousands.csv", "user;item\n1,000;a\n2,000;b\n"))
    assert thousands.users == ["1,000", "2,000"]


@pytest.mark.parametrize("mark", ["\u202a", "\u202c", "\u2066", "\u2069"])
def test_direction_marks_around_ids_do_not_count(tmp_path: Path, mark: str) -> None:
    log = load_log(written(tmp_path / "log.csv", f"user,item\nu1,a\n{mark}u1,b\nu1{mark},c\n"))
    assert log.users == ["u1"]


def test_bytes_with_zeros_are_different_ids(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "log.parquet", "SELECT unhex(printf('00000000%02x', i)) AS user, 'a' AS item FROM range(6) t(i)"
    )
    assert load_log(path).users == [f"00000000{user:02x}" for user in range(6)]


@pytest.mark.parametrize("kind", ["json", "parquet", "utf-16"])
def test_texts_with_zero_bytes_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"log.{kind}"
    if kind == "json":
        path.write_text(r'[{"user": "a\u0000b", "item": "x"}, {"user": "a\u0000c", "item": "x"}]')
    elif kind == "parquet":
        parquet(path, "SELECT 'a' || chr(0) || i AS user, 'x' AS item FROM range(3) t(i)")
    else:
        path.write_bytes("user,item\na\0b,x\na\0c,x\n".encode("utf-16"))
    with pytest.raises(DataError, match="a zero"):
        load_log(path)


def test_a_log_whose_listeners_follow_one_another_is_split_for_each(tmp_path: Path) -> None:
    rows = "".join(f"u{user},x{item},{1_700_000_000 + 10 * user + item}\n" for user in range(20) for item in range(10))
    path = written(tmp_path / "log.csv", f"user,item,timestamp\n{rows}")
    listening = load_listening(TrainRequest(tmp_path, progress=False, data=ListeningFiles(interactions=path)))
    assert len(np.unique(listening.train.user)) == 20
    assert len(np.unique(listening.valid.user)) > 10
    assert "at random" in listening.report["parts"]["valid"]["how"]


def test_headers_and_file_names_that_are_not_text_are_escaped_in_reports(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    path.write_bytes("user,titre é\nu1,a\nu2,b\n".encode("latin-1"))
    log = load_log(path, Columns(item=os.fsdecode(b"titre \xe9")))
    json.dumps(log.report, ensure_ascii=False).encode()
    assert log.report["source"] == r"caf\xe9.csv"
    path.write_bytes("hörer,lied\nu1,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_log(path)
