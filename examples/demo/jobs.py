"""Run several `tritone` commands in parallel, each on its share of the cores.

Small networks gain little from a second core, so two trainings in parallel take little longer than one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn

from tritone import TritoneError
from tritone_cli import console
from tritone_training.progress import ProgressLines

_COMMAND: Final = (sys.executable, "-m", "tritone_cli.demonstration.child")
_MOST_AT_ONCE: Final = 4  # each takes a GB of memory or so
_POLL_S: Final = 0.1
_GRACE_S: Final = 5.0
_TAIL_BYTES: Final = 1_000
_LONGEST_STATUS: Final = 90
_STATUS_S: Final = 25.0  # a job writes a line every ten seconds; an older one is about a phase that has ended
_ERROR: Final = "error: "  # how `tritone` begins what it says last, see `console.fail`


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: for people, and for `needs`.
        arguments: of `tritone`, which must answer with `--json`.
        log: gets what the command says.
        needs: names of the jobs that must be done before.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """A job that succeeded: what it answered, and how long it took."""

    job: Job
    answer: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    started: float


def run_jobs(
    jobs: Sequence[Job], *, shown: bool, on_done: Callable[[Done], None], n_at_once: int | None = None
) -> None:
    """Run jobs, those that come first and need nothing that is missing first.

    Args:
        shown: report on stderr what is running: spinners on a terminal, a line every ten seconds in logs.
        on_done: called with each job that succeeded.
        n_at_once: by default as many as there are cores, 4 at most.

    Raises:
        TritoneError: a job failed; the others are stopped.
    """
    n_cores = len(os.sched_getaffinity(0))
    n_at_once = n_at_once or min(n_cores, _MOST_AT_ONCE)
    waiting = list(jobs)
    lines = ProgressLines(console.people)
    in_lines = shown and not console.people.is_terminal
    in_spinners = shown and not in_lines
    with _spinners(shown=in_spinners) as progress, _ending() as running:
        tasks: dict[str, TaskID] = {}
        while waiting or running:
            missing = {job.name for job in waiting} | {each.job.name for each in running}
            ready = [job for job in waiting if not missing.intersection(job.needs)]
            for job in ready[: n_at_once - len(running)]:
                waiting.remove(job)
                running.append(_start(job, n_threads=max(1, n_cores // n_at_once)))
                tasks[job.name] = progress.add_task(job.name)
            if not running:
                raise ValueError(f"{[job.name for job in waiting]} need each other, or what there is not")
            time.sleep(_POLL_S)
            if in_lines:
                lines.update(lambda _: "      " + "; ".join(map(_describe, running)))
            if in_spinners:  # describing a job reads its log
                for each in running:
                    progress.update(tasks[each.job.name], description=_describe(each))
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                progress.remove_task(tasks[each.job.name])
                on_done(_result(each))


def _start(job: Job, *, n_threads: int) -> _Running:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    # OpenMP's threads spin at barriers by default, which stalls a training whenever another process wants the core.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(n_threads),
        "MKL_NUM_THREADS": str(n_threads),
        "OMP_WAIT_POLICY": "passive",
        "TRITONE_PROGRESS": "1",
    }
    command = [*_COMMAND, *job.arguments, "--json"]
    with _answer_of(job).open("wb") as stdout, job.log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment)
    return _Running(job, process, time.monotonic())


def _describe(running: _Running) -> str:
    """Return the job's name, its running time and the last line of its log, unless that is old."""
    is_old = time.time() - running.job.log.stat().st_mtime > _STATUS_S
    lines = [] if is_old else _tail(running.job.log).strip().splitlines()
    last = f": {lines[-1].strip()[:_LONGEST_STATUS]}" if lines else ""
    return f"{running.job.name}, {time.monotonic() - running.started:.0f} s{last}"


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        return file.read().decode("utf-8", errors="replace")


def _answer_of(job: Job) -> Path:
    return job.log.with_suffix(".json")


def _result(ended: _Running) -> Done:
    job, code = ended.job, ended.process.returncode
    if code:
        raise TritoneError(f"{job.name} failed: {_reason(job.log, code)}\nAll that it said is in {job.log}")
    answer = json.loads(_answer_of(job).read_text(encoding="utf-8"))
    return Done(job, answer, time.monotonic() - ended.started)


def _reason(log: Path, code: int) -> str:
    said = log.read_text(encoding="utf-8", errors="replace")
    if _ERROR in said:
        return said[said.rindex(_ERROR) + len(_ERROR) :].strip()
    if code < 0:
        return f"it was killed by signal {-code}" + (", as happens when memory runs out" if code == -9 else "")
    return (said.strip().splitlines() or [f"it ended with status {code}"])[-1]


@contextmanager
def _ending() -> Iterator[list[_Running]]:
    """A list of processes that are no more when the block is left."""
    running: list[_Running] = []
    try:
        yield running
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            try:
                each.process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()


@contextmanager
def _spinners(*, shown: bool) -> Iterator[Progress]:
    columns = (TextColumn("     "), SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console.people, transient=True, disable=not shown) as progress:
        yield progress
