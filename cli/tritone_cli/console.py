"""Output of the commands: text for people on stderr, results for programs on stdout (`--json`)."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

from tritone_cli.tables import tables

if TYPE_CHECKING:
    from tritone_training.evaluation import Summary

people = Console(stderr=True, highlight=False)


_as_log = False


def log_as_json() -> None:
    """Print all further messages as JSON lines on stderr, for log collectors."""
    global _as_log  # noqa: PLW0603 - there is one stderr
    _as_log = True
    people.quiet = True


def logs_json() -> bool:
    """Return whether messages are printed as JSON lines."""
    return _as_log


def shows_progress(*, as_json: bool) -> bool:
    """Return whether long work reports its progress on stderr.

    It always does for people. With `--json` it does so only if the environment variable `TRITONE_PROGRESS` is 1.
    """
    return not as_json or os.environ.get("TRITONE_PROGRESS") == "1"


def write_log_line(line: str) -> None:
    """Print one line of JSON on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _log(level: str, message: str) -> None:
    from tritone_serving.server.logs import entry

    write_log_line(json.dumps(plain(entry(level, message)), ensure_ascii=False))


def fail(message: str) -> None:
    """Print one error message for people."""
    if _as_log:
        _log("error", message)
        return
    people.print(Text.assemble(("error:", "bold red"), " ", _visible(message)), soft_wrap=True)


def warn(message: str) -> None:
    """Print one warning for people."""
    if _as_log:
        _log("warning", message)
        return
    people.print(Text.assemble(("warning:", "bold yellow"), " ", _visible(message)), soft_wrap=True)


def _visible(message: str) -> str:
    """Return a message with its control characters escaped: names and server errors must not control the terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", message)


class _Warnings(logging.Handler):
    """Shows log records as warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


def show_warnings_of(logger: str) -> None:
    """Print a library's log records of level WARNING and above as warnings."""
    found = logging.getLogger(logger)
    if not any(isinstance(handler, _Warnings) for handler in found.handlers):
        found.addHandler(_Warnings(logging.WARNING))


def say(message: str) -> None:
    """Print one line for people, without markup."""
    if _as_log:
        _log("info", message)
        return
    people.print(Text(_visible(message)), soft_wrap=True)  # as plain text: paths may hold "[b]" or ":key:"


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; NaN and infinity, which JSON does not have, become null."""
    values = plain(value)
    text = json.dumps(values, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # the locale lacks some characters; JSON can escape all of them
        text = json.dumps(values)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print one line on stdout; characters that its encoding lacks, such as in file names, are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: NaN and infinity as None, NumPy's numbers and arrays as Python's."""
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, str):  # file names may hold bytes that are not UTF-8, which JSON requires
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], *, n_keys: int = 1) -> None:
    """Print rows with the same keys as a table, or as several tables if the terminal is too narrow.

    Args:
        n_keys: number of leading columns that identify a row; they are repeated in each table.
    """
    from tritone_training.evaluation import format_cell, in_words

    shown = [{in_words(name): Text(format_cell(value)) for name, value in row.items()} for row in rows]
    for table in tables(title, shown, width=people.width, n_keys=n_keys):
        people.print(table)


def print_summary(summary: Summary) -> None:
    """Print the lines and tables of a result."""
    from tritone_training.evaluation import SummaryTable

    for each in summary:
        if isinstance(each, SummaryTable):
            print_rows(each.title, each.rows)
        else:
            say(each)


def print_warm_start(loaded: Mapping[str, Any]) -> None:
    """Print how many weights a warm start loaded, and which were not loaded and why."""
    say(f"warm start: {loaded['n_loaded']} weights from {loaded['checkpoint']}")
    reasons: dict[str, list[str]] = {}
    for name, reason in loaded["not_loaded"].items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        say(f"  not loaded ({reason}): {', '.join(names[:4])}{more}")


_LEFT_OUT: Final[Mapping[str, Mapping[str, str]]] = {
    "metadata": {
        "n_ids_not_utf8": "rows not used: id not utf8",
        "n_cells_not_utf8": "cells not used: text not utf8",
        "n_cells_too_long": "cells not used: too long",
    },
    "tags": {
        "n_names_not_utf8": "names not used: text not utf8",
        "n_tags_too_long": "rows not used: a text, not a tag",
    },
}
# What the rows of each additional table refer to.
_BELONGS: Final = {"friends": "two users", "tags": "an item", "metadata": "an item", "recordings": "an item"}


def print_listening_report(report: Mapping[str, Any]) -> None:
    """Print how many rows of a listening log are used, and how many are left out, by reason."""
    log = report["parts"]["log"]
    say(f"log: {report['source']}: {report['n_used']} listens of {report['n_in']} rows used")
    if log.get("n_merged"):
        say(f"  {log['n_merged']} rows repeated a user and item and were added up")
    for reason, n in log.get("dropped", {}).items():
        say(f"  {n} not used: {reason.replace('_', ' ')}")
    for part in ("log", "valid", "friends", "tags", "metadata"):
        _print_table_report(part, report["parts"].get(part, {}))
    if n := report["parts"].get("valid", {}).get("n_in_log_too"):
        say(f"  {n} listens of the validation log are also in the training log and are not used for validation")
    for part, reasons in _LEFT_OUT.items():
        for reason, words in reasons.items():
            if n := report["parts"].get(part, {}).get(reason):
                say(f"{part}: {n} {words}")
    for part, words in _BELONGS.items():
        found = report["parts"].get(part, {})
        if found.get("n_used") and found.get("n_in_log") == 0:
            say(f"{part}: none of {found['n_used']} rows is about {words} of the log; check the ids")
    how = report["parts"].get("valid", {}).get("how", "a tenth of the listens, and a tenth for testing")
    say(f"  {log['n_users']} users, {log['n_items']} items; held out: {how}")


# Messages about the normalisation of a column of ids.
_ID_COUNTS: Final = {
    "n_rows_normalized": "rows had another Unicode form or blanks around the id",
    "n_ids_merged": "ids were other spellings of the same id and are merged",
    "n_ids_with_point": "ids were written as 12.0 and are read as 12",
    "n_rows_like_missing": "rows have an id like nan or null: write missing ids as empty cells",
}


def _print_table_report(part: str, table: Mapping[str, Any]) -> None:
    """Print which columns of a table were read, and what was normalised."""
    if columns := table.get("columns"):
        say(f"  {part} columns: " + ", ".join(f"{what} = {name!r}" for what, name in columns.items()))
    for what, counts in table.get("ids", {}).items():
        for name, n in counts.items():
            say(f"  {part} {what}: {n} {_ID_COUNTS[name]}")
    if n := table.get("times", {}).get("n_without_zone"):
        say(f"  {part} time: {n} times have no time zone and are read as UTC")
    for note in table.get("notes", ()):
        say(f"  {part}: {note}")


def print_data_report(report: Mapping[str, Any]) -> None:
    """Print how much of a data set is used, and each example that is left out, with the reason."""
    if "parts" in report:
        print_listening_report(report)
        return
    from tritone_training.evaluation import problem_lines

    what, groups = ("recordings", report["labels"]) if "labels" in report else ("pieces", report["styles"])
    counts = ", ".join(f"{name} {n}" for name, n in groups.items())
    say(f"data: {report['source']}: {report['n_used']} of {report['n_in']} {what} used ({counts})")
    for name in ("folds", "splits"):
        if name in report:
            say(f"{name}: {report[name]}")
    for similar in report.get("similar_labels", ()):
        names = ", ".join(f"{label!r} ({n})" for label, n in similar.items())
        warn(
            f"similar labels: {names}; they are trained as {len(similar)} separate labels: rename them if they are the "
            f"same"
        )
    print_summary(problem_lines("not used", report["problems"]))
