"""Progress on stderr: bars on a terminal, a line every ten seconds in logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_INTERVAL_S: Final = 10.0


class ProgressLines:
    """Prints at most one line per interval, for output that is not a terminal.

    Args:
        console: where the lines go.
        interval_s: shortest time between two lines, and before the first one.
        clock: seconds that never run backwards.
    """

    def __init__(
        self,
        console: Console,
        *,
        interval_s: float = LINE_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._interval_s = interval_s
        self._clock = clock
        self._started_s = self._printed_s = clock()

    def update(self, describe: Callable[[float], str]) -> None:
        """Print `describe(seconds since the start)` if the interval has passed since the last line."""
        now_s = self._clock()
        if now_s - self._printed_s >= self._interval_s:
            self._printed_s = now_s
            self._console.print(Text(describe(now_s - self._started_s)), soft_wrap=True)


def print_line(text: str, *, shown: bool) -> None:
    """Print a line on stderr; `shown=False` prints nothing."""
    if shown:
        Console(stderr=True).print(Text(text), soft_wrap=True)


@contextmanager
def progress_bar(what: str, *, shown: bool, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show progress while the block runs; the block calls `on_progress(done, total)`.

    Args:
        what: the work in a few words.
        shown: False shows nothing.
        console: where progress goes; stderr by default.
    """
    console = console or Console(stderr=True)
    if shown and not console.is_terminal:
        lines = ProgressLines(console)
        yield lambda done, total: lines.update(lambda elapsed_s: _describe(what, done, total, elapsed_s))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _describe(what: str, done: int, total: int, elapsed_s: float) -> str:
    # The first items take the time of the start of worker processes; no estimate before one part in fifty.
    left = f", about {elapsed_s / done * (total - done):.0f} s left" if done and done * 50 >= total else ""
    return f"{what}: {done} of {total}, {elapsed_s:.0f} s{left}"
