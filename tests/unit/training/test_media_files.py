"""Lyrics and covers that a metadata table names by their paths, and files that cannot be used."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tritone_training.data.interactions import load_metadata, media_files
from tritone_training.data.interactions.media_files import names_text_file, read_covers, read_lyrics
from tritone_training.data.interactions.reading import words_of


def save(path: Path, pixels: Any) -> None:
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def of_colour(*rgb: int) -> np.ndarray[Any, Any]:
    return np.full((100, 120, 3), rgb, np.uint8)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (of_colour(255, 0, 0), {"red cover", "colourful cover", "plain cover"}),
        (of_colour(0, 0, 60), {"blue cover", "colourful cover", "plain cover", "dark cover"}),
        (of_colour(30, 220, 40), {"green cover", "colourful cover", "plain cover"}),
        (of_colour(250, 250, 250), {"bright cover", "grey cover", "plain cover"}),
        (of_colour(0, 0, 0), {"dark cover", "grey cover", "plain cover"}),
        (np.tile([[[0] * 3, [255] * 3]], (64, 32, 1)), {"grey cover", "detailed cover"}),
    ],
)
def test_covers_become_words(tmp_path: Path, pixels: Any, expected: set[str]) -> None:
    save(tmp_path / "cover.png", pixels)
    read = read_covers({"a": "cover.png"}, tmp_path)
    assert (set(read.contents["a"].split("\n")), read.note) == (expected, "")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp"])
def test_modes_and_formats_are_read(tmp_path: Path, mode: str, suffix: str) -> None:
    try:
        Image.new(mode, (30, 20)).save(tmp_path / f"a.{suffix}")
    except (OSError, KeyError, ValueError):
        pytest.skip(f"{suffix} does not hold {mode}")
    assert read_covers({"a": f"a.{suffix}"}, tmp_path).contents.keys() == {"a"}


def bomb(width: int, height: int) -> bytes:
    """A small PNG that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a readable image"),
        (b"no image", "not a readable image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "not a readable image"),
        (bomb(60_000, 60_000), "larger than 40 megapixels"),
        (bomb(2**31 - 1, 2**31 - 1), "larger than 40 megapixels"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable image"),
        (b"%PDF-1.4", "not a readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image"),
    ],
)
def test_other_images_are_left_out_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    read = read_covers({"a": "a.png"}, tmp_path)
    assert not read.contents
    assert read.problems == {reason: 1}


def test_files_have_to_be_inside_the_tables_folder_and_regular(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret words")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "folder.txt").mkdir()
    names = ["../secret.txt", str(tmp_path / "secret.txt"), "link.txt", "loop.txt", "folder.txt", "none.txt", "a\0.txt"]
    read = read_lyrics({str(number): name for number, name in enumerate([*names, "x" * 900 + ".txt"])}, folder)
    assert not read.contents
    assert read.problems == {"outside the table's folder": 3, "missing": 5}


def test_lyrics_are_read_in_usual_encodings(tmp_path: Path) -> None:
    text = "Über den Wolken\nmuß die Freiheit"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / f"{encoding}.txt").write_text(text, encoding)
    (tmp_path / "song.lrc").write_text("[ti:Song]\n[00:12.00]First line\n")
    names = {name: name for name in ("utf-8.txt", "utf-8-sig.txt", "utf-16.txt", "song.lrc")}
    read = read_lyrics(names, tmp_path)
    assert [read.contents[name] for name in names][:3] == [text] * 3
    assert "First line" in read.contents["song.lrc"]
    assert "00:12" not in read.contents["song.lrc"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xd8\xff\xe0 binary", "not UTF-8 text"),
        (b"\x00\x01\x02" * 100, "not UTF-8 text"),
        (b"x" * (media_files.MOST_TEXT_BYTES + 1), "larger than 1 MB"),
    ],
)
def test_other_files_are_no_lyrics(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert read_lyrics({"a": "a.txt"}, tmp_path).problems == {reason: 1}


@pytest.mark.parametrize(
    ("value", "expected"), [("a/b.txt", True), ("x.LRC", True), ("rock", False), ("txt", False), ("a\nb.txt", False)]
)
def test_paths_of_texts_are_recognised(value: str, expected: bool) -> None:
    assert names_text_file(value) is expected


def test_a_table_may_name_lyrics_and_covers(tmp_path: Path) -> None:
    lines = ["id,title,lyrics,cover"]
    for number in range(4):
        lines.append(f"s{number},Song {number},{number}.txt,{number}.png")
        (tmp_path / f"{number}.txt").write_text("ocean waves rolling" if number % 2 else "burning desert sun")
        if number < 3:
            save(tmp_path / f"{number}.png", of_colour(200, 20, 20))
    (tmp_path / "songs.csv").write_text("\n".join(lines))
    table = load_metadata(tmp_path / "songs.csv")
    words = words_of(table.rows["s1"])
    assert {"lyrics: ocean", "lyrics: waves", "cover: red cover"} <= words
    assert "lyrics: desert" in words_of(table.rows["s2"])
    assert not any(word.startswith("cover") for word in words_of(table.rows["s3"]))
    notes = " ".join(table.report["notes"])
    assert "column 'cover' names files that are not used: 1 missing" in notes
    assert "column 'cover' holds images: words for their colours and texture are kept" in notes
    assert "column 'lyrics' holds texts: only their words are kept" in notes


def test_columns_whose_files_are_not_there_stay_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "songs.csv").write_text("id,source,cover\na,a.txt,a.png\nb,b.txt,b.png\n")
    table = load_metadata(tmp_path / "songs.csv")
    assert "column 'cover' holds images and is not read" in table.report["notes"]
    assert words_of(table.rows["a"]) == {"source: a.txt"}
