"""Decode any recording to blocks of mono samples at 22,050 Hz; translate the errors of libsndfile and soxr.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import ctypes
import io
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from tritone.audio_files.byte_sources import SplicedFile
from tritone.audio_files.containers import MISSING_S, AudioPart, Fail, Note, audio_parts, not_audio
from tritone.audio_files.formats import READABLE, UNKNOWN
from tritone.audio_files.samples import RATES_HZ, Mixer, checked_samples, sample_blocks
from tritone.constants import SAMPLE_RATE_HZ
from tritone.exceptions import InvalidAudioError

_LOCK: Final = threading.Lock()


class _Stream(NamedTuple):
    variable: ctypes.c_void_p
    original: int | None
    null_stream: int


class _Depth:
    """Number of threads that are within `quiet_decoder`."""

    n = 0


@cache
def _streams() -> tuple[_Stream, ...]:
    """Return the C library's variables `stdout` and `stderr`, their values, and a stream to /dev/null.

    There are none where they cannot be set.
    """
    if platform.libc_ver()[0] != "glibc":  # in other C libraries they may be constants
        return ()
    c_library = ctypes.CDLL(None)
    c_library.fopen.restype = ctypes.c_void_p
    null_stream = c_library.fopen(b"/dev/null", b"we")
    if not null_stream:
        return ()
    variables = [ctypes.c_void_p.in_dll(c_library, name) for name in ("stdout", "stderr")]
    return tuple(_Stream(variable, variable.value, null_stream) for variable in variables)


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """Discard what C code prints to `stdout` and `stderr` within the block; several threads may be in such blocks.

    mpg123, the MP3 decoder inside libsndfile, prints warnings with `fprintf(stderr, ...)`, and libsndfile has no way to
    turn that off (https://github.com/libsndfile/libsndfile/issues/958). Its decoder of MIDI sample dumps prints two
    lines for each damaged block with `printf`. Redirecting file descriptors 1 and 2 would take the output of all other
    threads and of processes started meanwhile. The C library's `stdout` and `stderr` are variables: for the duration of
    the block they point to a stream that writes to /dev/null, which affects only C code that prints then.
    """
    with _LOCK:
        streams = _streams()
        _Depth.n += 1
        for stream in streams:
            stream.variable.value = stream.null_stream
    try:
        yield
    finally:
        with _LOCK:
            _Depth.n -= 1
            for stream in streams if _Depth.n == 0 else ():
                stream.variable.value = stream.original


def _restore_in_child() -> None:
    """Restore the streams after a fork: the threads that would restore them do not exist in the child."""
    _Depth.n = 0
    for stream in _streams():
        stream.variable.value = stream.original
    _LOCK.release()


os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_restore_in_child)


FloatArray: TypeAlias = npt.NDArray[np.float32]
Audio: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | tuple[npt.ArrayLike, int]"

# Decoded at a time, all channels together, and made of it: 4 MB whatever the rate and channels. Of 100 Hz, resampling
# makes 220 times as many.
N_BLOCK_VALUES: Final = 1 << 20
# Detuned instruments cancel each other for moments: shorter cancellations are not reported.
_NOTED_S: Final = 1.0
_NOTED_SHARE: Final = 0.1
_N_FRAMES_BEYOND: Final = 1 << 14  # read at a time beyond the length in the header
_LONGEST_CLAIM_S: Final = 1e9  # a header without a length is read as an even longer one
UNKNOWN_FRAMES: Final = 1 << 62  # libsndfile returns about 1 << 63 where the header has no length
SPOOL_BYTES: Final = 1 << 24  # a stream that cannot be rewound is kept in memory up to here, then on disk


def describe(audio: Audio) -> str:
    """Return the name of a recording for messages: its path, or a description such as `<512 bytes>`."""
    if isinstance(audio, str | os.PathLike):
        return str(audio)
    if isinstance(audio, bytes | bytearray | memoryview):
        return f"<{len(audio)} bytes>"
    if isinstance(audio, tuple):
        return "<samples>"
    return str(getattr(audio, "name", "<file object>"))


def too_long(max_duration_s: float, duration: str) -> str:
    """Return the problem with a recording that is longer than a limit."""
    return f"is too long: expected at most {max_duration_s:.0f} s, got {duration}; split it, or raise the limit"


def iter_mono_blocks(audio: Audio, note: Note, *, max_duration_s: float | None = None) -> Iterator[FloatArray]:
    """Decode block by block and bring each to mono at 22,050 Hz.

    Args:
        audio: as `tritone.audio.iter_windows` takes it.
        note: called with each warning about a usable recording.
        max_duration_s: a file whose header claims a longer recording is not decoded; None for no limit.

    Yields:
        (S,) float32; S may be 0. A block with non-finite samples is passed on without resampling.

    Raises:
        InvalidAudioError: the recording cannot be decoded.
    """
    name = describe(audio)

    def fail(reason: str, what: str) -> InvalidAudioError:
        return InvalidAudioError(f"{name}: {what}", path=name, reason=reason)

    if isinstance(audio, tuple):
        samples, rate_hz = checked_samples(audio, fail)
        n_channels = 1 if samples.ndim == 1 else samples.shape[1]
        yield from _mono(sample_blocks(samples, _n_block_frames(rate_hz, n_channels)), rate_hz, note)
        return
    with _opened(audio, fail) as source:
        try:
            parts = audio_parts(source, fail, note)
        except InvalidAudioError:
            raise
        except (OSError, ValueError) as error:
            raise fail("unreadable", f"cannot be read ({error})") from error
        descriptor = _descriptor(source) if isinstance(audio, str | os.PathLike) else None
        decoded_s = 0.0
        for number, part in enumerate(parts, 1):
            where = f"part {number} of {len(parts)}, from {decoded_s:.1f} s on, " if len(parts) > 1 else ""
            with _decoder(source, part, where, fail, descriptor) as decoder:
                claimed_s = decoded_s + decoder.file.frames / decoder.file.samplerate
                if max_duration_s is not None and max_duration_s < claimed_s < _LONGEST_CLAIM_S:
                    raise fail("too_long", too_long(max_duration_s, f"{claimed_s:.0f} s"))
                yield from _mono(decoder.blocks(), decoder.file.samplerate, note)
                decoded_s += decoder.n_read / decoder.file.samplerate


def _n_block_frames(rate_hz: int, n_channels: int) -> int:
    """Return how many samples of each channel to decode at a time, with at most `N_BLOCK_VALUES` before and after."""
    return max(1, min(N_BLOCK_VALUES // n_channels, N_BLOCK_VALUES * rate_hz // SAMPLE_RATE_HZ))


def _mono(blocks: Iterator[FloatArray], rate_hz: int, note: Note) -> Iterator[FloatArray]:
    """(S, C) at any rate -> (S,) at 22,050 Hz."""
    mixer = Mixer(rate_hz)
    yield from _resampled(map(mixer.mix, blocks), rate_hz)
    if mixer.n_cancelled > min(_NOTED_S * rate_hz, _NOTED_SHARE * mixer.n_mixed):
        note(
            f"channels cancel each other for {mixer.n_cancelled / rate_hz:.1f} s (opposite polarity); "
            f"channel {mixer.channel + 1} alone is used there"
        )


def _resampled(blocks: Iterator[FloatArray], rate_hz: int) -> Iterator[FloatArray]:
    if rate_hz == SAMPLE_RATE_HZ:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
    for block in blocks:
        if not np.isfinite(block).all():
            yield block  # non-finite samples, which the caller reports; the filter would spread them
            return
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


@contextmanager
def _opened(
    audio: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO, fail: Fail
) -> Iterator[BinaryIO]:
    """Yield a seekable binary file that is not empty."""
    with ExitStack() as stack:
        if isinstance(audio, str | os.PathLike):
            yield stack.enter_context(_opened_path(Path(audio), fail))
        elif isinstance(audio, bytes | bytearray | memoryview):
            if not len(audio):
                raise fail("empty", "no bytes were given")
            yield io.BytesIO(audio)
        elif callable(getattr(audio, "read", None)):
            yield _rewound(audio, stack, fail)
        else:
            raise fail(
                "bad_shape",
                f"invalid recording: expected a path, bytes, a binary file object or (samples, rate_hz), got "
                f"{type(audio).__name__}",
            )


def _opened_path(path: Path, fail: Fail) -> BinaryIO:
    try:
        if not path.exists():
            raise fail("missing", "does not exist")
        if not path.is_file():
            raise fail("missing", "is a folder, not a file" if path.is_dir() else "is not a regular file")
        if path.stat().st_size == 0:
            raise fail("empty", "is an empty file")
        return path.open("rb")
    except InvalidAudioError:  # a ValueError itself
        raise
    except (OSError, ValueError) as error:
        raise fail("unreadable", f"cannot be opened ({error})") from error


def _rewound(stream: BinaryIO, stack: ExitStack, fail: Fail) -> BinaryIO:
    """Return a seekable file object at its beginning."""
    try:
        if not isinstance(stream.read(0), bytes):
            raise fail("unreadable", "is a text file object: expected a binary one; open it in binary mode ('rb')")
        if getattr(stream, "seekable", lambda: False)():
            stream.seek(0, io.SEEK_END)
            if stream.tell() == 0:
                raise fail("empty", "is an empty file object")
            stream.seek(0)
            return stream
        # libsndfile needs to seek, which pipes and sockets do not support.
        spooled = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - the stack closes it
        spool = cast(BinaryIO, stack.enter_context(spooled))
        shutil.copyfileobj(stream, spool)
        if spool.tell() == 0:
            raise fail("empty", "the stream ended at once (it can be read only once)")
        spool.seek(0)
    except InvalidAudioError:
        raise
    except (OSError, ValueError) as error:
        raise fail("unreadable", f"cannot be read ({error})") from error
    return spool


class _Decoder:
    """Decodes one part of a file with libsndfile.

    Attributes:
        file: what libsndfile opened.
        n_read: samples of each channel that were decoded so far.
    """

    def __init__(
        self, part: AudioPart, bytes_: SplicedFile, where: str, fail: Fail, descriptor: int | None = None
    ) -> None:
        """Open the part.

        Args:
            part: which part of the file.
            bytes_: its content.
            where: names the part in messages.
            fail: makes an error.
            descriptor: of an open file with the same content; None if there is none.
        """
        self.n_read = 0
        self._bytes = bytes_
        self._where = where
        self._fail = fail
        try:
            with quiet_decoder():
                if descriptor is None:
                    self.file = soundfile.SoundFile(bytes_.buffered())
                else:
                    self.file = soundfile.SoundFile(descriptor, closefd=False)
        except (soundfile.LibsndfileError, TypeError, OSError) as error:
            self._check_bytes()
            if not part.is_recognised:
                raise not_audio(fail, UNKNOWN) from error
            raise fail(
                "unreadable",
                f"{where}is not audio that can be read ({_reason(error)}): expected {READABLE}; "
                f"copy, download or convert it again",
            ) from error
        # soundfile seeks after each read of a seekable file, which fails where the length is not known in advance.
        self.file.seekable = lambda: False
        if self.file.samplerate not in RATES_HZ:
            raise fail(
                "unreadable",
                f"{where}has an invalid sample rate: expected 100 to 1,000,000 Hz, got {self.file.samplerate} Hz",
            )

    def blocks(self) -> Iterator[FloatArray]:
        """Yield (S, C) until the part ends."""
        file = self.file
        n_frames = _n_block_frames(file.samplerate, file.channels)
        while True:
            try:
                with quiet_decoder():
                    # libsndfile reports data after the last frame of a FLAC file, such as a tag, as an error. Of other
                    # formats, a header may claim too little. It fills the rest of a buffer with zeros, so that large
                    # buffers for short files would take longer than decoding them.
                    n_left = file.frames - self.n_read
                    n_wanted = n_left if file.format == "FLAC" else max(n_left, _N_FRAMES_BEYOND)
                    block = file.read(min(n_frames, n_wanted), dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
                self._check_bytes()
                raise self._fail(
                    "unreadable", f"{self._where}is damaged or cut off ({_reason(error)}); copy or download it again"
                ) from error
            self._check_bytes()
            if not len(block):
                break
            self.n_read += len(block)
            yield block
        if file.frames < UNKNOWN_FRAMES and file.frames - self.n_read > MISSING_S * file.samplerate:
            raise self._fail(
                "unreadable",
                f"{self._where}breaks off after {self.n_read / file.samplerate:.1f} of "
                f"{file.frames / file.samplerate:.1f} s; copy or download it again",
            )

    def _check_bytes(self) -> None:
        """Raise the error of reading the file, which libsndfile cannot pass on and treats as the end of the file."""
        if self._bytes.error is not None:
            raise self._fail("unreadable", f"cannot be read ({self._bytes.error})") from self._bytes.error


def _descriptor(source: BinaryIO) -> int | None:
    """Return the descriptor of an opened file; None if the object is something else."""
    return source.fileno() if isinstance(source, io.BufferedReader) and isinstance(source.raw, io.FileIO) else None


@contextmanager
def _decoder(source: BinaryIO, part: AudioPart, where: str, fail: Fail, descriptor: int | None) -> Iterator[_Decoder]:
    """Open a part of a file.

    libsndfile reads a file faster by itself than through Python, which is possible where the part is the whole file.

    Args:
        descriptor: of the file; None if only `source` can read it.
    """
    if descriptor is not None and list(part.segments) == [range(os.fstat(descriptor).st_size)]:
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        descriptor = None
    decoder = _Decoder(part, SplicedFile(source, part.segments), where, fail, descriptor)
    with decoder.file:
        yield decoder


def _reason(error: Exception) -> str:
    """Return the message of libsndfile, without the object address that soundfile prepends."""
    return str(getattr(error, "error_string", error)).rstrip(".")
