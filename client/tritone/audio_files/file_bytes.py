"""Buffered random access to the bytes of a file, for parsers."""

from __future__ import annotations

import re
from typing import BinaryIO, Final

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

    def at(self, position: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes` bytes from a position; fewer at the end of the file."""
        offset = position - self._start
        if offset < 0 or offset + n_bytes > len(self._block):
            self._load(position, max(n_bytes, _BLOCK_BYTES))
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
