"""Renderings: of the right length, audible, not clipped, varied by the seed and by nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import symusic

from tritone import MissingExtraError
from tritone.music import soundfont as soundfont_module
from tritone_training.corpus import audio as audio_module
from tritone_training.corpus import render, write_audio
from tritone_training.exceptions import DataError

RATE_HZ = 22_050


def make_score(*, n_notes: int = 40, quarters: float = 1.0, pitch: int = 60, rest_after: int | None = None) -> Any:
    score: Any = symusic.Score(480)
    score.tempos.append(symusic.Tempo(0, 120))
    track: Any = symusic.Track("voice", 0, False)
    for index in range(n_notes):
        late = 480 * 40 if rest_after is not None and index >= rest_after else 0
        onset = int(index * 480 * quarters) + late
        track.notes.append(symusic.Note(onset, int(480 * quarters), pitch + index % 7, 80))
    score.tracks.append(track)
    return score


def longest_silence_s(samples: npt.NDArray[np.float32]) -> float:
    frames = np.abs(samples[: samples.size // 441 * 441]).reshape(-1, 441).max(axis=1) < 1e-3
    longest = current = 0
    for silent in frames:
        current = current + 1 if silent else 0
        longest = max(longest, current)
    return longest * 441 / RATE_HZ


def digest(samples: npt.NDArray[np.float32]) -> str:
    return hashlib.sha256(samples.tobytes()).hexdigest()


@pytest.mark.parametrize("seed", [None, *range(12)])
@pytest.mark.parametrize("n_notes", [12, 200])  # 6 s: repeated; 100 s: cut
def test_a_rendering_has_its_length_and_sounds_throughout(seed: int | None, n_notes: int) -> None:
    samples = render(make_score(n_notes=n_notes), seed=seed, duration_s=20.0)
    assert samples.shape == (20 * RATE_HZ,)
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()
    assert 0.4 < np.abs(samples).max() <= 0.9001
    assert np.sqrt(np.mean(samples**2)) > 0.01
    assert longest_silence_s(samples) < 1.5


def test_the_same_seed_gives_the_same_samples_in_another_process() -> None:
    program = (
        "import hashlib, symusic\n"
        "from tritone_training.corpus import render\n"
        "score = symusic.Score(480); score.tempos.append(symusic.Tempo(0, 120))\n"
        "track = symusic.Track('voice', 0, False)\n"
        "for i in range(40): track.notes.append(symusic.Note(i * 480, 480, 60 + i % 7, 80))\n"
        "score.tracks.append(track)\n"
        "print(hashlib.sha256(render(score, seed=11).tobytes()).hexdigest())\n"
    )
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert there.stdout.strip() == digest(render(make_score(), seed=11))


def test_seeds_differ_and_rendering_leaves_the_score_alone() -> None:
    score = make_score()
    before = score.copy()
    assert len({digest(render(score, seed=seed)) for seed in (None, 0, 1, 2)}) == 4
    assert score == before


def cents_off(samples: npt.NDArray[np.float32], wanted_hz: float) -> tuple[float, float]:
    """How far the fundamental is from `wanted_hz`, and the share of the power in its harmonics."""
    part = samples[RATE_HZ // 10 : RATE_HZ * 9 // 10]
    power = np.abs(np.fft.rfft(part * np.hanning(part.size), 8 * RATE_HZ)) ** 2
    freqs_hz = np.arange(power.size) / 8
    near = (freqs_hz > wanted_hz * 0.944) & (freqs_hz < wanted_hz * 1.059)
    found_hz = freqs_hz[near][power[near].argmax()]
    ratio = freqs_hz / found_hz
    nearest = np.round(ratio)
    harmonic = (nearest >= 1) & (np.abs(ratio - nearest) <= np.maximum(0.012 * nearest, 3 / found_hz))
    heard = freqs_hz > 30
    audible = power[near].max() > 0.002 * power[heard].max()  # or it is another octave that sounds
    return 1200 * np.log2(found_hz / wanted_hz), float(audible * power[harmonic & heard].sum() / power[heard].sum())


@pytest.mark.parametrize("program", audio_module.PROGRAMS)
def test_every_instrument_is_in_tune(program: int) -> None:
    for pitch in range(29, 94, 8):
        score = make_score(n_notes=1, quarters=2.4, pitch=pitch)
        score.tracks[0].program = program
        off, share = cents_off(render(score, seed=None, duration_s=1.2), 440.0 * 2 ** ((pitch - 69) / 12))
        assert abs(off) < 35, f"key {pitch} is {off:.0f} cents off"
        assert share > 0.15, f"key {pitch}: only {share:.2f} of the power is its own"


@pytest.mark.parametrize("pitch", [21, 24, 100, 108])
def test_notes_keep_their_octave(pitch: int) -> None:
    score: Any = symusic.Score(480)
    track: Any = symusic.Track("voice", 73, False)
    track.notes.append(symusic.Note(0, 1200, pitch, 80))
    score.tracks.append(track)
    off, share = cents_off(render(score, seed=None, duration_s=1.2), 440.0 * 2 ** ((pitch - 69) / 12))
    assert abs(off) < 35
    assert share > 0.6


def test_the_tempo_stays_within_its_bounds() -> None:
    durations_s = []
    for seed in range(40):
        samples = render(make_score(n_notes=1, quarters=8.0, pitch=69), seed=seed, duration_s=None)
        durations_s.append(samples.size / RATE_HZ - 1.0)
    assert 4.0 / 1.25 - 0.01 <= min(durations_s) < 3.6
    assert 4.4 < max(durations_s) <= 4.0 / 0.8 + 0.01


def test_a_whole_piece_ends_after_its_last_note() -> None:
    samples = render(make_score(n_notes=10), seed=None, duration_s=None)
    assert samples.size / RATE_HZ == pytest.approx(10 * 0.5 + 1.0, abs=0.01)


def test_long_rests_are_shortened() -> None:
    samples = render(make_score(n_notes=10, rest_after=5), seed=None, duration_s=10.0)
    assert longest_silence_s(samples) < 1.5


def test_another_rate_gives_as_many_samples() -> None:
    assert render(make_score(), seed=1, duration_s=1.5, rate_hz=44_100).size == 66_150


def test_instruments_are_pitched_and_drawn_alike_for_every_score(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []
    synthesize = audio_module.synthesize

    def spy(notes: Any, programs: list[int], *rest: Any, **more: Any) -> Any:
        drawn.append(programs)
        return synthesize(notes, programs, *rest, **more)

    monkeypatch.setattr(audio_module, "synthesize", spy)
    for seed in range(30):
        render(make_score(pitch=40), seed=seed, duration_s=0.5)
        render(make_score(pitch=70), seed=seed, duration_s=0.5)
    assert drawn[0::2] == drawn[1::2]
    assert len({programs[0] for programs in drawn}) == len(audio_module.PROGRAMS)
    assert max(program for programs in drawn for program in programs) < 96  # no effects, no percussion


def test_a_score_without_notes_is_refused() -> None:
    drums: Any = symusic.Score(480)
    kit: Any = symusic.Track("kit", 0, True)
    kit.notes.append(symusic.Note(0, 480, 36, 80))
    drums.tracks.append(kit)
    for score in (symusic.Score(480), drums):
        with pytest.raises(DataError, match="no notes"):
            render(score, seed=None)


@pytest.mark.parametrize(
    "arguments",
    [{"seed": -1}, {"seed": 0, "duration_s": 0.0}, {"seed": 0, "duration_s": float("nan")}, {"seed": 0, "rate_hz": 1}],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="expected"):
        render(make_score(), **arguments)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_files_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"piece{suffix}"
    write_audio(make_score(), path, seed=4)
    samples, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == RATE_HZ
    assert samples.shape == (20 * RATE_HZ,)
    assert np.corrcoef(samples, render(make_score(), seed=4))[0, 1] > 0.95
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"use \.wav"):
        write_audio(make_score(), tmp_path / "piece.txt")
    with pytest.raises(DataError, match="cannot be written"):
        write_audio(make_score(), tmp_path / "nowhere" / "piece.wav")


def test_a_missing_soundfont_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfont_module, "find_spec", lambda name: None)
    soundfont_module.load_soundfont.cache_clear()
    soundfont_module.find_soundfont.cache_clear()
    with pytest.raises(MissingExtraError, match=r"tritone\[scores\]"):
        render(make_score(), seed=None, duration_s=1.0)
