"""HAProxy with docker/haproxy.cfg before two real replicas: both protocols, limits, and a replica that dies."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.deploy.conftest import HOSTS, Balancer, Replicas, wait_until

from tritone_client import MusicClient, TritoneError

pytestmark = [pytest.mark.balancer, pytest.mark.triton]

RATE_HZ = 22_050
ADMIN_PATHS = [
    "/v2/repository/index",
    "/v2//repository/models/genre_cnn/unload",
    "/v2/%72epository/models/genre_cnn/load",
    "/v2/Repository/index",
    "/v2/models/genre_cnn/trace/setting",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/region/x/register",
    "/v2/cudasharedmemory/status",
]


def sound(seed: int, seconds: float = 3.0) -> tuple[np.ndarray[Any, Any], int]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, int(seconds * RATE_HZ)).astype(np.float32), RATE_HZ


def answered(url: str) -> float:
    """How many requests a replica has answered."""
    with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  - the server's own address
        lines = reply.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("nv_inference_request_success{"))


def asked(base: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    place = urllib.parse.urlsplit(base)
    connection = http.client.HTTPConnection(place.netloc, timeout=20)
    try:
        with contextlib.suppress(BrokenPipeError):  # refused before all of it was sent
            connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_both_protocols_reach_both_replicas(balancer: Balancer, replicas: Replicas) -> None:
    before = {host: answered(server.metrics_url) for host, server in replicas.servers.items()}
    with MusicClient(replicas.servers[HOSTS[0]].grpc_url, retries=0) as direct:
        expected = direct.classify(sound(1)).probabilities
    for address in (balancer.grpc, balancer.http):
        with MusicClient(address, retries=0) as music:
            assert music.classify(sound(1)).probabilities == pytest.approx(expected, abs=1e-6)
            for seed in range(20):
                music.classify(sound(seed))
    for host, server in replicas.servers.items():
        assert answered(server.metrics_url) - before[host] >= 10, host


def test_a_killed_replica_costs_no_request(balancer: Balancer, replicas: Replicas) -> None:
    stop = threading.Event()
    failures: list[str] = []
    done: list[float] = []

    def load(address: str, seed: int) -> None:
        with MusicClient(address, retries=3, timeout_s=20) as music:
            while not stop.is_set():
                try:
                    music.classify(sound(seed))
                    done.append(time.monotonic())
                except TritoneError as error:
                    failures.append(f"{address}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=load, args=(address, seed)) for address in (balancer.grpc, balancer.http)
               for seed in range(2)]  # fmt: skip
    for thread in threads:
        thread.start()
    try:
        time.sleep(1.5)
        killed_at = time.monotonic()
        os.kill(replicas.servers[HOSTS[1]].pid, signal.SIGKILL)
        noticed = wait_until(
            lambda: balancer.servers_up("http_replicas") == balancer.servers_up("grpc_replicas") == 1, 5
        )
        time.sleep(1.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert noticed, "the balancer still sends requests to the dead replica"
    later = [moment for moment in done if moment > killed_at]
    assert len(later) > 10
    assert max(np.diff([killed_at, *sorted(later)])) < 3.0  # seconds without any answer

    replicas.servers[HOSTS[1]].stop()
    replicas.servers[HOSTS[1]] = replicas.start(HOSTS[1])
    assert wait_until(lambda: balancer.servers_up("grpc_replicas") == len(HOSTS), 5), "it is not taken back"


@pytest.mark.parametrize("path", ADMIN_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_admin_apis_are_closed_over_http(balancer: Balancer, replicas: Replicas, method: str, path: str) -> None:
    token = replicas.servers[HOSTS[0]].admin_token
    status, body = asked(balancer.http, method, path, b"{}", **{"tritone-admin-token": token})
    assert status == 403, body
    assert b"closed here" in body


def test_admin_apis_are_closed_over_grpc(balancer: Balancer, replicas: Replicas) -> None:
    import grpc
    from tritonclient.grpc import service_pb2 as messages
    from tritonclient.grpc import service_pb2_grpc as stubs

    token = replicas.servers[HOSTS[0]].admin_token
    metadata = [("triton-grpc-protocol-tritone-admin-token", token)]
    with grpc.insecure_channel(balancer.grpc) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        for call, message in [
            (stub.RepositoryIndex, messages.RepositoryIndexRequest()),
            (stub.RepositoryModelUnload, messages.RepositoryModelUnloadRequest(model_name="genre_cnn")),
            (stub.SystemSharedMemoryStatus, messages.SystemSharedMemoryStatusRequest()),
            (stub.CudaSharedMemoryStatus, messages.CudaSharedMemoryStatusRequest()),
            (stub.TraceSetting, messages.TraceSettingRequest()),
            (stub.LogSettings, messages.LogSettingsRequest()),
        ]:
            with pytest.raises(grpc.RpcError) as caught:
                call(message, metadata=metadata, timeout=10)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert stub.ServerReady(messages.ServerReadyRequest(), timeout=10).ready


def test_large_requests_are_refused_unread(start_balancer: Callable[..., Balancer]) -> None:
    import grpc
    from tritonclient.grpc import service_pb2 as messages
    from tritonclient.grpc import service_pb2_grpc as stubs

    balancer = start_balancer(TRITONE_MAX_BODY_BYTES="1000000")
    path = "/v2/models/genre_cnn/infer"
    status, body = asked(balancer.http, "POST", path, b"x" * 1_000_001)
    assert (status, b"too large" in body) == (413, True)
    status, body = asked(balancer.http, "POST", path, iter([b"x" * 10]), **{"Transfer-Encoding": "chunked"})
    assert (status, b"Content-Length" in body) == (411, True)
    with grpc.insecure_channel(balancer.grpc) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)

        def infer(n_bytes: int) -> Any:
            message = messages.ModelInferRequest(model_name="genre_cnn", raw_input_contents=[b"x" * n_bytes])
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(message, timeout=10)
            return caught.value

        # The second is what the reset behind the answer looks like, if it is read first.
        assert infer(1_000_001).code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)
        # One that is smaller is the replica's to judge.
        assert infer(900_000).code() is grpc.StatusCode.INVALID_ARGUMENT
    for address in (balancer.http, balancer.grpc):
        with MusicClient(address, retries=0) as music:
            music.classify(sound(3))  # 265 KB


def test_one_address_gets_so_many_requests(start_balancer: Callable[..., Balancer]) -> None:
    import grpc
    from tritonclient.grpc import service_pb2 as messages
    from tritonclient.grpc import service_pb2_grpc as stubs

    balancer = start_balancer(TRITONE_MAX_REQUESTS_10S="20")
    statuses = [asked(balancer.http, "GET", "/v2/models/genre_cnn")[0] for _ in range(40)]
    assert statuses[:15] == [200] * 15
    assert statuses[-5:] == [429] * 5
    assert asked(balancer.http, "GET", "/v2/health/ready")[0] == 200  # never limited: others judge us by it
    with grpc.insecure_channel(balancer.grpc) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelMetadata(messages.ModelMetadataRequest(name="genre_cnn"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.ServerReady(messages.ServerReadyRequest(), timeout=10).ready


def test_tls_ends_at_the_balancer(start_balancer: Callable[..., Balancer], tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    balancer = start_balancer(TRITONE_TLS_PEM=str(both))
    for address in (f"https://localhost:{balancer.ports['HTTPS']}", f"grpcs://localhost:{balancer.ports['GRPCS']}"):
        with MusicClient(address, retries=0, ca_file=certificate) as music:
            assert music.classify(sound(4)).label
    old = ssl.create_default_context(cafile=str(certificate))
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(urllib.error.URLError, match="PROTOCOL_VERSION"):
        urllib.request.urlopen(f"https://localhost:{balancer.ports['HTTPS']}/v2", context=old, timeout=10)


def test_replicas_come_and_go_by_name(balancer: Balancer, replicas: Replicas) -> None:
    gone = replicas.names.addresses.pop()
    try:
        assert wait_until(lambda: balancer.servers_up("grpc_replicas") == 1, 15)
        before = answered(replicas.servers[gone].metrics_url)
        with MusicClient(balancer.grpc, retries=0) as music:
            for seed in range(8):
                music.classify(sound(seed))
        assert answered(replicas.servers[gone].metrics_url) == before
    finally:
        replicas.names.addresses.append(gone)
    assert wait_until(lambda: balancer.servers_up("grpc_replicas") == len(HOSTS), 15)


def test_requests_are_logged_without_keys(balancer: Balancer) -> None:
    asked(balancer.http, "GET", "/v2/models/nothing", Authorization="Bearer sesame-open")
    assert wait_until(lambda: "/v2/models/nothing" in balancer.log.read_text(), 5), "a refusal is not in the log"
    assert "sesame" not in balancer.log.read_text()
    assert json.loads(asked(balancer.http, "GET", "/v2/models/genre_cnn")[1])["name"] == "genre_cnn"
