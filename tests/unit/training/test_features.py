from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.unit.training import sounds

from tritone.audio import iter_windows, load_mono
from tritone.constants import SAMPLE_RATE_HZ, WINDOW_SAMPLES
from tritone_training.data.recordings import Recording
from tritone_training.kinds.genre_cnn import dataset as features_module
from tritone_training.kinds.genre_cnn.dataset import compute_features, recording_features
from tritone_training.kinds.genre_cnn.frontend import MelFeatures

FRONTEND = MelFeatures()


def recording(path: Path, label: str = "x") -> Recording:
    return Recording.of_file(path.name, label, path)


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("n_channels", [1, 2, 8])
def test_any_rate_and_channels_become_the_same_features(tmp_path: Path, rate_hz: int, n_channels: int) -> None:
    mono = sounds.hum(1, rate_hz=rate_hz)
    path = sounds.write(tmp_path / "a.wav", np.repeat(mono[:, None], n_channels, 1), rate_hz, subtype="FLOAT")
    found = compute_features([recording(path)], FRONTEND)
    assert found.problems == ()
    expected = recording_features(sounds.hum(1), FRONTEND).astype(np.float32)
    n_common = min(len(expected), len(found.by_name["a.wav"]))
    assert abs(len(expected) - len(found.by_name["a.wav"])) <= 1
    # Below 4 kHz, which the slowest of them holds, and away from the edges; log10 power.
    bands = slice(0, 40)
    difference = found.by_name["a.wav"].astype(np.float32)[2 : n_common - 2, bands] - expected[2 : n_common - 2, bands]
    assert np.abs(difference).max() < 0.1


@pytest.mark.parametrize(
    ("suffix", "how"),
    [
        (".wav", {"subtype": "PCM_16"}),
        (".wav", {"subtype": "PCM_24"}),
        (".wav", {"subtype": "DOUBLE"}),
        (".flac", {}),
        (".ogg", {}),
        (".mp3", {}),
        (".aiff", {}),
    ],
)
def test_any_format_is_read(tmp_path: Path, suffix: str, how: dict[str, str]) -> None:
    if suffix.upper()[1:] not in soundfile.available_formats():
        pytest.skip(f"this libsndfile writes no {suffix}")
    path = sounds.write(tmp_path / f"a{suffix}", sounds.hum(2), SAMPLE_RATE_HZ, **how)
    found = compute_features([recording(path)], FRONTEND)
    assert found.problems == ()
    loud = recording_features(sounds.hum(2), FRONTEND).astype(np.float32)[:, :8].mean()
    assert abs(found.by_name[path.name].astype(np.float32)[:, :8].mean() - loud) < 0.1


def bad_files(folder: Path) -> dict[str, str]:
    """File name -> the reason that its report must give."""
    good = sounds.hum(3)
    with_nan = good.copy()
    with_nan[1000] = np.nan
    sounds.write(folder / "silent.wav", np.zeros_like(good))
    sounds.write(folder / "short.wav", good[:1000])
    sounds.write(folder / "one.wav", good[:1])
    sounds.write(folder / "header_only.wav", good[:0])
    sounds.write(folder / "nan.wav", with_nan, subtype="FLOAT")
    sounds.write(folder / "loud.wav", 1000 * good, subtype="FLOAT")
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is no music")
    (folder / "folder.wav").mkdir()
    cut = sounds.write(folder / "cut.flac", sounds.hiss(3)).read_bytes()
    (folder / "cut.flac").write_bytes(cut[: len(cut) // 2])
    return {
        "silent.wav": "silent",
        "short.wav": "too_short",
        "one.wav": "too_short",
        "header_only.wav": "empty",
        "nan.wav": "non_finite",
        "loud.wav": "out_of_range",
        "empty.wav": "empty",
        "text.wav": "unreadable",
        "folder.wav": "missing",
        "cut.flac": "unreadable",
        "gone.wav": "missing",
    }


def test_audio_that_cannot_be_used_is_reported_and_the_rest_is_used(tmp_path: Path) -> None:
    expected = bad_files(tmp_path)
    good = [sounds.write(tmp_path / f"good{index}.wav", sounds.hum(index)) for index in (0, 1)]
    paths = [good[0], *(tmp_path / name for name in expected), good[1]]
    done: list[tuple[int, int]] = []
    found = compute_features([recording(p) for p in paths], FRONTEND, on_progress=lambda *step: done.append(step))
    assert {problem.name: problem.reason for problem in found.problems} == expected
    assert list(found.by_name) == ["good0.wav", "good1.wav"]
    assert done == [(index + 1, len(paths)) for index in range(len(paths))]
    for problem in found.problems:
        assert str(tmp_path / problem.name) in problem.message


def test_the_same_samples_under_another_name_are_a_duplicate(tmp_path: Path) -> None:
    samples = sounds.hum(4)
    a = sounds.write(tmp_path / "a.wav", samples, subtype="FLOAT")
    b = sounds.write(tmp_path / "b.flac", samples)  # 16 bits: not the same samples
    c = sounds.write(tmp_path / "c.aiff", samples, subtype="FLOAT")
    found = compute_features([recording(a), recording(b), recording(c, "other")], FRONTEND)
    assert list(found.by_name) == ["a.wav", "b.flac"]
    assert [(p.name, p.reason) for p in found.problems] == [("c.aiff", "duplicate")]
    assert "a.wav" in found.problems[0].message


def test_the_fingerprint_tells_data_sets_apart(tmp_path: Path) -> None:
    a = sounds.write(tmp_path / "a.wav", sounds.hum(5))
    b = sounds.write(tmp_path / "b.wav", sounds.hum(6))
    sets = [
        [recording(a), recording(b)],
        [recording(b), recording(a)],
        [recording(a)],
        [recording(a, "other"), recording(b)],
        [Recording.of_file("a.wav", "x", b), Recording.of_file("b.wav", "x", a)],
    ]
    prints = [compute_features(each, FRONTEND).fingerprint for each in sets]
    assert len(set(prints)) == len(sets)
    assert compute_features(sets[0], FRONTEND).fingerprint == prints[0]


def test_blocks_are_the_whole_recording_once(tmp_path: Path) -> None:
    for duration_s in (0.7, 3.0, 3.2, 9.5):
        path = sounds.write(tmp_path / "a.wav", sounds.hiss(1, duration_s=duration_s, rate_hz=44_100), 44_100)
        np.testing.assert_array_equal(np.concatenate(list(recording(path).blocks())), load_mono(path))
        rendered = Recording("r", "x", lambda: load_mono(path))  # noqa: B023 - used before the next round
        np.testing.assert_array_equal(np.concatenate(list(rendered.blocks())), load_mono(path))


def test_short_recordings_are_repeated_as_the_sdk_repeats_them(tmp_path: Path) -> None:
    path = sounds.write(tmp_path / "a.wav", sounds.hum(7, duration_s=1.3))
    (window,) = iter_windows(path)
    found = compute_features([recording(path)], FRONTEND).by_name["a.wav"]
    np.testing.assert_array_equal(found, recording_features(window.samples, FRONTEND))
    assert found.shape == (FRONTEND.n_units, FRONTEND.n_features) == (128, 96)


def test_a_window_of_cached_features_is_what_the_network_computes_itself(tmp_path: Path) -> None:
    samples = sounds.hum(8, duration_s=5)
    cached = recording_features(samples, FRONTEND)
    offset = 37 * FRONTEND.unit_samples
    alone = recording_features(samples[offset : offset + WINDOW_SAMPLES], FRONTEND)
    np.testing.assert_allclose(
        cached[37 : 37 + FRONTEND.n_units].astype(np.float32), alone.astype(np.float32), atol=5e-3
    )


def test_long_recordings_are_kept_in_stretches_from_all_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "_MAX_SAMPLES", 8 * SAMPLE_RATE_HZ)
    # A ramp in steps says of each kept sample where it came from.
    ramp = np.repeat(np.linspace(0.1, 0.9, 40), SAMPLE_RATE_HZ).astype(np.float32)
    path = sounds.write(tmp_path / "long.wav", ramp, subtype="FLOAT")
    heard = features_module.read_samples(recording(path))
    assert heard.samples.size == 8 * SAMPLE_RATE_HZ
    seconds = np.unique(np.searchsorted(np.linspace(0.1, 0.9, 40), heard.samples - 1e-4))
    assert seconds.min() == 0
    assert seconds.max() == 39
    assert len(seconds) >= 8
    starts = np.linspace(0, ramp.size - SAMPLE_RATE_HZ, 8).astype(int)
    expected = np.concatenate([ramp[start : start + SAMPLE_RATE_HZ] for start in starts])
    np.testing.assert_array_equal(heard.samples, expected)


@pytest.mark.slow
def test_half_an_hour_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "half_hour.wav"
    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1) as file:
        minute = sounds.hum(9, duration_s=60)
        for index in range(30):
            file.write(minute * (0.5 + index / 60))
    tracemalloc.start()
    try:
        heard = features_module.read_samples(recording(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert heard.samples.size == 240 * SAMPLE_RATE_HZ
    assert peak < 80e6  # decoded whole, the file is 159 MB
