"""A seekable binary file made of segments of another file, so that libsndfile reads one stream at a time."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, BinaryIO, Final, TypeAlias

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
