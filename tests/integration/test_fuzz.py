"""Malformed requests to a real server: those that once went wrong, a few hundred drawn ones, and (marked) thousands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.benchmark_tools import run_tool

from benchmarks.fuzzing import campaign, outcomes, over_grpc, over_http, servers
from benchmarks.fuzzing.requests import FuzzRequest, RequestTensor
from tritone_serving import ServerOptions, TritonServer
from tritone_serving.server import triton_server as server_module
from tritone_serving.supervision.processes import stubs_of

pytestmark = pytest.mark.triton
N_QUICK = 400
N_WHOLE = 20_000


@dataclass(frozen=True)
class Fuzzed:
    server: TritonServer
    canaries: servers.Canaries


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    repository = servers.make_repository(tmp_path_factory.mktemp("fuzz"), music=False)
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    # Without a cache, which might answer a canary for the model.
    options = ServerOptions(repository=repository, response_cache_bytes=0, stop_timeout_s=2, **ports)
    with TritonServer.start(options) as server:
        yield Fuzzed(server, servers.record(server, 2))


def numbers(name: str, array: Any) -> RequestTensor:
    values = np.asarray(array)
    datatype = {"int64": "INT64", "float32": "FP32", "int32": "INT32", "uint8": "UINT8"}[values.dtype.name]
    return RequestTensor(name, datatype, values.shape, values.tobytes())


def floats(name: str, *rows: list[float]) -> RequestTensor:
    return numbers(name, np.array(rows, np.float32))


# What is wrong: (model, tensors, part of the message). All once broke something, or would have.
ONCE_BAD = {
    "an item that the network does not know": (
        "taste_vae",
        (numbers("items", np.array([[10**6]])), floats("weights", [1.0])),
        "invalid items",
    ),
    "an item before the first": (
        "taste_vae",
        (numbers("items", np.array([[-(1 << 63)]])), floats("weights", [1.0])),
        "invalid items",
    ),
    "as many weights as items": (
        "taste_vae",
        (numbers("items", np.array([[1, 2, 3]])), floats("weights", [1.0, 2.0])),
        "",
    ),
}


@pytest.mark.parametrize("wrong", ONCE_BAD)
def test_what_once_went_wrong_is_refused(fuzzed: Fuzzed, wrong: str) -> None:
    model, tensors, part = ONCE_BAD[wrong]
    target = over_grpc.GrpcTarget(fuzzed.server.grpc_url)
    body = over_grpc.message(FuzzRequest(model, tensors)).SerializeToString()
    outcome = target.unary(over_grpc.SERVICE + "ModelInfer", body)
    target.close()
    assert (outcome.kind, outcome.code) == (outcomes.REFUSED, "INVALID_ARGUMENT"), outcome.message
    assert part in outcome.message


def test_a_few_hundred_malformed_requests(fuzzed: Fuzzed) -> None:
    result = campaign.run(lambda: fuzzed.server, fuzzed.canaries, n_requests=N_QUICK, per_round=N_QUICK // 2)
    assert [(each.outcome, each.category, each.request) for each in result.tally.findings] == []
    assert result.troubles == []
    assert result.tally.n_sent >= N_QUICK
    assert {transport for transport, *_ in result.tally.counts} == {"http", "grpc"}
    kinds = {kind for *_, kind in result.tally.counts}
    assert {outcomes.OK, outcomes.REFUSED} <= kinds


def test_what_breaks_the_server_is_not_sent() -> None:
    def asked(*shape: int) -> FuzzRequest:
        return FuzzRequest("taste_vae", (RequestTensor("items", "INT64", shape, b""),))

    assert outcomes.fatal(asked(1, 1 << 61)) == outcomes.OVERFLOW
    assert outcomes.fatal(asked(1 << 32, 1 << 32)) == outcomes.OVERFLOW
    assert outcomes.fatal(asked(1, 1 << 36), as_json=True) == outcomes.MEMORY
    assert outcomes.fatal(asked(0, 0)) == outcomes.NO_ROWS
    fixed = outcomes.Guard(fixes=frozenset({"tensor-shape", "json-shape"}))
    assert outcomes.fatal(asked(1 << 32, 1 << 32), fixed) is None
    assert outcomes.fatal(asked(1, 1 << 36), fixed, as_json=True) is None
    assert outcomes.fatal(asked(0, 0), fixed) == outcomes.NO_ROWS
    assert outcomes.fatal(asked(1, 1 << 36)) is None
    assert outcomes.fatal_json([("inputs", [[("shape", [1, 1 << 36])]])]) == outcomes.MEMORY
    assert outcomes.fatal_json([("inputs", [[("shape", [1]), ("shape", [1, 1 << 62])]])]) == outcomes.OVERFLOW


def test_a_death_and_a_wrong_answer_are_noticed(fuzzed: Fuzzed) -> None:
    processes = servers.Processes.of(fuzzed.server)
    assert processes.look(fuzzed.server) == []
    pid = stubs_of(fuzzed.server.pid)[0].pid
    processes.stubs = {**processes.stubs, -1: "genre_cnn"}
    del processes.stubs[pid]  # type: ignore[attr-defined]
    assert len(processes.look(fuzzed.server)) == 2
    wrong = {
        "genre_cnn": [
            (inputs, {**outputs, "emotions": outputs["emotions"] + 1})
            for inputs, outputs in fuzzed.canaries.asked["genre_cnn"]
        ]
    }
    from tritone.endpoints import make_endpoint
    from tritone_serving.calls import Calls

    with Calls(make_endpoint(fuzzed.server.grpc_url)) as calls:
        said = servers.compare(calls, servers.Canaries(wrong, fuzzed.canaries.configs), "genre_cnn", 0)
        assert servers.compare(calls, fuzzed.canaries, "genre_cnn", 0) is None
    assert said == "genre_cnn: output emotions differs from what it was before"


def test_a_tally_tells_what_should_not_be() -> None:
    tally = outcomes.OutcomeTally()
    tally.add("grpc", "values", outcomes.Outcome(outcomes.FAILED, "INTERNAL", "the model failed"), "request")
    tally.add(
        "http", "JSON cut", outcomes.Outcome(outcomes.FAILED, "500", "failed to parse the request JSON buffer"), ""
    )
    tally.add(
        "grpc", "sizes", outcomes.Outcome(outcomes.FAILED, "INTERNAL", "batch size 7 for 'm_0_0', max allowed is 6"), ""
    )
    tally.add("http", "parameters", outcomes.Outcome(outcomes.FAILED, "503", "Request timeout expired"), "")
    tally.add("http", "valid", outcomes.Outcome(outcomes.REFUSED, "400", "no"), "", must=outcomes.OK)
    tally.add("http", "bytes", outcomes.Outcome(outcomes.HANG), "")
    tally.add("grpc", "admin without a token", outcomes.Outcome(outcomes.OK, "OK"), "", must=outcomes.REFUSED)
    tally.add("grpc", "size", outcomes.Outcome(outcomes.NOT_SENT, message=outcomes.OVERFLOW), "")
    assert [each.category for each in tally.findings] == ["values", "valid", "bytes", "admin without a token"]
    assert (tally.n_sent, sum(tally.known.values()), tally.not_sent[outcomes.OVERFLOW]) == (7, 3, 1)
    assert "| grpc: size |  |  |  |  |  |  | 1 |" in tally.table()


FATAL = {
    outcomes.OVERFLOW: (
        RequestTensor("items", "INT64", (1, 1 << 61), b""),
        RequestTensor("weights", "FP32", (1, 1 << 62), b""),
    ),
    outcomes.MEMORY: (RequestTensor("items", "INT64", (1, 1 << 50), bytes(8)), floats("weights", [1.0])),
    outcomes.NO_ROWS: (RequestTensor("items", "INT64", (0, 0), b""), RequestTensor("weights", "FP32", (0, 0), b"")),
}


@pytest.mark.fuzz
@pytest.mark.parametrize("why", FATAL)
def test_what_is_not_sent_is_still_fatal_to_the_unmodified_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """If this fails, Triton itself has fixed it: drop our fix, and take it out of the documentation."""
    monkeypatch.setattr(server_module, "fixed_copy", lambda installation, folder: (installation.binary, frozenset()))
    servers.make_repository(tmp_path, music=False)
    ask = FuzzRequest("taste_vae", FATAL[why])
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    options = ServerOptions(repository=tmp_path / "repository", models=("taste_vae",), stop_timeout_s=2, **ports)
    with TritonServer.start(options) as server:
        if why == outcomes.MEMORY:
            host, _, port = server.http_url.removeprefix("http://").partition(":")
            body, _ = over_http.body_of(ask, as_json=True)
            frame = over_http.Frame(over_http.framed("/v2/models/taste_vae/infer", body, {}))
            over_http.HttpTarget(host, int(port)).send(frame)
            assert server.wait(10) is not None
            return
        target = over_grpc.GrpcTarget(server.grpc_url)
        body = over_grpc.message(ask).SerializeToString()
        outcome = target.unary(over_grpc.SERVICE + "ModelInfer", body, timeout_s=5)
        target.close()
        assert outcome.kind == (outcomes.HANG if why == outcomes.NO_ROWS else outcomes.FAILED)


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
def test_twenty_thousand_malformed_requests(tmp_path: Path) -> None:
    ended = run_tool("fuzz", "--requests", N_WHOLE, "--report", tmp_path / "report.md")
    assert ended.returncode == 0, f"{ended.stdout[-8000:]}\n{ended.stderr[-2000:]}"
