"""Draw requests, send them from several threads, and check the server after each round."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fuzzing import over_grpc, over_http
from benchmarks.fuzzing.options import CLASS_COUNTS
from benchmarks.fuzzing.outcomes import HANG, NOT_SENT, Guard, Outcome, OutcomeTally, fatal
from benchmarks.fuzzing.requests import valid_request
from benchmarks.fuzzing.servers import Bystander, Canaries, Processes, compare
from tritone.endpoints import make_endpoint
from tritone_serving import TritonServer
from tritone_serving.calls import Calls

ROUND: Final = 1000
N_SENDERS: Final = 4  # so that valid and malformed requests meet in one batch
N_AHEAD: Final = 16


@dataclass
class Result:
    """Results of a campaign.

    Attributes:
        troubles: problems of the server itself, by round.
    """

    tally: OutcomeTally = field(default_factory=OutcomeTally)
    troubles: list[str] = field(default_factory=list)
    n_canaries: int = 0
    n_bystander: int = 0
    memory_mb: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether nothing unexpected happened."""
        return not self.troubles and not self.tally.findings


def run(
    server: Callable[[], TritonServer],
    canaries: Canaries,
    *,
    n_requests: int,
    first_seed: int = 0,
    per_round: int = ROUND,
    class_counts: Sequence[Any] = CLASS_COUNTS,
    on_round: Callable[[Result], None] = lambda result: None,
) -> Result:
    """Send malformed requests.

    Args:
        server: returns the current server, which a watchdog may have restarted.
        canaries: recorded before, at least two of each model.
        class_counts: values of `classification`; each is first requested for every output of every model.
        on_round: called after each round.
    """
    result = Result()
    begun_s = time.monotonic()
    processes = Processes.of(server())
    n_rounds = 0
    with Bystander(server(), canaries) as bystander:
        if class_counts:
            send_classes(server(), canaries, result.tally, class_counts)
        while result.tally.n_sent < n_requests:
            n_left = n_requests - result.tally.n_sent
            _round(server(), canaries, result.tally, min(per_round, n_left), first_seed + n_rounds)
            with Calls(make_endpoint(server().grpc_url)) as calls:
                wrong = [compare(calls, canaries, model, n_rounds % canaries.n) for model in canaries.asked]
            result.n_canaries += len(wrong)
            found = [*processes.look(server()), *filter(None, wrong), *bystander.wrong]
            bystander.wrong.clear()
            result.troubles += [f"round {n_rounds}: {each}" for each in found]
            result.memory_mb = processes.memory_mb
            result.seconds = time.monotonic() - begun_s
            n_rounds += 1
            on_round(result)
    result.n_bystander = bystander.n_asked
    result.troubles += bystander.wrong
    return result


def _round(server: TritonServer, canaries: Canaries, tally: OutcomeTally, n: int, number: int) -> None:
    host, _, port = server.http_url.removeprefix("http://").partition(":")
    targets: dict[str, Any] = {
        "http": over_http.HttpTarget(host, int(port)),
        "grpc": over_grpc.GrpcTarget(server.grpc_url),
    }
    guard = Guard.of(server, canaries.configs)
    over = {
        name: module.attempts(canaries.configs, guard, tally.options)
        for name, module in (("http", over_http), ("grpc", over_grpc))
    }
    drawn = st.sampled_from(sorted(over)).flatmap(lambda name: st.tuples(st.just(name), over[name]))
    waiting: list[tuple[Any, Future[Outcome]]] = []

    def settle(n_most: int) -> None:
        while len(waiting) > n_most:
            (transport, (category, must, words, _)), future = waiting.pop(0)
            tally.add(transport, category, future.result(), words, must=must)

    with ThreadPoolExecutor(N_SENDERS) as pool:

        @seed(number)
        @settings(
            max_examples=n,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(drawn)
        def send(attempt: Any) -> None:
            transport, (_, _, _, how) = attempt
            if isinstance(how, str):
                done: Future[Outcome] = Future()
                done.set_result(Outcome(NOT_SENT, message=how))
            else:
                done = pool.submit(_twice, how, targets[transport])
            waiting.append((attempt, done))
            settle(N_AHEAD)

        send()
        settle(0)
    targets["grpc"].close()


def send_classes(server: TritonServer, canaries: Canaries, tally: OutcomeTally, counts: Sequence[Any]) -> None:
    """Request every output of every model with each count of classes: as JSON, binary data, a call and a stream."""
    guard = Guard.of(server, canaries.configs)
    host, _, port = server.http_url.removeprefix("http://").partition(":")
    http, rpc = over_http.HttpTarget(host, int(port)), over_grpc.GrpcTarget(server.grpc_url)
    rng = np.random.default_rng(0)
    for model, config in sorted(canaries.configs.items()):
        valid = valid_request(config, rng)
        for output in config.output:
            for count in counts:
                ask = replace(valid, outputs=((output.name, {"classification": count}),))
                words = f"{model} {output.name} classification={count!r}"
                why = fatal(ask, guard)
                body = over_grpc.message(ask).SerializeToString()
                ways: list[tuple[str, Callable[[], Outcome]]] = [
                    ("http", lambda ask=ask: http.send(over_http.whole(ask, as_json=False))),
                    ("grpc", lambda body=body: rpc.unary(over_grpc.SERVICE + "ModelInfer", body)),
                    ("grpc", lambda body=body: rpc.stream([body])),
                ]
                if sum(len(tensor.data) for tensor in ask.tensors) < over_http.MOST_JSON_ITEMS:
                    ways.append(("http", lambda ask=ask: http.send(over_http.whole(ask, as_json=True))))
                for transport, send in ways:
                    outcome = Outcome(NOT_SENT, message=why) if why is not None else send()
                    tally.add(transport, "classes of every output", outcome, words)
                    tally.options.update(["output: classification"] if why is None else [])
    rpc.close()


def _twice(how: Callable[[Any], Outcome], target: Any) -> Outcome:
    """Send a request again if it timed out, since this process may have been stopped meanwhile, not the server."""
    outcome = how(target)
    return how(target) if outcome.kind == HANG else outcome
