"""Tests of pieces as MIDI, sound and plots: files are written completely or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import symusic
from tests.unit.client.midi_files import random_frames

from tritone import Grid, InvalidInputError, InvalidScoreError, MissingExtraError, Piece, to_grid
from tritone.music import soundfont as soundfont_module
from tritone.music.render import render

RATE_HZ = 44_100


@pytest.fixture
def piece() -> Piece:
    nll = np.linspace(0, 1, 64, dtype=np.float32)
    grid = Grid(random_frames(3, n_frames=64, density=1), meter=(16, 12), tempo_qpm=90.0)
    return Piece(grid, seed=7, model="music_transformer", model_version="2", nll=nll)


def one_note(pitch: int, *, program: int = 0) -> Any:
    score: Any = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, 60))
    score.tracks.append(symusic.Track("", program, False))
    score.tracks[0].notes.append(symusic.Note(0, 480, pitch, 80))
    return score


@pytest.mark.parametrize("name", ["tune.mid", "tune.midi", "TUNE.MID"])
def test_midi_reads_back(piece: Piece, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    assert piece.save(str(path)) == path
    grid = to_grid(path)
    assert np.array_equal(grid.frames, piece.grid.frames)
    assert grid.meter == (16, 12)
    assert grid.tempo_qpm == pytest.approx(90.0, rel=1e-4)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_silence_at_the_end_reads_back(tmp_path: Path) -> None:
    frames = np.zeros((32, 88), np.uint8)
    frames[0, 40] = 2
    assert to_grid(Piece(Grid(frames)).save(tmp_path / "x.mid")).n_frames == 32


def test_sound(piece: Piece, tmp_path: Path) -> None:
    path = piece.save(tmp_path / "tune.wav")
    samples, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == RATE_HZ
    assert soundfile.info(path).subtype == "PCM_16"
    assert samples.ndim == 1
    last = max(onset + length for onset, length, _ in piece.to_dict()["notes"])
    assert samples.size / RATE_HZ == pytest.approx(last / 4 * 60 / 90 + 1.0, abs=0.01)
    assert np.abs(samples).max() == pytest.approx(0.9, abs=1e-3)
    assert [file.name for file in tmp_path.iterdir()] == ["tune.wav"]


@pytest.mark.parametrize("program", [0, 73, 10])
@pytest.mark.parametrize("pitch", [24, 36, 57, 69, 87, 105])
def test_sound_is_in_tune(pitch: int, program: int) -> None:
    samples = render(one_note(pitch, program=program))
    part = samples[RATE_HZ // 10 : RATE_HZ * 9 // 10]
    power = np.abs(np.fft.rfft(part * np.hanning(part.size), 8 * RATE_HZ)) ** 2
    wanted_hz = 440.0 * 2 ** ((pitch - 69) / 12)
    near = slice(round(wanted_hz * 0.944 * 8), round(wanted_hz * 1.059 * 8))
    found_hz = (near.start + int(power[near].argmax())) / 8
    assert abs(1200 * np.log2(found_hz / wanted_hz)) < 35
    assert power[near].max() > 0.02 * power[30 * 8 :].max()


def test_leading_silence_is_rendered() -> None:
    score = one_note(69)
    score.tracks[0].notes[0].time = 480
    samples = render(score)
    assert np.abs(samples[: RATE_HZ * 9 // 10]).max() < 1e-3
    assert samples.size == 3 * RATE_HZ


def test_scores_that_cannot_be_rendered(tmp_path: Path) -> None:
    silent = Piece(Grid(np.zeros((16, 88))))
    with pytest.raises(InvalidScoreError) as caught:
        silent.save(tmp_path / "x.wav")
    assert caught.value.reason == "empty"
    frames = np.zeros((16_384, 88), np.uint8)
    frames[:, 40] = 2
    with pytest.raises(InvalidScoreError) as caught:
        Piece(Grid(frames, tempo_qpm=4.0)).save(tmp_path / "x.wav")
    assert caught.value.reason == "too_long"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_a_plot(piece: Piece, tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"roll{suffix}"
    path.write_bytes(b"old")
    assert piece.plot(path) == path
    assert path.read_bytes().startswith(magic)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_plot_shows_the_notes_and_the_bars(piece: Piece) -> None:
    from tritone.plots import draw_piece

    axes = draw_piece(piece).axes[0]
    (notes,) = axes.collections
    assert len(notes.get_paths()) == piece.grid.n_notes
    onset, length, pitch = piece.to_dict()["notes"][0]
    box = notes.get_paths()[0].get_extents()
    assert (box.x0, box.y0 + 0.45) == pytest.approx((onset, pitch))
    assert length - 0.2 < box.width <= length
    assert axes.get_xticks().tolist() == [0, 4, 20, 36, 52]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2", "3", "4"]
    assert "seed 7" in axes.get_title()


@pytest.mark.parametrize("grid", [Grid(np.zeros((1, 88))), Grid(np.full((3000, 88), 2))])
def test_plots_of_empty_and_full_grids(grid: Grid, tmp_path: Path) -> None:
    if grid.n_frames > 1:
        grid = Grid(random_frames(0, n_frames=16_384, density=0.3))
    assert Piece(grid).plot(tmp_path / "x.png").stat().st_size > 1_000


@pytest.mark.parametrize("name", ["tune", "tune.mp3", "tune.mid.txt"])
def test_unknown_suffixes(piece: Piece, tmp_path: Path, name: str) -> None:
    for write, suffixes in ((piece.save, ".mid"), (piece.plot, ".png")):
        with pytest.raises(InvalidInputError, match=suffixes) as caught:
            write(tmp_path / name)
        assert (caught.value.argument, caught.value.reason) == ("target", "bad_name")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mid", ".wav", ".png"])
def test_missing_folders_and_folders_as_targets(piece: Piece, tmp_path: Path, suffix: str) -> None:
    write = piece.plot if suffix == ".png" else piece.save
    with pytest.raises(InvalidInputError) as caught:
        write(tmp_path / "none" / f"x{suffix}")
    assert caught.value.reason == "no_folder"
    folder = tmp_path / f"x{suffix}"
    folder.mkdir()
    with pytest.raises(InvalidInputError) as caught:
        write(folder)
    assert caught.value.reason == "is_folder"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("suffix", [".mid", ".wav", ".png"])
@pytest.mark.parametrize("stem", ["a" * 300, "null\0byte", "half a pair \ud800"])
def test_invalid_file_names(piece: Piece, tmp_path: Path, stem: str, suffix: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        (piece.plot if suffix == ".png" else piece.save)(tmp_path / f"{stem}{suffix}")
    assert caught.value.reason == ("not_writable" if len(stem) == 300 else "bad_name")
    assert not list(tmp_path.iterdir())


def test_the_longest_name_that_a_file_can_have(piece: Piece, tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".mid")
    assert piece.save(path) == path
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".mid", ".wav", ".png"])
def test_a_failure_leaves_the_old_file(
    piece: Piece, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InvalidInputError, match="No space left") as caught:
        (piece.plot if suffix == ".png" else piece.save)(path)
    assert caught.value.reason == "not_writable"
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_to_dict_of_a_piece(piece: Piece) -> None:
    plain = json.loads(json.dumps(piece.to_dict()))
    assert plain["seed"] == 7
    assert plain["model"] == "music_transformer"
    assert (plain["meter"], plain["frames_per_bar"], plain["first_frame_in_bar"]) == ([4, 4], 16, 12)
    assert len(plain["nll"]) == 64
    assert len(plain["notes"]) == piece.grid.n_notes
    assert Piece(piece.grid).to_dict()["nll"] is None


def test_the_score_is_made_once(piece: Piece) -> None:
    assert piece.score is piece.score
    assert piece.score.note_num() == piece.grid.n_notes


def test_a_missing_soundfont_names_the_extra(monkeypatch: pytest.MonkeyPatch, piece: Piece, tmp_path: Path) -> None:
    monkeypatch.setattr(soundfont_module, "find_spec", lambda name: None)
    soundfont_module.load_soundfont.cache_clear()
    soundfont_module.find_soundfont.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'tritone\["):
        piece.save(tmp_path / "x.wav")
    assert not list(tmp_path.iterdir())


def test_without_symusic_and_matplotlib_everything_imports_and_says_what_is_missing() -> None:
    script = """
        import sys
        for name in ("symusic", "matplotlib", "pretty_midi", "soxr", "grpc"):
            sys.modules[name] = None  # importing it raises ImportError
        import tritone
        assert "numpy" not in sys.modules
        from tritone import Grid, MissingExtraError, Piece, to_grid, to_score
        from tritone import plots, sampling
        from tritone.music import grid, piece, render, scores, voices
        import numpy as np
        frames = np.zeros((8, 88), np.uint8)
        frames[0, 40] = 2
        piece = Piece(Grid(frames))
        for use in (lambda: piece.score, lambda: piece.save("x.mid"), lambda: piece.save("x.wav"),
                    lambda: piece.plot("x.png"), lambda: to_grid(b"MThd"), lambda: to_score(piece.grid)):
            try:
                use()
            except MissingExtraError as error:
                print(error)
        voices.voices_to_grid(voices.grid_to_voices(piece.grid.frames))
        sampling.uniform_noise(1, 4)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert all("pip install 'tritone[" in line for line in lines)
    assert sum("symusic" in line for line in lines) == 5


def test_many_threads_render_at_once() -> None:
    alone = render(one_note(69))
    rendered: list[Any] = []
    threads = [threading.Thread(target=lambda: rendered.append(render(one_note(69)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(samples, alone) for samples in rendered)
    assert len(rendered) == 4
