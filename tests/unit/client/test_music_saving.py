"""Tests of saving pieces and plots: bytes, file objects, coroutines and full disks."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.unit.client.midi_files import END, meter, midi, off, on, random_frames, track
from tests.unit.client.test_results_json import a_classification, a_prediction

from tritone import Grid, InvalidInputError, Piece, to_grid
from tritone.music.render import render
from tritone_training.corpus import write_audio
from tritone_training.exceptions import DataError

MAGIC = {"mid": b"MThd", "midi": b"MThd", "wav": b"RIFF", "png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.fixture
def piece() -> Piece:
    return Piece(Grid(random_frames(3, n_frames=64, density=1), meter=(16, 12), tempo_qpm=90.0), seed=7)


@pytest.mark.parametrize("kind", MAGIC)
@pytest.mark.parametrize("spelling", ["{}", ".{}", "upper"])
def test_into_a_file_object(piece: Piece, kind: str, spelling: str) -> None:
    file = io.BytesIO(b"before")
    file.seek(6)
    given = kind.upper() if spelling == "upper" else spelling.format(kind)
    assert piece.save(file, format=given) is file
    assert file.getvalue()[6:].startswith(MAGIC[kind])
    assert not file.closed


def test_into_files_of_all_kinds(piece: Piece, tmp_path: Path) -> None:
    expected = piece.to_midi()
    with (tmp_path / "a").open("wb") as buffered, (tmp_path / "b").open("wb", buffering=0) as raw:
        piece.save(buffered, format="mid")
        piece.save(raw, format="mid")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == expected  # before they are closed
    with tempfile.NamedTemporaryFile() as temporary, tempfile.SpooledTemporaryFile() as spooled:
        piece.save(temporary, format="mid")
        piece.save(spooled, format="mid")
        for file in (temporary, spooled):
            file.seek(0)
            assert file.read() == expected

    class Minimal:
        """As some frameworks' responses: no return value, no flush."""

        content = b""

        def write(self, data: bytes) -> None:
            self.content += data

    minimal: Any = Minimal()
    piece.save(minimal, format="mid")
    assert minimal.content == expected


@pytest.mark.parametrize("kind", ["mid", "wav", "png"])
def test_a_pipe_is_written_to_and_stays_a_pipe(piece: Piece, tmp_path: Path, kind: str) -> None:
    pipe = tmp_path / f"pipe.{kind}"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        assert piece.save(pipe) == pipe
        assert read.result().startswith(MAGIC[kind])
    assert pipe.is_fifo()


def test_saving_to_a_link_replaces_its_file(piece: Piece, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "tune.mid"
    link = tmp_path / "link.mid"
    link.symlink_to(file)
    for _ in range(2):  # the file is not there, then it is
        assert piece.save(link) == link
        assert link.is_symlink()
        assert file.read_bytes() == piece.to_midi()


class Dribble(io.RawIOBase):
    """Takes seven bytes at a time."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += bytes(data[:7])
        return min(7, len(data))


def test_partial_writes_are_continued(piece: Piece) -> None:
    file: Any = Dribble()
    piece.save(file, format="mid")
    assert file.content == piece.to_midi()


def test_bytes_equal_the_contents_of_files(piece: Piece, tmp_path: Path) -> None:
    assert piece.save(tmp_path / "x.mid").read_bytes() == piece.to_midi()
    assert piece.save(tmp_path / "x.wav").read_bytes() == piece.to_wav()
    assert np.array_equal(to_grid(piece.to_midi()).frames, piece.grid.frames)
    samples, rate_hz = soundfile.read(io.BytesIO(piece.to_wav()), dtype="float32")
    assert rate_hz == 44_100
    assert np.allclose(samples, render(piece.score), atol=1e-4)


def test_format_overrides_the_suffix(piece: Piece, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    assert piece.save(path, format="mid") == path
    assert path.read_bytes() == piece.to_midi()
    assert piece.save(str(tmp_path / "download"), format="png").read_bytes().startswith(b"\x89PNG")
    assert piece.save(tmp_path / "x.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("target", "given", "argument", "reason"),
    [
        (io.BytesIO(), None, "format", None),
        (io.BytesIO(), "mp3", "format", None),
        (io.BytesIO(), 7, "format", None),
        (io.StringIO(), "mid", "target", "text_file"),
        (None, "mid", "target", None),
        (7, None, "target", None),
        (b"tune.mid", None, "target", None),
        ("tune.mid", "ogg", "format", None),
    ],
)
def test_targets_and_formats_that_cannot_be_written(
    piece: Piece, target: Any, given: Any, argument: str, reason: str | None
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        piece.save(target, format=given)
    assert (caught.value.argument, caught.value.reason) == (argument, reason)


def test_text_and_closed_files(piece: Piece, tmp_path: Path) -> None:
    closed: Any = io.BytesIO()
    closed.close()
    with pytest.raises(InvalidInputError) as caught:
        piece.save(closed, format="mid")
    assert caught.value.reason == "not_writable"
    with (tmp_path / "x.mid").open("w") as text, pytest.raises(InvalidInputError) as caught:
        piece.save(text, format="mid")  # type: ignore[call-overload]
    assert caught.value.reason == "text_file"
    with tempfile.NamedTemporaryFile("w") as wrapped, pytest.raises(InvalidInputError) as caught:
        piece.save(wrapped, format="mid")  # type: ignore[call-overload]
    assert caught.value.reason == "text_file"
    (tmp_path / "y").touch()
    with (tmp_path / "y").open("rb") as read_only, pytest.raises(InvalidInputError) as caught:
        piece.save(read_only, format="mid")
    assert caught.value.reason == "not_writable"


def test_plots_of_all_results_are_written_to_file_objects() -> None:
    for result in (a_classification(), a_prediction()):
        file = io.BytesIO()
        assert result.plot(file, format="png") is file
        assert file.getvalue().startswith(b"\x89PNG")
        with pytest.raises(InvalidInputError) as caught:
            result.plot(io.BytesIO(), format="mid")
        assert caught.value.argument == "format"


async def test_saving_leaves_the_event_loop_free(piece: Piece, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = 0
    done = False

    async def tick() -> None:
        nonlocal ticks
        while not done:
            ticks += 1
            await asyncio.sleep(0.005)

    def slow(piece: Piece, *, ritardando: bool) -> bytes:
        time.sleep(0.3)
        return b"sound"

    monkeypatch.setattr(Piece, "to_wav", slow)
    ticking = asyncio.create_task(tick())
    path = await piece.asave(tmp_path / "x.wav")
    done = True
    await ticking
    assert path.read_bytes() == b"sound"
    assert ticks > 3


async def test_saving_from_coroutines(piece: Piece, tmp_path: Path) -> None:
    paths = await asyncio.gather(*(piece.asave(tmp_path / f"x.{kind}") for kind in MAGIC))
    assert [path.read_bytes()[:4] for path in paths] == [magic[:4] for magic in MAGIC.values()]
    file = io.BytesIO()
    assert await piece.asave(file, format="mid") is file
    with pytest.raises(InvalidInputError) as caught:
        await piece.asave(tmp_path / "none" / "x.mid")
    assert caught.value.reason == "no_folder"


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """The kernel refuses to write more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


WRITERS: dict[str, Callable[[Piece, Path], Any]] = {
    **{kind: (lambda piece, path: piece.save(path)) for kind in MAGIC},
    "timeline.png": lambda _, path: a_classification().plot(path),
    "timeline.svg": lambda _, path: a_classification().plot(path),
    "surprise.pdf": lambda _, path: a_prediction().plot(path),
    "recording.wav": lambda piece, path: write_audio(piece.score, path, seed=None),
    "recording.ogg": lambda piece, path: write_audio(piece.score, path, seed=None),
    "recording.flac": lambda piece, path: write_audio(piece.score, path, seed=None),
}


@pytest.mark.parametrize("name", WRITERS)
def test_errors_of_the_system_name_the_file_and_the_reason(piece: Piece, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"x.{name}"
    path.write_bytes(b"old")
    WRITERS[name](piece, tmp_path / f"warm.{name}")  # fonts and sounds are in memory then
    (tmp_path / f"warm.{name}").unlink()
    with largest_file(100), pytest.raises((InvalidInputError, DataError), match="File too large") as caught:
        WRITERS[name](piece, path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", MAGIC)
@pytest.mark.parametrize("where", ["write", "flush"])
def test_a_full_disk_is_reported_for_file_objects(piece: Piece, kind: str, where: str) -> None:
    class Full(io.BytesIO):
        name = "upload"

    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = Full()
    setattr(file, where, refuse)
    with pytest.raises(InvalidInputError, match=r"upload: the .* cannot be written .*No space left on device"):
        piece.save(file, format=kind)


def test_a_full_device(piece: Piece) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(InvalidInputError, match="No space left"):
        piece.save(full, format="wav")


@pytest.mark.parametrize(
    "signature", [(4, 4), (3, 4), (6, 8), (12, 8), (2, 2), (3, 2), (5, 8), (7, 8), (2, 4), (9, 16)]
)
@pytest.mark.parametrize("upbeat", [False, True])
def test_a_given_time_signature_is_kept(signature: tuple[int, int], upbeat: bool) -> None:
    numerator, denominator = signature
    power = denominator.bit_length() - 1
    first = [meter(0, 1, 3), meter(240, numerator, power)] if upbeat else [meter(0, numerator, power)]
    grid = to_grid(midi(track(*first, END), track(on(0, 60), off(1920, 60), END)))
    length = 16 * numerator // denominator
    assert grid.meter == (length, length - 2 if upbeat else 0)
    piece = Piece(grid)
    assert piece.meter == signature
    assert piece.to_dict()["meter"] == list(signature)
    again = to_grid(piece.to_midi())
    assert (again.time_signature, again.meter) == (signature, grid.meter)
    finer = to_grid(piece, frames_per_quarter=12)
    assert (finer.time_signature, finer.meter[0]) == (signature, 3 * length)


def test_the_time_signature_of_a_grid() -> None:
    frames = random_frames(0, n_frames=8, density=1)
    assert Grid(frames).time_signature is None
    assert Grid(frames, meter=(12, 8)).time_signature == (3, 4)
    assert Grid(frames, meter=(12, 8), time_signature=(6, 8)).time_signature == (6, 8)
    assert Grid(frames, meter=(14, 0)).time_signature == (7, 8)
    assert Grid(frames, meter=(16, 0), time_signature=(6, 8)).time_signature == (4, 4)  # it does not fit the bar
    assert Piece(Grid(frames)).meter is None
    for bad in ((4,), "44", (0, 4), (4, 3), (256, 4), (4.0, 4), 4):
        with pytest.raises(InvalidInputError) as caught:
            Grid(frames, meter=(16, 0), time_signature=bad)  # type: ignore[arg-type]
        assert caught.value.argument == "time_signature"
