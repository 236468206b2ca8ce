"""The bench's short table in a Markdown file: each model at its best closed loop, and at Poisson arrivals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tritone import TritoneError
from tritone.atomic import write_atomically
from tritone_cli.benching.measuring import ModelResult, Row

BEGIN: Final = "<!-- bench: begin -->"
END: Final = "<!-- bench: end -->"
_HEAD: Final = (
    "model",
    "best closed loop",
    "inferences/s",
    "p50, p99 ms",
    "of in process",
    "Poisson arrivals",
    "p50, p99 ms",
)


class NoMarksError(TritoneError):
    """The file has no place for the table."""


def check(path: Path) -> None:
    """See whether a file has a place for the table, before the minutes of measuring.

    Raises:
        NoMarksError: it has none.
    """
    _split(path)


def replace(path: Path, results: Sequence[ModelResult], *, command: str) -> None:
    """Put the table between the marks; the file is replaced whole.

    Raises:
        NoMarksError: there are no marks, or not in this order.
    """
    before, after = _split(path)
    text = "\n".join([before + BEGIN, *lines(results, command=command), END + after])
    write_atomically(path, text)


def lines(results: Sequence[ModelResult], *, command: str) -> list[str]:
    """The table and a line about its origin."""
    rows = [_cells(result) for result in results]
    table = ["| " + " | ".join(row) + " |" for row in (_HEAD, *rows)]
    table.insert(1, "|" + "---|" * len(_HEAD))
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    return [*table, "", f"{when}, {os.cpu_count()} cores, generator included: {command}."]


def _cells(result: ModelResult) -> tuple[str, ...]:
    best = result.best
    is_open = [row for row in result.rows if row.reading is not None and row.load.rate is not None]
    # Beside the best closed loop: the same protocol and batch, and the most that arrived.
    alike = [row for row in is_open if best and (row.protocol, row.load.batch) == (best.protocol, best.load.batch)]
    arrivals = max(alike or is_open, key=lambda row: row.load.rate or 0.0, default=None)
    if best is None or best.reading is None:
        first: tuple[str, ...] = ("no stable figure", "-", "-", "-")
    else:
        share = result.share_of_ceiling(best)
        first = (
            f"{best.protocol}, {best.load}",
            f"{best.reading.per_s:.4g}",
            _latency(best),
            "-" if share is None else f"{share:.2f}",
        )
    second = ("-", "-") if arrivals is None else (f"{arrivals.protocol}, {arrivals.load}", _latency(arrivals))
    return (f"`{result.model}`", *first, *second)


def _latency(row: Row) -> str:
    return "-" if row.reading is None else f"{row.reading.p50_ms:.3g}, {row.reading.p99_ms:.3g}"


def _split(path: Path) -> tuple[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NoMarksError(f"{path}: {error}") from error
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoMarksError(f"{path} has no place for the table; expected a line {BEGIN} and, below it, a line {END}")
    return before, after
