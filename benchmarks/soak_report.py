"""Report of a soak test: bounds, a table and a plot.

Models with latencies of 1 ms and 100 ms have no common p99, so the mix is evaluated in units of each model's median at
the start. A single model fails only if the difference is not explained by chance, since a rare model has few requests
above its p99.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak_mix import SentRequest

MOST_GROWTH = 0.01
MOST_SLOWDOWN = 1.2
CONFIDENCE_Z = 1.96  # of a p99's interval, from the order of its values


class TooShortError(ValueError):
    """Raised when the load was too short to compare its beginning with its end."""


@dataclass(frozen=True)
class Memory:
    """Memory of the server and its stubs at one time."""

    at_s: float
    mb: float


@dataclass(frozen=True)
class SoakPeriods:
    """Periods of the load whose latencies and memory are compared, in seconds.

    Attributes:
        warm_up_s: memory is not compared before this time.
        latency_s: length of the first and the last period for latencies.
        memory_s: length of the first and the last period for memory.
    """

    whole_s: float
    warm_up_s: float
    latency_s: float
    memory_s: float


def spans(whole_s: float) -> SoakPeriods:
    """Return the periods: two minutes at each end after a minute of warm-up; shares of a short load."""
    return SoakPeriods(whole_s, min(60.0, whole_s / 5), min(120.0, whole_s / 5), min(30.0, whole_s / 10))


def evaluate(sent: Sequence[SentRequest], memory: Sequence[Memory], span: SoakPeriods) -> dict[str, Any]:
    """Return the results, with a verdict for each bound.

    Raises:
        ValueError: no model was answered in both periods.
    """
    first, last = _ends(sent, span)
    failed = [each for each in sent if each.error]
    models = {model: _model(first[model], last[model]) for model in sorted(first.keys() & last.keys())}
    if not models:
        raise ValueError("no model was answered both at the start and at the end; the load was too short")
    typical = {model: float(np.median(first[model])) for model in models}
    ends = [np.concatenate([values[model] / typical[model] for model in models]) for values in (first, last)]
    p99 = [float(np.quantile(each, 0.99)) for each in ends]
    before = float(np.median(_between(memory, span.warm_up_s, span.warm_up_s + span.memory_s)))
    after = float(np.median(_between(memory, span.whole_s - span.memory_s, math.inf)))
    growth = after / before - 1
    slower = [model for model, found in models.items() if found["is_slower"]]
    verdicts = {
        "no failed request": not failed,
        f"memory growth under {MOST_GROWTH:.0%}": growth < MOST_GROWTH,
        f"p99 at the end within {MOST_SLOWDOWN - 1:.0%} of the start": p99[1] <= MOST_SLOWDOWN * p99[0] and not slower,
    }
    return {
        "n": len(sent),
        "n_failed": len(failed),
        "errors": sorted({f"{each.model}: {each.error[:200]}" for each in failed})[:10],
        "models": models,
        "p99_of_the_mix": {"first": p99[0], "last": p99[1], "ratio": p99[1] / p99[0]},
        "memory_mb": {"after_warm_up": before, "end": after, "growth": growth},
        "clearly_slower": slower,
        "verdicts": verdicts,
        "passed": all(verdicts.values()),
    }


def _ends(sent: Sequence[SentRequest], span: SoakPeriods) -> tuple[dict[str, Any], dict[str, Any]]:
    ends: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for each in sent:
        if each.error:
            continue
        for place, begin_s in enumerate((0.0, span.whole_s - span.latency_s)):
            if begin_s <= each.due_s < begin_s + span.latency_s:
                ends[place].setdefault(each.model, []).append(each.latency_s)
    return tuple({model: np.array(values) for model, values in end.items()} for end in ends)  # type: ignore[return-value]


def _model(first: Any, last: Any) -> dict[str, Any]:
    low = p99_interval(last)[0]
    high = p99_interval(first)[1]
    p99_first, p99_last = float(np.quantile(first, 0.99)), float(np.quantile(last, 0.99))
    return {
        "n_first": len(first),
        "n_last": len(last),
        "p50_first_ms": 1e3 * float(np.median(first)),
        "p50_last_ms": 1e3 * float(np.median(last)),
        "p99_first_ms": 1e3 * p99_first,
        "p99_last_ms": 1e3 * p99_last,
        "p99_ratio": p99_last / p99_first,
        "is_slower": low > MOST_SLOWDOWN * high,
    }


def p99_interval(values: Any) -> tuple[float, float]:
    """Return the 95 % confidence interval of the p99, from order statistics."""
    ordered, n = np.sort(values), len(values)
    half = CONFIDENCE_Z * math.sqrt(n * 0.99 * 0.01)
    low, high = math.floor(0.99 * n - half), math.ceil(0.99 * n + half)
    return float(ordered[max(low, 0)]), float(ordered[high]) if high < n else math.inf


def _between(memory: Sequence[Memory], begin_s: float, end_s: float) -> list[float]:
    found = [each.mb for each in memory if begin_s <= each.at_s <= end_s]
    if not found:
        raise TooShortError(f"memory was not measured between {begin_s:.0f} and {end_s:.0f} s; the load was too short")
    return found


def table(result: dict[str, Any]) -> str:
    """Return the results as text."""
    mix, memory = result["p99_of_the_mix"], result["memory_mb"]
    head = (
        f"{result['n']} requests in {result['minutes']:g} minutes, Poisson arrivals at {result['per_s']:.1f}/s = "
        f"{result['load']:.0%} of {result['capacity_per_s']:.1f}/s; {result['n_failed']} failed"
    )
    span_s = result["span_s"]
    lines = [
        head,
        f"{'':24}{f'first {span_s:.0f} s':>27}{f'last {span_s:.0f} s':>27}",
        f"{'model':24}" + f"{'requests':>9}{'p50 ms':>9}{'p99 ms':>9}" * 2 + f"{'p99 ratio':>11}",
    ]
    for model, found in result["models"].items():
        cells = "".join(
            f"{found[f'n_{end}']:9d}{found[f'p50_{end}_ms']:9.1f}{found[f'p99_{end}_ms']:9.1f}"
            for end in ("first", "last")
        )
        lines.append(f"{model:24}{cells}{found['p99_ratio']:11.2f}{'  slower' if found['is_slower'] else ''}")
    lines += [
        f"p99 of the mix, in medians of each model: {mix['first']:.2f}, then {mix['last']:.2f}: {mix['ratio']:.2f}",
        f"memory of the server and its stubs: {memory['after_warm_up']:.1f} MB after warm-up, {memory['end']:.1f} MB "
        f"at the end: {memory['growth']:+.2%}",
        f"the generator sent {result['late']:.1%} of the requests more than 10 ms late",
        *result["errors"],
        *(f"{'pass' if kept else 'FAIL'}  {bound}" for bound, kept in result["verdicts"].items()),
    ]
    return "\n".join(lines) + "\n"


def draw(sent: Sequence[SentRequest], memory: Sequence[Memory], path: Path) -> None:
    """Plot the latency of each model (p50 and p99 of each 15 s) and memory over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(10, 7), sharex=True, layout="constrained", height_ratios=(2, 1)
    )
    width_s = 15.0
    colours = plt.get_cmap("tab20")
    for number, model in enumerate(sorted({each.model for each in sent})):
        bins: dict[int, list[float]] = {}
        for each in sent:
            if each.model == model and not each.error:
                bins.setdefault(int(each.due_s // width_s), []).append(1e3 * each.latency_s)
        at = [(place + 0.5) * width_s / 60 for place in sorted(bins)]
        for quantile, style in ((0.5, "-"), (0.99, ":")):
            values = [float(np.quantile(bins[place], quantile)) for place in sorted(bins)]
            upper.plot(at, values, style, color=colours(number % 20), label=model if quantile == 0.5 else None)
    upper.set(ylabel="latency, ms: p50 —, p99 ···", yscale="log")
    upper.grid(alpha=0.3, which="both")
    upper.legend(fontsize="small", ncol=3)
    for each in sent:
        if each.error:
            upper.axvline(each.due_s / 60, color="red", linewidth=0.5)
    lower.plot([each.at_s / 60 for each in memory], [each.mb for each in memory], color="tab:blue")
    lower.set(xlabel="minutes", ylabel="memory of server and stubs, MB")
    lower.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
