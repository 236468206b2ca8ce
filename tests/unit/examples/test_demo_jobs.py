"""Parallel jobs of the demo: order, results, errors, and that no process outlives its parent."""

from __future__ import annotations

import io
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from examples.demo import jobs as jobs_module
from examples.demo.jobs import FinishedJob, Job, run_jobs
from tritone import TritoneError
from tritone_training.progress import ProgressLines

ROOT = Path(__file__).resolve().parents[3]
# Replaces `python -m examples.demo.jobs`: logs a message, sleeps, prints JSON, exits.
STAND_IN = """
import json, os, sys, time
name, seconds, status, said, *_ = sys.argv[1:]
open(f"{name}.began", "w").write(str(os.getpid()))
print(said, file=sys.stderr, flush=True)
time.sleep(float(seconds))
threads, policy = os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]
print(json.dumps({"name": name, "threads": threads, "policy": policy, "asked": sys.argv[-1]}))
if int(status):
    print("some noise" + chr(10) + "error: no such thing", file=sys.stderr)
sys.exit(int(status))
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Jobs that take no time unless told to; they leave `NAME.began` with their process id."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(jobs_module, "COMMAND", (sys.executable, str(script)))

    def job(name: str, *, seconds: float = 0, status: int = 0, said: str = "", needs: tuple[str, ...] = ()) -> Job:
        return Job(name, (name, str(seconds), str(status), said), tmp_path / "logs" / f"{name}.txt", needs)

    return job


def is_alive(name: str) -> bool:
    try:
        os.kill(int(Path(f"{name}.began").read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def run(*jobs: Job, n_at_once: int | None = None) -> list[FinishedJob]:
    done: list[FinishedJob] = []
    run_jobs(jobs, shown=False, on_done=done.append, n_at_once=n_at_once)
    return done


def test_jobs_run_after_the_jobs_that_they_need(make: Callable[..., Job]) -> None:
    jobs = (make("late", needs=("early",)), make("early", seconds=0.3), make("free"), make("last", needs=("late",)))
    done = [each.job.name for each in run(*jobs)]
    assert sorted(done) == ["early", "free", "last", "late"]
    assert done.index("early") < done.index("late") < done.index("last")
    assert done.index("free") < done.index("late") or len(os.sched_getaffinity(0)) == 1


def test_a_need_without_a_job_counts_as_met(make: Callable[..., Job]) -> None:
    assert [each.job.name for each in run(make("a", needs=("trained before",)))] == ["a"]
    assert run() == []


def test_jobs_return_json_and_share_the_cores(make: Callable[..., Job]) -> None:
    (done,) = run(make("a"), n_at_once=1)
    assert done.answer["threads"] == str(len(os.sched_getaffinity(0)))
    assert done.answer["asked"] == "--json"
    assert 0 < done.seconds < 60


def test_the_number_of_parallel_jobs_is_limited(make: Callable[..., Job]) -> None:
    done = run(*(make(name, seconds=0.4) for name in "abc"), n_at_once=1)
    began = sorted(Path(f"{name}.began").stat().st_mtime for name in "abc")
    assert min(later - earlier for earlier, later in itertools.pairwise(began)) > 0.3
    assert [each.job.name for each in done] == ["a", "b", "c"]


def test_a_failed_job_is_reported_and_terminates_the_others(make: Callable[..., Job], tmp_path: Path) -> None:
    slow, bad = make("slow", seconds=600), make("bad", seconds=1, status=1)
    with pytest.raises(TritoneError, match=r"bad failed: no such thing\n.*bad\.txt") as caught:
        run(slow, bad, make("never", needs=("bad",)), n_at_once=2)
    assert "some noise" not in str(caught.value)
    assert "some noise" in (tmp_path / "logs" / "bad.txt").read_text()
    assert not is_alive("slow")
    assert not Path("never.began").exists()


def test_a_killed_job_is_reported(make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr(jobs_module, "COMMAND", (sys.executable, "-c", script))
    with pytest.raises(TritoneError, match="killed by signal 9, possibly because memory ran out"):
        run(make("a"))


def test_circular_needs_raise(make: Callable[..., Job]) -> None:
    with pytest.raises(ValueError, match="need each other"):
        run(make("a", needs=("b",)), make("b", needs=("a",)))


def test_an_interrupt_terminates_the_jobs(make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    pressed: list[bool] = []
    sleep = time.sleep

    def interrupt(seconds: float) -> None:
        if not pressed and Path("slow.began").exists() and Path("slow.began").read_text():
            pressed.append(True)  # once: waiting for the child's end sleeps, too
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(jobs_module.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(make("slow", seconds=600))
    assert not is_alive("slow")


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    # `main` is replaced by a function that takes long.
    child = (
        "import runpy, sys, time, tritone_cli.main as m; "
        "m.main = lambda: (print('ready', flush=True), time.sleep(600)); "
        f"sys.path.insert(0, {str(ROOT)!r}); runpy.run_module('examples.demo.jobs', run_name='__main__')"
    )
    parent = (
        "import subprocess, sys, time; "
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE); "
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _is_running(pid):
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    """A process that has ended may still be listed as a zombie where nobody waits for orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_log_gets_a_line_about_running_jobs(
    make: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line names the jobs, how long they have run, and the last line of their logs."""
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    monkeypatch.setattr("tritone_cli.console.people", console)
    monkeypatch.setattr(jobs_module, "ProgressLines", lambda console: ProgressLines(console, interval_s=0.2))
    slow = make("slow", seconds=2, said="reading\nepoch 3 of 20")
    run_jobs([slow, make("other", seconds=2)], shown=True, on_done=lambda _: None, n_at_once=2)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert re.fullmatch(r"      slow, \d s: epoch 3 of 20; other, \d s", lines[-1])
    assert len(lines) > 2


def test_jobs_have_passive_openmp_threads(make: Callable[..., Job]) -> None:
    (done,) = run(make("a"))
    assert done.answer["policy"] == "passive"
