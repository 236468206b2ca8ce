"""Who is let in: TLS, mutual TLS and the API key on a real Triton; one trace from the SDK's call to the backend."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.integration.collector import Collector, collecting
from tests.support.certificates import Certificates, make_certificates
from tritonclient.utils import InferenceServerException

from tritone import (
    AccessDeniedError,
    AsyncMusicClient,
    ConnectionFailedError,
    ModelRequest,
    ModelResponse,
    MusicClient,
    ReadyRequest,
    ReadyResponse,
)
from tritone.transports import make_transport
from tritone_serving import ADMIN_HEADER, GRPC_ADMIN_HEADER, ServerOptions, TritonServer

pytestmark = pytest.mark.triton
KEY = "a-key-for-callers"
GRPC_KEY_HEADER = "triton-grpc-protocol-authorization"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def guarded(repository: Path, files: Certificates, collector: Collector) -> Iterator[TritonServer]:
    """A server with TLS, a key and traces."""
    options = ServerOptions(
        repository=repository, http_port=0, grpc_port=0, metrics_port=0, api_key=KEY,
        tls_cert=files.server_cert, tls_key=files.server_key, otlp_url=collector.url,
    )  # fmt: skip
    with TritonServer.start(options) as running:
        yield running


@pytest.fixture(scope="module")
def spans() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def sound() -> tuple[np.ndarray[Any, Any], int]:
    return np.random.default_rng().uniform(-0.5, 0.5, 22_050).astype(np.float32), 22_050


@pytest.fixture
def raw_grpc(guarded: TritonServer, files: Certificates) -> Iterator[grpc_client.InferenceServerClient]:
    client = grpc_client.InferenceServerClient(guarded.grpc_url, ssl=True, root_certificates=str(files.ca))
    yield client
    client.close()


def calls_of(client: Any, tensor: Any) -> dict[str, Callable[..., Any]]:
    """What a key opens, and what takes the admin token, by name."""
    return {
        "infer": lambda headers: client.infer("genre_cnn", [tensor], headers=headers),
        "metadata": lambda headers: client.get_model_metadata("genre_cnn", headers=headers),
        "server metadata": lambda headers: client.get_server_metadata(headers=headers),
        "config": lambda headers: client.get_model_config("genre_cnn", headers=headers),
        "statistics": lambda headers: client.get_inference_statistics("genre_cnn", headers=headers),
        "admin index": lambda headers: client.get_model_repository_index(headers=headers),
        "admin load": lambda headers: client.load_model("genre_cnn", headers=headers),
        "admin unload": lambda headers: client.unload_model("genre_cnn", headers=headers),
        "admin shared memory": lambda headers: client.register_system_shared_memory("x", "/x", 8, headers=headers),
        "admin cuda memory": lambda headers: client.get_cuda_shared_memory_status(headers=headers),
        "admin log": lambda headers: client.update_log_settings({"log_verbose_level": 1}, headers=headers),
        "admin trace": lambda headers: client.update_trace_settings(settings={"trace_rate": "1"}, headers=headers),
    }


def check_doors(calls: dict[str, Callable[..., Any]], key: dict[str, str], wrong: dict[str, str]) -> None:
    for name, call in calls.items():
        for headers in (None, wrong) if not name.startswith("admin") else (None, wrong, key):
            with pytest.raises(InferenceServerException, match="restricted"):
                call(headers)
        if not name.startswith("admin"):
            call(key)


def test_doors_over_grpc(raw_grpc: grpc_client.InferenceServerClient) -> None:
    tensor = grpc_client.InferInput("audio", [1, 66_150], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 66_150), np.float32))
    check_doors(calls_of(raw_grpc, tensor), {GRPC_KEY_HEADER: f"Bearer {KEY}"}, {GRPC_KEY_HEADER: "Bearer no"})
    assert raw_grpc.is_server_ready()  # probes need no key
    assert raw_grpc.is_model_ready("genre_cnn")


def test_doors_over_http(guarded: TritonServer) -> None:
    client = http_client.InferenceServerClient(guarded.http_url.removeprefix("http://"))
    tensor = http_client.InferInput("audio", [1, 66_150], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 66_150), np.float32))
    check_doors(calls_of(client, tensor), {"authorization": f"Bearer {KEY}"}, {"authorization": KEY})
    assert client.is_server_ready()
    client.close()


def test_the_admin_token_opens_administration_and_nothing_else(
    guarded: TritonServer, raw_grpc: grpc_client.InferenceServerClient
) -> None:
    assert raw_grpc.get_model_repository_index(headers={GRPC_ADMIN_HEADER: guarded.admin_token}) is not None
    with pytest.raises(InferenceServerException, match="restricted"):
        raw_grpc.get_model_metadata("genre_cnn", headers={GRPC_ADMIN_HEADER: guarded.admin_token})
    client = http_client.InferenceServerClient(guarded.http_url.removeprefix("http://"))
    assert client.get_model_repository_index(headers={ADMIN_HEADER: guarded.admin_token})
    client.close()


def test_no_secret_is_left_on_the_command_line_or_in_the_log(guarded: TritonServer) -> None:
    line = Path(f"/proc/{guarded.pid}/cmdline").read_bytes()
    assert guarded.is_wiped
    assert b"--http-restricted-api=" in line
    for secret in (KEY, guarded.admin_token):
        assert secret.encode() not in line
        assert secret not in guarded.log_path.read_text()
        assert secret not in repr(guarded.options)


def test_the_sdk_with_tls_and_key(guarded: TritonServer, files: Certificates, sound: Any) -> None:
    url = f"grpcs://{guarded.grpc_url}"
    with MusicClient(url, api_key=KEY, ca_file=files.ca) as music:
        expected = music.classify(sound).label
    with MusicClient(guarded.http_url, api_key=KEY) as music:
        assert music.classify(sound).label == expected

    async def run() -> str:
        async with AsyncMusicClient(url, api_key=KEY, ca_file=files.ca) as music:
            return (await music.classify(sound)).label

    assert asyncio.run(run()) == expected


@pytest.mark.parametrize("key", [None, "wrong-key"])
def test_the_sdk_without_the_key(guarded: TritonServer, files: Certificates, sound: Any, key: str | None) -> None:
    for url, options in ((f"grpcs://{guarded.grpc_url}", {"ca_file": files.ca}), (guarded.http_url, {})):
        with MusicClient(url, api_key=key, **options) as music:
            assert music.server_ready()
            with pytest.raises(AccessDeniedError, match="api_key="):
                music.classify(sound)


def test_a_server_that_cannot_prove_who_it_is(guarded: TritonServer, files: Certificates, sound: Any) -> None:
    trusting = {"ca_file": files.other_ca}
    for url, options in ((f"grpcs://{guarded.grpc_url}", trusting), (guarded.grpc_url, {})):
        with (
            MusicClient(url, api_key=KEY, retries=0, timeout_s=10, **options) as music,
            pytest.raises(ConnectionFailedError),
        ):
            music.classify(sound)


def check_own_endpoint(server: TritonServer) -> None:
    transport = make_transport(server.own_endpoint())
    assert transport.handle(ReadyRequest(), timeout_s=5) == ReadyResponse(True)
    info = transport.handle(ModelRequest("genre_cnn"), timeout_s=5)  # takes the key
    assert isinstance(info, ModelResponse)
    transport.close()


def test_who_started_it_gets_in(guarded: TritonServer, server: TritonServer) -> None:
    check_own_endpoint(guarded)
    check_own_endpoint(server)


def test_mutual_tls(
    repository: Path, files: Certificates, sound: Any, options_for: Callable[..., Any], tmp_path: Path
) -> None:
    options = options_for(repository, tls_cert=files.server_cert, tls_key=files.server_key, tls_client_ca=files.ca)
    own = {"client_cert_file": files.client_cert, "client_key_file": files.client_key}
    with TritonServer.start(options) as server:
        url = f"grpcs://{server.grpc_url}"
        with MusicClient(url, ca_file=files.ca, **own) as music:
            assert music.classify(sound).label
        with (
            MusicClient(url, ca_file=files.ca, retries=0, timeout_s=10) as music,
            pytest.raises(ConnectionFailedError),
        ):
            music.classify(sound)

        async def run() -> str:
            async with AsyncMusicClient(url, ca_file=files.ca, **own) as music:
                return (await music.classify(sound)).label

        assert asyncio.run(run())
        check_own_endpoint(server)
        recording = tmp_path / "sound.wav"
        soundfile.write(recording, *sound)
        own_files = {"TRITONE_CLIENT_CERT": str(files.client_cert), "TRITONE_CLIENT_KEY": str(files.client_key)}
        verb = ["-m", "tritone_cli", "classify", str(recording), "--server", url, "--ca-file", str(files.ca)]
        done = subprocess.run(
            [sys.executable, *verb], env={**os.environ, **own_files}, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture(params=["grpc", "http"])
def reach(request: pytest.FixtureRequest, guarded: TritonServer, files: Certificates) -> dict[str, Any]:
    """How a client reaches the guarded server."""
    if request.param == "http":
        return {"url": guarded.http_url, "api_key": KEY}
    return {"url": f"grpcs://{guarded.grpc_url}", "api_key": KEY, "ca_file": files.ca}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_one_trace_from_the_call_to_the_backend(
    reach: dict[str, Any], collector: Collector, spans: InMemorySpanExporter, sound: Any, kind: str
) -> None:
    async def embed() -> None:
        async with AsyncMusicClient(**reach) as music:
            await music.embed(sound)

    def traced() -> str:
        spans.clear()
        if kind == "async":
            asyncio.run(embed())
        else:
            with MusicClient(**reach) as music:
                music.embed(sound)
        (call,) = spans.get_finished_spans()
        return f"{call.context.trace_id:032x}"

    arrived = {span["name"]: span for span in collector.of_call(traced, n_spans=3)}
    (call,) = spans.get_finished_spans()
    assert call.name == "tritone.embed"
    # Triton's spans: the request, the model's turn in it, and in that the backend's work.
    assert arrived["InferRequest"]["parentSpanId"] == f"{call.context.span_id:016x}"
    assert arrived["genre_cnn"]["parentSpanId"] == arrived["InferRequest"]["spanId"]
    assert arrived["compute"]["parentSpanId"] == arrived["genre_cnn"]["spanId"]
    attributes = {each["key"]: each["value"] for each in arrived["genre_cnn"]["attributes"]}
    assert attributes["triton.request_id"]["stringValue"].startswith("classify-")


def test_serve_with_a_key_file_and_logs_as_json(repository: Path, tmp_path: Path, sound: Any) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(KEY + "\n")
    command = [
        sys.executable, "-m", "tritone_cli", "serve", "--repository", str(repository), "--http-port", "0",
        "--grpc-port", "0", "--metrics-port", "0", "--api-key-file", str(key_file), "--log-format", "json", "--json",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        try:
            for pid in (process.pid, facts["pid"]):
                assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            with MusicClient(facts["http"], api_key=KEY) as music:
                assert music.classify(sound).label
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
    entries = [json.loads(line) for line in errors.splitlines()]
    assert {entry["logger"] for entry in entries} == {"triton", "tritone"}
    assert {"time", "level", "message"} <= set(entries[0])
    assert any(entry.get("source", "").startswith("http_server.cc") for entry in entries)
    assert any(entry["message"] == "stopped" for entry in entries)
    assert KEY not in errors
