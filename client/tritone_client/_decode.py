"""Any recording as blocks of mono samples at 22,050 Hz; libsndfile's and soxr's errors end here.

Letters: S samples, C channels.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from tritone_client._exceptions import InvalidAudioError
from tritone_client.constants import SAMPLE_RATE_HZ

FloatArray: TypeAlias = npt.NDArray[np.float32]
Audio: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | tuple[npt.ArrayLike, int]"
Fail: TypeAlias = Callable[[str, str], InvalidAudioError]

N_BLOCK_VALUES: Final = 1 << 20  # decoded at a time, all channels together: 4 MB whatever the rate and channels
RATES_HZ: Final = range(100, 1_000_001)
N_CHANNELS_MAX: Final = 64  # more columns than this are samples in the wrong axis
SPOOL_BYTES: Final = 1 << 24  # a stream that cannot be rewound is kept in memory up to here, then on disk
# FLAC and MP3 count their frames in the header; what is missing beyond this was cut off. Formats whose
# header cannot be trusted (a WAV that was streamed says 4 GB) are read as far as they go.
MISSING_S: Final = 0.5


def describe(audio: Audio) -> str:
    """Name a recording for messages: its path, or a word for where it came from."""
    if isinstance(audio, str | os.PathLike):
        return str(audio)
    if isinstance(audio, bytes | bytearray | memoryview):
        return f"<{len(audio)} bytes>"
    if isinstance(audio, tuple):
        return "<samples>"
    return str(getattr(audio, "name", "<file object>"))


def iter_mono_blocks(audio: Audio) -> Iterator[FloatArray]:
    """Decode block by block and bring each to mono at 22,050 Hz.

    Yields:
        (S,) float32; S may be 0. A block with samples that are not finite comes as it was decoded.

    Raises:
        InvalidAudioError: if it cannot be decoded.
    """
    name = describe(audio)

    def fail(reason: str, what: str) -> InvalidAudioError:
        return InvalidAudioError(f"{name}: {what}", path=name, reason=reason)

    if isinstance(audio, tuple):
        samples, rate_hz = _checked_samples(audio, fail)
        yield from _resampled(_blocks_of(samples), rate_hz)
        return
    with _opened(audio, fail) as file:
        if file.samplerate not in RATES_HZ:
            raise fail("unreadable", f"claims {file.samplerate} samples a second; expected 100 to 1,000,000")
        yield from _resampled(_decoded_blocks(file, fail), file.samplerate)


def _resampled(blocks: Iterator[FloatArray], rate_hz: int) -> Iterator[FloatArray]:
    if rate_hz == SAMPLE_RATE_HZ:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32")
    for block in blocks:
        if not np.isfinite(block).all():
            yield block  # for the caller to judge, before the filter smears it over its neighbours
            return
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


@contextmanager
def _opened(
    audio: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO, fail: Fail
) -> Iterator[soundfile.SoundFile]:
    with ExitStack() as stack:
        source: bytes | BinaryIO
        if isinstance(audio, str | os.PathLike):
            source = _checked_path(Path(audio), fail)
        elif isinstance(audio, bytes | bytearray | memoryview):
            if not len(audio):
                raise fail("empty", "no bytes were given")
            source = io.BytesIO(audio)
        elif callable(getattr(audio, "read", None)):
            source = _rewound(audio, stack, fail)
        else:
            raise fail(
                "bad_shape",
                f"a recording is a path, bytes, a binary file object or (samples, rate_hz), not {type(audio).__name__}",
            )
        try:
            file = stack.enter_context(soundfile.SoundFile(source))
        except (soundfile.LibsndfileError, TypeError, OSError) as error:
            raise fail(
                "unreadable",
                f"is not audio that libsndfile can read ({_reason(error)}); "
                f"WAV, FLAC, Ogg, Opus, MP3, AIFF and their kin are",
            ) from error
        yield file


def _checked_path(path: Path, fail: Fail) -> bytes:
    """The path as the system writes it: a name's bytes may be no text, and soundfile would not encode them."""
    try:
        if not path.exists():
            raise fail("missing", "does not exist")
        if not path.is_file():
            raise fail("missing", "is a folder, not a file" if path.is_dir() else "is not a regular file")
        if path.stat().st_size == 0:
            raise fail("empty", "is an empty file")
        with path.open("rb"):  # libsndfile only says "system error" where the system says why
            return os.fsencode(path)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidAudioError):
            raise
        raise fail("unreadable", f"cannot be opened ({error})") from error


def _rewound(stream: BinaryIO, stack: ExitStack, fail: Fail) -> BinaryIO:
    """A file object at its beginning that libsndfile can seek in."""
    try:
        if not isinstance(stream.read(0), bytes):
            raise fail("unreadable", "is a text file object; open it in binary mode ('rb')")
        if getattr(stream, "seekable", lambda: False)():
            stream.seek(0, io.SEEK_END)
            if stream.tell() == 0:
                raise fail("empty", "is an empty file object")
            stream.seek(0)
            return stream
        # libsndfile must seek; pipes and sockets cannot.
        spooled = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - the stack closes it
        spool = cast(BinaryIO, stack.enter_context(spooled))
        shutil.copyfileobj(stream, spool)
        if spool.tell() == 0:
            raise fail("empty", "the stream ended at once (it can be read only once)")
        spool.seek(0)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidAudioError):
            raise
        raise fail("unreadable", f"cannot be read ({error})") from error
    return spool


def _decoded_blocks(file: soundfile.SoundFile, fail: Fail) -> Iterator[FloatArray]:
    n_frames = max(1, N_BLOCK_VALUES // file.channels)
    n_read = 0
    while True:
        try:
            block = file.read(n_frames, dtype="float32", always_2d=True)  # (S, C)
        except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
            raise fail("unreadable", f"is damaged or cut off ({_reason(error)}); copy or download it again") from error
        if not len(block):
            break
        n_read += len(block)
        yield _mixed_down(block)
    if file.frames - n_read > MISSING_S * file.samplerate:
        raise fail(
            "unreadable",
            f"breaks off after {n_read / file.samplerate:.1f} of {file.frames / file.samplerate:.1f} s; "
            f"copy or download it again",
        )


def _reason(error: Exception) -> str:
    """What libsndfile says, without the object's address that soundfile puts before it."""
    return str(getattr(error, "error_string", error)).rstrip(".")


def _checked_samples(audio: tuple[npt.ArrayLike, int], fail: Fail) -> tuple[npt.NDArray[np.generic], int]:
    if len(audio) != 2:
        raise fail("bad_shape", f"expected (samples, rate_hz), got {len(audio)} values")
    rate_hz = audio[1]
    try:
        samples = np.asarray(audio[0])
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that live elsewhere
        raise fail("bad_shape", f"samples are not an array of numbers ({error})") from error
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, int | np.integer) or int(rate_hz) not in RATES_HZ:
        raise fail(
            "bad_shape",
            f"rate_hz is {rate_hz!r}; expected a whole number of samples a second, 100 to 1,000,000",
        )
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise fail(
            "bad_shape",
            f"samples have shape {samples.shape} and type {samples.dtype}; "
            f"expected numbers of shape (n_samples,) or (n_samples, n_channels)",
        )
    if samples.ndim == 2 and not 1 <= samples.shape[1] <= N_CHANNELS_MAX:
        hint = "; time comes first: pass samples.T" if samples.shape[0] <= N_CHANNELS_MAX else ""
        raise fail(
            "bad_shape",
            f"samples have shape {samples.shape}, which reads as {samples.shape[1]} channels{hint}",
        )
    return samples, int(rate_hz)


def _blocks_of(samples: npt.NDArray[np.generic]) -> Iterator[FloatArray]:
    """(S,) or (S, C) -> blocks of (S,)."""
    n_frames = max(1, N_BLOCK_VALUES // (1 if samples.ndim == 1 else samples.shape[1]))
    for start in range(0, len(samples), n_frames):
        block = _scaled(samples[start : start + n_frames])
        yield _mixed_down(block if block.ndim == 2 else block[:, None])


def _scaled(block: npt.NDArray[np.generic]) -> FloatArray:
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite and is judged as that
            return block.astype(np.float32)
    info = np.iinfo(cast("np.dtype[np.integer[Any]]", block.dtype))
    half = (float(info.max) - float(info.min) + 1) / 2
    middle = half if block.dtype.kind == "u" else 0.0  # unsigned samples swing around their middle
    return ((block.astype(np.float64) - middle) / half).astype(np.float32)


def _mixed_down(block: FloatArray) -> FloatArray:
    """(S, C) -> (S,): the mean of the channels."""
    if block.shape[1] == 1:
        return block[:, 0]
    with np.errstate(invalid="ignore", over="ignore"):  # infinities may meet here; the caller judges them
        mixed: FloatArray = block.mean(axis=1, dtype=np.float32)
    return mixed
