"""Run several `tritone` commands in parallel, each on its share of the cores.

Small networks gain little from a second core, so two trainings in parallel take little longer than one.

Run as a module, this is the `tritone` command as a child process that ends with its parent:

```
python -m examples.demo.jobs train music_vae --preset demo --json
```
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
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

COMMAND: Final = (sys.executable, "-m", "examples.demo.jobs")
_ROOT: Final = Path(__file__).resolve().parents[2]  # the folder of `examples`
_MOST_AT_ONCE: Final = 4  # each takes about 1 GB of memory
_POLL_S: Final = 0.1
_GRACE_S: Final = 5.0
_TAIL_BYTES: Final = 1_000
_LONGEST_STATUS: Final = 90
_STATUS_S: Final = 25.0  # a job logs every ten seconds; an older line is about a phase that has ended
_ERROR: Final = "error: "  # how `tritone` begins its last message, see `console.fail`
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Job:
    """A `tritone` command.

    Attributes:
        name: shown to people, and referred to by `needs`.
        arguments: arguments of `tritone`; the verb must support `--json`.
        log: file for the command's messages.
        needs: names of the jobs that must finish first.
    """

    name: str
    arguments: tuple[str, ...]
    log: Path
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class FinishedJob:
    """A job that succeeded, its JSON output and its duration."""

    job: Job
    answer: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    started: float


def run_jobs(
    jobs: Sequence[Job], *, shown: bool, on_done: Callable[[FinishedJob], None], n_at_once: int | None = None
) -> None:
    """Run jobs in the given order, as far as the jobs that they need have finished.

    Args:
        shown: show progress on stderr: spinners on a terminal, a line every ten seconds in logs.
        on_done: called with each job that succeeded.
        n_at_once: largest number of parallel jobs. Default: the number of cores, at most 4.

    Raises:
        TritoneError: a job failed; the others are stopped.
    """
    n_cores = len(os.sched_getaffinity(0))
    n_at_once = n_at_once or min(n_cores, _MOST_AT_ONCE)
    waiting = list(jobs)
    lines = ProgressLines(console.people)
    in_lines = shown and not console.people.is_terminal
    in_spinners = shown and not in_lines
    with _spinners(shown=in_spinners) as progress, _terminated_at_exit() as running:
        tasks: dict[str, TaskID] = {}
        while waiting or running:
            missing = {job.name for job in waiting} | {each.job.name for each in running}
            ready = [job for job in waiting if not missing.intersection(job.needs)]
            for job in ready[: n_at_once - len(running)]:
                waiting.remove(job)
                running.append(_start(job, n_threads=max(1, n_cores // n_at_once)))
                tasks[job.name] = progress.add_task(job.name)
            if not running:
                raise ValueError(f"{[job.name for job in waiting]} need each other or a job that does not exist")
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
    # By default OpenMP threads spin at barriers, which stalls a training when another process needs the core.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(n_threads),
        "MKL_NUM_THREADS": str(n_threads),
        "OMP_WAIT_POLICY": "passive",
        "TRITONE_PROGRESS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))),
    }
    command = [*COMMAND, *job.arguments, "--json"]
    with _answer_of(job).open("wb") as stdout, job.log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment)
    return _Running(job, process, time.monotonic())


def _describe(running: _Running) -> str:
    """Return the job's name, its running time and the last line of its log, unless that line is old."""
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


def _result(ended: _Running) -> FinishedJob:
    job, code = ended.job, ended.process.returncode
    if code:
        raise TritoneError(f"{job.name} failed: {_reason(job.log, code)}\nThe full log is {job.log}")
    answer = json.loads(_answer_of(job).read_text(encoding="utf-8"))
    return FinishedJob(job, answer, time.monotonic() - ended.started)


def _reason(log: Path, code: int) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    if _ERROR in text:
        return text[text.rindex(_ERROR) + len(_ERROR) :].strip()
    if code < 0:
        return f"killed by signal {-code}" + (", possibly because memory ran out" if code == -9 else "")
    return (text.strip().splitlines() or [f"exit status {code}"])[-1]


@contextmanager
def _terminated_at_exit() -> Iterator[list[_Running]]:
    """Return a list of processes that are terminated at the end of the block."""
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


def _run_child() -> None:
    """Run `tritone` with this process's arguments; the kernel terminates it when its parent ends."""
    from tritone_cli.main import main

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    main()


if __name__ == "__main__":
    _run_child()
