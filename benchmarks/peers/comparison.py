"""Measures the peers in interleaved rounds.

Peers that take next to no CPU time while idle are started once, so that trials with the same load follow each other. A
peer that takes more is stopped, and started in each round for its own trials, so that it does not disturb the others.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.closed_loop import Client, LoopResult, closed_loop
from benchmarks.cpu_times import cpu_seconds, machine_times
from benchmarks.grpc_clients import GrpcClient
from benchmarks.http_clients import HttpClient, ask, connect, request_bytes
from benchmarks.peers.environments import installed_version, python_of
from benchmarks.peers.interface import Peer, PeerError, Transport
from benchmarks.peers.triton import Triton
from benchmarks.peers.workloads import Workload
from tritone_cli.bench.in_process import InProcessThroughput, best_layout, throughput
from tritone_serving.supervision.processes import memory_mb

WARM_UP_CLIENTS = 8
CEILING_BATCH = 8
TOLERANCE = 1e-3
AGREE = 0.15  # maximum interquartile range of the ratios of the rounds, as a share of the median
MAX_IDLE_CORES = 0.03  # above it, a peer runs only during its own trials


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        clients: numbers of concurrent clients.
        rounds: number of rounds.
        seconds: length of each trial.
        warm_up_s: length of the load of each peer before the rounds.
        idle_s: time without load in which the CPU time of the idle peers is measured.
        ceiling_s: length of each measurement in process.
        transports: the transports to measure.
        reference: name of the peer whose results are divided by those of each other one.
    """

    clients: Sequence[int] = (1, 8, 32)
    rounds: int = 5
    seconds: float = 2.5
    warm_up_s: float = 1.0
    idle_s: float = 10.0
    ceiling_s: float = 8.0
    transports: Sequence[Transport] = ("http", "grpc")
    reference: str = Triton.name


class Side:
    """A peer with one of its transports, and the prepared requests of all workloads."""

    def __init__(self, peer: Peer, transport: Transport, workloads: Sequence[Workload]) -> None:
        self.peer, self.transport = peer, transport
        self.workloads = [each for each in workloads if peer.takes(each.model)]
        self._requests = {
            each.model: [peer.encode(transport, each, inputs) for inputs in each.requests] for each in self.workloads
        }

    @property
    def key(self) -> str:
        return f"{self.peer.name}/{self.transport}"

    def connect(self, workload: Workload) -> Client:
        """Return a client that sends the requests of a workload.

        Raises:
            OSError: the peer accepts no connection.
        """
        requests, port = self._requests[workload.model], self.peer.ports[self.transport]
        if self.transport == "grpc":
            return GrpcClient(port, requests[0].target, [each.body for each in requests], requests[0].headers)
        return HttpClient(port, [request_bytes(each.target, each.body, each.headers) for each in requests])

    def check(self, workload: Workload) -> None:
        """Check that the peer returns the outputs of the model.

        Raises:
            PeerError: it does not.
        """
        where = f"{self.peer.title} over {self.transport}"
        try:
            found = self.peer.decode(self.transport, self._first_response(workload), workload)
        except (OSError, grpc.RpcError) as error:
            raise PeerError(f"{where} does not answer for {workload.model}: {error}") from error
        if not np.allclose(found, workload.expected, rtol=TOLERANCE, atol=TOLERANCE):
            raise PeerError(
                f"{where} returns other outputs of {workload.model} than ONNX Runtime in process: the largest "
                f"difference is {np.abs(found - workload.expected).max():g}"
            )

    def _first_response(self, workload: Workload) -> bytes:
        first, port = self._requests[workload.model][0], self.peer.ports[self.transport]
        if self.transport == "grpc":
            client = GrpcClient(port, first.target, [first.body], first.headers)
            try:
                return client.ask(0)
            finally:
                client.close()
        with connect(port) as connection:
            status, body = ask(connection, request_bytes(first.target, first.body, first.headers))
        if status != 200:
            raise PeerError(f"{self.peer.title} answers {workload.model} with status {status}: {body[:300]!r}")
        return body


def measure(
    peers: Sequence[type[Peer]], workloads: Sequence[Workload], plan: Plan, *, folder: Path, environments: Path
) -> dict[str, Any]:
    """Start the peers and load them in interleaved rounds.

    Args:
        peers: the peers to measure; one that cannot be installed or started is reported in `missing`.
        workloads: the requests to each model.
        plan: what is measured.
        folder: folder for files and logs of the peers.
        environments: folder with the Python environments of the peers.
    """
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        sides = _started(peers, workloads, plan, stack, missing, folder=folder, environments=environments)
        started = list(dict.fromkeys(side.peer for side in sides))
        _warm_up(sides, plan.warm_up_s)
        idle = _idle_cores(started, plan.idle_s)
        memory = {peer.name: (0.0, 0) for peer in started}
        restarted = [peer for peer in started if idle[peer.name] > MAX_IDLE_CORES]
        for peer in restarted:
            memory[peer.name] = _memory(peer)
            peer.stop()
        ceilings = {
            each.model: best_layout(each.path, each.batch, max_batch=CEILING_BATCH, seconds=plan.ceiling_s)
            for each in workloads
        }
        trials = _rounds(sides, restarted, workloads, plan)
        memory |= {peer.name: _memory(peer) for peer in started if peer not in restarted}
        ceilings = {each.model: _again(each, ceilings[each.model], plan.ceiling_s) for each in workloads}
        described = {peer.name: _described(peer) for peer in started}
    return {
        "cores": os.cpu_count(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "plan": asdict(plan),
        "rows_per_request": workloads[0].n_rows,
        "models": {
            each.model: {
                "bytes": each.path.stat().st_size,
                "request_bytes": each.request_bytes,
                "values": each.n_values,
            }
            for each in workloads
        },
        "peers": {
            peer.name: {
                **described[peer.name],
                "idle_cores": idle[peer.name],
                "restarted": peer in restarted,
                "memory_mb": round(memory[peer.name][0], 1),
                "processes": memory[peer.name][1],
            }
            for peer in started
        },
        "missing": missing,
        "ceilings": {
            model: {
                "layout": str(found.layout),
                "before_per_s": round(found.before_per_s, 1),
                "after_per_s": round(found.after_per_s or 0.0, 1),
            }
            for model, found in ceilings.items()
        },
        "rows": [
            _summary(model, key, n_clients, found)
            | {
                "of_ceiling": round(_median(found, "per_s") / ceilings[model].per_s, 3),
                "reference": relative(
                    trials.get((model, f"{plan.reference}/{key.partition('/')[2]}", n_clients)), found
                ),
            }
            for (model, key, n_clients), found in trials.items()
        ],
    }


def _started(
    peers: Sequence[type[Peer]],
    workloads: Sequence[Workload],
    plan: Plan,
    stack: contextlib.ExitStack,
    missing: dict[str, str],
    *,
    folder: Path,
    environments: Path,
) -> list[Side]:
    """Start the peers, check their outputs and return them with their transports; add the others to `missing`."""
    models = {each.model: each.path for each in workloads}
    found: list[Side] = []
    for kind in peers:
        own = folder / kind.name
        own.mkdir(parents=True)
        try:
            with contextlib.ExitStack() as attempt:
                peer = kind(python_of(kind, environments), models, own)
                attempt.callback(peer.stop)
                peer.start()
                sides = [Side(peer, name, workloads) for name in peer.protocols if name in plan.transports]
                for side in sides:
                    for workload in side.workloads:
                        side.check(workload)
                stack.push(attempt.pop_all())
        except PeerError as error:
            missing[kind.name] = str(error)
            print(error, file=sys.stderr)
            continue
        found += sides
    return found


def _idle_cores(peers: Sequence[Peer], seconds: float) -> dict[str, float]:
    before = {peer.name: cpu_seconds(peer.pids()) for peer in peers}
    time.sleep(seconds)
    return {peer.name: round((cpu_seconds(peer.pids()) - before[peer.name]) / seconds, 4) for peer in peers}


def _memory(peer: Peer) -> tuple[float, int]:
    """Return the memory of a peer in MiB and its number of processes."""
    pids = peer.pids()
    return memory_mb(pids), len(pids)


def _rounds(
    sides: Sequence[Side], restarted: Sequence[Peer], workloads: Sequence[Workload], plan: Plan
) -> dict[tuple[str, str, int], list[dict[str, float]]]:
    trials: dict[tuple[str, str, int], list[dict[str, float]]] = {
        (each.model, side.key, n): []
        for each in workloads
        for n in plan.clients
        for side in sides
        if side.peer.takes(each.model)
    }

    def load(loaded: Sequence[Side]) -> None:
        for workload in workloads:
            for n_clients in plan.clients:
                for side in loaded:
                    if not side.peer.takes(workload.model):
                        continue
                    found = _trial(side, workload, n_clients, plan.seconds)
                    trials[workload.model, side.key, n_clients].append(found)

    for index in range(plan.rounds):
        ordered = list(sides if index % 2 else reversed(sides))
        load([side for side in ordered if side.peer not in restarted])
        for peer in restarted:
            own = [side for side in ordered if side.peer is peer]
            peer.start()
            _warm_up(own, plan.warm_up_s)
            load(own)
            peer.stop()
    return trials


def _warm_up(sides: Sequence[Side], seconds: float) -> None:
    for side in sides:
        for workload in side.workloads:
            closed_loop(functools.partial(side.connect, workload), n_clients=WARM_UP_CLIENTS, seconds=seconds)


def _trial(side: Side, workload: Workload, n_clients: int, seconds: float) -> dict[str, float]:
    pids = side.peer.pids()
    machine, server_s, began_s = machine_times(), cpu_seconds(pids), time.monotonic()
    found: LoopResult = closed_loop(functools.partial(side.connect, workload), n_clients=n_clients, seconds=seconds)
    took_s, server_s = time.monotonic() - began_s, cpu_seconds(pids) - server_s
    after = machine_times()
    thousands = max(found.n + found.n_failed, 1) * workload.n_rows / 1000
    other_s = after.busy_s - machine.busy_s - server_s - found.generator_cpu_s
    return {
        "per_s": found.per_s * workload.n_rows,
        "p50_ms": found.p50_ms,
        "p99_ms": found.p99_ms,
        "max_ms": found.max_ms,
        "n": found.n,
        "n_failed": found.n_failed,
        "server_cpu_s_per_1000": server_s / thousands,
        "generator_cpu_s_per_1000": found.generator_cpu_s / thousands,
        "steal_cores": (after.steal_s - machine.steal_s) / took_s,
        "other_cores": max(0.0, other_s / took_s),
    }


def _again(workload: Workload, before: InProcessThroughput, seconds: float) -> InProcessThroughput:
    after_per_s = throughput(workload.path, workload.batch, before.layout, seconds=seconds)
    return InProcessThroughput(before.layout, before.before_per_s, after_per_s)


def _described(peer: Peer) -> dict[str, Any]:
    return {
        "title": peer.title,
        "version": f"{peer.version_of} {installed_version(peer.python, peer.version_of)}",
        "settings": peer.settings,
        "protocols": dict(peer.protocols),
    }


def _summary(model: str, key: str, n_clients: int, trials: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    rates = [each["per_s"] for each in trials]
    middles = {name: round(_median(trials, name), 4) for name in trials[0] if name not in ("n", "n_failed")}
    peer, _, transport = key.partition("/")
    return {
        "model": model,
        "peer": peer,
        "transport": transport,
        "clients": n_clients,
        **middles,
        "n": sum(int(each["n"]) for each in trials),
        "n_failed": sum(int(each["n_failed"]) for each in trials),
        "spread": round((max(rates) - min(rates)) / statistics.median(rates), 3) if min(rates) > 0 else None,
        "per_s_by_round": [round(rate, 1) for rate in rates],
        "p99_ms_by_round": [round(each["p99_ms"], 2) for each in trials],
    }


def relative(reference: Sequence[Mapping[str, float]] | None, other: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return throughput and p99 of the reference relative to another row of the same transport, model and clients.

    The ratios are medians of those of the rounds, so that drift of the machine matters little. None where the reference
    was not measured or a peer answered nothing, or the rounds do not agree: their interquartile range is above 15 % of
    the median.
    """
    if reference is None:
        return {"per_s": None, "p99": None, "spread": None}
    pairs = [(a, b) for a, b in zip(reference, other, strict=True) if a["n"] and b["n"]]
    if len(pairs) < len(other):
        return {"per_s": None, "p99": None, "spread": None}
    ratios = [a["per_s"] / b["per_s"] for a, b in pairs]
    middle = statistics.median(ratios)
    spread = 0.0
    if len(ratios) > 1:
        low, _, high = statistics.quantiles(ratios, n=4)
        spread = (high - low) / middle
    agree = spread <= AGREE
    p99 = statistics.median(a["p99_ms"] / b["p99_ms"] for a, b in pairs)
    return {
        "per_s": round(middle, 3) if agree else None,
        "p99": round(p99, 3) if agree else None,
        "spread": round(spread, 3),
    }


def _median(trials: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.median(each[name] for each in trials)
