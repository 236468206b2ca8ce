"""Metadata as words: texts are reduced to their words, images and links are left out."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tritone_cli.console import print_listening_report
from tritone_training.data.interactions import ListeningFiles, load_listening, load_metadata, load_tags, words_of
from tritone_training.kind import TrainRequest

LYRICS = (
    "The rain is falling on the river and the river is running to the sea",
    "Rain, rain, falling on my window while I am waiting for the morning",
    "In the morning the sea is calm and the birds are singing to the river",
)


def metadata(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    return path


def test_lyrics_become_words_that_items_share(tmp_path: Path) -> None:
    rows = [f'{n},Song {n},rock,"{text}\n{text}"' for n, text in enumerate(LYRICS)]
    table = load_metadata(metadata(tmp_path / "m.csv", "id,title,genre,lyrics", rows))
    words = {item: words_of(row) for item, row in table.rows.items()}
    assert words["0"] == {
        "title: song", "genre: rock", "lyrics: rain", "lyrics: falling", "lyrics: river", "lyrics: sea",
    }  # fmt: skip
    assert words["1"] == {"title: song", "genre: rock", "lyrics: rain", "lyrics: falling", "lyrics: morning"}
    assert "column 'lyrics' holds texts: only their words are kept" in table.report["notes"]
    assert not any(text in row["lyrics"] for text in LYRICS for row in table.rows.values())


def test_a_long_text_keeps_its_rarest_words(tmp_path: Path) -> None:
    letters = [f"{a}{b}{c}" for a in "bcdfgh" for b in "aeiou" for c in "klmnp"]
    common, rare = " ".join(letters), "zebra"
    rows = [f"{n},{common} {rare if n < 2 else ''}" for n in range(5)]
    table = load_metadata(metadata(tmp_path / "m.csv", "id,lyrics", rows))
    assert "lyrics: zebra" in words_of(table.rows["0"])
    assert len(words_of(table.rows["0"])) == 100


def test_one_long_value_makes_no_column_of_texts_and_is_left_out(tmp_path: Path) -> None:
    long = "When the Pawn Hits the Conflicts He Thinks like a King What He Knows Throws the Blows"
    rows = [f"{n},Tidal" for n in range(20)]
    table = load_metadata(metadata(tmp_path / "m.csv", "id,album", [*rows, f"20,{long}"]))
    assert words_of(table.rows["0"]) == {"album: Tidal"}
    assert words_of(table.rows["20"]) == set()
    assert table.report["n_cells_too_long"] == 1


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("covers/{}.jpg", "images"),
        ("https://example.org/{}.PNG?size=2", "images"),
        ("data:image/png;base64,{}", "images"),
        ("https://example.org/{}", "links"),
        ("b'\\x89PNG\\r{}'", "bytes"),
        ("A" * 300 + "{}", "bytes"),
    ],
)
def test_images_and_links_are_not_read_and_named(tmp_path: Path, value: str, what: str) -> None:
    rows = [f'{n},Song,"{value.format(n)}"' for n in range(4)]
    table = load_metadata(metadata(tmp_path / "m.csv", "id,title,cover", rows))
    assert table.rows["0"] == {"title": "Song"}
    assert table.report["notes"] == [f"column 'cover' holds {what} and is not read"]


def test_images_as_bytes_and_lists_are_not_read_and_named(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    with duckdb.connect() as database:
        query = "SELECT range AS id, 'Song' AS title, '\\xFF\\xD8\\xFF'::BLOB AS cover, ['a'] AS tags FROM range(3)"
        database.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    table = load_metadata(path)
    assert table.rows["0"] == {"title": "Song"}
    assert table.report["notes"] == [
        "column 'tags' holds lists and is not read",
        "column 'cover' holds images or other bytes and is not read",
    ]


def test_texts_are_no_tags(tmp_path: Path) -> None:
    path = metadata(tmp_path / "tags.csv", "item,tag", [f'a,"{" ".join(LYRICS)}"', f"a,{LYRICS[0]}"])
    tags = load_tags(path)
    assert list(tags.tags) == [LYRICS[0]]
    assert tags.report["n_tags_too_long"] == 1


def test_the_report_names_what_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = metadata(tmp_path / "log.csv", "user,item", [f"u{n % 4},{n % 7}" for n in range(60)])
    songs = metadata(tmp_path / "m.csv", "id,title,cover", [f"{n},Song,{n}.jpg" for n in range(7)])
    files = ListeningFiles(interactions=log, metadata=songs)
    print_listening_report(load_listening(TrainRequest(out=tmp_path, data=files)).report)
    captured = capsys.readouterr()
    assert "metadata: column 'cover' holds images and is not read" in captured.out + captured.err
