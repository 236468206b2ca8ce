"""The SDK and `tritone classify` against a real Triton, over both protocols, with threads and with asyncio."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.integration.conftest import relabel
from tests.integration.python_models import wait_until

from tritone import (
    AccessDeniedError,
    AsyncMusicClient,
    Classification,
    ClientError,
    ConnectionFailedError,
    InferRequest,
    ModelNotFoundError,
    MusicClient,
    RequestRejectedError,
    RequestTimeoutError,
    ServerError,
)
from tritone.audio import iter_windows
from tritone.endpoints import make_endpoint
from tritone.transports import make_transport
from tritone_serving import ServerOptions, TritonServer

pytestmark = pytest.mark.triton
PROTOCOLS = ("grpc", "http")

SLOW_MODEL = '''
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    """Answers after as many seconds as the first sample says."""

    def execute(self, requests):
        responses = []
        for request in requests:
            audio = pb_utils.get_input_tensor_by_name(request, "audio").as_numpy()
            time.sleep(float(audio[0, 0]))
            sizes = {"probabilities": 2, "emotions": 9, "embedding": 256}
            tensors = [
                pb_utils.Tensor(name, np.full((len(audio), size), 0.5, np.float32))
                for name, size in sizes.items() if name in request.requested_output_names()
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
'''


def url_of(server: TritonServer, protocol: str) -> str:
    return server.grpc_url if protocol == "grpc" else server.http_url


def clip(seconds: float, seed: int | None = None, rate_hz: int = 22_050) -> tuple[np.ndarray, int]:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate_hz))
    return samples.astype(np.float32), rate_hz


def in_process(repository: Path, audio: Any) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(repository / "genre_cnn" / "1" / "model.onnx"))
    batch = np.stack([window.samples for window in iter_windows(audio)])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"audio": batch}), strict=True))


@pytest.fixture(params=[(protocol, kind) for protocol in PROTOCOLS for kind in ("sync", "async")], ids="-".join)
def ask(request: pytest.FixtureRequest, server: TritonServer) -> Callable[..., Any]:
    """`ask("classify", audio)` on a fresh client of the session's server."""
    protocol, kind = request.param

    def call(method: str, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        url = url_of(server, protocol)
        if kind == "sync":
            with MusicClient(url, **(options or {})) as music:
                return getattr(music, method)(*args, **kwargs)

        async def main() -> Any:
            async with AsyncMusicClient(url, **(options or {})) as music:
                return await getattr(music, method)(*args, **kwargs)

        return asyncio.run(main())

    return call


# --- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1.0, 3.0, 20.0, 100.0])
def test_the_answer_is_that_of_the_model_in_process(ask: Any, repository: Path, seconds: float) -> None:
    audio = clip(seconds)
    result: Classification = ask("classify", audio)
    expected = in_process(repository, audio)
    labels = ("classical", "electronic", "pop", "rock")
    got = [[window.probabilities[label] for label in labels] for window in result.timeline]
    np.testing.assert_allclose(got, expected["probabilities"], atol=1e-5)
    means = dict(zip(labels, expected["probabilities"].mean(axis=0), strict=True))
    assert result.probabilities == pytest.approx(means, abs=1e-5)
    assert result.label == max(means, key=means.__getitem__)
    assert list(result.emotions.values()) == sorted(result.emotions.values(), reverse=True)
    assert sorted(result.emotions.values()) == pytest.approx(sorted(expected["emotions"].mean(axis=0)), abs=1e-5)
    direction = expected["embedding"].mean(axis=0)
    np.testing.assert_allclose(result.embedding, direction / np.linalg.norm(direction), atol=1e-5)
    np.testing.assert_allclose(ask("embed", audio), result.embedding, atol=1e-6)
    assert result.duration_s == pytest.approx(seconds)
    assert result.model_version == "1"


def test_models_are_ready_or_unknown(ask: Any) -> None:
    assert ask("model_ready", "genre_cnn") is True
    assert ask("model_ready", "no_such_model") is False


def test_the_state_of_one_model(ask: Any) -> None:
    before = ask("model_info", "genre_cnn")
    ask("classify", clip(20))
    assert wait_until(lambda: ask("model_info", "genre_cnn").n_inferences >= before.n_inferences + 7, 10) < 10
    assert (before.name, before.ready, before.versions) == ("genre_cnn", True, ("1",))
    with pytest.raises(ModelNotFoundError):
        ask("model_info", "no_such_model")


async def test_a_server_is_ready_until_one_of_its_models_is_unloaded(repository: Path) -> None:
    ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
    # Not the server that tests share: Triton counts models that were unloaded as not ready.
    with TritonServer.start(ServerOptions(repository=repository, models=("genre_cnn",), **ports)) as server:
        for protocol in PROTOCOLS:
            with MusicClient(url_of(server, protocol)) as music:
                assert music.server_ready() is True
            async with AsyncMusicClient(url_of(server, protocol)) as music:
                assert await music.server_ready() is True
        server.unload_model("genre_cnn")
        for protocol in PROTOCOLS:
            with MusicClient(url_of(server, protocol)) as music:
                assert music.server_ready() is False


def test_an_unknown_model(ask: Any) -> None:
    for method in ("classify", "embed"):
        with pytest.raises(ModelNotFoundError, match="no_such_model") as caught:
            ask(method, clip(3), model="no_such_model")
        assert caught.value.model == "no_such_model"
        assert caught.value.status in ("NOT_FOUND", "404")


def test_too_little_time(ask: Any) -> None:
    with pytest.raises(RequestTimeoutError, match=r"within 0\.001 s"):
        ask("classify", clip(20), timeout_s=0.001)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_the_server_rejects(server: TritonServer, protocol: str) -> None:
    transport = make_transport(make_endpoint(url_of(server, protocol)))
    good = np.zeros((1, 66_150), np.float32)
    wrong = [
        ({"sound": good}, ("embedding",)),
        ({"audio": good.astype(np.float64)}, ("embedding",)),
        ({"audio": good[:, :5].copy()}, ("embedding",)),
        ({"audio": good.repeat(65, 0)}, ("embedding",)),
        ({"audio": good}, ("no_such_output",)),
    ]
    for number, (inputs, outputs) in enumerate(wrong):
        with pytest.raises(RequestRejectedError) as caught:
            transport.handle(InferRequest("genre_cnn", f"bad-{number}", inputs, outputs), timeout_s=10)
        assert caught.value.request_id == f"bad-{number}"
        assert caught.value.status in ("INVALID_ARGUMENT", "400")
    transport.close()


def test_the_other_protocols_port(server: TritonServer) -> None:
    wrong = {f"http://{server.grpc_url}": "gRPC port", server.http_url.removeprefix("http://"): "does not speak gRPC"}
    for url, says in wrong.items():
        with MusicClient(url, retries=0) as music, pytest.raises(ConnectionFailedError, match=says):
            music.classify(clip(3))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_client_many_threads(server: TritonServer, repository: Path, protocol: str) -> None:
    clips = [clip(3 + i % 7, seed=i) for i in range(32)]
    expected = [in_process(repository, audio)["embedding"].mean(axis=0) for audio in clips]
    with MusicClient(url_of(server, protocol)) as music, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(music.embed, clips))
    for got, direction in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, direction / np.linalg.norm(direction), atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_one_client_many_tasks(server: TritonServer, repository: Path, protocol: str) -> None:
    clips = [clip(3 + i % 7, seed=i) for i in range(32)]
    expected = [in_process(repository, audio)["embedding"].mean(axis=0) for audio in clips]
    async with AsyncMusicClient(url_of(server, protocol)) as music:
        found = await asyncio.gather(*(music.embed(audio) for audio in clips))
    for got, direction in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, direction / np.linalg.norm(direction), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_half_an_hour_in_bounded_memory(server: TritonServer, tmp_path: Path, protocol: str) -> None:
    """As float32 windows the recording takes 159 MB, as stereo floats 635 MB."""
    path = tmp_path / "long.flac"
    block = (np.random.default_rng().standard_normal((44_100 * 10, 2)) * 3_000).astype(np.int16)
    with soundfile.SoundFile(path, "w", 44_100, 2, "PCM_16", format="FLAC", compression_level=0) as file:
        for _ in range(180):
            file.write(block)
    script = (
        "import resource, sys, numpy as np\n"
        "from tritone import MusicClient\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "with MusicClient(sys.argv[1], timeout_s=240) as music:\n"
        "    music.classify((np.random.default_rng().uniform(-1, 1, 66150), 22050))\n"
        "    before = peak()\n"
        "    result = music.classify(sys.argv[2])\n"
        "    print(len(result.timeline), round(result.duration_s), peak() - before)\n"
    )
    command = [sys.executable, "-c", script, url_of(server, protocol), str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280).stdout
    n_windows, duration_s, grown_mb = map(int, output.split())
    assert (n_windows, duration_s) == (600, 1800)
    assert grown_mb < 80


# --- faults ------------------------------------------------------------------------------------


@pytest.fixture
def slow_server(tmp_path: Path, options_for: Any) -> Iterator[TritonServer]:
    """A server whose model answers after as many seconds as the first sample says."""
    folder = tmp_path / "genre_cnn"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(SLOW_MODEL)
    outputs = {"probabilities": 2, "emotions": 9, "embedding": 256}
    tensors = ", ".join(f'{{name: "{n}" data_type: TYPE_FP32 dims: [{size}]}}' for n, size in outputs.items())
    (folder / "config.pbtxt").write_text(
        'name: "genre_cnn" backend: "python" max_batch_size: 8\n'
        f'input [{{name: "audio" data_type: TYPE_FP32 dims: [66150]}}] output [{tensors}]\n'
        "instance_group [{kind: KIND_CPU count: 1}]\n"
    )
    with TritonServer.start(options_for(tmp_path)) as running:
        yield running


def waits(seconds: float) -> tuple[np.ndarray, int]:
    samples, rate_hz = clip(3)
    samples[0] = seconds
    return samples, rate_hz


def test_a_slow_model_a_dead_server_and_its_return(slow_server: TritonServer) -> None:
    clients = {protocol: MusicClient(url_of(slow_server, protocol), retries=1) for protocol in PROTOCOLS}
    for music in clients.values():
        result = music.classify(waits(0))
        assert set(result.probabilities) == {"0", "1"}  # no label file
        assert result.emotions is not None
        began_s = time.monotonic()
        with pytest.raises(RequestTimeoutError, match=r"within 0\.3 s"):
            music.classify(waits(1), timeout_s=0.3)
        assert time.monotonic() - began_s < 3
    time.sleep(2)  # let the model finish what nobody waits for

    caught: dict[str, tuple[ClientError, float]] = {}

    def listen(protocol: str) -> None:
        try:
            clients[protocol].classify(waits(30))
        except ClientError as error:
            caught[protocol] = (error, time.monotonic())

    threads = [threading.Thread(target=listen, args=(protocol,)) for protocol in PROTOCOLS]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    assert not caught
    killed_s = time.monotonic()
    os.kill(slow_server.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(20)
    for protocol in PROTOCOLS:
        error, at_s = caught[protocol]
        assert type(error) is ConnectionFailedError, error
        assert error.model == "genre_cnn"
        assert error.request_id
        assert "tritone serve" in str(error)
        assert at_s - killed_s < 5

    for music in clients.values():  # and now nobody is there at all
        with pytest.raises(ConnectionFailedError, match="refused"):
            music.classify(clip(3))
        music.close()


async def test_a_dead_server_and_asyncio(slow_server: TritonServer) -> None:
    async with (
        AsyncMusicClient(slow_server.grpc_url, retries=1) as over_grpc,
        AsyncMusicClient(slow_server.http_url, retries=1) as over_http,
    ):
        for music in (over_grpc, over_http):
            with pytest.raises(RequestTimeoutError):
                await music.classify(waits(0.8), timeout_s=0.3)
        await asyncio.sleep(1.5)
        tasks = [asyncio.create_task(music.classify(waits(30))) for music in (over_grpc, over_http)]
        await asyncio.sleep(0.7)
        os.kill(slow_server.pid, signal.SIGKILL)
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    assert [type(answer) for answer in answers] == [ConnectionFailedError] * 2


def test_a_version_that_goes_live_is_noticed(tmp_path: Path, make_model_repository: Any, options_for: Any) -> None:
    repository = make_model_repository(tmp_path)
    with TritonServer.start(options_for(repository)) as server:
        clients = [MusicClient(url_of(server, protocol)) for protocol in PROTOCOLS]
        assert [music.classify(clip(3)).model_version for music in clients] == ["1", "1"]
        folder = repository / "genre_cnn"
        (folder / "2").mkdir()
        (folder / "2" / "model.onnx").write_bytes((folder / "1" / "model.onnx").read_bytes())
        relabel(folder, ["a", "b", "c", "d:e"])
        server.load_model("genre_cnn")
        for music in clients:
            result = music.classify(clip(100))
            assert result.model_version == "2"
            assert set(result.probabilities) == {"a", "b", "c", "d:e"}
        server.unload_model("genre_cnn")
        for music in clients:
            with pytest.raises(ModelNotFoundError):
                music.classify(clip(3))
            assert not music.model_ready("genre_cnn")
            music.close()


def test_versions_that_go_live_under_traffic(tmp_path: Path, make_model_repository: Any, options_for: Any) -> None:
    """No call fails, and each is answered by one version."""
    repository = make_model_repository(tmp_path)
    with TritonServer.start(options_for(repository)) as server, MusicClient(server.grpc_url) as music:
        music.classify(clip(3))
        stop = threading.Event()
        versions: list[str] = []
        failures: list[BaseException] = []

        def listen() -> None:
            while not stop.is_set():
                try:
                    versions.append(music.classify(clip(3)).model_version)
                except ClientError as error:
                    failures.append(error)

        threads = [threading.Thread(target=listen) for _ in range(2)]
        for thread in threads:
            thread.start()
        folder = repository / "genre_cnn"
        for number in ("2", "3"):
            (folder / number).mkdir()
            (folder / number / "model.onnx").write_bytes((folder / "1" / "model.onnx").read_bytes())
            server.load_model("genre_cnn")
            until_s = time.monotonic() + 20
            while versions[-1:] != [number] and time.monotonic() < until_s:
                time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failures
    assert set(versions) == {"1", "2", "3"}


# --- the command line, and speed ---------------------------------------------------------------


def test_the_command_line(server: TritonServer, tmp_path: Path) -> None:
    song, bad = tmp_path / "song.ogg", tmp_path / "bad.ogg"
    soundfile.write(song, clip(10)[0], 22_050)
    bad.write_bytes(b"no song")
    command = [sys.executable, "-W", "error", "-m", "tritone_cli", "classify", str(bad), str(song), "--json"]
    command += ["--server", server.http_url]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    answer = json.loads(done.stdout)
    assert answer["results"][0]["duration_s"] == pytest.approx(10, abs=0.1)
    assert answer["errors"][0]["reason"] == "unreadable"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_requests_cost_little_more_than_the_data_they_carry(server: TritonServer, protocol: str) -> None:
    """Not a benchmark: a guard against metadata calls, fresh connections or copies creeping into each call."""
    with MusicClient(url_of(server, protocol)) as music:
        music.classify(clip(20))
        times_s = [music.classify(clip(20)).request_s for _ in range(15)]
    assert statistics.median(times_s) < 0.25


def test_nothing_of_the_admin_api_is_open(server: TritonServer) -> None:
    """The errors of a restricted API are told apart from those of a missing model."""
    import http.client

    host, port = server.http_url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("POST", "/v2/repository/index", body=b"{}")
    response = connection.getresponse()
    body = response.read()
    connection.close()
    from tritone.messages import ModelRequest
    from tritone.transports import http_wire

    reply = http_wire.Reply(response.status, {}, body)
    with pytest.raises(AccessDeniedError, match="api_key"):
        http_wire.read(ModelRequest("genre_cnn"), [reply])
    assert issubclass(AccessDeniedError, ServerError)
