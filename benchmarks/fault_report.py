"""Table and page with the results of fault injection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = ("fault", "clients", "requests", "lost", "longest gap", "noticed", "serving again", "messages")


def markdown(rows: Sequence[Mapping[str, Any]], *, head: bool = True) -> str:
    """Return a Markdown table of the results."""
    lines = [_line(HEAD), "|" + "---|" * len(HEAD)] if head else []
    return "\n".join([*lines, *(_line(_cells(row)) for row in rows)]) + "\n"


def page(rows: Sequence[Mapping[str, Any]], modes: Mapping[str, str]) -> str:
    """Return the page: how it was measured, the table, and the number of lost calls."""
    tried = [row for row in rows if not row["missing"] and row["mode"] == "two"]
    n_lost = sum(row["lost"] for row in tried)
    n_requests = sum(row["requests"] for row in tried)
    return "\n".join(
        [
            "# Faults under load",
            "",
            "Written by `python -m benchmarks.faults --report docs/benchmarks/faults.md` (`make chaos`): four clients",
            "call a small model with the tensors of `genre_cnn` and two instances without a pause, on one machine.",
            "",
            "- *lost*: calls that ended in an error",
            "- *longest gap*: longest time in which no client got an answer",
            "- *noticed*: time until the supervisor reported the fault",
            "- *serving again*: time until the broken server answered all requests again",
            "- *messages*: errors of lost calls, or of the command or server that refused something",
            "- *-*: does not apply",
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
        _seconds(row["noticed_s"]), again, "; ".join([*row["errors"], *row["notes"]]) or "-",
    ]  # fmt: skip


def _seconds(value: float | None) -> str:
    return "-" if not value else f"{value:.1f} s"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
