"""Where each field of a pbtxt file stands.

Protobuf's own text parser tells lines only in its errors, and stops at the first; lint wants the line of
every field, known or not. So this reads the nesting alone and leaves types and values to protobuf.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

# ("input", 0), ("dims", 0): the first `dims` of the first `input`.
FieldPath: TypeAlias = tuple[tuple[str, int], ...]

_TOKEN: Final = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<mark>[{}<>\[\]:,;])
      | (?P<word>[^\s{}<>\[\]:,;"'\#]+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_CLOSING: Final = {"{": "}", "<": ">"}


@dataclass(frozen=True)
class Source:
    """The lines of a file's fields.

    Attributes:
        lines: path of a field -> its line, counted from 1.
    """

    lines: Mapping[FieldPath, int] = field(default_factory=dict)

    def line(self, *path: tuple[str, int] | str) -> int:
        """The line of a field, or of the nearest enclosing one that is written out.

        Args:
            path: names, or (name, index) for repeated fields.
        """
        full: FieldPath = tuple((step, 0) if isinstance(step, str) else step for step in path)
        for n in range(len(full), 0, -1):
            if full[:n] in self.lines:
                return self.lines[full[:n]]
        return 1


def read_source(text: str) -> Source:
    """Find the fields of a pbtxt file; of a malformed one, those before the fault."""
    reader = _Reader(text)
    reader.read_message((), None)
    return Source(reader.lines)


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines: dict[FieldPath, int] = {}
        self._tokens = list(_tokens(text))
        self._at = 0

    def read_message(self, path: FieldPath, closing: str | None) -> None:
        counts: Counter[str] = Counter()
        while (token := self._next()) is not None:
            text, line = token
            if text == closing:
                return
            if text in {",", ";"}:
                continue
            if self._peek() == ":":
                self._next()
            self._read_values(path, text, line, counts)

    def _read_values(self, path: FieldPath, name: str, line: int, counts: Counter[str]) -> None:
        if self._peek() != "[":
            self._read_value((*path, (name, counts[name])), line)
            counts[name] += 1
            return
        self._next()
        while (mark := self._peek()) is not None and mark != "]":
            if mark == ",":
                self._next()
                continue
            self._read_value((*path, (name, counts[name])), self._tokens[self._at][1])
            counts[name] += 1
        self._next()

    def _read_value(self, path: FieldPath, line: int) -> None:
        self.lines[path] = line
        token = self._next()
        if token is not None and token[0] in _CLOSING:
            self.read_message(path, _CLOSING[token[0]])
            return
        while (mark := self._peek()) is not None and mark[0] in "\"'":  # "adjacent" "strings" are one value
            self._next()

    def _peek(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _next(self) -> tuple[str, int] | None:
        if self._at >= len(self._tokens):
            return None
        self._at += 1
        return self._tokens[self._at - 1]


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            yield match.group(), line
        line += match.group().count("\n")
