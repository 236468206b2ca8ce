"""The cost of embedding recordings: estimates against measured lengths, and bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cost_recordings


def measured(n_windows: int, server: float, client: float) -> dict[str, Any]:
    spent = {"server": server, "client": client}
    return {"duration_s": 3.0 * n_windows, "n_windows": n_windows, "cpu_s_per_1000_files": spent}


ROWS = [measured(1, 2.0, 1.0), measured(7, 13.0, 2.5), measured(20, 40.0, 1.0)]


def run(monkeypatch: pytest.MonkeyPatch, path: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["cost_recordings", "--measured", str(path), *arguments])
    cost_recordings.main()


def test_rates_are_those_of_the_shortest_and_the_longest() -> None:
    rates = cost_recordings.RecordingRates.of(ROWS)
    assert rates.window_s == pytest.approx(0.002)
    assert rates.constant_s == pytest.approx(0.001)


def test_the_length_between_tests_the_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.json").write_text(json.dumps({"recordings": ROWS}))
    run(monkeypatch, tmp_path / "m.json", "--json", "--duration-s", "210", "--usd-per-core-hour", "0.036")
    short, between, long, more = json.loads(capsys.readouterr().out)
    assert short["error"] == long["error"] == 0
    assert between["error"] == pytest.approx(0.015 / 0.0155 - 1, abs=1e-3)
    assert more["n_windows"] == 70
    assert more["core_hours"] == pytest.approx(0.141 * 1e6 / 3600, abs=0.1)
    assert more["usd"] == pytest.approx(0.141 * 1e6 / 3600 * (0.036 + 2 * 0.0045), abs=0.01)
    run(monkeypatch, tmp_path / "m.json")
    assert "| 21 s | 7 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        (json.dumps({"recordings": ROWS[:1]}), "at least two lengths"),
        ("{}", "recordings"),
    ],
)
def test_bad_measurements_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    message: str,
) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, path)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_length_of_zero_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "m.json", "--duration-s", "0")
    assert "expected a finite number above 0" in capsys.readouterr().err
