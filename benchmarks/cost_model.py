"""Estimate what a fit of the recommender costs, and compare the estimate with measured fits.

```
python -m benchmarks.cost_model                                            # the measured sizes
python -m benchmarks.cost_model --users 10e6 --items 2e6 --plays 1e9       # and a size that was not measured
```
The CPU time of each step of a fit is proportional to one quantity: pairs of items in the same history (neighbours),
items (one small regression each), or plays. The rates are those of one measured size (`--from`), so that the other
sizes test the estimate. An epoch of `taste_vae` takes time for each user; its rate is that of the largest measured
size. Measurements are those of `benchmarks.scale_recommender` and `benchmarks.train_taste` in docs/benchmarks. Prices
are assumptions: general-purpose virtual machines on demand, by core and by GB of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FITS = Path("docs/benchmarks/recommender-scale.json")
EPOCHS = Path("docs/benchmarks/taste-epochs.json")
TRAINING = (1, 30)  # fits of the base models, and epochs of `taste_vae`: at most those of its preset
REFIT = (2, 20)  # `tritone refit` fits without the latest listens and with them, with a third of the epochs each
USD_PER_CORE_HOUR = 0.035
USD_PER_GB_HOUR = 0.0045
N_NEIGHBOURS = 100  # as in benchmarks.scale_recommender
N_TABLES = 3  # item-kNN, EASE, graph filter
BYTES_PER_ENTRY = 8  # a column and a value
BYTES_PER_USER = 44  # pseudonym, starts of history, listening and friends, mean
BYTES_PER_ITEM = 560  # two vectors of 64 numbers, starts and columns of the indices
# The fit knows the overlaps of four times as many neighbours as it keeps: index, overlap and cosine of each.
BYTES_PER_OVERLAP = 12
OVERLAPS_PER_ITEM = 4 * N_NEIGHBOURS
# What the time of each step is proportional to, in catalogues where EASE is restricted to neighbours.
COST_FACTORS = {
    "item-kNN": "overlaps",
    "EASE's neighbours": "overlaps",
    "graph's neighbours": "overlaps",
    "EASE": "items",
    "graph filter": "items",
    "vectors": "plays",
}


@dataclass(frozen=True)
class LogSize:
    """Users, items and plays of a log; a play is a pair of user and item, however often it was heard."""

    users: float
    items: float
    plays: float

    @property
    def overlaps(self) -> float:
        """Pairs of items in the same history, if all histories have the same length."""
        return self.plays**2 / self.users

    @property
    def artifact_gb(self) -> float:
        """History and listening of all users, the item-item tables, and what users and items take besides."""
        entries = 2 * self.plays + N_TABLES * N_NEIGHBOURS * self.items
        return (BYTES_PER_ENTRY * entries + BYTES_PER_USER * self.users + BYTES_PER_ITEM * self.items) / 2**30

    @property
    def overlaps_gb(self) -> float:
        """What the fit stores about neighbours."""
        return BYTES_PER_OVERLAP * OVERLAPS_PER_ITEM * self.items / 2**30


@dataclass(frozen=True)
class MeasuredFit:
    """One row of `benchmarks.scale_recommender`."""

    name: str
    size: LogSize
    cpu_s: float
    peak_gb: float
    artifact_gb: float
    steps_s: Mapping[str, float]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> MeasuredFit:
        size = LogSize(row["n_users"], row["n_items"], row["n_plays"])
        return cls(
            row["size"], size, row["fit_cpu_s"], row["peak_mb"] / 1024, row["artifact_mb"] / 1024, row["steps_cpu_s"]
        )

    @property
    def is_restricted(self) -> bool:
        """Whether EASE was restricted to neighbours, as in every large catalogue."""
        return "graph's neighbours" in self.steps_s


@dataclass(frozen=True)
class CostRates:
    """CPU seconds per pair of items, per item and per play; memory per play, and memory of any fit."""

    overlaps: float
    items: float
    plays: float
    gb_per_play: float
    constant_gb: float

    @classmethod
    def of(cls, fit: MeasuredFit, smaller: MeasuredFit) -> CostRates:
        """Take the rates from one measured fit; what is not a step of its own counts as proportional to plays.

        Args:
            fit: source of all rates.
            smaller: a smaller fit, whose memory tells which part of it does not grow.
        """
        spent = dict.fromkeys(("overlaps", "items", "plays"), 0.0)
        for step, seconds in fit.steps_s.items():
            spent[COST_FACTORS.get(step, "plays")] += seconds
        spent["plays"] += max(fit.cpu_s - sum(fit.steps_s.values()), 0)
        least, most = (each.peak_gb - each.size.overlaps_gb for each in (smaller, fit))
        gb_per_play = (most - least) / (fit.size.plays - smaller.size.plays)
        return cls(
            **{name: seconds / getattr(fit.size, name) for name, seconds in spent.items()},
            gb_per_play=gb_per_play,
            constant_gb=most - gb_per_play * fit.size.plays,
        )

    def cpu_s(self, size: LogSize) -> float:
        return self.overlaps * size.overlaps + self.items * size.items + self.plays * size.plays

    def peak_gb(self, size: LogSize) -> float:
        return self.constant_gb + self.gb_per_play * size.plays + size.overlaps_gb


@dataclass(frozen=True)
class Prices:
    """USD per core and hour, and per GB of memory and hour."""

    core_hour: float = USD_PER_CORE_HOUR
    gb_hour: float = USD_PER_GB_HOUR

    def usd(self, cpu_s: float, gb: float, cores: float = 1) -> float:
        """Return the price of a job that keeps `cores` cores busy and `gb` GB allocated until it ends."""
        return cpu_s / 3600 * (self.core_hour + gb * self.gb_hour / cores)


@dataclass(frozen=True)
class EpochRate:
    """Time and memory of training `taste_vae`, whose users are in batches of a fixed size.

    Attributes:
        cpu_s: CPU seconds of an epoch per user.
        gb: peak memory of the largest measured training.
        errors: error of the estimate at each smaller measured number of users.
    """

    cpu_s: float
    gb: float
    errors: Mapping[int, float]

    @classmethod
    def read(cls, path: Path) -> EpochRate:
        """Read the results of `benchmarks.train_taste`."""
        *smaller, largest = sorted(json.loads(path.read_text()), key=lambda row: row["n_users"])
        rate = largest["epoch_cpu_s"] / largest["n_users"]
        errors = {row["n_users"]: rate * row["n_users"] / row["epoch_cpu_s"] - 1 for row in smaller}
        return cls(rate, largest["peak_mb"] / 1024, errors)


def measured_fits(path: Path) -> list[MeasuredFit]:
    """Read the sizes that were measured with EASE restricted to neighbours, on one machine."""
    rows = json.loads(path.read_text())
    local = [row for row in rows if row["engine"]["name"] == "local" and row["engine"]["workers"] == 1]
    fits = [MeasuredFit.of(row) for row in local]
    return sorted((fit for fit in fits if fit.is_restricted), key=lambda fit: fit.size.plays)


def estimates(
    fits: Sequence[MeasuredFit],
    rates: CostRates,
    epochs: EpochRate,
    prices: Prices,
    more: Sequence[LogSize] = (),
) -> Iterator[dict[str, Any]]:
    """Yield one row per measured size and per size in `more`."""
    for size, fit in [*((fit.size, fit) for fit in fits), *((size, None) for size in more)]:
        cpu_s, peak_gb = rates.cpu_s(size), rates.peak_gb(size)
        usd, epoch_usd = prices.usd(cpu_s, peak_gb), prices.usd(epochs.cpu_s * size.users, epochs.gb)
        training_usd, refit_usd = (n_fits * usd + n_epochs * epoch_usd for n_fits, n_epochs in (TRAINING, REFIT))
        yield {
            "n_users": size.users,
            "n_items": size.items,
            "n_plays": size.plays,
            "cpu_s": round(cpu_s, 1),
            "peak_gb": round(peak_gb, 2),
            "artifact_gb": round(size.artifact_gb, 2),
            "epoch_cpu_s": round(epochs.cpu_s * size.users, 1),
            "usd_per_million_users": {
                "base_models": round(usd / size.users * 1e6, 4),
                "training": round(training_usd / size.users * 1e6, 4),
                "refit": round(refit_usd / size.users * 1e6, 4),
            },
            "measured": None
            if fit is None
            else {
                "size": fit.name,
                "cpu_s": fit.cpu_s,
                "peak_gb": round(fit.peak_gb, 2),
                "artifact_gb": round(fit.artifact_gb, 2),
                "cpu_error": round(cpu_s / fit.cpu_s - 1, 3),
            },
        }


def table(rows: Sequence[Mapping[str, Any]], prices: Prices) -> str:
    """Return the estimates as a Markdown table."""
    lines = [
        "| users x items x plays | CPU time, estimated | measured | error | largest memory, estimated | measured "
        "| artifact, estimated | measured | USD per million users: base models | training | refit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = row["measured"] or {}
        error = f"{found['cpu_error']:+.0%}" if found else ""
        cells = [
            " x ".join(f"{row[name]:,.0f}" for name in ("n_users", "n_items", "n_plays")),
            *(f"{row['cpu_s']:,.0f} s", f"{found['cpu_s']:,.0f} s" if found else "", error),
            *(f"{row['peak_gb']:.1f} GB", f"{found['peak_gb']:.1f} GB" if found else ""),
            *(f"{row['artifact_gb']:.2f} GB", f"{found['artifact_gb']:.2f} GB" if found else ""),
            *(f"{usd:.4f}" for usd in row["usd_per_million_users"].values()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{prices.core_hour} USD per core and hour, {prices.gb_hour} USD per GB and hour"])


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=Path, default=FITS, help="results of benchmarks.scale_recommender")
    parser.add_argument("--from", dest="source", help="measured size whose rates are used; default: the second largest")
    parser.add_argument("--users", type=float, help="users of a log that was not measured")
    parser.add_argument("--items", type=float)
    parser.add_argument("--plays", type=float)
    parser.add_argument("--epochs", type=Path, default=EPOCHS, help="results of benchmarks.train_taste")
    parser.add_argument("--usd-per-core-hour", type=float, default=USD_PER_CORE_HOUR)
    parser.add_argument("--usd-per-gb-hour", type=float, default=USD_PER_GB_HOUR)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    given = [options.users, options.items, options.plays]
    if any(given) and not all(number is not None and number > 0 for number in given):
        parser.error("--users, --items and --plays: expected three positive numbers")
    fits = measured_fits(options.fits)
    by_name = {fit.name: fit for fit in fits}
    sources = [fit.name for fit in fits[1:]]  # the memory of the next smaller fit is needed as well
    source = options.source or sources[max(0, len(sources) - 2)] if sources else ""
    if source not in sources:
        parser.error(f"--from: expected one of {', '.join(sources)}, got {source or 'fewer than two measured fits'}")
    rates = CostRates.of(*(by_name[name] for name in (source, fits[sources.index(source)].name)))
    prices = Prices(options.usd_per_core_hour, options.usd_per_gb_hour)
    more = [LogSize(*given)] if all(given) else []
    epochs = EpochRate.read(options.epochs)
    rows = list(estimates(fits, rates, epochs, prices, more))
    if options.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    errors = ", ".join(f"{error:+.0%} at {n_users:,} users" for n_users, error in epochs.errors.items())
    sys.stdout.write(table(rows, prices) + "\n")
    sys.stdout.write(
        f"An epoch of taste_vae: {1e6 * epochs.cpu_s:,.0f} s of CPU time per million users (error of the estimate: "
        f"{errors})\n"
    )


if __name__ == "__main__":
    main()
