"""HAProxy with docker/haproxy-gateway.cfg in front of two gateways of fake models: streams, limits, headers, stops."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.balancing import HOSTS, ROOT, Balancer, free_ports, start_haproxy, wait_until
from tests.deploy.gateway_stand_in import BAR_S, DRAIN_S
from tests.deploy.name_server import NameServer
from tests.deploy.test_balancer import make_certificate

pytestmark = pytest.mark.balancer

STAND_IN = ROOT / "tests/deploy/gateway_stand_in.py"
LIMIT = 1_000_000
START_S = 40


@dataclass
class Gateways:
    """Two gateways on the same port of two addresses."""

    folder: Path
    port: int
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self, host: str) -> None:
        """Start a gateway; `wait` returns when it responds."""
        command = [sys.executable, STAND_IN, host, str(self.port), self.folder / "keys.json", self.unready]
        if host in self.processes:
            self.processes[host].communicate()
        with (self.folder / "log").open("ab") as log:
            self.processes[host] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)

    def wait(self, host: str) -> None:
        output = self.processes[host].stdout
        assert output is not None
        assert output.readline(), (self.folder / "log").read_text()

    @property
    def unready(self) -> Path:
        """While this file exists, no model of any gateway is ready."""
        return self.folder / "unready"

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def gateways(haproxy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    (port,) = free_ports(1, "0.0.0.0")  # noqa: S104  - looked for on every address, bound on none
    found = Gateways(tmp_path_factory.mktemp("gateways"), port)
    try:
        for host in HOSTS:
            found.start(host)
        for host in HOSTS:
            found.wait(host)
        yield found
    finally:
        found.stop()


@contextmanager
def edge(folder: Path, port: int, addresses: list[str], *, n_gateways: int, **given: str) -> Iterator[Balancer]:
    """A balancer in front of gateways on some addresses, and of no replicas."""
    names = NameServer(addresses)
    settings = {
        "TRITONE_GATEWAYS": "gateways.tritone.test",
        "TRITONE_GATEWAY_PORT": str(port),
        "TRITONE_MAX_REST_BODY_BYTES": str(LIMIT),
        "TRITONE_MAX_REQUESTS_10S": "1000000",  # all the load comes from one address
        **given,
    }
    ports: Any = tuple(free_ports(2))
    balancer = start_haproxy(
        names.place, ports, folder / "log", serves=lambda each: each.servers_up("gateways") == n_gateways, **settings
    )
    try:
        yield balancer
    finally:
        balancer.stop()
        names.close()


@pytest.fixture(scope="module")
def balancer(gateways: Gateways, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with edge(tmp_path_factory.mktemp("edge"), gateways.port, list(HOSTS), n_gateways=len(HOSTS)) as started:
        yield started


@dataclass
class Answer:
    """A response: its status, headers with names in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        assert found["status"] == self.status
        assert re.fullmatch(r"urn:tritone:problem:[a-z-]+", found["type"])
        assert {"title", "detail"} <= set(found)
        return found


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())


def compose(port: int, bars: int = 1) -> Answer:
    body = json.dumps({"bars": bars, "seed": 1}).encode()
    return ask(port, "POST", "/v1/compose", body, Content_Type="application/json")


def events(port: int, bars: int) -> Iterator[tuple[float, str]]:
    """Moment and name of each event of a streamed composition."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        body = json.dumps({"bars": bars, "seed": 1}).encode()
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        connection.request("POST", "/v1/compose", body, headers)
        reply = connection.getresponse()
        assert reply.status == 200
        assert reply.getheader("content-type", "").startswith("text/event-stream")
        while line := reply.readline():
            if line.startswith(b"event: "):
                yield time.monotonic(), line[7:].strip().decode()


def test_events_arrive_bar_by_bar(balancer: Balancer) -> None:
    found = list(events(balancer.ports["REST"], 6))
    assert [name for _, name in found[:2]] == ["start", "bars"]
    assert found[-1][1] == "piece"
    moments = [moment for moment, name in found if name == "bars"]
    assert len(moments) > 4
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert min(gaps) > BAR_S / 2, "bars came together: something on the way waits for more"


@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_both_versions_of_http(balancer: Balancer, version: str) -> None:
    command = [
        "curl",
        "-s",
        version,
        "-w",
        "%{http_version} %{http_code}",
        "-o",
        "/dev/null",
        f"{balancer.rest}/readyz",
    ]
    written = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert written == ("1.1 200" if version == "--http1.1" else "2 200")


def test_tls_ends_at_the_edge(gateways: Gateways, tmp_path: Path) -> None:
    certificate, _, both = make_certificate(tmp_path, "only")
    with edge(tmp_path, gateways.port, list(HOSTS), n_gateways=2, TRITONE_TLS_PEM=str(both)) as balancer:
        port = balancer.ports["REST_TLS"]
        for version, written in (("--http1.1", "1.1 200"), ("--http2", "2 200")):
            command = ["curl", "-s", version, "--cacert", certificate, "-w", "%{http_version} %{http_code}", "-o",
                       "/dev/null", "-D", tmp_path / "headers", f"https://localhost:{port}/readyz"]  # fmt: skip
            assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == written
            assert "strict-transport-security: max-age=" in (tmp_path / "headers").read_text().lower()
        context = ssl.create_default_context(cafile=str(certificate))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("localhost", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            assert connection.version() == "TLSv1.2"


def test_without_gateways_there_is_no_rest(tmp_path: Path, haproxy: str) -> None:
    ports = dict(zip(("HTTP", "GRPC", "STATS", "HTTPS", "GRPCS", "REST", "REST_TLS"), free_ports(7), strict=True))
    names = NameServer([])
    replica_ports: Any = tuple(free_ports(2))
    balancer = start_haproxy(
        names.place, replica_ports, tmp_path / "log", ports=ports, serves=lambda each: each.servers_up("x") == 0
    )
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports["REST"]), 5)
    finally:
        balancer.stop()
        names.close()


def test_a_large_body_is_refused_before_it_is_sent(balancer: Balancer) -> None:
    with socket.create_connection(("127.0.0.1", balancer.ports["REST"]), 10) as connection:
        connection.sendall(f"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: {LIMIT + 1}\r\n\r\n".encode())
        response = connection.recv(65_536)
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413")
    assert b"x-request-id: " in head.lower()
    assert f"{LIMIT} bytes" in json.loads(body)["detail"]


def test_a_large_body_of_unknown_length_is_refused_by_the_gateway(balancer: Balancer) -> None:
    """The gateway's own limit of 2 MiB counts the bytes."""
    with socket.create_connection(("127.0.0.1", balancer.ports["REST"]), 10) as connection:
        connection.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Type: audio/ogg\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(40):
            connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_body_with_malformed_chunks_is_a_problem(balancer: Balancer) -> None:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Type: audio/ogg\r\nTransfer-Encoding: chunked\r\n"
    with socket.create_connection(("127.0.0.1", balancer.ports["REST"]), 10) as connection:
        connection.sendall(head + b"X-Request-ID: find-this\r\n\r\n10000\r\n" + bytes(0x10000) + b"\r\n")
        time.sleep(0.3)  # the beginning is on its way to the gateway
        connection.sendall(b"no length\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        answer = Answer(
            response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        )
    assert answer.status == 400
    assert answer.problem["type"] == "urn:tritone:problem:malformed-http"
    assert answer.problem["instance"] == "urn:tritone:request:find-this"
    assert answer.headers["x-request-id"] == "find-this"


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nHost a\r\n\r\n", b"nonsense\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n"]
)
def test_malformed_headers_are_refused(balancer: Balancer, head: bytes) -> None:
    """HAProxy 2.6 writes this response in HTML, whatever is configured."""
    with socket.create_connection(("127.0.0.1", balancer.ports["REST"]), 10) as connection:
        connection.sendall(head)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 400")


@pytest.mark.slow
def test_slow_headers_end_the_connection(balancer: Balancer) -> None:
    with socket.create_connection(("127.0.0.1", balancer.ports["REST"]), 30) as connection:
        started_at = time.monotonic()
        response = b""
        connection.settimeout(1)
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        while not response and time.monotonic() - started_at < 20:
            connection.sendall(b"X-Slow: 1\r\n")  # a header a second
            try:
                response = connection.recv(65_536)
            except TimeoutError:
                continue
        duration_s = time.monotonic() - started_at
    assert response.startswith(b"HTTP/1.1 408")
    assert 8 < duration_s < 15


def test_one_address_gets_so_many_requests(gateways: Gateways, tmp_path: Path) -> None:
    with edge(tmp_path, gateways.port, list(HOSTS), n_gateways=2, TRITONE_MAX_REQUESTS_10S="20") as balancer:
        port = balancer.ports["REST"]
        answers = [ask(port, "GET", "/openapi.json") for _ in range(30)]
        assert [each.status for each in answers[:15]] == [200] * 15
        assert answers[-1].status == 429
        assert answers[-1].problem["type"].endswith("limit-exceeded")
        assert int(answers[-1].headers["retry-after"]) > 0
        assert ask(port, "GET", "/readyz").status == 200  # never limited: others judge the gateways by it


def test_no_gateway_is_a_problem_that_passes(tmp_path: Path, haproxy: str) -> None:
    (port,) = free_ports(1)
    with edge(tmp_path, port, ["127.0.0.1"], n_gateways=0) as balancer:
        assert wait_until(lambda: ask(balancer.ports["REST"], "GET", "/readyz").status == 503, 5)
        answer = ask(balancer.ports["REST"], "GET", "/readyz")
    assert answer.problem["type"].endswith("unreachable")
    assert int(answer.headers["retry-after"]) > 0
    assert answer.problem["instance"] == f"urn:tritone:request:{answer.headers['x-request-id']}"


@pytest.fixture
def recorder() -> Iterator[tuple[int, list[dict[str, list[str]]]]]:
    """The port of a stand-in for a gateway, and the headers of the requests that reached it."""
    seen: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path not in ("/readyz", "/livez"):
                found: dict[str, list[str]] = {}
                for name, value in self.headers.items():
                    found.setdefault(name.lower(), []).append(value)
                seen.append(found)
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        server.server_close()


def test_headers_that_reach_a_gateway(
    recorder: tuple[int, list[dict[str, list[str]]]], tmp_path: Path, haproxy: str
) -> None:
    port, seen = recorder
    with edge(tmp_path, port, ["127.0.0.1"], n_gateways=1) as balancer:
        rest = balancer.ports["REST"]
        kept = ask(rest, "GET", "/a", X_Request_ID="shop-42:a.b_c", X_Forwarded_For="8.8.8.8",
                   X_Forwarded_Proto="https", X_Forwarded_Host="evil.example", X_Forwarded_Prefix="/admin",
                   X_Real_IP="8.8.8.8", Forwarded="for=8.8.8.8", Upgrade="websocket",
                   Authorization="Bearer sesame")  # fmt: skip
        assert kept.headers["x-request-id"] == "shop-42:a.b_c"
        for unsafe in ("a b", "<script>", "a" * 129, "a,b", ""):
            made = ask(rest, "GET", "/b", X_Request_ID=unsafe).headers["x-request-id"]
            assert re.fullmatch(r"[0-9a-f-]{36}", made), unsafe
            assert seen[-1]["x-request-id"] == [made]
        with socket.create_connection(("127.0.0.1", rest), 5) as connection:  # two ids
            connection.sendall(b"GET /c HTTP/1.0\r\nHost: a\r\nX-Request-ID: one\r\nX-Request-ID: two\r\n\r\n")
            connection.recv(65_536)
        assert re.fullmatch(r"[0-9a-f-]{36}", seen[-1]["x-request-id"][0])
    first = seen[0]
    assert first["x-request-id"] == ["shop-42:a.b_c"]
    assert first["x-forwarded-for"] == ["127.0.0.1"]
    assert first["x-forwarded-proto"] == ["http"]
    assert first["x-forwarded-host"] == [f"127.0.0.1:{rest}"]
    assert first["authorization"] == ["Bearer sesame"]
    assert not {"x-forwarded-prefix", "x-real-ip", "forwarded", "upgrade"} & set(first)


def test_refusals_are_logged_with_their_id_and_without_keys(balancer: Balancer) -> None:
    ask(balancer.ports["REST"], "GET", "/v1/nothing", X_Request_ID="find-me", Authorization="Bearer sesame-open")
    assert wait_until(lambda: "find-me" in balancer.log.read_text(), 5)
    (line,) = [line for line in balancer.log.read_text().splitlines() if "find-me" in line]
    assert "/v1/nothing" in line
    assert "sesame" not in balancer.log.read_text()


@contextmanager
def loaded(port: int) -> Iterator[list[float]]:
    """Four clients without retries call without pause; yields when they were answered. None may fail."""
    stop = threading.Event()
    failures: list[str] = []
    done: list[float] = []

    def call(keep_alive: bool) -> None:
        body = json.dumps({"bars": 1, "seed": 1}).encode()
        while not stop.is_set():
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
                for _ in range(20 if keep_alive else 1):
                    try:
                        connection.request("POST", "/v1/compose", body, {"Content-Type": "application/json"})
                        reply = connection.getresponse()
                        content = reply.read()
                    except (OSError, http.client.HTTPException) as error:
                        failures.append(f"{type(error).__name__}: {error}")
                        break
                    if reply.status != 200:
                        failures.append(f"{reply.status}: {content[:300]!r}")
                    done.append(time.monotonic())
                    if stop.is_set() or reply.getheader("connection") == "close":
                        break

    threads = [threading.Thread(target=call, args=(index % 2 == 0,)) for index in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not failures, "\n".join(failures)


def both_up(balancer: Balancer) -> bool:
    return balancer.servers_up("gateways") == len(HOSTS)


def test_a_gateway_that_stops_loses_no_request(balancer: Balancer, gateways: Gateways) -> None:
    """Neither short requests, nor a stream that lasts longer than the time for which it still accepts requests."""
    port = balancer.ports["REST"]
    streams: list[list[str]] = []

    def stream() -> None:
        streams.append([name for _, name in events(port, 20)])

    threads = [threading.Thread(target=stream) for _ in range(4)]  # by chance, both gateways get some
    with loaded(port) as done:
        for thread in threads:
            thread.start()
        time.sleep(1)
        process = gateways.processes[HOSTS[1]]
        process.send_signal(signal.SIGTERM)
        stopped_at = time.monotonic()
        assert wait_until(lambda: balancer.servers_up("gateways") == 1, DRAIN_S), "requests go to it until it closes"
        process.wait(30)
        ended_at = time.monotonic()
        for thread in threads:
            thread.join(30)
        time.sleep(1)
    assert ended_at - stopped_at >= DRAIN_S
    assert sum(moment > ended_at for moment in done) > 10
    assert [each[-1] for each in streams] == ["piece"] * 4
    gateways.start(HOSTS[1])
    gateways.wait(HOSTS[1])
    assert wait_until(lambda: both_up(balancer), 10), "it is not taken back"


def test_a_killed_gateway_costs_no_later_request(balancer: Balancer, gateways: Gateways) -> None:
    """Requests in progress get 502, as nobody knows how far they came; the next ones go to the other gateway."""
    assert wait_until(lambda: both_up(balancer), 10)
    gateways.processes[HOSTS[1]].kill()
    gateways.processes[HOSTS[1]].wait(10)
    assert [compose(balancer.ports["REST"]).status for _ in range(20)] == [200] * 20
    gateways.start(HOSTS[1])
    gateways.wait(HOSTS[1])
    assert wait_until(lambda: both_up(balancer), 10), "it is not taken back"


def test_gateways_that_are_not_ready_still_respond(balancer: Balancer, gateways: Gateways) -> None:
    port = balancer.ports["REST"]
    gateways.unready.touch()
    try:
        assert wait_until(lambda: balancer.servers_up("gateways") == 0, 10)
        answer = ask(port, "GET", "/readyz")
        assert answer.status == 503
        assert json.loads(answer.body)["reason"].startswith("not ready: ")  # the gateway's own words
        assert compose(port).status == 200
    finally:
        gateways.unready.unlink()
    assert wait_until(lambda: both_up(balancer), 10)


def test_gateways_come_and_go_by_name(gateways: Gateways, tmp_path: Path) -> None:
    with ExitStack() as stack:
        names = NameServer([HOSTS[0]])
        stack.callback(names.close)
        ports: Any = tuple(free_ports(2))
        balancer = start_haproxy(
            names.place, ports, tmp_path / "log", serves=lambda each: each.servers_up("gateways") == 1,
            TRITONE_GATEWAYS="gateways.tritone.test", TRITONE_GATEWAY_PORT=str(gateways.port),
        )  # fmt: skip
        stack.callback(balancer.stop)
        names.addresses.append(HOSTS[1])
        assert wait_until(lambda: both_up(balancer), 15)
        names.addresses.remove(HOSTS[0])
        assert wait_until(lambda: balancer.servers_up("gateways") == 1, 15)
        assert [compose(balancer.ports["REST"]).status for _ in range(5)] == [200] * 5


def test_a_faulty_port_is_refused_at_the_start(tmp_path: Path, haproxy: str) -> None:
    variables = {"PATH": "/usr/sbin:/usr/bin:/bin", "TRITONE_REPLICAS": "x", "TRITONE_GATEWAYS": "y"}
    command: list[Path | str] = [ROOT / "docker/run-balancer.sh", "validate"]
    good = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    bad = subprocess.run(
        command, env={**variables, "TRITONE_REST_PORT": "many"}, capture_output=True, text=True, check=False
    )
    assert bad.returncode != 0
