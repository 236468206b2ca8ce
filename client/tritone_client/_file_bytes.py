"""Bytes of a file by position, for parsers that look at a little here and there."""

from __future__ import annotations

import re
from typing import BinaryIO, Final

_BLOCK_BYTES: Final = 1 << 18
_OVERLAP_BYTES: Final = 64  # the longest pattern that `find` is asked for


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
        if 0 <= offset and offset + n_bytes <= len(self._block):
            return self._block[offset : offset + n_bytes]
        self.file.seek(position)
        self._start, self._block = position, self.file.read(max(n_bytes, _BLOCK_BYTES))
        return self._block[:n_bytes]

    def find(self, pattern: re.Pattern[bytes], start: int, end: int | None = None) -> int | None:
        """Return the position of the first match that begins in `start..end`, or None."""
        end = self.size if end is None else min(end, self.size)
        while start < end:
            block = self.at(start, _BLOCK_BYTES)
            match = pattern.search(block)
            if match:
                return start + match.start() if start + match.start() < end else None
            start += max(len(block) - _OVERLAP_BYTES, 1) if len(block) > _OVERLAP_BYTES else _BLOCK_BYTES
        return None
