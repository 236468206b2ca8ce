"""The cost model of fits: estimates against measured sizes, and bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cost_model


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["cost_model", *arguments])
    cost_model.main()


def test_measured_sizes_test_the_estimate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "--json", "--users", "10e6", "--items", "2e6", "--plays", "1e9")
    *measured, last = json.loads(capsys.readouterr().out)
    assert len(measured) >= 3
    assert any(row["measured"]["cpu_error"] for row in measured)
    assert all(abs(row["measured"]["cpu_error"]) < 0.3 for row in measured)
    assert last["measured"] is None
    assert last["cpu_s"] > 10 * measured[-1]["cpu_s"]
    assert last["artifact_gb"] == pytest.approx((8 * (2 * 1e9 + 300 * 2e6) + 44 * 10e6 + 560 * 2e6) / 2**30, abs=0.01)
    assert all(abs(row["artifact_gb"] / row["measured"]["artifact_gb"] - 1) < 0.2 for row in measured)
    usd = last["usd_per_million_users"]
    assert 0 < usd["base_models"] < usd["refit"] < usd["training"]


def test_rates_are_those_of_each_step() -> None:
    def fit(users: int, items: int, plays: int) -> cost_model.MeasuredFit:
        size = cost_model.LogSize(users, items, plays)
        steps: dict[str, Any] = {
            "item-kNN": 1e-6 * size.overlaps,
            "graph's neighbours": 2e-6 * size.overlaps,
            "EASE": 1e-3 * items,
            "vectors": 1e-5 * plays,
        }
        peak_gb = 0.5 + 1e-7 * plays + size.overlaps_gb
        return cost_model.MeasuredFit("one", size, sum(steps.values()) + 1e-5 * plays, peak_gb, 1.0, steps)

    rates = cost_model.CostRates.of(fit(200, 100, 10_000), fit(100, 50, 2_000))
    other = fit(1_000, 700, 90_000)
    assert rates.cpu_s(other.size) == pytest.approx(other.cpu_s)
    assert rates.peak_gb(other.size) == pytest.approx(other.peak_gb)


def test_an_epoch_has_the_rate_of_the_largest_training(tmp_path: Path) -> None:
    rows = [
        {"n_users": 4_000, "epoch_cpu_s": 8.0, "peak_mb": 2_048},
        {"n_users": 1_000, "epoch_cpu_s": 1.0, "peak_mb": 1_024},
    ]
    (tmp_path / "epochs.json").write_text(json.dumps(rows))
    rate = cost_model.EpochRate.read(tmp_path / "epochs.json")
    assert (rate.cpu_s, rate.gb, rate.errors) == (0.002, 2.0, {1_000: 1.0})


def test_price_of_a_job() -> None:
    prices = cost_model.Prices(core_hour=0.1, gb_hour=0.01)
    assert prices.usd(7_200, 10) == pytest.approx(2 * (0.1 + 0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--users", "5"], "expected three positive numbers"),
        (["--users", "5", "--items", "0", "--plays", "7"], "expected three positive numbers"),
        (["--from", "huge"], "expected one of"),
    ],
)
def test_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_too_few_measured_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fits.json").write_text("[]")
    with pytest.raises(SystemExit):
        run(monkeypatch, "--fits", str(tmp_path / "fits.json"))
