from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from tritone import InvalidAudioError
from tritone.audio import iter_windows, load_mono

RATE = 22_050


def encoded(samples: np.ndarray, rate_hz: int, **how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, **how)
    return file.getvalue()


def reason_of(audio: object) -> InvalidAudioError:
    with pytest.raises(InvalidAudioError) as caught:
        list(iter_windows(audio))
    with pytest.raises(InvalidAudioError) as loaded:
        load_mono(audio)
    assert loaded.value.reason == caught.value.reason
    assert str(caught.value).startswith(caught.value.path)
    return caught.value


# --- windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [66_150, 66_151, 2 * 66_150 - 1, 2 * 66_150, 441_000, 1_500_001])
def test_windows_tile_the_recording_exactly(n_samples: int) -> None:
    samples = np.random.default_rng(n_samples).uniform(-0.5, 0.5, n_samples).astype(np.float32)
    windows = list(iter_windows((samples, RATE)))
    assert len(windows) == -(-n_samples // 66_150)
    rebuilt = np.zeros_like(samples)
    for window in windows:
        start = round(window.start_s * RATE)
        assert window.samples.shape == (66_150,)
        assert window.covers_s == 3.0
        rebuilt[start : start + 66_150] = window.samples
    np.testing.assert_array_equal(rebuilt, samples)
    assert round(windows[-1].start_s * RATE) + 66_150 == n_samples


def test_a_short_recording_is_repeated() -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 30_000).astype(np.float32)
    (window,) = iter_windows((samples, RATE))
    np.testing.assert_array_equal(window.samples, np.resize(samples, 66_150))
    assert window.start_s == 0.0
    assert window.covers_s == pytest.approx(30_000 / RATE)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_blockwise_resampling_equals_resampling_at_once(rate_hz: int, channels: int) -> None:
    seconds = 40 if rate_hz < 100_000 else 15
    times_s = np.arange(seconds * rate_hz) / rate_hz
    sweep = 0.4 * np.sin(2 * np.pi * (50 + 80 * times_s) * times_s)
    samples = np.stack([sweep * (channel + 1) / channels for channel in range(channels)], axis=1).astype(np.float32)
    at_once = soxr.resample(samples.mean(axis=1), rate_hz, RATE)
    blockwise = load_mono((samples, rate_hz))
    assert blockwise.shape == at_once.shape
    np.testing.assert_allclose(blockwise, at_once, atol=1e-5)
    from_file = load_mono(encoded(samples, rate_hz, format="WAV", subtype="FLOAT"))
    np.testing.assert_array_equal(from_file, blockwise)


# --- what can be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "subtype", "rate_hz", "channels"),
    [
        ("WAV", "PCM_24", 44_100, 2),
        ("WAV", "PCM_16", 192_000, 2),
        ("WAV", "PCM_16", 8_000, 1),
        ("WAV", "FLOAT", 48_000, 8),
        ("WAV", "PCM_U8", 22_050, 1),
        ("FLAC", "PCM_16", 44_100, 2),
        ("OGG", "VORBIS", 44_100, 2),
        ("OGG", "OPUS", 48_000, 2),
        ("MP3", "MPEG_LAYER_III", 44_100, 2),
    ],
)
def test_formats_rates_and_channels(tmp_path: object, form: str, subtype: str, rate_hz: int, channels: int) -> None:
    times_s = np.arange(5 * rate_hz) / rate_hz
    tone = 0.4 * np.sin(2 * np.pi * 440 * times_s)
    data = encoded(np.stack([tone] * channels, axis=1), rate_hz, format=form, subtype=subtype)
    mono = load_mono(data)
    assert mono.size == pytest.approx(5 * RATE, abs=2_500)  # lossy formats pad
    spectrum = np.abs(np.fft.rfft(mono[RATE : 3 * RATE]))
    assert spectrum.argmax() / 2 == pytest.approx(440, abs=1)
    assert np.abs(mono[RATE : 3 * RATE]).max() == pytest.approx(0.4, abs=0.04)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float64"])
def test_every_number_type_comes_to_the_same_samples(dtype: str) -> None:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, 70_000)
    if dtype.startswith("float"):
        given = samples.astype(dtype)
    else:
        info = np.iinfo(dtype)
        half = (float(info.max) - float(info.min) + 1) / 2
        given = np.floor(samples * half + (half if dtype.startswith("u") else 0)).astype(dtype)
    tolerance = {"8": 8e-3, "6": 1e-3}.get(dtype[-1], 1e-6)
    np.testing.assert_allclose(load_mono((given, RATE)), samples, atol=tolerance)


def test_paths_bytes_and_file_objects_give_the_same_samples(tmp_path: object) -> None:
    data = encoded(np.random.default_rng(0).uniform(-0.5, 0.5, 50_000), 44_100, format="FLAC")
    path = tmp_path / "a b é.flac"  # type: ignore[operator]
    path.write_bytes(data)
    expected = load_mono(path)
    at_its_end = io.BytesIO(data)
    at_its_end.seek(0, io.SEEK_END)
    with path.open("rb") as opened:
        for audio in (str(path), data, bytearray(data), memoryview(data), at_its_end, opened):
            np.testing.assert_array_equal(load_mono(audio), expected)
        assert not opened.closed
    assert not at_its_end.closed
    np.testing.assert_array_equal(load_mono(at_its_end), expected)  # and once more


def test_a_pipe_that_cannot_be_rewound_is_read() -> None:
    data = encoded(np.random.default_rng(0).uniform(-0.5, 0.5, 20_000), RATE, format="WAV")  # fits into a pipe
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        np.testing.assert_array_equal(load_mono(stream), load_mono(data))


# --- what cannot -------------------------------------------------------------------------------

LOUD = np.full(66_150, 0.5, np.float32)


@pytest.mark.parametrize(
    ("audio", "reason", "says"),
    [
        (b"", "empty", "no bytes"),
        (b"this is a text, not a song" * 100, "unreadable", "not audio"),
        (io.BytesIO(b""), "empty", "empty file object"),
        (io.StringIO("text"), "unreadable", "binary mode"),
        ("/no/such/file.wav", "missing", "does not exist"),
        ("/tmp", "missing", "folder"),
        ("/dev/null", "missing", "not a regular file"),
        ("bad\0name.wav", "missing", "does not exist"),
        ((np.zeros(0, np.float32), RATE), "empty", "no samples"),
        ((np.zeros((0, 2), np.float32), 44_100), "empty", "no samples"),
        (([0.5], RATE), "too_short", "0.000 s"),
        ((np.full(11_000, 0.5), RATE), "too_short", "0.499 s"),
        ((np.zeros(RATE), RATE), "silent", "silent"),
        ((np.zeros(100_000, np.int16), 44_100), "silent", "silent"),
        ((np.r_[LOUD, np.nan], RATE), "non_finite", "not finite"),
        ((np.r_[LOUD, np.inf, LOUD], 44_100), "non_finite", "not finite"),
        ((np.stack([np.r_[LOUD, np.inf], np.r_[LOUD, -np.inf]], 1), 44_100), "non_finite", "not finite"),
        ((np.full(RATE, 1e300), RATE), "non_finite", "not finite"),
        ((LOUD * 32_768, RATE), "out_of_range", "32768"),
        ((LOUD.reshape(1, -1), RATE), "bad_shape", "samples.T"),
        ((np.stack([LOUD, LOUD]), RATE), "bad_shape", "samples.T"),
        ((LOUD.reshape(1, 1, -1), RATE), "bad_shape", "shape"),
        ((np.float32(0.5), RATE), "bad_shape", "shape"),
        ((LOUD > 0, RATE), "bad_shape", "bool"),
        ((LOUD.astype(complex), RATE), "bad_shape", "complex"),
        ((["a", "b"], RATE), "bad_shape", "type"),
        (([[1.0], [1.0, 2.0]], RATE), "bad_shape", "array of numbers"),
        ((LOUD, 0), "bad_shape", "rate_hz"),
        ((LOUD, 44_100.5), "bad_shape", "rate_hz"),
        ((LOUD, True), "bad_shape", "rate_hz"),
        ((LOUD, "44100"), "bad_shape", "rate_hz"),
        ((LOUD, 10**12), "bad_shape", "rate_hz"),
        ((LOUD,), "bad_shape", "(samples, rate_hz)"),
        (LOUD, "bad_shape", "ndarray"),
        (None, "bad_shape", "NoneType"),
        (7, "bad_shape", "int"),
    ],
)
def test_bad_recordings_are_refused_by_reason(audio: object, reason: str, says: str) -> None:
    error = reason_of(audio)
    assert error.reason == reason
    assert says in str(error)


def test_an_empty_and_an_unreadable_file(tmp_path: object) -> None:
    path = tmp_path / "empty.wav"  # type: ignore[operator]
    path.touch()
    assert reason_of(path).reason == "empty"
    (tmp_path / "noise.mp3").write_bytes(os.urandom(5_000))  # type: ignore[operator]
    assert reason_of(tmp_path / "noise.mp3").reason == "unreadable"  # type: ignore[operator]
    (tmp_path / "headerless.raw").write_bytes(os.urandom(5_000))  # type: ignore[operator]
    assert reason_of(tmp_path / "headerless.raw").reason == "unreadable"  # type: ignore[operator]


@pytest.mark.parametrize("form", ["FLAC", "MP3"])
def test_a_truncated_file_is_reported_as_such(form: str) -> None:
    data = encoded(np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 44_100), 44_100, format=form)
    error = reason_of(data[: len(data) // 2])
    assert error.reason == "unreadable"
    assert "download it again" in str(error)


def test_a_wav_that_was_cut_off_is_read_as_far_as_it_goes() -> None:
    data = encoded(np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE), RATE, format="WAV")
    assert load_mono(data[: len(data) // 2]).size == pytest.approx(5 * RATE, abs=50)


def test_a_header_with_an_invalid_sample_rate() -> None:
    data = bytearray(encoded(np.random.default_rng(0).uniform(-0.5, 0.5, RATE), RATE, format="WAV"))
    data[24:28] = (2_000_000_000).to_bytes(4, "little")
    assert reason_of(bytes(data)).reason == "unreadable"


@pytest.mark.slow
def test_half_an_hour_needs_little_memory(tmp_path: object) -> None:
    """30 minutes of 44.1 kHz stereo are 635 MB as float32."""
    path = tmp_path / "long.flac"  # type: ignore[operator]
    block = (np.random.default_rng(0).standard_normal((44_100 * 10, 2)) * 3_000).astype(np.int16)
    with soundfile.SoundFile(path, "w", 44_100, 2, "PCM_16", format="FLAC", compression_level=0) as file:
        for _ in range(180):
            file.write(block)
    script = """
        import resource, sys
        from tritone.audio import iter_windows
        next(iter_windows(sys.argv[1]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        n = sum(1 for _ in iter_windows(sys.argv[1]))
        print(n, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    n_windows, grown_mb = map(int, output.split())
    assert n_windows == 600
    assert grown_mb < 30


def test_a_file_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav"))
    path.write_bytes(encoded(np.full(RATE, 0.5), RATE, format="WAV"))
    assert load_mono(path).size == RATE
