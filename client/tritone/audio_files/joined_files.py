"""The recordings of a WAV, AIFF, AU or FLAC file: one, or several that were joined end to end.

libsndfile reads only the first of several, or none, and treats a WAV file with a size of 0, as interrupted recorders
leave it, as empty.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sized
from typing import Final, Literal

from tritone.audio_files.file_bytes import FileBytes
from tritone.audio_files.spliced_file import Segment

N_PARTS_MAX: Final = 10_000  # recordings in one file; each costs memory before anything is decoded
_WAV: Final = re.compile(rb"(?:RIFF|RIFX|RF64)....WAVE(?:fmt |ds64|JUNK|bext|LIST|fact)", re.DOTALL)
_FLAC: Final = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_AU_HEADER_BYTES: Final = 24
_LARGEST_SIZE: Final = 0xFFFF_FFFF  # also means "unknown"
_STREAMED_SIZE: Final = 0x7FFF_0000  # sizes from here on mean that a writer of a stream did not know the size
_MISSING_S: Final = 0.5  # seconds; shorter losses are not noted
_UNKNOWN: Final = b"\xff\xff\xff\xff"


def check_count(parts: Sized) -> bool:
    """Return True, unless a file has too many parts to read another one.

    Raises:
        ValueError: there are N_PARTS_MAX parts already; the file is probably damaged.
    """
    if len(parts) >= N_PARTS_MAX:
        raise ValueError(f"it holds {N_PARTS_MAX} streams or more")
    return True


def wav_parts(data: FileBytes, start: int, note: Callable[[str], None]) -> list[list[Segment]]:
    """Return the segments of each WAV file (RIFF, RIFX or RF64), with sizes of 0 replaced by "unknown".

    Args:
        note: receives how much is missing or not read.
    """
    parts: list[list[Segment]] = []
    while check_count(parts) and _WAV.match(data.at(start, 16)):
        end, size_at = _wav_end(data, start, note)
        segments: list[Segment] = [range(start, end)]
        if size_at is not None:
            magic = b"RIFX" if data.at(start, 4) == b"RIFX" else b"RIFF"
            segments = [magic, _UNKNOWN, range(start + 8, size_at), _UNKNOWN, range(size_at + 4, end)]
        parts.append(segments)
        start = end
    return parts or [[range(start, data.size)]]


def _wav_end(data: FileBytes, start: int, note: Callable[[str], None]) -> tuple[int, int | None]:
    """Return (end of the WAV file, position of the size of its data chunk if that must be replaced, else None)."""
    order: Literal["little", "big"] = "big" if data.at(start, 4) == b"RIFX" else "little"
    position = start + 12
    long_size: int | None = None  # RF64 keeps the size of its samples in a chunk of its own
    has_samples, bytes_per_s = False, 1
    while position + 8 <= data.size and not _WAV.match(data.at(position, 16)):
        name = data.at(position, 4)
        size = int.from_bytes(data.at(position + 4, 4), order)
        if has_samples and (not _is_name(name) or position + 8 + size > data.size + 1):
            if (n_after := data.size - position) > _MISSING_S * bytes_per_s:
                note(f"holds {n_after:,} bytes behind the end that its header gives; they are not read")
            return data.size, None
        if name == b"fmt ":
            bytes_per_s = max(1, int.from_bytes(data.at(position + 16, 4), order))
        if name == b"ds64":
            long_size = int.from_bytes(data.at(position + 16, 8), "little")
        if name == b"data":
            if size == _LARGEST_SIZE and long_size is not None:
                size = long_size
            has_samples = True
            is_unset = size == 0 and not _is_chunk(data, position + 8)
            if is_unset or position + 8 + size > data.size:  # streamed: the samples go on until another file begins
                there_s, claimed_s = (n / bytes_per_s for n in (data.size - position - 8, size))
                if size < _STREAMED_SIZE and claimed_s - there_s > _MISSING_S:
                    note(f"breaks off after {there_s:.1f} of {claimed_s:.1f} s")
                return data.find(_WAV, position + 8) or data.size, position + 4 if is_unset else None
        position += 8 + size
        if size % 2 and not _WAV.match(data.at(position, 16)):
            position += 1  # chunks are padded to even sizes
    return min(position, data.size) if _WAV.match(data.at(position, 16)) else data.size, None


def _is_name(name: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in name)


def _is_chunk(data: FileBytes, position: int) -> bool:
    """Return whether a chunk or the end of the file is at this position."""
    name = data.at(position, 4)
    size = int.from_bytes(data.at(position + 4, 4), "little")
    return len(name) < 4 or (name.isalnum() and position + 8 + size <= data.size + 1)


def aiff_parts(data: FileBytes, start: int) -> list[list[Segment]]:
    """Return the segments of each AIFF file."""
    parts: list[list[Segment]] = []
    while check_count(parts) and data.at(start, 4) == b"FORM" and data.at(start + 8, 4) in {b"AIFF", b"AIFC"}:
        end = start + 8 + int.from_bytes(data.at(start + 4, 4), "big")
        end = next((each for each in (end, end + 1) if data.at(each, 4) == b"FORM"), data.size)
        parts.append([range(start, end)])
        start = end
    return parts or [[range(start, data.size)]]


def au_parts(data: FileBytes, start: int) -> list[list[Segment]]:
    """Return the segments of each AU file (big-endian; the rare little-endian ones are not split)."""
    parts: list[list[Segment]] = []
    while check_count(parts) and data.at(start, 4) == b".snd":
        n_header, n_samples = (int.from_bytes(data.at(start + at, 4), "big") for at in (4, 8))
        end = start + max(n_header, _AU_HEADER_BYTES) + n_samples
        end = end if data.at(end, 4) == b".snd" else data.size
        parts.append([range(start, end)])
        start = end
    return parts or [[range(start, data.size)]]


def flac_parts(data: FileBytes, start: int) -> list[list[Segment]]:
    """Return the segments of each FLAC file."""
    parts: list[list[Segment]] = []
    while check_count(parts) and start < data.size:
        end = data.find(_FLAC, start + 4) or data.size
        parts.append([range(start, end)])
        start = end
    return parts
