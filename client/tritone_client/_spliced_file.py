"""A seekable binary file made of ranges of another one, so that libsndfile reads one stream at a time."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, BinaryIO, Final, TypeAlias

Piece: TypeAlias = "range | bytes"  # positions in the underlying file, or bytes that take the place of some of them

_BUFFER_BYTES: Final = 1 << 16  # decoders read a few bytes at a time; larger reads spare calls into Python


class SplicedFile(io.RawIOBase):
    """The concatenation of pieces of a binary file, without copying them.

    A failed read looks like the end of the file to a decoder written in C, which cannot pass on exceptions: it is kept
    in `error` for the caller to check.

    Args:
        source: seekable; nobody else may move its position while this one is read.
        pieces: in order; empty ones are allowed.
    """

    def __init__(self, source: BinaryIO, pieces: Iterable[Piece]) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._source = source
        self._pieces = [piece for piece in pieces if len(piece)]
        self._starts = [0, *accumulate(len(piece) for piece in self._pieces)]
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
        piece = self._pieces[index][self._position - self._starts[index] :][: len(buffer)]
        if isinstance(piece, range):
            try:
                self._source.seek(piece.start)
                piece = self._source.read(len(piece))
            except (OSError, ValueError) as error:
                self.error = error
                return 0
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def buffered(self) -> io.BufferedReader:
        """Return the file to hand to a decoder."""
        return io.BufferedReader(self, _BUFFER_BYTES)
