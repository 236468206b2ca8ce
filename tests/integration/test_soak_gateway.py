"""The gateway's soak test: what it makes of what it measured, that it covers all routes, and a short run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.benchmark_tools import ROOT, run_tool
from tests.unit.gateway.test_limits import listening

from benchmarks.soak_gateway import Sample, evaluate, table
from benchmarks.soak_gateway_mix import (
    GatewayClient,
    GatewayRequest,
    Material,
    make_keys,
    recording,
    requests_of_all_routes,
)
from benchmarks.soak_mix import SentRequest
from benchmarks.soak_report import TooShortError
from tritone.testing import FakeComposer, FakeGenreModel, FakeRecommender, FakeServer

SECONDS = 600.0
MATERIAL = Material((b"OggS",), b"RIFF", b"MThd", ("a b", "c/d"))


def sent(n: int = 600) -> list[SentRequest]:
    return [SentRequest(("classify", "compose")[index % 2], index, 0.01 * (1 + index % 2)) for index in range(n)]


def samples(*, memory: float = 0.0, n_files: int = 0, n_threads: int = 0, spike_mb: float = 0.0) -> list[Sample]:
    """So much more in the last minute than before; in the first minute memory grows by a half anyway."""
    found = []
    for at_s in np.arange(0, SECONDS, 2.0).tolist():
        late = at_s > SECONDS - 70
        mb = 200 * min(1.0, 0.5 + at_s / 100) * (1 + memory * late) + spike_mb * (at_s % 10 == 0)
        found.append(Sample(at_s, mb, 40 + n_files * late, 12 + n_threads * late))
    return found


@pytest.mark.parametrize(
    ("change", "n_left", "failed"),
    [
        ({}, 0, None),
        ({"memory": 0.015, "n_files": 5, "n_threads": 2}, 0, None),
        ({"spike_mb": 300.0}, 0, None),  # a collection that happens to be due is no growth
        ({"memory": 0.03}, 0, "memory growth under 2%"),
        ({"n_files": 20}, 0, "at most 10 more open files"),
        ({"n_threads": 8}, 0, "at most 4 more threads"),
        ({}, 3, "no request left at the end"),
    ],
)
def test_bounds(change: dict[str, float], n_left: int, failed: str | None) -> None:
    found = evaluate(sent(), samples(**change), seconds=SECONDS, n_left=n_left)
    assert [bound for bound, kept in found["verdicts"].items() if not kept] == ([failed] if failed else [])
    assert found["passed"] == (failed is None)


def test_one_failure_fails_and_is_shown() -> None:
    requests = sent()
    requests[1] = replace(requests[1], error="status 500: gone")
    found = evaluate(requests, samples(), seconds=SECONDS, n_left=0)
    assert (found["passed"], found["n_failed"]) == (False, 1)
    assert found["requests"]["compose"] == {"n": 300, "n_failed": 1, "p50_ms": 20.0, "p99_ms": 20.0}
    assert found["requests"]["classify"]["p50_ms"] == 10.0
    facts = {"minutes": 10.0, "rate_per_s": 1.0, "workers": 1}
    assert "compose: status 500: gone" in table(facts | found)


def test_no_requests_is_no_success() -> None:
    assert not evaluate([], samples(), seconds=SECONDS, n_left=0)["passed"]


def test_too_short_a_load_says_so() -> None:
    with pytest.raises(TooShortError):
        evaluate(sent(), samples()[:3], seconds=SECONDS, n_left=0)


def test_every_route_of_the_schema_is_loaded() -> None:
    schema = json.loads((ROOT / "gateway/openapi.json").read_text())
    mix = requests_of_all_routes(MATERIAL)
    loaded = {(each.method.lower(), each.path.partition("?")[0]) for each in mix if each.statuses == (200,)}
    loaded = {(method, "/v1/tracks/{track_id}/audio" if path.endswith("/audio") else path) for method, path in loaded}
    assert {(method, path) for path, methods in schema["paths"].items() for method in methods} <= loaded
    assert len({each.model for each in mix}) == len(mix)
    assert {each.events for each in mix} == {None, "all", "some"}
    assert {400, 401, 403, 404, 405, 406, 413, 415, 422, 429} <= {each.statuses[0] for each in mix}


async def test_what_the_client_takes_for_a_failure(tmp_path: Path) -> None:
    def request(path: str, make: Callable[[int], dict[str, Any]], **options: Any) -> GatewayRequest:
        return GatewayRequest("x", "POST", path, make, **options)

    def bars(_number: int) -> dict[str, Any]:
        return {"json": {"bars": 2, "seed": 1}}

    events: Any = {"accept": "text/event-stream", "media_type": "text/event-stream", "events": "all"}
    keys = make_keys(tmp_path / "keys.json")
    fakes = FakeServer(FakeGenreModel(), FakeComposer(), FakeRecommender(["a"]))
    with listening(tmp_path, fakes) as port:
        async with GatewayClient(f"http://127.0.0.1:{port}", keys) as client:
            audio = {"data": recording(3.0, "OGG"), "headers": {"Content-Type": "audio/ogg"}}
            assert await client.ask(request("/v1/classify", lambda _number: dict(audio))) == ""
            assert await client.ask(request("/v1/compose", bars, **events)) == ""
            assert await client.ask(request("/v1/compose", bars, **{**events, "events": "some"})) == ""
            assert await client.ask(request("/v1/compose", bars, key="none", statuses=(401,))) == ""
            assert client.n_failed == 0
            assert (await client.ask(request("/v1/compose", bars, key="none"))).startswith("status 401")
            assert "expected audio/midi" in await client.ask(request("/v1/compose", bars, media_type="audio/midi"))
            assert (client.n_sent, client.n_failed) == (6, 2)
    async with GatewayClient(f"http://127.0.0.1:{port}", keys) as client:  # the gateway is gone
        assert "ClientConnectorError" in await client.ask(request("/v1/compose", bars))


async def test_a_stream_that_ends_early_is_a_failure(tmp_path: Path) -> None:
    class Broken(FakeComposer):
        def split(self, outputs: Any) -> Any:
            parts = list(super().split(outputs))
            yield parts[0]
            raise RuntimeError("the model is gone")

    keys = make_keys(tmp_path / "keys.json")
    asked = GatewayRequest(
        "x", "POST", "/v1/compose", lambda _number: {"json": {"bars": 4, "seed": 1}}, accept="text/event-stream",
        media_type="text/event-stream", events="all",
    )  # fmt: skip
    with listening(tmp_path, Broken()) as port:
        async with GatewayClient(f"http://127.0.0.1:{port}", keys) as client:
            assert "the stream ended with 'error'" in await client.ask(asked)


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(300)
def test_a_short_soak_has_no_failure(tmp_path: Path) -> None:
    done = run_tool("soak_gateway", "--minutes", "0.25", "--rate", "8", "--json", cwd=tmp_path)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["n"] > 60
    assert (found["n_failed"], found["errors"], found["n_left"]) == (0, [], 0)
    assert found["memory_mb"]["end"] > 50
    assert "after    0 s: " in done.stderr
    assert done.returncode == (0 if found["passed"] else 1)


@pytest.mark.parametrize("words", [["--rate", "0"], ["--minutes", "inf"], ["--workers", "0"], ["--repository", "."]])
def test_arguments_that_measure_nothing_are_refused(tmp_path: Path, words: list[str]) -> None:
    done = run_tool("soak_gateway", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("soak_gateway.py: error: ")
