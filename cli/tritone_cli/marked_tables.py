"""Markdown tables that commands keep up to date, between two marks in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tritone import TritoneError
from tritone.atomic import write_atomically


class TableMarksError(TritoneError):
    """A Markdown file has no marks for a table."""


def check_marks(path: Path, name: str) -> None:
    """Check that a file has the marks of a table.

    Raises:
        TableMarksError: the marks are missing or in the wrong order.
    """
    _split(path, name)


def replace_marked(path: Path, name: str, lines: Sequence[str]) -> None:
    """Replace the lines between `<!-- NAME: begin -->` and `<!-- NAME: end -->`; the file is replaced atomically.

    Raises:
        TableMarksError: the marks are missing or in the wrong order.
    """
    before, after = _split(path, name)
    begin, end = _marks(name)
    write_atomically(path, "\n".join([before + begin, *lines, end + after]))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    table = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    table.insert(1, "|" + "---|" * len(head))
    return table


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def _split(path: Path, name: str) -> tuple[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TableMarksError(f"{path}: {error}") from error
    begin, end = _marks(name)
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise TableMarksError(f"{path}: expected a line {begin} and a line {end} below it, got none; add them")
    return before, after
