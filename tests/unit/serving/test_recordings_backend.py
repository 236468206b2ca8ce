"""The `recordings` backend: windows of files, refusals of files that would cost too much, and responses to requests."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.unit.client.audio_files import encoded, tone

from tritone.audio import iter_windows


def limits(recordings: Any, **changed: float) -> Any:
    return recordings.decoding.Limits(
        **{"max_bytes": 1 << 25, "max_duration_s": 1200.0, "max_decode_s": 5.0, **changed}
    )


def decode(recordings: Any, content: bytes, **changed: float) -> tuple[Any, list[np.ndarray[Any, Any]]]:
    decoding = recordings.decoding.Decoding(limits(recordings, **changed))
    return decoding, list(decoding.batches(content))


def refusal(recordings: Any, content: bytes, **changed: float) -> str:
    with pytest.raises(recordings.decoding.RecordingError) as caught:
        decode(recordings, content, **changed)
    return str(caught.value)


def silence(duration_s: float, *, n_channels: int, rate_hz: int) -> bytes:
    """A FLAC file of little more than silence, which is small for its length."""
    samples = np.zeros((round(duration_s * rate_hz), n_channels), np.float32)
    samples[: rate_hz // 10] = 0.5
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="FLAC")
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["OGG", "FLAC", "MP3", "WAV"])
def test_windows_are_those_of_the_client(recordings: Any, file_format: str) -> None:
    content = encoded(tone(50.5), format=file_format)
    expected = list(iter_windows(content))
    decoding, batches = decode(recordings, content)
    assert [len(batch) for batch in batches] == [16, len(expected) - 16]
    np.testing.assert_array_equal(np.concatenate(batches), [window.samples for window in expected])
    assert decoding.starts_s == [window.start_s for window in expected]
    assert decoding.duration_s == pytest.approx(expected[-1].start_s + 3)


def test_notes_are_collected(recordings: Any) -> None:
    left = tone(5)
    decoding, _ = decode(recordings, encoded(np.stack([left, -left], axis=1), format="WAV"))
    assert len(decoding.notes) == 1
    assert "cancel" in decoding.notes[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"1", "unreadable"),
        (os.urandom(1 << 20), "unreadable"),
        (b"RIFF\xff\xff\xff\xffWAVE" + b"junk\0\0\0\0" * 100_000, "unreadable"),
        (b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(100), "unreadable"),
        (encoded(tone(0.2), format="WAV"), "too_short"),
        (encoded(1e-6 * tone(5), format="WAV", subtype="FLOAT"), "silent"),
        (encoded(tone(5), format="FLAC")[:3_000], "unreadable"),
    ],
    ids=["empty", "one-byte", "random", "chunks", "huge-tag", "short", "silent", "cut-off"],
)
def test_unusable_files_are_refused(recordings: Any, content: bytes, reason: str) -> None:
    assert refusal(recordings, content).startswith(f"invalid recording ({reason}): ")


def test_files_beyond_the_limits_are_refused(recordings: Any) -> None:
    content = encoded(tone(10), format="MP3")
    assert refusal(recordings, content, max_bytes=1_000).startswith("invalid recording (too_large): ")
    assert refusal(recordings, content, max_duration_s=5).startswith("invalid recording (too_long): ")


@pytest.fixture
def n_windows(recordings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns how many windows were decoded in this test."""
    decoded: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        for window in iter_windows(*arguments, **options):
            decoded.append(window)
            yield window

    monkeypatch.setattr(recordings.decoding, "iter_windows", counted)
    return lambda: len(decoded)


def test_a_small_file_of_many_samples_is_refused_at_its_beginning(
    recordings: Any, n_windows: Callable[[], int]
) -> None:
    content = silence(60, n_channels=8, rate_hz=655_350)
    assert len(content) < 1 << 20
    # Three seconds of it are 16 million samples, which no machine decodes in that time.
    assert refusal(recordings, content, max_decode_s=0.005).startswith("invalid recording (too_costly): ")
    assert n_windows() == 1


@pytest.mark.parametrize(
    "content",
    [
        b"OggS\0" * 6_000_000,
        b"\xff" * (1 << 25),
        b"\xff\xfb\x90\x00" * (1 << 23),
        b"ID3\x04" + bytes(6) + b"ID3\x04\0\0\0\0\0\0" * 3_000_000,
    ],
    ids=["pages", "ones", "frames", "tags"],
)
def test_a_search_for_the_audio_is_ended_in_time(recordings: Any, content: bytes) -> None:
    began_s = time.thread_time()
    assert refusal(recordings, content, max_decode_s=0.3).startswith("invalid recording (too_costly): ")
    assert time.thread_time() - began_s < 4  # on a busy machine; without the limit, 5 to 38 s on an idle one


def test_a_long_silence_is_refused_by_its_header(recordings: Any, n_windows: Callable[[], int]) -> None:
    content = silence(1300, n_channels=1, rate_hz=8_000)
    assert refusal(recordings, content).startswith("invalid recording (too_long): ")
    assert n_windows() == 0


def test_the_time_of_the_classifier_does_not_count(recordings: Any) -> None:
    decoding = recordings.decoding.Decoding(limits(recordings, max_decode_s=0.5))
    for _ in decoding.batches(encoded(tone(100), format="WAV")):
        end_s = time.thread_time() + 0.3
        while time.thread_time() < end_s:
            pass


def test_a_canary_is_a_usable_recording(recordings: Any) -> None:
    decoding, batches = decode(recordings, recordings.decoding.canary_recording())
    assert [batch.shape for batch in batches] == [(1, 66_150)]
    assert not decoding.notes


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "many"])
def test_invalid_parameters(recordings: Any, text: str) -> None:
    valid = {"max_recording_bytes": "1000", "max_recording_s": "60", "max_decode_s": "0.5"}
    assert recordings.decoding.read_limits(valid) == recordings.decoding.Limits(1_000, 60.0, 0.5)
    for name in valid:
        with pytest.raises(recordings.decoding.ParameterError):
            recordings.decoding.read_limits({**valid, name: text})
    with pytest.raises(recordings.decoding.ParameterError):
        recordings.decoding.read_limits({**valid, "max_recording_bytes": "0.5"})
