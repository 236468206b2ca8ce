"""Tests of irregular audio files: joined, recorded live, truncated, or with wrong tags or names."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import logging
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.unit.client.audio_files import (
    RATE,
    changed_ogg,
    encoded,
    flac_in_ogg,
    id3,
    mp3,
    ogg_of_packets,
    ogg_page,
    ogg_pages,
    pcm16,
    tone,
    wav,
    without_xing,
)

from tritone import InvalidAudioError
from tritone.audio import Audio, iter_windows, load_mono
from tritone.audio_files.formats import READABLE

MP3 = mp3(4)
VORBIS = encoded(tone(4), format="OGG", subtype="VORBIS")
OPUS = encoded(tone(4, 48_000), 48_000, format="OGG", subtype="OPUS")
FLAC = encoded(tone(4), format="FLAC")
PCM = pcm16(tone(4))
NOISE = np.random.default_rng(0)


def unset_length(flac: bytes) -> bytes:
    """A FLAC whose writer could not go back to fill in the number of samples (STREAMINFO, 36 bits)."""
    data = bytearray(flac)
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def assert_tone(samples: np.ndarray, duration_s: float, *, tolerance_s: float = 0.001) -> None:
    """The tone of 440 Hz from beginning to end."""
    assert samples.size / RATE == pytest.approx(duration_s, abs=tolerance_s)
    for start in range(0, samples.size - RATE, RATE):
        spectrum = np.abs(np.fft.rfft(samples[start : start + RATE]))
        assert spectrum.argmax() == pytest.approx(440, abs=1)


def refused(audio: Audio) -> InvalidAudioError:
    with pytest.raises(InvalidAudioError) as caught:
        load_mono(audio)
    return caught.value


def notes_of(audio: Audio) -> list[str]:
    notes: list[str] = []
    load_mono(audio, on_note=notes.append)
    return notes


# --- the bytes decide, not the way they come -----------------------------------------------------------------

BEFORE_THE_FIRST_FRAME = {
    "zeros after the tag": id3(bytes(1_000)) + bytes(5_000),
    "a tag that claims too little": id3(bytes(1_000), claimed=100),
    "a tag that ends within the first frame": id3(bytes(1_000), claimed=1_280),
    "a tag that claims some frames": id3(bytes(1_000), claimed=9_000),
    "a tag that claims more than the file": id3(bytes(1_000), claimed=1 << 27),
    "two tags": id3(bytes(300)) + id3(bytes(300)),
    "random bytes": NOISE.bytes(100_000),
    "megabytes of a picture": id3(b"APIC\0\0\x10\0\0\0\0image/jpeg\0\3\0\xff\xd8\xff\xe0" + NOISE.bytes(2_000_000)),
    "a web server's headers": b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n",
}


@pytest.mark.parametrize("before", BEFORE_THE_FIRST_FRAME.values(), ids=BEFORE_THE_FIRST_FRAME.keys())
@pytest.mark.parametrize("suffix", [".mp3", ".bin", ".wav"])
def test_an_mp3_is_the_same_by_path_bytes_and_file(
    before: bytes, suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = before + MP3
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    expected = load_mono(MP3)
    assert_tone(expected, 4)
    with path.open("rb") as opened:
        for audio in (path, data, opened):
            np.testing.assert_array_equal(load_mono(audio), expected)
    assert capfd.readouterr() == ("", "")  # the decoder has nothing to say


@pytest.mark.parametrize(
    "data",
    [b"<html>404</html>", NOISE.bytes(5_000), MP3[: len(MP3) // 2], b"", b"\xff\xfb\x90\x00" * 9_000, wav(b"")],
    ids=["page", "noise", "cut", "empty", "headers only", "no samples"],
)
@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".raw"])
def test_errors_do_not_depend_on_the_way_the_file_is_passed(
    data: bytes, suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with path.open("rb") as opened:
        errors = [refused(audio) for audio in (path, data, opened)]
    assert len({error.reason for error in errors}) == 1
    if data:
        assert len({str(error).removeprefix(error.path) for error in errors}) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("data", [encoded(tone(2), format="FLAC"), VORBIS, wav(PCM)], ids=["FLAC", "Ogg", "WAV"])
def test_an_id3_tag_before_other_formats_is_skipped(data: bytes) -> None:
    np.testing.assert_array_equal(load_mono(id3(bytes(100)) + data), load_mono(data))


def test_the_decoder_prints_nothing_about_damaged_sample_dumps(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded(tone(2), format="SDS"))
    del data[21 + 127 + 60]  # in the second block; the others do not begin where they should
    with contextlib.suppress(InvalidAudioError):
        load_mono(bytes(data))
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr() == ("", "")


def test_errors_of_a_file_object_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 1 << 18:
                raise OSError("the share is gone")
            return super().read(size)

    error = refused(Failing(encoded(tone(20, 44_100), 44_100, format="WAV")))
    assert error.reason == "unreadable"
    assert "the share is gone" in str(error)
    assert capfd.readouterr() == ("", "")


def test_a_path_of_three_thousand_characters_is_read(tmp_path: Path) -> None:
    folder = tmp_path
    while len(str(folder)) < 2_900:
        folder /= "f" * 90
    folder.mkdir(parents=True)
    path = folder / ("a" * (3_000 - len(str(folder)) - 5) + ".wav")
    assert len(str(path)) == 3_000
    path.write_bytes(wav(PCM))
    np.testing.assert_array_equal(load_mono(path), load_mono(wav(PCM)))


# --- to the end ----------------------------------------------------------------------------------------------

JOINED = {
    "mp3": (MP3 + MP3, 8.0),
    "mp3 with tags between": (
        id3(bytes(99)) + MP3 + b"TAG" + bytes(125) + id3(bytes(99)) + MP3 + b"TAG" + bytes(125),
        8.0,
    ),
    "mp3 of other rates and channels": (MP3 + mp3(4, 48_000, n_channels=2) + mp3(4, 16_000), 12.0),
    "mp3 without its header": (without_xing(MP3), 4.037),  # whose encoder's delay is not known
    "mp3, the second without its header": (MP3 + without_xing(MP3), 8.037),
    "mp3 with an APE tag between": (MP3 + b"APETAGEX" + bytes(24) + MP3, 8.0),
    "Vorbis": (VORBIS + changed_ogg(VORBIS, serial=5), 8.0),
    "Vorbis with one serial number": (VORBIS + VORBIS, 8.0),
    "Opus": (OPUS + changed_ogg(OPUS, serial=5), 8.0),
    "Opus without end-of-stream flags": (changed_ogg(OPUS, ends=False) + changed_ogg(OPUS, serial=5, ends=False), 8.0),
    "FLAC in Ogg": (flac_in_ogg(tone(4)) + flac_in_ogg(tone(4), serial=9), 8.0),
    "Vorbis, Opus and FLAC": (VORBIS + OPUS + flac_in_ogg(tone(4)), 12.0),
    "FLAC": (FLAC + FLAC, 8.0),
    "FLAC of unknown length": (unset_length(FLAC) + FLAC, 8.0),
    "WAV": (wav(PCM) + wav(PCM), 8.0),
    "WAV, streamed": (wav(PCM, data_size=0xFFFFFFFF, riff_size=0xFFFFFFFF) * 2, 8.0),
    "WAV of other rates": (wav(PCM) + wav(pcm16(tone(4, 8_000)), rate_hz=8_000), 8.0),
    "AIFF": (encoded(tone(4), format="AIFF") * 2, 8.0),
    "AU": (encoded(tone(4), format="AU") * 2, 8.0),
}


@pytest.mark.parametrize(("data", "duration_s"), JOINED.values(), ids=JOINED.keys())
def test_joined_files_are_read_to_the_end_of_the_last(
    data: bytes, duration_s: float, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_tone(load_mono(data), duration_s, tolerance_s=0.01)
    windows = list(iter_windows(data))
    assert windows[-1].start_s + 3 == pytest.approx(duration_s, abs=0.01)
    assert capfd.readouterr().err == ""


def test_a_joined_mp3_with_a_truncated_second_file_reports_the_decoded_length() -> None:
    error = refused(MP3 + MP3[: len(MP3) // 2])
    assert error.reason == "unreadable"
    assert "breaks off after 6.0 of 8.1 s" in str(error)


def test_a_mp3_with_a_hole_is_damaged() -> None:
    middle = len(MP3) // 2
    error = refused(MP3[:middle] + bytes(2_500) + MP3[middle + 2_500 :])
    assert "is damaged: expected 4.1 s" in str(error) or "is damaged: expected 4.0 s" in str(error)


def test_bytes_between_frames_are_noted(caplog: pytest.LogCaptureFixture) -> None:
    middle = len(MP3) // 2
    with caplog.at_level(logging.WARNING, "tritone.audio"):
        (note,) = notes_of(MP3[:middle] + b"\x55" * 300 + MP3[middle:])
    assert "bytes between its MP3 frames that are not audio" in note
    assert note in caplog.text


def test_a_damaged_mp3_prints_nothing(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The command line, where a test has run it in this process, prints the log.
    monkeypatch.setattr(logging.getLogger("tritone.audio"), "handlers", [])
    data = bytearray(mp3(10))
    for place in NOISE.integers(3_000, len(data), 200):
        data[place] = NOISE.integers(256)
    with contextlib.suppress(InvalidAudioError):  # whether it can be read depends on where the damage is
        load_mono(bytes(data))
    os.write(2, b"the process's own stderr works\n")
    assert capfd.readouterr() == ("", "the process's own stderr works\n")


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "samples"])
def test_low_sample_rates_need_little_memory(is_file: bool) -> None:
    """Ten thousand seconds at 100 Hz are 4 kB as FLAC, and 880 MB at 22,050 Hz."""
    samples = np.zeros(1_000_000, np.float32)
    samples[:1_000] = 0.5
    content = bytearray(encoded(samples, 100, format="FLAC"))
    content[21] &= 0xF0  # the number of samples: 0 means unknown
    content[22:26] = bytes(4)
    tracemalloc.start()
    with pytest.raises(InvalidAudioError) as caught:
        list(iter_windows(bytes(content) if is_file else (samples, 100), max_duration_s=60))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.reason == "too_long"
    assert peak < 60_000_000


def test_half_an_hour_of_mp3_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.mp3"
    path.write_bytes(without_xing(MP3) * 450)
    tracemalloc.start()
    n_windows = sum(1 for _ in iter_windows(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_windows == 608
    assert peak < 40_000_000  # all of it would be 160 MB


# --- live recordings and streamed files ----------------------------------------------------------------------


@pytest.mark.parametrize("data", [VORBIS, OPUS, flac_in_ogg(tone(4))], ids=["Vorbis", "Opus", "FLAC"])
@pytest.mark.parametrize("later", [0, 10**7, 10**9])
def test_ogg_without_an_end_of_stream_flag_is_read(data: bytes, later: int) -> None:
    live = changed_ogg(data, ends=False, later=later)
    assert_tone(load_mono(live), 4)
    assert notes_of(live) == []


def test_live_opus_lasts_as_long_as_its_last_page_says() -> None:
    """Pages at 48 kHz with 312 samples of pre-skip, the last one at 88,512: (88,512 - 312) / 48,000 = 1.8375 s."""
    pages = ogg_pages(changed_ogg(encoded(tone(3, 48_000), 48_000, format="OGG", subtype="OPUS"), ends=False))
    kept = [page for page in pages if page[2]["granule"] <= 48_000 * 2]
    live = b"".join(ogg_page(segments, body, **fields) for segments, body, fields in kept)
    pre_skip = int.from_bytes(pages[0][1][10:12], "little")
    assert load_mono(live).size / RATE == pytest.approx((kept[-1][2]["granule"] - pre_skip) / 48_000, abs=1e-3)


@pytest.mark.parametrize("data", [VORBIS, OPUS], ids=["Vorbis", "Opus"])
def test_ogg_with_a_truncated_page_is_read_up_to_it_with_a_note(data: bytes) -> None:
    n_whole = len(data) - len(ogg_page(*ogg_pages(data)[-1][:2], **ogg_pages(data)[-1][2]))
    cut = data[: (n_whole + len(data)) // 2]
    np.testing.assert_array_equal(load_mono(cut), load_mono(data[:n_whole]))
    (note,) = notes_of(cut)
    assert "1 Ogg pages that are damaged or cut off" in note


def test_ogg_from_the_middle_of_a_stream() -> None:
    middle = b"".join(ogg_page(segments, body, **fields) for segments, body, fields in ogg_pages(OPUS)[2:])
    error = refused(middle)
    assert "without the beginning of a stream" in str(error)
    assert_tone(load_mono(middle + changed_ogg(OPUS, serial=3)), 4)
    assert "beginning is missing" in notes_of(middle + changed_ogg(OPUS, serial=3))[0]


def test_ogg_with_other_content_is_reported_by_name() -> None:
    error = refused(ogg_of_packets([(b"\x80theora\x03\x02\x01" + bytes(30), 0), (b"x" * 30, 0)], serial=1))
    assert "Theora video" in str(error)
    skeleton = ogg_of_packets([(b"fishead\0" + bytes(56), 0)], serial=77)
    assert_tone(load_mono(skeleton + VORBIS), 4)


STREAMED = {
    "sizes of 0": wav(PCM, data_size=0, riff_size=0),
    "data size of 0": wav(PCM, data_size=0),
    "RIFF size of 0": wav(PCM, riff_size=0),
    "largest sizes": wav(PCM, data_size=0xFFFFFFFF, riff_size=0xFFFFFFFF),
    "2 GB": wav(PCM, data_size=0x7FFFF000, riff_size=0x7FFFF024),
    "after a LIST chunk": wav(PCM, data_size=0, riff_size=0, chunks=b"LIST\x04\0\0\0INFO"),
    "big-endian": wav(pcm16(tone(4), ">"), data_size=0, riff_size=0, form=b"RIFX"),
    "RF64 without its sizes": wav(
        PCM, data_size=0xFFFFFFFF, riff_size=0xFFFFFFFF, form=b"RF64", chunks=b"ds64\x1c\0\0\0" + bytes(28)
    ),
    "FLAC": unset_length(FLAC),
    "AU": b".snd" + b"".join(n.to_bytes(4, "big") for n in (24, 0xFFFFFFFF, 3, RATE, 1)) + pcm16(tone(4), ">"),
}


@pytest.mark.parametrize("data", STREAMED.values(), ids=STREAMED.keys())
def test_a_file_without_a_length_in_its_header_is_read(data: bytes) -> None:
    assert_tone(load_mono(data), 4)


def test_a_wav_without_samples_is_empty() -> None:
    assert refused(wav(b"")).reason == "empty"
    assert refused(wav(b"") + b"LIST\x04\0\0\0INFO").reason == "empty"
    assert refused(wav(PCM)[:44]).reason == "empty"


@pytest.mark.parametrize(
    ("form", "subtype", "n_channels", "rate_hz"),
    [
        *(("WAV", subtype, 1, RATE) for subtype in ("PCM_U8", "PCM_32", "DOUBLE", "MS_ADPCM", "IMA_ADPCM")),
        *(("WAV", subtype, 1, 8_000) for subtype in ("ALAW", "ULAW")),
        *(("WAV", "PCM_24", 2, rate_hz) for rate_hz in (11_025, 96_000, 192_000)),
        ("WAVEX", "PCM_24", 8, 48_000),
        ("WAVEX", "FLOAT", 6, 192_000),
        ("RF64", "PCM_16", 2, 44_100),
        ("AIFF", "PCM_24", 2, 44_100),
        ("CAF", "ALAC_16", 2, 44_100),
        *(
            (form, "PCM_16", 1, RATE)
            for form in ("CAF", "W64", "AU", "NIST", "VOC", "AVR", "PAF", "IRCAM", "MAT5", "PVF")
        ),
    ],
)
def test_other_formats_are_read_from_bytes(form: str, subtype: str, n_channels: int, rate_hz: int) -> None:
    data = encoded(np.stack([tone(4, rate_hz)] * n_channels, axis=1), rate_hz, format=form, subtype=subtype)
    assert_tone(load_mono(data), 4, tolerance_s=0.05)


def test_nan_in_a_float_wav() -> None:
    data = encoded(np.r_[tone(1), np.nan, tone(1)], format="WAV", subtype="FLOAT")
    assert refused(data).reason == "non_finite"


# --- what is not audio ---------------------------------------------------------------------------------------

NAMED = {
    b"<html>404 not found</html>": "a web page",
    b"\xef\xbb\xbf\r\n<!DOCTYPE HTML>\n<head>": "a web page",
    b"<!-- saved --><html lang='is'>": "a web page",
    json.dumps({"error": "not found"}).encode(): "JSON",
    b'[{"id": 1}]': "JSON",
    b"\x89PNG\r\n\x1a\n" + bytes(100): "an image (PNG)",
    b"\xff\xd8\xff\xe0\0\x10JFIF" + NOISE.bytes(9_000): "an image (JPEG)",
    b"RIFF\x24\0\0\0WEBPVP8 " + bytes(50): "an image (WebP)",
    b"%PDF-1.7\n%\xe2\xe3\xcf\xd3": "a PDF",
    b"#EXTM3U\n#EXTINF:123,Song\nsong.mp3\n": "a playlist",
    b"music/a.mp3\nmusic/b.ogg\n": "a playlist",
    b"[playlist]\nFile1=http://a.b/c\n": "a playlist",
    b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk\0\0\0\x04\0\xff\x2f\0": "a MIDI file",
    b"RIFF\x30\0\0\0RMIDdata\x20\0\0\0MThd": "a MIDI file",
    b"PK\x03\x04" + NOISE.bytes(300): "a ZIP archive",
    b"\x1f\x8b\x08\0" + NOISE.bytes(300): "a gzip file",
    b'PERFORMER "x"\nFILE "a.wav" WAVE\n  TRACK 01 AUDIO\n': "a cue sheet",
    b"[00:12.00]a line of lyrics": "a text",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n": "a Git LFS pointer",
    b'<?xml version="1.0"?>\n<!DOCTYPE score-partwise>\n<score-partwise version="4.0">': "a MusicXML score",
    b"this is a text, not a song": "a text",
    "Ég á lag á ensku sem er ekki lag".encode("latin-1") * 5: "a text",
    b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom" + bytes(50): "an MPEG-4 file",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c" + bytes(50): "a Windows Media file",
    b"\xff\xf1\x50\x80\x01\x7f\xfc" + bytes(4): "an AAC file",
    b"\x1a\x45\xdf\xa3" + bytes(50): "a Matroska or WebM file",
    b"wvpk" + bytes(50): "a WavPack file",
    b"\x93NUMPY\x01\0v\0{'descr': '<f4'}": "a NumPy array",
    bytes(5_000): "data of an unknown format",
}


@pytest.mark.parametrize(("data", "name"), NAMED.items(), ids=NAMED.values())
def test_files_that_are_not_audio_are_reported_by_format(
    data: bytes, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(data)
    for audio in (path, data):
        error = refused(audio)
        assert error.reason == "unreadable"
        assert f"is not audio that can be read: expected {READABLE}, got {name}" in str(error)
        assert "; " in str(error)  # what to do
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "data",
    [
        b"fLaC\0\0\0\x22" * 100_000,
        b".snd" * 100_000,
        b"FORM\0\0\0\x04AIFF" * 100_000,
        b"RIFF\0\0\0\0WAVEfmt " * 100_000,
        b"TAG" * 100_000,
        ogg_of_packets([(b"OpusHead" + bytes(11), 0)], serial=1) * 20_000,
        b".snd",
        b"OggS",
        b"ID3\x03\0\0\0\0\0\0" * 1_000,
    ],
    ids=["FLAC", "AU", "AIFF", "WAV", "TAG", "Ogg", "short AU", "short Ogg", "ID3"],
)
def test_endless_headers_are_refused_at_once(data: bytes) -> None:
    tracemalloc.start()
    assert refused(data).reason == "unreadable"
    assert tracemalloc.get_traced_memory()[1] < 60_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["an MPEG-4 file", "a Windows Media file", "an AAC file"])
def test_errors_on_other_audio_formats_say_how_to_convert(name: str) -> None:
    data = next(data for data, each in NAMED.items() if each == name)
    assert "convert it first, for example with `ffmpeg -i FILE recording.flac`" in str(refused(data))


# --- channels that cancel ------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [-1.0, -0.97, -0.8])
def test_one_of_opposite_channels_is_used(other: float, caplog: pytest.LogCaptureFixture) -> None:
    left = tone(4)
    data = encoded(np.stack([left, other * left], axis=1), format="WAV")
    with caplog.at_level(logging.WARNING, "tritone.audio"):
        (note,) = notes_of(data)
    assert note == "channels cancel each other for 4.0 s (opposite polarity); channel 1 alone is used there"
    assert note in caplog.text
    np.testing.assert_allclose(load_mono(data), left, atol=1e-4)
    louder = np.stack([0.8 * left, -left], axis=1)
    np.testing.assert_allclose(load_mono((louder, RATE)), -left, atol=1e-4)


def test_channels_that_cancel_for_a_while() -> None:
    left = tone(4)
    right = np.where(np.arange(left.size) < left.size // 2, left, -left)
    samples = np.stack([left, right], axis=1)
    mono = load_mono((samples, RATE))
    faded = slice(left.size // 2, left.size // 2 + RATE // 100 + 1)
    assert np.abs(mono - left)[faded].max() < 0.4
    mono[faded] = left[faded]
    np.testing.assert_allclose(mono, left, atol=1e-4)
    assert notes_of((samples, RATE)) == [
        "channels cancel each other for 2.0 s (opposite polarity); channel 1 alone is used there"
    ]


def test_surround_whose_channels_cancel() -> None:
    left = tone(4)
    samples = np.stack([left, -left, *[np.zeros_like(left)] * 6], axis=1)
    np.testing.assert_allclose(load_mono((samples, RATE)), left, atol=1e-4)


def test_channels_that_do_not_cancel_are_averaged() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (4 * RATE, 2))
    for samples in (noise, np.stack([tone(4), np.zeros(4 * RATE)], axis=1), np.stack([tone(4), tone(4)], axis=1)):
        assert notes_of((samples, RATE)) == []
        np.testing.assert_allclose(load_mono((samples, RATE)), samples.mean(axis=1), atol=1e-6)
    assert refused((np.zeros((RATE, 2)), RATE)).reason == "silent"


# --- numbers in a type that is too large ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "advice"),
    [
        (pcm := np.frombuffer(PCM, "<i2").astype(np.int64), "numpy.int16"),
        (pcm.astype(np.int32), "numpy.int16"),
        (pcm.tolist(), "numpy.int16"),
        (np.stack([pcm, pcm], axis=1), "numpy.int16"),
        (pcm * 256, "samples / 8388608"),
        (pcm * 65_536, "numpy.int32"),
        ((pcm + 32_768).astype(np.uint32), "numpy.uint16"),
        ((pcm // 256 + 128).astype(np.uint64), "numpy.uint8"),
    ],
    ids=["int64", "int32", "list", "stereo", "24 bits", "32 bits", "uint32", "8 bits"],
)
def test_numbers_that_are_too_small_for_their_type_get_a_hint(samples: object, advice: str) -> None:
    error = refused((samples, RATE))  # type: ignore[arg-type]
    assert error.reason == "out_of_range"
    assert advice in str(error)
    assert "silent" not in str(error)


def test_integers_at_full_scale_and_silence_are_not_mistaken() -> None:
    full = (tone(2) * (2**31 - 1)).astype(np.int32)
    np.testing.assert_allclose(load_mono((full, RATE)), tone(2), atol=1e-6)
    quiet = (tone(2) * 2**20).astype(np.int32)  # -60 dB: a recording may be that quiet
    assert load_mono((quiet, RATE)).size == 2 * RATE
    assert refused((np.zeros(RATE, np.int64), RATE)).reason == "silent"


def _notes_on(data: bytes) -> tuple[float, list[str]]:
    notes: list[str] = []
    windows = list(iter_windows(data, on_note=notes.append))
    return windows[-1].start_s + windows[-1].covers_s, notes


def _wav_with_size(n_bytes: int) -> bytes:
    whole = io.BytesIO()
    soundfile.write(whole, 0.4 * np.sin(np.arange(4 * 22_050) / 8), 22_050, format="WAV", subtype="PCM_16")
    data = whole.getvalue()
    at = data.index(b"data") + 4
    return data[:at] + n_bytes.to_bytes(4, "little") + data[at + 4 :]


def test_a_truncated_wav_reports_how_much_is_missing() -> None:
    duration_s, notes = _notes_on(_wav_with_size(4 * 44_100)[: -2 * 44_100])
    assert duration_s == pytest.approx(2, abs=0.01)
    assert notes == ["breaks off after 2.0 of 4.0 s"]


def test_a_wav_with_data_after_its_declared_end_has_a_note() -> None:
    duration_s, notes = _notes_on(_wav_with_size(3 * 44_100))
    assert duration_s == pytest.approx(3, abs=0.01)
    assert notes == ["holds 44,100 bytes behind the end that its header gives; they are not read"]


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF])
def test_a_streamed_wav_is_whole(size: int) -> None:
    duration_s, notes = _notes_on(_wav_with_size(size))
    assert (duration_s, notes) == (pytest.approx(4, abs=0.01), [])


def test_another_format_after_an_mp3_is_reported() -> None:
    sound = 0.4 * np.sin(np.arange(4 * 22_050) / 8)
    mp3, wav = io.BytesIO(), io.BytesIO()
    soundfile.write(mp3, sound, 22_050, format="MP3")
    soundfile.write(wav, sound, 22_050, format="WAV")
    _, notes = _notes_on(mp3.getvalue() + wav.getvalue())
    assert notes == ["holds 176,444 bytes after its last MP3 frame that are not MP3; they are not read"]
    tag = b"APETAGEX" + bytes(40_000)
    assert _notes_on(mp3.getvalue() + tag)[1] == []


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), bytes(5_000), b"APETAGEX" + bytes(24)])
def test_data_after_a_flac_file_is_not_an_error(tail: bytes) -> None:
    flac = io.BytesIO()
    soundfile.write(flac, 0.4 * np.sin(np.arange(4 * 22_050) / 8), 22_050, format="FLAC")
    assert _notes_on(flac.getvalue() + tail)[0] == pytest.approx(4, abs=0.01)
    with pytest.raises(InvalidAudioError):
        load_mono(flac.getvalue()[:-20_000])
