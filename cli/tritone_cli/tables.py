"""Tables for terminals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_PADDING: Final = 3  # per column: a space on each side and a line
_EDGE: Final = 1  # the last line of the table
_MAX_WORD: Final = 24  # longer words (paths, ids) may be folded


def tables(title: str, rows: Sequence[Mapping[str, Text]], *, width: int, n_keys: int = 1) -> Iterator[Table]:
    """Return rows with the same keys as one table, or as several tables if the columns do not fit.

    Headings and texts are wrapped between words; numbers are never split. Each further table repeats the first columns.

    Args:
        title: title of the first table.
        rows: cells by column.
        width: width of the terminal in characters.
        n_keys: number of columns that are repeated.
    """
    columns = list(rows[0]) if rows else []
    minimum = {name: _min_width([name, *(row[name].plain for row in rows)]) for name in columns}
    preferred = {name: max(map(cell_len, [name, *(row[name].plain for row in rows)]), default=1) for name in columns}
    for number, group in enumerate(_groups(columns, minimum, width, n_keys)):
        table = Table(title=Text(title if number == 0 else f"{title} (more columns)"), title_justify="left")
        widths = _widths({name: preferred[name] for name in group}, minimum, width)
        for name in group:
            table.add_column(Text(name), overflow="fold", width=widths[name])
        for row in rows:
            table.add_row(*(row[name] for name in group))
        yield table


def _min_width(texts: Sequence[str]) -> int:
    """Return the width of the longest word, which must not be broken."""
    words = (cell_len(word) for text in texts for word in text.split())
    return min(max(words, default=1), _MAX_WORD)


def _groups(columns: Sequence[str], minimum: Mapping[str, int], width: int, n_keys: int) -> Iterator[list[str]]:
    """Return the columns in groups that fit next to each other; each group starts with the first `n_keys` columns."""
    keys = list(columns[:n_keys])
    group = list(keys)
    for name in columns[n_keys:]:
        needed = sum(minimum[each] + _PADDING for each in [*group, name]) + _EDGE
        if len(group) > len(keys) and needed > width:
            yield group
            group = list(keys)
        group.append(name)
    if group or not columns:
        yield group


def _widths(preferred: Mapping[str, int], minimum: Mapping[str, int], width: int) -> dict[str, int]:
    """Return the width of each column; the widest columns shrink until all fit, down to their minimum."""
    found: dict[str, int] = dict(preferred)
    available = width - _EDGE - _PADDING * len(found)
    while sum(found.values()) > available:
        shrinkable = [name for name in found if found[name] > minimum[name]]
        if not shrinkable:
            break
        found[max(shrinkable, key=lambda name: found[name])] -= 1
    return found


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, n_numbers: int = 0) -> Table:
    """Return a table without lines; cells are plain text, so that a title such as "[b]" is not markup.

    Args:
        n_numbers: number of leading columns with numbers, which are aligned to the right and not wrapped.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        if index < n_numbers:
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
