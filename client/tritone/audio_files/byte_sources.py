"""Access to the bytes of a file: buffered reads at any position, and files made of segments of another one."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Iterable, Sized
from itertools import accumulate
from typing import Any, BinaryIO, Final, TypeAlias

_FIRST_BLOCK_BYTES: Final = 1 << 14  # has the header; of many formats, little else is read
_BLOCK_BYTES: Final = 1 << 18
_OVERLAP_BYTES: Final = 64  # of the longest match that `find` supports


class FileBytes:
    """Random access to a seekable file through one cached block.

    Attributes:
        size: of the file in bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, 2)
        self._start = 0
        self._block = b""
        self._n_load = _FIRST_BLOCK_BYTES

    def at(self, position: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes` bytes from a position; fewer at the end of the file."""
        offset = position - self._start
        if offset < 0 or offset + n_bytes > len(self._block):
            self._load(position, max(n_bytes, self._n_load))
            self._n_load = _BLOCK_BYTES
            offset = 0
        return self._block[offset : offset + n_bytes]

    def find(self, pattern: re.Pattern[bytes], start: int, end: int | None = None) -> int | None:
        """Return the position of the first match that begins in `start..end`, or None."""
        end = self.size if end is None else min(end, self.size)
        while start < end:
            if not 0 <= start - self._start < len(self._block) - _OVERLAP_BYTES:
                self._load(start, _BLOCK_BYTES)
            match = pattern.search(self._block, start - self._start)
            if match is not None:
                found = self._start + match.start()
                return found if found < end else None
            block_end = self._start + len(self._block)
            if block_end >= self.size or not self._block:
                return None
            start = max(start + 1, block_end - _OVERLAP_BYTES)
        return None

    def _load(self, position: int, n_bytes: int) -> None:
        self.file.seek(position)
        self._start, self._block = position, self.file.read(n_bytes)


Segment: TypeAlias = "range | bytes"  # positions in the underlying file, or bytes to insert

_BUFFER_BYTES: Final = 1 << 16  # decoders read a few bytes at a time; larger reads save calls into Python


class SplicedFile(io.RawIOBase):
    """The concatenation of segments of a binary file, without copying them.

    Decoders written in C cannot pass on exceptions: a failed read returns nothing, as at the end of the file, and keeps
    the exception in `error` for the caller to check.

    Args:
        source: seekable; its position must not be moved elsewhere while this file is read.
        segments: in order; empty ones are allowed.
    """

    def __init__(self, source: BinaryIO, segments: Iterable[Segment]) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._source = source
        self._segments = [segment for segment in segments if len(segment)]
        self._starts = [0, *accumulate(len(segment) for segment in self._segments)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._starts[-1]:
            return 0
        index = bisect_right(self._starts, self._position) - 1
        segment = self._segments[index][self._position - self._starts[index] :][: len(buffer)]
        if isinstance(segment, range):
            try:
                self._source.seek(segment.start)
                segment = self._source.read(len(segment))
            except (OSError, ValueError) as error:
                self.error = error
                return 0
        buffer[: len(segment)] = segment
        self._position += len(segment)
        return len(segment)

    def buffered(self) -> io.BufferedReader:
        """Return the file to hand to a decoder."""
        return io.BufferedReader(self, _BUFFER_BYTES)


N_PARTS_MAX: Final = 10_000  # recordings in one file; each costs memory before anything is decoded


def check_count(parts: Sized) -> bool:
    """Return True, unless a file has too many parts to read another one.

    Raises:
        ValueError: there are N_PARTS_MAX parts already; the file is probably damaged.
    """
    if len(parts) >= N_PARTS_MAX:
        raise ValueError(f"it holds {N_PARTS_MAX} streams or more")
    return True
