"""Rows of faults as a table, and the page with its legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = ("fault", "clients", "requests", "lost", "longest gap", "noticed", "serving again", "what was said")


def markdown(rows: Sequence[Mapping[str, Any]], *, head: bool = True) -> str:
    """A table of what clients saw."""
    lines = [_line(HEAD), "|" + "---|" * len(HEAD)] if head else []
    return "\n".join([*lines, *(_line(_cells(row)) for row in rows)]) + "\n"


def page(rows: Sequence[Mapping[str, Any]], modes: Mapping[str, str]) -> str:
    """The whole page: what was done, the table, and the verdict."""
    tried = [row for row in rows if not row["missing"] and row["mode"] == "two"]
    n_lost = sum(row["lost"] for row in tried)
    n_requests = sum(row["requests"] for row in tried)
    return "\n".join(
        [
            "# Faults under load",
            "",
            "Written by `python benchmarks/faults.py --report docs/benchmarks/faults.md` (`make chaos`): a small model with",
            "`genre_cnn`'s tensors and two instances behind `tritone serve`, four clients that never pause, everything",
            "on one machine. A call is lost if it ends in an error. The longest gap is the longest time in which no",
            "client got an answer; noticed, until the watchdog said so; serving again, until the broken server",
            "answered canaries for good; `-`: nothing to say. What was said: to lost calls, or by who refused what.",
            "",
            markdown(rows),
            f"With {modes['two']}: {n_lost} of {n_requests} calls lost.",
            "",
        ]
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row["missing"]:
        return [row["name"], row["clients"], *("-" for _ in range(5)), f"not tried: {row['missing']}"]
    again = _seconds(row["again_s"]) if row["healed"] else "**not within half a minute**"
    return [
        row["name"], row["clients"], str(row["requests"]), str(row["lost"]), _seconds(row["longest_gap_s"]),
        _seconds(row["noticed_s"]), again, "; ".join([*row["told"], *row["notes"]]) or "-",
    ]  # fmt: skip


def _seconds(value: float | None) -> str:
    return "-" if not value else f"{value:.1f} s"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
