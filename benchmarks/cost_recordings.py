"""Estimate what embedding or classifying a million recordings costs, and compare the estimate with measured lengths.

```
python -m benchmarks.cost_recordings                       # the measured lengths
python -m benchmarks.cost_recordings --duration-s 210      # and one that was not measured
```
The CPU time of server and client for a recording is a constant and a time for each window of three seconds; both come
from the shortest and the longest recordings of `benchmarks.batch_files`, so that those in between test the estimate.
Prices are those of `benchmarks.cost_model`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.arguments import amount
from benchmarks.cost_model import USD_PER_CORE_HOUR, USD_PER_GB_HOUR, Prices
from tritone.constants import SAMPLE_RATE_HZ, WINDOW_SAMPLES

MEASURED = Path("docs/benchmarks/batch-files.json")
GB_PER_CORE = 2.0  # server and job with their buffers, of a virtual machine that has this much at least


@dataclass(frozen=True)
class RecordingRates:
    """CPU seconds of a recording: a constant, and a time for each window."""

    constant_s: float
    window_s: float

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> RecordingRates:
        """Take the rates from the shortest and the longest measured recordings.

        Raises:
            ValueError: fewer than two lengths were measured.
        """
        if len({row["n_windows"] for row in rows}) < 2:
            raise ValueError("expected measurements of at least two lengths; run benchmarks.batch_files again")
        short, long = (choose(rows, key=lambda row: row["n_windows"]) for choose in (min, max))
        window_s = (_cpu_s(long) - _cpu_s(short)) / (long["n_windows"] - short["n_windows"])
        return cls(_cpu_s(short) - window_s * short["n_windows"], window_s)

    def cpu_s(self, n_windows: int) -> float:
        return self.constant_s + self.window_s * n_windows


def _cpu_s(row: Mapping[str, Any]) -> float:
    """Return the CPU seconds of a recording, of server and client."""
    return float(sum(row["cpu_s_per_1000_files"].values())) / 1_000


def estimates(
    rows: Sequence[Mapping[str, Any]], prices: Prices, more_s: Sequence[float] = ()
) -> Iterator[dict[str, Any]]:
    """Yield one row per measured length and per length in `more_s`, for a million recordings."""
    rates = RecordingRates.of(rows)
    known = [(row["duration_s"], row["n_windows"], _cpu_s(row)) for row in rows]
    for duration_s, n_windows, measured_s in [*known, *((each, windows_of(each), None) for each in more_s)]:
        cpu_s = rates.cpu_s(n_windows)
        yield {
            "duration_s": duration_s,
            "n_windows": n_windows,
            "core_hours": round(cpu_s * 1e6 / 3600, 1),
            "measured_core_hours": None if measured_s is None else round(measured_s * 1e6 / 3600, 1),
            "error": None if measured_s is None else round(cpu_s / measured_s - 1, 3),
            "usd": round(prices.usd(cpu_s * 1e6, GB_PER_CORE), 2),
        }


def windows_of(duration_s: float) -> int:
    """Return the number of windows of a recording; the last one may overlap the one before it."""
    return max(1, math.ceil(duration_s * SAMPLE_RATE_HZ / WINDOW_SAMPLES))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the estimates as a Markdown table."""
    lines = [
        "| recording | windows | core hours for a million, estimated | measured | error | USD for a million |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = row["measured_core_hours"] is not None
        measured = (f"{row['measured_core_hours']:,.1f}", f"{row['error']:+.0%}") if found else ("", "")
        cells = [f"{row['duration_s']:g} s", str(row["n_windows"]), f"{row['core_hours']:,.1f}", *measured]
        lines.append(f"| {' | '.join([*cells, format(row['usd'], ',.2f')])} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=MEASURED, help="results of benchmarks.batch_files")
    parser.add_argument("--duration-s", type=amount, nargs="*", default=[], help="lengths that were not measured")
    parser.add_argument("--usd-per-core-hour", type=amount, default=USD_PER_CORE_HOUR)
    parser.add_argument("--usd-per-gb-hour", type=amount, default=USD_PER_GB_HOUR)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        measured = json.loads(options.measured.read_text())["recordings"]
        prices = Prices(options.usd_per_core_hour, options.usd_per_gb_hour)
        rows = list(estimates(measured, prices, options.duration_s))
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"--measured {options.measured}: {error}")
    sys.stdout.write((json.dumps(rows) if options.json else table(rows)) + "\n")


if __name__ == "__main__":
    main()
