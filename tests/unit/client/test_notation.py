"""MusicXML out and in, and ABC in."""

from __future__ import annotations

import io
import random
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tritone import Grid, InvalidScoreError, to_grid
from tritone.music.notation import notation_format
from tritone.music.piece import Piece

METERS = [((16, 0), (4, 4)), ((12, 0), (3, 4)), ((12, 0), (6, 8)), ((16, 12), (4, 4)), ((14, 0), (7, 8))]


def random_grid(seed: int, meter: tuple[int, int], signature: tuple[int, int], n_frames: int = 48) -> Grid:
    source = random.Random(seed)  # noqa: S311
    frames = np.zeros((n_frames, 88), np.uint8)
    for _ in range(source.randrange(1, 60)):
        onset, length = source.randrange(n_frames), source.choice([1, 2, 3, 4, 5, 6, 8, 12, 20])
        pitch = source.randrange(88)
        frames[onset, pitch] = 2
        held = frames[onset + 1 : onset + length, pitch]
        held[held == 0] = 1
    return Grid(frames, 4, meter, 96.0, {}, signature)


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize("seed", range(6))
def test_a_grid_comes_back_from_musicxml_as_it_was(seed: int, meter: tuple[tuple[int, int], tuple[int, int]]) -> None:
    grid = random_grid(seed, *meter)
    back = to_grid(Piece(grid).to_musicxml())
    length, index = grid.meter
    assert back.n_frames == -(-(grid.n_frames + index) // length) * length - index  # the last bar is completed
    assert np.array_equal(back.frames[: grid.n_frames], grid.frames)
    assert not back.frames[grid.n_frames :].any()
    assert (back.meter, back.time_signature, back.tempo_qpm) == (grid.meter, grid.time_signature, grid.tempo_qpm)
    assert dict(back.dropped) == {}


def test_a_piece_is_saved_as_musicxml(tmp_path: Path) -> None:
    piece = Piece(random_grid(1, *METERS[0]))
    path = piece.save(tmp_path / "x.musicxml")
    assert path.read_bytes().startswith(b"<?xml")
    assert np.array_equal(to_grid(path).frames, piece.grid.frames)


def test_compressed_musicxml_is_read() -> None:
    grid = random_grid(2, *METERS[0])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("META-INF/container.xml", '<container><rootfile full-path="a/score.xml"/></container>')
        archive.writestr("other.xml", "<nothing/>")
        archive.writestr("a/score.xml", Piece(grid).to_musicxml())
    assert np.array_equal(to_grid(file.getvalue()).frames, grid.frames)


ABC = """X:1
T:A tune
M:6/8
L:1/8
Q:3/8=80
K:G
|: G2A B2c | d3 g3 | e2d B2A | G6 :|
"""


def test_abc_is_read_with_its_repeats() -> None:
    grid = to_grid(ABC.encode())
    assert grid.time_signature == (6, 8)
    assert grid.tempo_qpm == pytest.approx(120.0)
    assert (grid.n_notes, grid.n_frames) == (22, 96)


def test_of_several_tunes_the_first_is_read() -> None:
    grid = to_grid((ABC + "\n" + ABC.replace("X:1", "X:2")).encode())
    assert grid.n_notes == 22
    assert grid.dropped["tunes"] == 1


UPBEAT = """<?xml version="1.0" encoding="UTF-8"?>
<score-partwise version="4.0"><part-list><score-part id="P1"><part-name>x</part-name></score-part></part-list>
<part id="P1">
<measure number="0" implicit="yes"><attributes><divisions>2</divisions><time><beats>3</beats><beat-type>4</beat-type>
</time></attributes><note><pitch><step>G</step><octave>4</octave></pitch><duration>2</duration></note></measure>
<measure number="1">
<note><grace/><pitch><step>A</step><octave>4</octave></pitch></note>
<note><pitch><step>C</step><octave>5</octave></pitch><duration>4</duration><tie type="start"/></note>
<note><pitch><step>C</step><octave>5</octave></pitch><duration>2</duration><tie type="stop"/></note></measure>
</part></score-partwise>"""


def test_an_upbeat_is_a_shorter_first_bar_and_ties_are_one_note() -> None:
    grid = to_grid(UPBEAT.encode())
    assert (grid.meter, grid.time_signature) == ((12, 8), (3, 4))
    assert (grid.n_notes, grid.n_frames) == (2, 16)
    assert dict(grid.dropped) == {"grace_notes": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"<?xml version='1.0'?><score-partwise>",
        b"<?xml version='1.0'?><html/>",
        b"<?xml version='1.0'?>",
        b"PK\x03\x04 not an archive",
        b"\xff\xfe<\x00",
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><score-partwise>&d;</score-partwise>',
        b"X:1\nK:\n",
        b"X:1\nK:C\n",
    ],
)
def test_damaged_notation_is_an_error_of_the_sdk(data: bytes) -> None:
    with pytest.raises(InvalidScoreError) as raised:
        to_grid(data)
    assert raised.value.reason in ("unreadable", "empty", "not_midi")


def test_entities_are_not_expanded_without_bound() -> None:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10 if i else "x" * 100}">' for i in range(9))
    bomb = f'<?xml version="1.0"?><!DOCTYPE a [{entities}]><score-partwise>&e8;</score-partwise>'
    with pytest.raises(InvalidScoreError):
        to_grid(bomb.encode())


def test_an_archive_that_unpacks_to_too_much_is_refused() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("score.xml", b"<score-partwise>" + b" " * (30 << 20))
    with pytest.raises(InvalidScoreError) as raised:
        to_grid(file.getvalue())
    assert raised.value.reason == "too_long"


@pytest.mark.parametrize("head", [b"\n" * 24, b" \n" * 24, b"\r\n" * 24], ids=["empty", "blank", "windows"])
def test_empty_lines_are_recognised_in_linear_time(head: bytes) -> None:
    start_s = time.process_time()

    assert notation_format(head + b"!") is None
    assert notation_format(head + b"X: 1\nK:C\nC\n") == "abc"
    assert time.process_time() - start_s < 0.5  # exponential in the number of lines otherwise: seconds


def test_a_tune_after_comments_and_fields_is_abc() -> None:
    assert notation_format(b"%abc-2.1\n% a comment\n\nT:Title\r\nX: 7\nK:C\nC\n") == "abc"
    assert notation_format(b"%abc-2.1\nsome text\nX: 7\n") is None


@pytest.mark.parametrize("content", [b"<?xml" * 10_000, b"<?xml" + b" " * 50_000], ids=["declarations", "spaces"])
def test_a_long_beginning_of_xml_is_refused_in_linear_time(content: bytes) -> None:
    start_s = time.process_time()

    with pytest.raises(InvalidScoreError) as caught:
        to_grid(content + b"<score-partwise>" if content.startswith(b"<?xml ") else b"<score-partwise>" + content)
    assert caught.value.reason in {"unreadable", "not_midi"}
    assert time.process_time() - start_s < 2  # quadratic otherwise


@pytest.mark.parametrize("encoding", ["undefined", "idna", "punycode", "hex", "nonsense"])
def test_encodings_that_no_xml_file_has_are_read_as_latin_1(encoding: str) -> None:
    content = Piece(to_grid(b"X:1\nL:1/4\nK:C\nCDEF|\n")).to_musicxml()
    renamed = re.sub(rb'encoding=".*?"', f'encoding="{encoding}"'.encode(), content, count=1)

    assert renamed != content
    assert to_grid(renamed).n_notes == 4
