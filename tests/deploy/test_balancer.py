"""HAProxy with docker/haproxy.cfg before two real replicas: both protocols, limits, and a replica that dies."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.deploy.balancing import HOSTS, ROOT, Balancer, free_ports, wait_until
from tests.deploy.conftest import Replicas
from tests.integration import composer_stand_in as stand_in

from tritone import MusicClient, TritoneError
from tritone.endpoints import make_endpoint
from tritone.messages import StreamRequest
from tritone.transports import make_transport

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


@contextlib.contextmanager
def loaded(*addresses: str, retries: int = 3, ca_file: Path | None = None) -> Iterator[list[float]]:
    """Two clients of each address call without pause; yields when they were answered. None may fail."""
    stop = threading.Event()
    failures: list[str] = []
    done: list[float] = []

    def call(address: str, seed: int) -> None:
        with MusicClient(address, retries=retries, timeout_s=20, ca_file=ca_file) as music:
            while not stop.is_set():
                try:
                    music.classify(sound(seed))
                    done.append(time.monotonic())
                except TritoneError as error:
                    failures.append(f"{address}: {type(error).__name__}: {error}")

    callers = [(address, seed) for address in addresses for seed in range(2)]
    threads = [threading.Thread(target=call, args=caller) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures, "\n".join(failures)


def test_both_protocols_reach_both_replicas(balancer: Balancer, replicas: Replicas) -> None:
    before = {host: answered(server.metrics_url) for host, server in replicas.servers.items()}
    with MusicClient(replicas.servers[HOSTS[0]].grpc_url, retries=0) as direct:
        expected = direct.classify(sound(1)).probabilities
    for address in (balancer.grpc, balancer.http):
        with MusicClient(address, retries=0) as music:
            for client in (music, music.with_priority("batch")):
                assert client.classify(sound(1)).probabilities == pytest.approx(expected, abs=1e-6)
            for seed in range(20):
                music.classify(sound(seed))
    for host, server in replicas.servers.items():
        assert answered(server.metrics_url) - before[host] >= 10, host


def test_streams_pass_piece_by_piece(balancer: Balancer) -> None:
    inputs = stand_in.piece(1024, seed=2, cost=9)  # several ms a frame
    transport = make_transport(make_endpoint(balancer.grpc))
    try:
        moments, frames = [], []
        for answer in transport.stream(StreamRequest(stand_in.MODEL, "piece", inputs, ("frames",)), timeout_s=30):
            moments.append(time.monotonic())
            frames.append(answer.outputs["frames"][0])
    finally:
        transport.close()
    np.testing.assert_array_equal(np.concatenate(frames), stand_in.expected(inputs)[0])
    assert len(moments) > 4
    assert moments[-1] - moments[0] > 0.3, "the answers came all at once: something on the way waits for the last"


def test_a_reload_of_the_balancer_costs_no_request(balancer: Balancer) -> None:
    with loaded(balancer.grpc, balancer.http) as done:
        time.sleep(1)
        balancer.process.send_signal(signal.SIGUSR2)  # a new worker takes over; the old one ends what it has
        reloaded_at = time.monotonic()
        assert wait_until(lambda: balancer.log.read_text().count("Loading success") == 2, 10)
        time.sleep(1.5)
    assert sum(moment > reloaded_at for moment in done) > 10
    assert wait_until(lambda: balancer.servers_up("grpc_replicas") == len(HOSTS), 10)


def test_replicas_that_change_their_version_cost_no_request(
    balancer: Balancer, replicas: Replicas, repository: Path
) -> None:
    """Each request goes to any replica, whichever version it serves."""
    model = repository / "genre_cnn"
    shutil.copytree(model / "1", model / "2")
    with loaded(balancer.grpc, balancer.http) as done:
        for host in HOSTS:
            time.sleep(0.5)
            replicas.servers[host].load_model("genre_cnn")
            loaded_at = time.monotonic()
            time.sleep(1)  # of the first: while the other has the old version
            assert sum(moment > loaded_at for moment in done) > 5
    for server in replicas.servers.values():
        with MusicClient(server.http_url) as music:
            assert music.classify(sound(1)).model_version == "2"


def test_a_killed_replica_costs_no_request(balancer: Balancer, replicas: Replicas) -> None:
    with loaded(balancer.grpc, balancer.http) as done:
        time.sleep(1.5)
        killed_at = time.monotonic()
        os.kill(replicas.servers[HOSTS[1]].pid, signal.SIGKILL)
        noticed = wait_until(
            lambda: balancer.servers_up("http_replicas") == balancer.servers_up("grpc_replicas") == 1, 5
        )
        time.sleep(1.5)
    assert noticed, "the balancer still sends requests to the dead replica"
    later = [moment for moment in done if moment > killed_at]
    assert len(later) > 10
    assert max(np.diff([killed_at, *sorted(later)])) < 3.0  # seconds without any answer

    replicas.servers[HOSTS[1]].stop()
    replicas.servers[HOSTS[1]] = replicas.start(HOSTS[1])
    assert wait_until(lambda: balancer.servers_up("grpc_replicas") == len(HOSTS), 5), "it is not taken back"


def test_a_replica_that_stands_still_costs_no_request(balancer: Balancer, replicas: Replicas) -> None:
    pid = replicas.servers[HOSTS[1]].pid
    with loaded(balancer.grpc, balancer.http) as done:
        time.sleep(1)
        os.kill(pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        try:
            time.sleep(5)
        finally:
            os.kill(pid, signal.SIGCONT)
        time.sleep(1)
    meanwhile = [moment for moment in done if stopped_at + 0.5 < moment < stopped_at + 5]
    assert len(meanwhile) > 10, "the replica that still runs got no requests"
    assert wait_until(lambda: balancer.servers_up("grpc_replicas") == len(HOSTS), 10)


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
    status, body = asked(balancer.http, "POST", path, iter([b"x" * 10]))  # sent in chunks
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


def make_certificate(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Make a self-signed certificate for localhost; returns certificate, key, and a file with both."""
    certificate, key, both = (folder / f"{name}.{suffix}" for suffix in ("crt", "key", "pem"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return certificate, key, both


def served_certificate(port: int) -> str:
    """Return the certificate that a TLS port presents to a new connection, as PEM; empty if there is none."""
    try:
        return ssl.get_server_certificate(("localhost", port), timeout=5)
    except OSError:
        return ""


def test_tls_ends_at_the_balancer(start_balancer: Callable[..., Balancer], tmp_path: Path) -> None:
    certificate, _, both = make_certificate(tmp_path, "only")
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


def test_a_renewed_certificate_takes_effect_without_a_lost_request(
    start_balancer: Callable[..., Balancer], tmp_path: Path
) -> None:
    old, _, both = make_certificate(tmp_path, "old")
    new, new_key, renewed = make_certificate(tmp_path, "new")
    authorities = tmp_path / "authorities.pem"  # clients trust both
    authorities.write_bytes(old.read_bytes() + new.read_bytes())
    served = tmp_path / "served.pem"
    shutil.copy(both, served)
    balancer = start_balancer(TRITONE_TLS_PEM=str(served), TRITONE_TLS_RELOAD_S="1", TRITONE_MAX_REQUESTS_10S="1000000")
    https, grpcs = balancer.ports["HTTPS"], balancer.ports["GRPCS"]

    def presents(certificate: Path) -> bool:
        return {served_certificate(port).strip() for port in (https, grpcs)} == {certificate.read_text().strip()}

    def has_refused(n_files: int) -> bool:
        reports = [line for line in balancer.log.read_text().splitlines() if line.startswith("certificate ")]
        return sum("cannot be used" in line for line in reports) == n_files

    addresses = (f"https://localhost:{https}", f"grpcs://localhost:{grpcs}")
    with loaded(*addresses, retries=0, ca_file=authorities) as done:
        assert presents(old)
        # Files that are no certificate, and one whose key belongs to another certificate: the old one stays.
        faulty = [renewed.read_bytes()[:500], old.read_bytes() + new_key.read_bytes(), new.read_bytes()]
        for n_faulty, content in enumerate(faulty, start=1):
            served.write_bytes(content)
            assert wait_until(partial(has_refused, n_faulty), 10)
            assert presents(old)
        renewed.replace(served)  # as certbot and Kubernetes do
        assert wait_until(lambda: presents(new), 10), balancer.log.read_text()
        renewed_at = time.monotonic()
        time.sleep(1.5)
    assert sum(moment > renewed_at for moment in done) > 10
    with MusicClient(addresses[1], retries=0, ca_file=new) as music:
        assert music.classify(sound(5)).label
    assert balancer.process.poll() is None


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


def test_the_balancers_own_health_check(balancer: Balancer) -> None:
    def check(port: int) -> int:
        variables = {"PATH": "/usr/bin:/bin", "TRITONE_REPLICAS": "x", "TRITONE_STATS_PORT": str(port)}
        script = ROOT / "docker/run-balancer.sh"
        return subprocess.run([script, "check"], env=variables, capture_output=True, check=False).returncode

    assert check(balancer.ports["STATS"]) == 0
    assert check(free_ports(1)[0]) != 0


def test_requests_are_logged_without_keys(balancer: Balancer) -> None:
    asked(balancer.http, "GET", "/v2/models/nothing", Authorization="Bearer sesame-open")
    assert wait_until(lambda: "/v2/models/nothing" in balancer.log.read_text(), 5), "a refusal is not in the log"
    assert "sesame" not in balancer.log.read_text()
    assert json.loads(asked(balancer.http, "GET", "/v2/models/genre_cnn")[1])["name"] == "genre_cnn"
