"""Puts one model under a series of loads, and reads what came of each."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tritone_cli.benching.ceiling import Ceiling, best_way, throughput
from tritone_cli.benching.counts import Counts, Processes, between, model_config, statistics
from tritone_cli.benching.inputs import questions_for
from tritone_cli.benching.levels import Rate
from tritone_serving import PerfAnalyzerError
from tritone_serving.perf_analyzer import Load, PerfAnalyzer, Protocol, Reading, write_data
from tritone_serving.repository.folders import newest_version

CEILING_S: Final = 6.0
# Poisson counts of N arrivals differ by sqrt(N): windows of an open loop must be long enough to agree by themselves.
N_ARRIVALS: Final = 400
LONGEST_WINDOWS: Final = 6
LATE: Final = 0.05  # an open loop that sends more than this late is none


@dataclass(frozen=True, kw_only=True)
class Where:
    """A running server.

    Attributes:
        grpc_url: without a scheme.
        http_url: with one.
        repository: what it serves, if that is on this machine.
        pid: None where its processes are not this machine's to look at.
    """

    grpc_url: str
    http_url: str
    repository: Path | None = None
    pid: int | None = None

    def url(self, protocol: Protocol) -> str:
        """As perf_analyzer wants it."""
        return self.grpc_url if protocol == "grpc" else self.http_url.partition("://")[2]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        batches: inferences in each request.
        window_s: of each of the windows that have to agree.
        stability: by how much they may differ, as a share.
        data: inputs for all models in perf_analyzer's form; None draws them.
    """

    protocols: Sequence[Protocol]
    concurrencies: Sequence[int]
    rates: Sequence[Rate]
    batches: Sequence[int] = (1,)
    window_s: float = 5.0
    stability: float = 0.1
    data: Path | None = None
    with_ceiling: bool = True


@dataclass(frozen=True, kw_only=True)
class Row:
    """One load on one model.

    Attributes:
        reading: None where there is no stable figure; `problem` then says why.
        counts: of the server, over the whole run of this load.
        generator_cores: that perf_analyzer took from the same machine.
    """

    model: str
    protocol: Protocol
    load: Load
    reading: Reading | None
    problem: str | None
    counts: Counts
    server_cores: float | None
    stub_cores: float | None
    memory_mb: float | None
    generator_cores: float


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """All loads on one model, and what it does in process."""

    model: str
    rows: Sequence[Row]
    ceiling: Ceiling | None
    no_ceiling: str | None
    skipped: Sequence[str] = ()

    @property
    def best(self) -> Row | None:
        """The closed loop that carried most."""
        return max(self._closed(), key=lambda row: row.reading.per_s if row.reading else 0.0, default=None)

    def share_of_ceiling(self, row: Row) -> float | None:
        """Throughput over what ONNX Runtime does in process, if both are stable figures."""
        if row.reading is None or self.ceiling is None or not self.ceiling.is_stable:
            return None
        return row.reading.per_s / self.ceiling.per_s

    def _closed(self) -> list[Row]:
        return [row for row in self.rows if row.load.rate is None and row.reading is not None]


def measure_model(
    tool: PerfAnalyzer,
    where: Where,
    model: str,
    plan: Plan,
    *,
    folder: Path,
    on_step: Callable[[str], None] = lambda step: None,
) -> ModelResult:
    """Ceiling, loads, ceiling again.

    Args:
        folder: for the inputs and perf_analyzer's tables.

    Raises:
        TritoneError: the server has no such model, or nothing says what to ask it.
    """
    config = model_config(where.http_url, model)
    is_decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled"))
    data, ceiling, again = plan.data, None, None
    max_batch, stack = int(config.get("max_batch_size", 0)), True
    no_ceiling: str | None = "not asked for"
    if data is None:
        questions = questions_for(config, where.repository)
        stack = questions.batch is not None
        data = folder / f"{model}.json"
        write_data(data, questions.requests)
        if plan.with_ceiling:
            no_ceiling = _why_no_ceiling(config, where, questions.batch)
            if no_ceiling is None and where.repository is not None and questions.batch is not None:
                file = _onnx_file(where.repository, config)
                on_step(f"{model}: in process, before")
                ceiling = best_way(file, questions.batch, max_batch=max_batch, seconds=CEILING_S)
                batch, way = questions.batch, ceiling.way
                again = lambda: throughput(file, batch, way, seconds=CEILING_S)  # noqa: E731
    rows: list[Row] = []
    skipped: list[str] = []
    for protocol in plan.protocols:
        if is_decoupled and protocol == "http":
            skipped.append(f"{model}: streams its answers, which HTTP cannot carry")
            continue
        for size in plan.batches:
            if size > 1 and (size > max_batch or not stack):
                skipped.append(f"{model}: takes no {size} inferences in a request")
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
                    skipped.append(f"{model}, {protocol}: no stable capacity to take {rate.value:.0%} of")
                    continue
                on_step(f"{model}: {protocol}, {arrivals}")
                rows.append(
                    _one(tool, where, model, protocol, arrivals, plan=plan, data=data, is_decoupled=is_decoupled)
                )
    if ceiling is not None and again is not None:
        on_step(f"{model}: in process, after")
        ceiling = replace(ceiling, after_per_s=again())
    return ModelResult(model=model, rows=rows, ceiling=ceiling, no_ceiling=no_ceiling, skipped=skipped)


def _one(
    tool: PerfAnalyzer,
    where: Where,
    model: str,
    protocol: Protocol,
    load: Load,
    *,
    plan: Plan,
    data: Path,
    is_decoupled: bool,
) -> Row:
    window_s = plan.window_s
    if load.rate is not None:
        window_s = min(max(window_s, N_ARRIVALS / load.rate), LONGEST_WINDOWS * window_s)
    before = statistics(where.http_url, model)
    began_s, spent_s = time.monotonic(), _children_s()
    reading, problem, processes = None, None, Processes(where.pid) if where.pid is not None else None
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
        problem = _doubt(reading, load, counts, plan.stability)
    return Row(
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


def _doubt(reading: Reading, load: Load, counts: Counts, stability: float) -> str | None:
    """Why a reading that perf_analyzer takes for stable is none."""
    if counts.n_failed:
        return f"{counts.n_failed} of {counts.n + counts.n_failed} requests failed on the server"
    if load.rate is None:
        return None
    if reading.delayed > LATE:
        return f"{reading.delayed:.0%} of the requests were sent late: beyond what the server or the generator carries"
    arrived_per_s = load.rate * load.batch
    if abs(reading.per_s / arrived_per_s - 1) > max(stability, 0.05):
        return f"{reading.per_s:.4g} a second were answered of {arrived_per_s:.4g} that arrived: no steady state"
    return None


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _why_no_ceiling(config: Mapping[str, Any], where: Where, batch: object) -> str | None:
    if config.get("backend") != "onnxruntime":
        return f"{config.get('backend') or 'an ensemble'} is not one ONNX file"
    if where.repository is None or not _onnx_file(where.repository, config).is_file():
        return "the model's file is not on this machine"
    return "the model has no batch axis" if batch is None else None


def _onnx_file(repository: Path, config: Mapping[str, Any]) -> Path:
    version = newest_version(repository / str(config["name"]))
    return (version or repository) / str(config.get("default_model_filename") or "model.onnx")
