"""Parse loads from command-line options, and measure a model under each of them."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tritone_cli.bench.in_process import InProcessThroughput, best_layout, throughput
from tritone_cli.bench.inputs import example_requests
from tritone_cli.bench.server_statistics import ProcessUsage, ServerCounts, between, model_config, statistics
from tritone_serving import PerfAnalyzerError
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, Protocol, Reading, write_data
from tritone_serving.repository import newest_version

MAX_CLIENTS: Final = 1024
CEILING_S: Final = 6.0
# Poisson counts of N arrivals vary by sqrt(N), so windows of an open loop agree only with many arrivals.
N_ARRIVALS: Final = 400
MAX_WINDOW_FACTOR: Final = 6  # for longer windows at low rates
MAX_LATE: Final = 0.05  # share of requests sent late; with more, the loop is not open


class LoadOptionError(ValueError):
    """Raised when an option does not describe a load."""


@dataclass(frozen=True)
class ArrivalRate:
    """Arrivals per second, or a share of the throughput of the closed loop.

    Attributes:
        value: arrivals per second, or if `is_share` a share of 1.
    """

    value: float
    is_share: bool

    def load(self, capacity_per_s: float | None, *, batch: int = 1) -> Load | None:
        """Return the load; None for a share of an unknown capacity.

        Args:
            capacity_per_s: inferences per second.
            batch: inferences per request.
        """
        if not self.is_share:
            return Load(rate=self.value, batch=batch)
        return None if capacity_per_s is None else Load(rate=max(self.value * capacity_per_s / batch, 0.1), batch=batch)


def concurrencies(text: str) -> tuple[int, ...]:
    """Parse `8`, `1,4,16`, `1:32` (doubling) or `1:32:4` (in steps of 4).

    Raises:
        LoadOptionError: the text has another form.
    """
    expected = f"--concurrency: expected 8, 1,4,16, 1:32 (doubling) or 1:32:4, each 1 to {MAX_CLIENTS}, got {text!r}"
    try:
        if ":" not in text:
            levels = [int(part) for part in text.split(",")]
        else:
            first, last, *step = (int(part) for part in text.split(":"))
            if not 1 <= first <= last <= MAX_CLIENTS or len(step) > 1 or (step and step[0] < 1):
                raise LoadOptionError(expected)
            levels = list(range(first, last + 1, step[0])) if step else _doubling(first, last)
    except ValueError as error:
        raise LoadOptionError(expected) from error
    if not all(1 <= level <= MAX_CLIENTS for level in levels):
        raise LoadOptionError(expected)
    return tuple(sorted(set(levels)))


def batches(text: str) -> tuple[int, ...]:
    """Parse `1` or `1,8`: inferences per request.

    Raises:
        LoadOptionError: the text has another form.
    """
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not 1 <= found[0] <= found[-1] <= MAX_CLIENTS:
        raise LoadOptionError(f"--batch: expected 1 or 1,8, each 1 to {MAX_CLIENTS}, got {text!r}")
    return tuple(found)


def rates(text: str) -> tuple[ArrivalRate, ...]:
    """Parse `100`, `50,100.5` or `50%,80%`; an empty text or `none` means no open loop.

    Raises:
        LoadOptionError: the text has another form.
    """
    if text.strip() in ("", "none"):
        return ()
    try:
        found = [ArrivalRate(_number(part), is_share="%" in part) for part in text.split(",")]
    except ValueError as error:
        raise LoadOptionError(_rate_expected(text)) from error
    if not all(0 < rate.value <= (1 if rate.is_share else 1e6) for rate in found):
        raise LoadOptionError(_rate_expected(text))
    return tuple(found)


def _rate_expected(text: str) -> str:
    return (
        f"--request-rate: expected requests per second such as 50,100, shares of the capacity such as 50%,80%, or "
        f"none, got {text!r}"
    )


def _number(part: str) -> float:
    part = part.strip()
    return float(part.removesuffix("%")) / 100 if part.endswith("%") else float(part)


def _doubling(first: int, last: int) -> list[int]:
    levels = [first]
    while levels[-1] * 2 <= last:
        levels.append(levels[-1] * 2)
    return levels if levels[-1] == last else [*levels, last]


@dataclass(frozen=True, kw_only=True)
class BenchTarget:
    """A running server.

    Attributes:
        grpc_url: address without a scheme.
        http_url: address with a scheme.
        repository: its model repository, if it is on this machine.
        pid: process id of the server; None if it is not a child of this process.
    """

    grpc_url: str
    http_url: str
    repository: Path | None = None
    pid: int | None = None

    def url(self, protocol: Protocol) -> str:
        """Return the address in the form that perf_analyzer expects."""
        return self.grpc_url if protocol == "grpc" else self.http_url.partition("://")[2]


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """Loads and durations of a benchmark.

    Attributes:
        batches: inferences per request.
        window_s: length of each of the windows that must agree.
        stability: maximum difference between the windows, as a share.
        data: inputs for all models as perf_analyzer's JSON; None draws them.
    """

    protocols: Sequence[Protocol]
    concurrencies: Sequence[int]
    rates: Sequence[ArrivalRate]
    batches: Sequence[int] = (1,)
    window_s: float = 5.0
    stability: float = 0.1
    data: Path | None = None
    with_ceiling: bool = True


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """Result of one load on one model.

    Attributes:
        reading: None if the measurement was not stable; `problem` is the reason.
        counts: statistics of the server over the whole run.
        generator_cores: number of cores that perf_analyzer used on the same machine.
    """

    model: str
    protocol: Protocol
    load: Load
    reading: Reading | None
    problem: str | None
    counts: ServerCounts
    server_cores: float | None
    stub_cores: float | None
    memory_mb: float | None
    generator_cores: float


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """Results of all loads on one model, and its throughput in process."""

    model: str
    rows: Sequence[LoadResult]
    ceiling: InProcessThroughput | None
    no_ceiling: str | None
    skipped: Sequence[str] = ()

    @property
    def best(self) -> LoadResult | None:
        """The closed loop with the highest throughput."""
        return max(self._closed(), key=lambda row: row.reading.per_s if row.reading else 0.0, default=None)

    def share_of_ceiling(self, row: LoadResult) -> float | None:
        """Return the throughput as a share of that in process; None if one of them is not stable."""
        if row.reading is None or self.ceiling is None or not self.ceiling.is_stable:
            return None
        return row.reading.per_s / self.ceiling.per_s

    def _closed(self) -> list[LoadResult]:
        return [row for row in self.rows if row.load.rate is None and row.reading is not None]


def measure_model(
    tool: PerfAnalyzer,
    where: BenchTarget,
    model: str,
    plan: BenchPlan,
    *,
    folder: Path,
    on_step: Callable[[str], None] = lambda step: None,
) -> BenchResult:
    """Measure a model in process, under all loads of the plan, and in process again.

    Args:
        folder: folder for inputs and for the files of perf_analyzer.

    Raises:
        TritoneError: the server does not have this model, or no requests can be drawn for it.
    """
    config = model_config(where.http_url, model)
    is_decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled"))
    data, ceiling, again = plan.data, None, None
    max_batch, stack = int(config.get("max_batch_size", 0)), True
    no_ceiling: str | None = "not requested"
    if data is None:
        examples = example_requests(config, where.repository)
        stack = examples.batch is not None
        data = folder / f"{model}.json"
        write_data(data, examples.requests)
        if plan.with_ceiling:
            no_ceiling = _why_no_ceiling(config, where, examples.batch)
            if no_ceiling is None and where.repository is not None and examples.batch is not None:
                file = _onnx_file(where.repository, config)
                on_step(f"{model}: in process, before")
                ceiling = best_layout(file, examples.batch, max_batch=max_batch, seconds=CEILING_S)
                batch, layout = examples.batch, ceiling.layout
                again = lambda: throughput(file, batch, layout, seconds=CEILING_S)  # noqa: E731
    rows: list[LoadResult] = []
    skipped: list[str] = []
    for protocol in plan.protocols:
        if is_decoupled and protocol == "http":
            skipped.append(f"{model}: HTTP does not support streaming models")
            continue
        for size in plan.batches:
            if size > 1 and (size > max_batch or not stack):
                skipped.append(f"{model}: does not accept {size} inferences per request")
                continue
            carried: float | None = None
            for load in [Load(concurrency=n, batch=size) for n in plan.concurrencies]:
                on_step(f"{model}: {protocol}, {load}")
                rows.append(_one(tool, where, model, protocol, load, plan=plan, data=data, is_decoupled=is_decoupled))
                if rows[-1].reading is not None:
                    carried = max(carried or 0.0, rows[-1].reading.per_s)
            for rate in plan.rates:
                arrivals = rate.load(carried, batch=size)
                if arrivals is None:
                    skipped.append(
                        f"{model}, {protocol}: no stable throughput of which {rate.value:.0%} could be offered"
                    )
                    continue
                on_step(f"{model}: {protocol}, {arrivals}")
                rows.append(
                    _one(tool, where, model, protocol, arrivals, plan=plan, data=data, is_decoupled=is_decoupled)
                )
    if ceiling is not None and again is not None:
        on_step(f"{model}: in process, after")
        ceiling = replace(ceiling, after_per_s=again())
    return BenchResult(model=model, rows=rows, ceiling=ceiling, no_ceiling=no_ceiling, skipped=skipped)


def _one(
    tool: PerfAnalyzer,
    where: BenchTarget,
    model: str,
    protocol: Protocol,
    load: Load,
    *,
    plan: BenchPlan,
    data: Path,
    is_decoupled: bool,
) -> LoadResult:
    window_s = plan.window_s
    if load.rate is not None:
        window_s = min(max(window_s, N_ARRIVALS / load.rate), MAX_WINDOW_FACTOR * window_s)
    before = statistics(where.http_url, model)
    began_s, spent_s = time.monotonic(), _children_s()
    reading, problem, processes = None, None, ProcessUsage(where.pid) if where.pid is not None else None
    with processes or contextlib.nullcontext():
        try:
            reading = tool.measure(
                model,
                where.url(protocol),
                protocol=protocol,
                data=data,
                load=load,
                window_s=window_s,
                stability=plan.stability,
                streaming=is_decoupled,
            )
        except PerfAnalyzerError as error:
            problem = str(error)
    generator_cores = (_children_s() - spent_s) / max(time.monotonic() - began_s, 1e-9)
    counts = between(before, statistics(where.http_url, model))
    if reading is not None:
        problem = _reject_reason(reading, load, counts, plan.stability)
    return LoadResult(
        model=model,
        protocol=protocol,
        load=load,
        reading=None if problem else reading,
        problem=problem,
        counts=counts,
        server_cores=processes.server_cores if processes else None,
        stub_cores=processes.stub_cores if processes else None,
        memory_mb=processes.memory_mb if processes else None,
        generator_cores=generator_cores,
    )


def _reject_reason(reading: Reading, load: Load, counts: ServerCounts, stability: float) -> str | None:
    """Return why a result that perf_analyzer reports as stable cannot be used, else None."""
    if counts.n_failed:
        return f"{counts.n_failed} of {counts.n + counts.n_failed} requests failed on the server"
    if load.rate is None:
        return None
    if reading.delayed > MAX_LATE:
        return f"{reading.delayed:.0%} of the requests were sent late; the load is too high"
    arrived_per_s = load.rate * load.batch
    if abs(reading.per_s / arrived_per_s - 1) > max(stability, 0.05):
        return f"{reading.per_s:.4g} of {arrived_per_s:.4g} requests per second were completed: no steady state"
    return None


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _why_no_ceiling(config: Mapping[str, Any], where: BenchTarget, batch: object) -> str | None:
    if config.get("backend") != "onnxruntime":
        return f"a model of {config.get('backend') or 'an ensemble'} is not a single ONNX file"
    if where.repository is None or not _onnx_file(where.repository, config).is_file():
        return "the model's file is not on this machine"
    return "the model has no batch axis" if batch is None else None


def _onnx_file(repository: Path, config: Mapping[str, Any]) -> Path:
    version = newest_version(repository / str(config["name"]))
    return (version or repository) / str(config.get("default_model_filename") or "model.onnx")
