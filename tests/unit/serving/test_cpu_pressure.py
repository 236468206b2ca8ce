"""Tests of CPU pressure and the factor on time limits that follows from it."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tritone_serving.supervision import cpu_pressure
from tritone_serving.supervision.cpu_pressure import LARGEST_FACTOR, CpuPressure, CpuTimes, Pressure, cpu_times


@pytest.mark.parametrize(
    ("pressure", "patience"),
    [
        (Pressure(), 1.0),
        (Pressure(some=0.25), 1.0),
        (Pressure(some=1.0), LARGEST_FACTOR),
        (Pressure(steal=0.1), 1.0),
        (Pressure(steal=0.5), LARGEST_FACTOR),
        (Pressure(some=0.625), 1 + (LARGEST_FACTOR - 1) / 2),
    ],
)
def test_patience_grows_with_pressure(pressure: Pressure, patience: float) -> None:
    assert pressure.patience == pytest.approx(patience)


def test_times_of_threads_that_ended_do_not_make_a_difference_negative() -> None:
    assert CpuTimes(1.0, 2.0).since(CpuTimes(3.0, 1.5)) == CpuTimes(0.0, 0.5)


@pytest.mark.parametrize(
    ("times", "slowdown"),
    [
        (CpuTimes(), 1.0),
        (CpuTimes(2.0, 0.0), 1.0),
        (CpuTimes(1.0, 3.0), 4.0),
        (CpuTimes(0.0, 3.0), LARGEST_FACTOR),
        (CpuTimes(0.01, 9.0), LARGEST_FACTOR),
    ],
)
def test_slowdown_is_the_share_of_time_without_a_processor(times: CpuTimes, slowdown: float) -> None:
    assert times.slowdown == pytest.approx(slowdown)


def _compute() -> None:
    while True:
        pass


def test_waiting_for_a_processor_counts_as_active() -> None:
    core = min(os.sched_getaffinity(0))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_compute, daemon=True) for _ in range(3)]
    try:
        for process in processes:
            process.start()
            os.sched_setaffinity(process.pid or 0, {core})
        pids = [process.pid or 0 for process in processes]
        before = cpu_times(pids)
        time.sleep(0.6)
        passed = cpu_times(pids).since(before)
    finally:
        for process in processes:
            process.kill()
    assert passed.run_s > 0  # three share one processor, which may have other work
    assert passed.wait_s > passed.run_s


def test_ended_process_counts_nothing() -> None:
    assert cpu_times([2**22 + 1]) == CpuTimes()


def test_pressure_is_0_on_a_kernel_that_does_not_report_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"cpu": (Path("/nonexistent/cpu"),), "memory": (Path("/nonexistent/memory"),)}
    monkeypatch.setattr(cpu_pressure, "_PRESSURE_FILES", nowhere)
    pressure = CpuPressure()
    time.sleep(0.06)
    assert pressure.sample().some == 0
    assert cpu_pressure.recent_pressure() == 0


def test_pressure_is_read_from_the_stall_total(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "cpu.pressure"
    line = "some avg10={:.2f} avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    file.write_text(line.format(0, 1_000_000))
    monkeypatch.setattr(cpu_pressure, "_PRESSURE_FILES", {"cpu": (file,), "memory": (tmp_path / "absent",)})
    pressure = CpuPressure()
    file.write_text(line.format(72.5, 61_000_000))  # more than the time that has passed since
    time.sleep(0.06)
    assert pressure.sample().some == 1.0
    assert cpu_pressure.recent_pressure() == pytest.approx(0.725)
