"""The gateway in front of a real Triton."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.collector import collecting
from tests.integration.gateway import music_repository
from tests.support.gateways import gateway_process
from tests.support.recommender_artifacts import item_id
from tests.support.tones import tone_file

from tritone import MusicClient, to_grid
from tritone_serving import ServerOptions, TritonServer

pytestmark = [pytest.mark.triton, pytest.mark.timeout(600)]

NOTES = {"notes": [[4 * i, 4, 60 + (i * 5) % 12] for i in range(8)]}


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, serve_models: Callable[[Path], Path], server: TritonServer
) -> TritonServer:
    serve_models(music_repository(tmp_path_factory.mktemp("gateway") / "models"))
    return server


@pytest.fixture(scope="module")
def url(models: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    with gateway_process(models.grpc_url, keys, "--max-body-mb", "4") as address:
        yield address


def call(url: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Send JSON, or bytes as they are; return status, body and headers."""
    if body is not None and not isinstance(body, bytes):
        headers = {"Content-Type": "application/json", **headers}
        body = json.dumps(body).encode()
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            content, status, found = response.read(), response.status, response.headers
    except urllib.error.HTTPError as error:
        content, status, found = error.read(), error.code, error.headers
    is_json = "json" in found.get("Content-Type", "")
    return status, json.loads(content) if is_json else content, dict(found.items())


def test_readiness_asks_the_models(url: str, models: TritonServer) -> None:
    status, body, _ = call(f"{url}/readyz")
    assert status == 200, body
    assert {"genre_cnn", "composer", "music_transformer", "recommender"} <= set(body["models"])


def test_each_route_returns_the_result_of_the_sdk(url: str, models: TritonServer) -> None:
    recording = tone_file()
    with MusicClient(models.grpc_url) as music:
        expected = {
            "classify": music.classify(recording).to_dict()["probabilities"],
            "compose": music.compose(bars=2, seed=1, key="D", voices=2, structure="AA").to_dict(),
            "sample": [piece.to_dict() for piece in music.sample(n=2, seed=3)],
            "tracks": music.find_tracks(item_id(1)).to_dict()["tracks"],
            "recommend": [each["track_id"] for each in music.recommend(n=5).to_dict()["recommendations"]],
        }
    found = {
        "classify": call(f"{url}/v1/classify", recording, **{"Content-Type": "audio/ogg"})[1]["probabilities"],
        "compose": call(f"{url}/v1/compose", {"bars": 2, "seed": 1, "key": "D", "voices": 2, "structure": "AA"})[1],
        "sample": call(f"{url}/v1/sample", {"n": 2, "seed": 3})[1]["pieces"],
        "tracks": call(f"{url}/v1/tracks?q={item_id(1)}")[1]["tracks"],
        "recommend": [each["track_id"] for each in call(f"{url}/v1/recommend", {"n": 5})[1]["recommendations"]],
    }
    assert found == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("embed", tone_file()),
        ("predict", {"file": NOTES}),
        ("continue", {"file": NOTES, "bars": 1}),
        ("harmonize", {"file": NOTES}),
        ("infill", {"file": NOTES, "bars": [1, 2]}),
        ("vary", {"file": NOTES, "attribute": "note_density", "amount": 1}),
        ("reconstruct", {"file": NOTES}),
        ("interpolate", {"a": NOTES, "b": NOTES, "steps": 3}),
        ("convert", {"file": NOTES}),
        ("similar", {"track_id": item_id(0), "n": 3}),
        ("playlist", {"start": item_id(0), "end": item_id(1), "n": 3, "mood": {"calmness": 0.5}}),
    ],
)
def test_the_other_routes_respond(url: str, route: str, body: Any) -> None:
    headers = {"Content-Type": "audio/ogg"} if isinstance(body, bytes) else {}
    status, found, _ = call(f"{url}/v1/{route}", body, **headers)
    assert status == 200, found


@pytest.mark.parametrize(
    ("media_type", "beginning"),
    [
        ("audio/midi", b"MThd"),
        ("audio/wav", b"RIFF"),
        ("image/png", b"\x89PNG"),
        ("application/vnd.recordare.musicxml+xml", b"<?xml"),
    ],
)
def test_a_piece_is_returned_in_each_media_type(url: str, media_type: str, beginning: bytes) -> None:
    status, content, headers = call(f"{url}/v1/compose", {"bars": 4, "seed": 1}, Accept=media_type)
    assert (status, headers["content-type"].partition(";")[0]) == (200, media_type)
    assert content.startswith(beginning)
    if "midi" in media_type or "xml" in media_type:
        assert to_grid(content).n_notes > 0


def test_a_stream_is_the_piece_that_the_sdk_streams(url: str, models: TritonServer) -> None:
    with MusicClient(models.grpc_url) as music, music.stream_compose(bars=4, seed=9) as stream:
        chunks = [chunk.to_dict() for chunk in stream]
        piece = stream.result().to_dict()
    _, content, _ = call(f"{url}/v1/compose", {"bars": 4, "seed": 9}, Accept="text/event-stream")
    events = [event.splitlines() for event in content.decode().strip().split("\n\n") if not event.startswith(":")]
    data = [(lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in events]
    found = [each for name, each in data if name == "bars"]
    assert [each["notes"] for each in found] == [each["notes"] for each in json.loads(json.dumps(chunks))]
    assert [each["bars"] for each in found] == [each["bars"] for each in json.loads(json.dumps(chunks))]
    assert data[-1][1]["notes"] == json.loads(json.dumps(piece))["notes"]


def test_a_disconnect_stops_the_model(url: str, models: TritonServer) -> None:
    def cancelled() -> float:
        text = urllib.request.urlopen(models.metrics_url, timeout=5).read().decode()  # noqa: S310
        lines = [line for line in text.splitlines() if "composer" in line and "cancel" in line and line[0] != "#"]
        assert lines, text
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    before = cancelled()
    request = urllib.request.Request(  # noqa: S310
        f"{url}/v1/compose",
        data=json.dumps({"bars": 250, "seed": 1}).encode(),
        headers={"Content-Type": "application/json", "Accept": "text/event-stream"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        assert response.readline() == b"event: start\n"
    deadline_s = time.monotonic() + 10
    while cancelled() == before and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert cancelled() > before


@given(content=st.binary(max_size=5_000), media_type=st.sampled_from(["audio/ogg", "audio/midi", "audio/wav"]))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_uploads_of_any_bytes_are_problems_or_results(url: str, content: bytes, media_type: str) -> None:
    route = "continue" if media_type == "audio/midi" else "classify"
    status, body, headers = call(f"{url}/v1/{route}", content, **{"Content-Type": media_type})
    assert status in (200, 422), body
    assert status == 200 or headers["content-type"] == "application/problem+json"


def test_an_upload_that_is_too_large_is_413(url: str) -> None:
    try:
        status, body, _ = call(f"{url}/v1/classify", bytes(5 << 20), **{"Content-Type": "audio/wav"})
    except OSError:  # the connection may end before the client has sent everything
        return
    assert status == 413
    assert body["type"] == "urn:tritone:problem:body-too-large"


def test_a_thousand_concurrent_requests_are_served_and_memory_is_stable(url: str) -> None:
    recording = tone_file(3.0)
    port = int(url.rpartition(":")[2])
    process = next(
        psutil.Process(each.pid)
        for each in psutil.net_connections("tcp")
        if each.status == "LISTEN" and each.laddr.port == port and each.pid
    )

    def one(number: int) -> int:
        if number % 10 == 0:
            return call(f"{url}/v1/classify", recording, **{"Content-Type": "audio/ogg"})[0]
        if number % 10 == 1:
            return call(f"{url}/v1/compose", {"bars": 1, "seed": number})[0]
        return call(f"{url}/v1/recommend", {"n": 5, "history": [item_id(number % 7)]})[0]

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(one, range(200))) == {200}  # after this, everything is loaded
        before = process.memory_info().rss
        assert set(pool.map(one, range(1_000))) == {200}
    # It varies by some 10 % from one garbage collection to the next; a leak of 50 KB a request would show.
    assert process.memory_info().rss < before * 1.3


def test_the_log_is_json_without_ids(models: TritonServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [
        *(sys.executable, "-m", "tritone_cli", "gateway", "--server", models.grpc_url, "--port", "0", "--json"),
        *("--keys-file", str(tmp_path / "keys.json"), "--log-format", "json", "--drain", "0"),
    ]
    with log.open("wb") as err, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        call(f"{url}/v1/recommend", {"history": ["secret-track"], "user_id": "secret-user"}, **{"X-Request-ID": "r-1"})
        process.terminate()
        process.wait(20)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert "secret" not in log.read_text()
    (line,) = [each for each in lines if each.get("request_id") == "r-1"]
    assert (line["route"], line["status"], line["caller"]) == ("/v1/recommend", 404, "anonymous")


def test_readiness_and_routes_report_an_unreachable_server(tmp_path: Path) -> None:
    with gateway_process("localhost:1", tmp_path / "keys.json", "--timeout", "1") as url:
        assert call(f"{url}/livez")[0] == 200
        assert call(f"{url}/readyz")[0] == 503
        status, body, headers = call(f"{url}/v1/recommend", {})
    assert status == 503
    assert body["type"] == "urn:tritone:problem:unreachable"
    assert headers["retry-after"] == "1"


def test_one_trace_covers_http_the_sdk_and_the_server(repository: Path, tmp_path: Path) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    with collecting() as collector:
        options = ServerOptions(repository=repository, models=("genre_cnn",), otlp_url=collector.url, **ports)
        with (
            TritonServer.start(options) as server,
            gateway_process(server.grpc_url, tmp_path / "keys.json", "--otlp-url", collector.url) as url,
        ):
            headers = {"Content-Type": "audio/ogg", "traceparent": parent}
            assert call(f"{url}/v1/classify", tone_file(), **headers)[0] == 200
            deadline_s = time.monotonic() + 15
            spans = collector.of_trace(parent.split("-")[1], n_spans=3)
            while "tritone.classify" not in {span["name"] for span in spans} and time.monotonic() < deadline_s:
                time.sleep(0.1)  # the gateway sends its spans once a second, Triton at once
                spans = collector.of_trace(parent.split("-")[1], n_spans=3)
    by_id = {span["spanId"]: span for span in spans}
    (call_span,) = [span for span in spans if span["name"] == "tritone.classify"]
    http_span = by_id[call_span["parentSpanId"]]
    assert http_span["parentSpanId"] == parent.split("-")[2]
    assert any(span.get("parentSpanId") == call_span["spanId"] for span in spans)  # Triton's own
