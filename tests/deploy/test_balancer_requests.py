"""HAProxy with docker/haproxy.cfg before two stand-in replicas: which requests reach how many replicas."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tests.deploy.balancing import HOSTS, Balancer, free_ports, start_haproxy, wait_until
from tests.deploy.name_server import NameServer
from tests.deploy.replica_stand_in import POISON
from tritonclient.grpc import service_pb2

from tritone import InferRequest, MusicClient, TritoneError

pytestmark = pytest.mark.balancer

SCRIPT = Path(__file__).with_name("replica_stand_in.py")
INFER = "/v2/models/recommender/infer"
SERVICE = "/inference.GRPCInferenceService/"
KEY = "classification"
ESCAPED = (
    "".join(f"\\u{ord(letter):04x}" for letter in KEY),
    "".join(f"\\u{ord(letter):04X}" for letter in KEY),
    "classific\\u0061tion",
    "\\u0063lassificatio\\u006E",
)


@dataclass
class StandIns:
    """Two stand-in replicas behind a balancer."""

    folder: Path
    ports: tuple[int, int]
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def start(self, host: str) -> None:
        command = [sys.executable, SCRIPT, host, *map(str, self.ports), self.folder / host]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        self.processes[host] = process

    def requests(self) -> list[dict[str, Any]]:
        """What has reached either of them as a whole."""
        logs = [self.folder / host for host in HOSTS]
        return [json.loads(line) for log in logs if log.exists() for line in log.read_text().splitlines()]

    def n_dead(self) -> int:
        return sum(process.poll() is not None for process in self.processes.values())

    def revive(self, balancer: Balancer) -> None:
        for host, process in list(self.processes.items()):
            if process.poll() is not None:
                process.stdout.close()  # type: ignore[union-attr]
                self.start(host)
        assert wait_until(balancer.serves, 10)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def stand_ins(haproxy: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIns]:
    made = StandIns(tmp_path_factory.mktemp("replicas"), tuple(free_ports(2, "0.0.0.0")))  # type: ignore[arg-type]  # noqa: S104
    for host in HOSTS:
        made.start(host)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def start_edge(stand_ins: StandIns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Balancer]]:
    names = NameServer(list(HOSTS))
    started: list[Balancer] = []

    def start(**given: str) -> Balancer:
        log = tmp_path_factory.mktemp("balancer") / "log"
        started.append(start_haproxy(names.place, stand_ins.ports, log, TRITONE_MAX_REQUESTS_10S="1000000", **given))
        return started[-1]

    yield start
    for balancer in started:
        balancer.stop()
    names.close()


@pytest.fixture(scope="module")
def edge(start_edge: Callable[..., Balancer]) -> Balancer:
    return start_edge()


def sent(balancer: Balancer, data: bytes, *, n_bytes: int = 1 << 16) -> tuple[int, bytes]:
    """Send bytes over a plain socket; the status and all of the answer, 0 if the connection ended without one."""
    port = balancer.ports["HTTP"]
    with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionError):
            while b"\r\n\r\n" not in received and (some := connection.recv(n_bytes)):
                received += some
            length = received.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            body = received.partition(b"\r\n\r\n")[2]
            while len(body) < int(length or 0) and (some := connection.recv(n_bytes)):
                body += some
                received += some
    return int(received.split(b" ")[1]) if received.startswith(b"HTTP") else 0, received


def post(body: bytes, *, path: str = INFER, method: str = "POST", length: int | None = None, **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def binary(head: str, tensors: bytes = b"") -> bytes:
    """A request by the binary data extension."""
    return post(head.encode() + tensors, inference_header_content_length=str(len(head.encode())))


def request(key: str = KEY, name: str = "item_ids", **more: Any) -> str:
    whole = {"inputs": [], "outputs": [{"name": name, "parameters": {"KEY": 1}}], **more}
    return json.dumps(whole).replace("KEY", key)


def message(*outputs: tuple[str, str], raw: bytes = b"", raw_first: bool = False, **more: Any) -> bytes:
    """A ModelInferRequest with parameters of outputs, and a tensor's bytes before or behind them."""
    head = service_pb2.ModelInferRequest(model_name="recommender", **more)
    asked = service_pb2.ModelInferRequest()
    for name, key in outputs:
        asked.outputs.add(name=name).parameters[key].int64_param = 1
    tensors = service_pb2.ModelInferRequest(raw_input_contents=[raw] if raw else [])
    parts = [head, tensors, asked] if raw_first else [head, asked, tensors]
    return b"".join(part.SerializeToString() for part in parts)


def called(balancer: Balancer, *bodies: bytes, method: str = "ModelInfer", pause_s: float = 0.0, **kinds: Any) -> str:
    """The status of a gRPC call with these messages."""

    def one_by_one() -> Iterator[bytes]:
        for number, body in enumerate(bodies):
            time.sleep(pause_s if number else 0.0)
            yield body

    path = method if method.startswith("/") else SERVICE + method
    with grpc.insecure_channel(balancer.grpc, [("grpc.max_send_message_length", -1)]) as channel:
        try:
            if method == "ModelStreamInfer":
                for _ in channel.stream_stream(path)(one_by_one(), timeout=15, **kinds):
                    pass
            else:
                channel.unary_unary(path)(bodies[0], timeout=15, **kinds)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


@pytest.fixture
def reached(stand_ins: StandIns) -> Callable[[], int]:
    """How many requests have reached a replica since the test began."""
    before = len(stand_ins.requests())
    return lambda: len(stand_ins.requests()) - before


@pytest.mark.parametrize("key", [KEY, *ESCAPED])
@pytest.mark.parametrize("pad", [0, 70_000, 1_500_000])
def test_classification_does_not_reach_a_replica_over_http(
    edge: Balancer, reached: Callable[[], int], key: str, pad: int
) -> None:
    padding = json.dumps([0.125] * (pad // 7))
    plain = request(key).replace('"inputs": []', f'"inputs": [{{"name": "x", "data": {padding}}}]')
    generate = post(plain.encode(), path="/v2/models/a/generate")
    for data in (post(plain.encode()), binary(request(key), bytes(pad)), generate):
        status, answer = sent(edge, data)
        assert status == 400, answer
        assert b'{"error":"' in answer
        assert KEY.encode() in answer
    assert reached() == 0


ODD_REQUESTS = {
    "two names": '{"outputs": [{"name": "probabilities", "name": "item_ids", "parameters": {"classification": 1}}]}',
    "two parameters": '{"outputs": [{"name": "probabilities", "parameters": {}, "parameters": {"classification": 1}}]}',
    "two outputs": '{"outputs": [], "outputs": [{"name": "item_ids", "parameters": {"classification": 1}}]}',
    "at the top": '{"parameters": {"classification": 1}}',
    "of an input": '{"inputs": [{"name": "probabilities", "parameters": {"classification": 1}}]}',
    "one good, one bad": '{"outputs": [{"name": "probabilities", "parameters": {"classification": 1}},'
    ' {"name": "item_ids", "parameters": {"classification": 1}}]}',
    "no JSON": '{"outputs": [{"name": "probabilities", "parameters": {"classification": 1}}',
    "something behind": '{"outputs": []} {"classification": 1}',
    "an object for a list": '{"outputs": {"name": "item_ids", "parameters": {"classification": 1}}}',
    "no name": '{"outputs": [{"parameters": {"classification": 1}}]}',
    "deep": '{"outputs": [{"name": "probabilities", "parameters": {"classification": ' + "[" * 100 + "]" * 100 + "}}]}",
    "by a list of parameters": '{"outputs": [{"name": "item_ids", "parameters": [{"classification": 1}]}]}',
    "a name and a NUL": '{"outputs": [{"name": "probabilities\\u0000ids", "parameters": {"classification": 1}}]}',
}


@pytest.mark.parametrize("kind", ODD_REQUESTS)
def test_json_that_could_be_read_in_two_ways_is_refused(edge: Balancer, reached: Callable[[], int], kind: str) -> None:
    for data in (post(ODD_REQUESTS[kind].encode()), binary(ODD_REQUESTS[kind], bytes(100_000))):
        assert sent(edge, data)[0] == 400
    assert reached() == 0


def test_a_key_cut_between_packets_is_found(edge: Balancer, reached: Callable[[], int]) -> None:
    body = request(ESCAPED[0]).encode()
    data = post(body)
    for at in range(len(data) - len(body), len(data), 23):
        with socket.create_connection(("127.0.0.1", edge.ports["HTTP"]), timeout=10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(data[:at])
            time.sleep(0.02)
            with contextlib.suppress(ConnectionError):
                connection.sendall(data[at:])
            assert connection.recv(4096).startswith(b"HTTP/1.1 400")
    assert reached() == 0


def test_classes_of_numbers_and_the_word_as_a_value_pass(
    edge: Balancer, start_edge: Callable[..., Balancer], reached: Callable[[], int]
) -> None:
    fine = [
        *(request(name=name) for name in ("probabilities", "emotions", "tags")),
        request("binary_data", id="classification"),
        json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["classification"]}]}),
    ]
    for head in fine:
        tensors = (bytes(2_000_000), b'{"outputs": [{"name": "item_ids", "parameters": {"classification": 1}}]}')
        for data in (post(head.encode()), *(binary(head, tensor) for tensor in tensors)):
            assert sent(edge, data)[0] == 200, head
    assert called(edge, message(("emotions", KEY), raw=bytes(300_000))) == "OK"
    assert reached() == 3 * len(fine) + 1
    strict = start_edge(TRITONE_CLASSIFICATION_OUTPUTS="scores")
    assert sent(strict, binary(request(name="probabilities")))[0] == 400
    assert sent(strict, binary(request(name="scores")))[0] == 200
    assert called(strict, message(("probabilities", KEY))) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("n_raw", [0, 10, 65_520, 65_536, 3_000_000])
@pytest.mark.parametrize("raw_first", [False, True])
def test_classification_does_not_reach_a_replica_over_grpc(
    edge: Balancer, reached: Callable[[], int], n_raw: int, raw_first: bool
) -> None:
    body = message(("item_ids", KEY), raw=bytes(n_raw), raw_first=raw_first)
    assert called(edge, body) == "INVALID_ARGUMENT"
    twice = message(("probabilities", KEY), ("item_ids", KEY), raw=bytes(n_raw), raw_first=raw_first)
    assert called(edge, twice) == "INVALID_ARGUMENT"
    # A name that comes twice: the last one counts to protobuf.
    output = service_pb2.ModelInferRequest.InferRequestedOutputTensor
    renamed = output(name="probabilities").SerializeToString() + output(name="item_ids").SerializeToString()
    renamed += message(("", KEY)).partition(b"recommender")[2][2:]
    assert called(edge, message(raw=bytes(n_raw)) + b"\x32" + bytes([len(renamed)]) + renamed) == "INVALID_ARGUMENT"
    assert reached() == 0


@pytest.mark.parametrize("n_before", [0, 1, 5])
def test_every_message_of_a_stream_is_inspected(edge: Balancer, stand_ins: StandIns, n_before: int) -> None:
    before = len(stand_ins.requests())
    good = message(("scores", "binary_data"), raw=bytes(100_000))
    bad = message(("item_ids", KEY), raw=bytes(100_000), raw_first=True)
    # The stream may be reset before the answer is read, which clients show as CANCELLED.
    code = called(edge, *[good] * n_before, bad, good, method="ModelStreamInfer", pause_s=0.05)
    assert code in ("INVALID_ARGUMENT", "CANCELLED", "UNAVAILABLE", "INTERNAL")
    assert len(stand_ins.requests()) - before == n_before


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_sdk_carries_a_poisonous_request_to_two_replicas_at_most(
    edge: Balancer, stand_ins: StandIns, protocol: str
) -> None:
    stand_ins.revive(edge)
    poison = InferRequest("m", "x", {"x": np.frombuffer(POISON + b" ", np.uint8)[None]}, ("y",))
    address = edge.http if protocol == "http" else edge.grpc
    with MusicClient(address, retries=5, timeout_s=20) as music, pytest.raises(TritoneError) as caught:
        music._respond(poison, music._deadline(None))
    assert getattr(caught.value, "n_lost", 0) == 2
    time.sleep(1.0)  # a process that ends is not gone at once
    assert 1 <= stand_ins.n_dead() <= 2  # once by itself, once more
    log = [each for each in stand_ins.requests() if each["n"] >= len(POISON)]
    assert len(log) >= 1
    with MusicClient(address, retries=0, timeout_s=20) as music, pytest.raises(TritoneError) as caught:
        music._respond(poison, music._deadline(None))
    assert getattr(caught.value, "n_lost", 0) in (0, 1)
    stand_ins.revive(edge)
    with MusicClient(address, retries=0, timeout_s=20) as music, pytest.raises(TritoneError) as caught:
        music._respond(poison, music._deadline(None))
    assert getattr(caught.value, "n_lost", 0) == 1
    time.sleep(1.0)
    assert stand_ins.n_dead() == 1
    stand_ins.revive(edge)


@pytest.mark.parametrize("n_bytes", [3, 3_000_000])
def test_whole_messages_pass_unchanged(edge: Balancer, stand_ins: StandIns, n_bytes: int) -> None:
    typed = service_pb2.ModelInferRequest(model_name="m")
    typed.inputs.add(name="x", datatype="FP32", shape=[n_bytes]).contents.fp32_contents.extend([1.0] * n_bytes)
    bodies = [message(raw=bytes(n_bytes)), typed.SerializeToString(), message(id="classification"), b""]
    for body in bodies:
        assert called(edge, body) == "OK"
        assert stand_ins_last(stand_ins, len(body))
    assert called(edge, *bodies * 3, method="ModelStreamInfer") == "OK"


def stand_ins_last(stand_ins: StandIns, n_bytes: int) -> bool:
    return any(each["n"] == n_bytes for each in stand_ins.requests()[-40:])


@pytest.mark.parametrize(
    "body",
    [
        b"\x33\x0a", b"\x00\x01", b"\x0a\xff\xff\xff\xff\x0f", b"\xff" * 30, b"\x0a\x05abc",
        b"\xb2\x80\x80\x80\x80\x01" + bytes(40), b"\x3a\x80", b"\x32\x02\x12\x7f" + KEY.encode(),
    ],
)  # fmt: skip
def test_messages_that_are_no_protobuf_are_refused(edge: Balancer, reached: Callable[[], int], body: bytes) -> None:
    assert called(edge, body) in ("INVALID_ARGUMENT", "OK")
    assert called(edge, body + message(("item_ids", KEY))) == "INVALID_ARGUMENT"
    assert reached() <= 1


@pytest.mark.parametrize(
    "headers",
    [
        {"content_encoding": "gzip"}, {"Content_Encoding": "GZIP"}, {"content_encoding": "deflate"},
        {"content_encoding": "identity, gzip"}, {"content_encoding": "br"}, {"content_encoding": ""},
        {"content_encoding": "identity", "Content_encoding": "gzip"}, {"content_encoding": "x-gzip"},
        {"content_encoding": "gzip;q=1"}, {"content_encoding": "\tgzip"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [INFER, "/v2/models/a/generate", "//v2/models/x/infer", "/"])
def test_compressed_bodies_are_refused(
    edge: Balancer, reached: Callable[[], int], headers: dict[str, str], path: str
) -> None:
    status, answer = sent(edge, post(gzip.compress(bytes(1_000_000)), path=path, **headers))
    assert status == 415, answer
    assert b"error" in answer
    assert reached() == 0


def test_an_identity_body_passes(edge: Balancer, reached: Callable[[], int]) -> None:
    assert sent(edge, post(b"{}", content_encoding="Identity"))[0] == 200
    assert reached() == 1


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer", "ModelConfig"])
def test_compressed_messages_are_refused(
    edge: Balancer, reached: Callable[[], int], kind: grpc.Compression, method: str
) -> None:
    code = called(edge, message(raw=bytes(5000)), method=method, compression=kind)
    assert code in ("UNIMPLEMENTED", "CANCELLED") if method == "ModelStreamInfer" else code == "UNIMPLEMENTED"
    assert reached() == 0


def http2_call(balancer: Balancer, method: str, body: bytes) -> bytes:
    """Send a gRPC call without `grpc-encoding` byte by byte, as no gRPC library does; return the raw response."""
    fields = {":method": "POST", ":scheme": "http", ":path": SERVICE + method, ":authority": "x"}
    fields |= {"content-type": "application/grpc", "te": "trailers"}
    return http2_exchange(balancer.ports["GRPC"], fields, body)


def http2_exchange(port: int, fields: dict[str, str], body: bytes | None, *, pause_s: float = 0.0) -> bytes:
    """Send one HTTP/2 request with prior knowledge and return the raw response.

    Args:
        port: of the balancer.
        fields: the header fields, pseudo-header fields first.
        body: the only DATA frame; with None the headers end the stream.
        pause_s: time between the headers and the body.
    """

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def literal(name: str, value: str) -> bytes:
        return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    head = b"".join(literal(name, value) for name, value in fields.items())
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    head_frame = frame(1, 5 if body is None else 4, 1, head)
    body_frame = b"" if body is None else frame(0, 1, 1, body)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(preface + head_frame + (b"" if pause_s else body_frame))
        received = b""
        if pause_s:
            time.sleep(pause_s)
            connection.sendall(body_frame)
        connection.settimeout(1.0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while some := connection.recv(4096):
                received += some
    return received


def test_the_flag_of_a_compressed_message_is_enough_to_refuse_it(edge: Balancer, reached: Callable[[], int]) -> None:
    packed = gzip.compress(message(("item_ids", KEY)))
    answer = http2_call(edge, "ModelInfer", b"\x01" + len(packed).to_bytes(4, "big") + packed)
    assert b"compressed messages" in answer
    plain = message(raw=bytes(10))
    first = b"\x00" + len(plain).to_bytes(4, "big") + plain
    assert b"compressed messages" in http2_call(
        edge, "ModelStreamInfer", first + b"\x01" + len(packed).to_bytes(4, "big") + packed
    )
    assert reached() <= 1  # the first message of the stream


def test_messages_of_a_stream_have_a_size_limit(
    start_edge: Callable[..., Balancer], reached: Callable[[], int]
) -> None:
    balancer = start_edge(TRITONE_MAX_BODY_BYTES="200000")
    small, large = message(raw=bytes(100_000)), message(raw=bytes(200_001))
    assert called(balancer, small, small, small, method="ModelStreamInfer") == "OK"
    assert called(balancer, small, large, method="ModelStreamInfer", pause_s=0.2) != "OK"
    assert reached() == 4


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_post_has_a_body(edge: Balancer, reached: Callable[[], int], method: str) -> None:
    assert sent(edge, post(b"x" * 100, method=method))[0] == 405
    chunked = f"{method} {INFER} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    assert sent(edge, chunked.encode())[0] == 411
    assert reached() == 0


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("pause_s", [0.0, 0.5])
@pytest.mark.parametrize("lengths", [{}, {"inference-header-content-length": "0"}])
def test_only_post_has_a_body_over_http2(
    edge: Balancer, reached: Callable[[], int], method: str, pause_s: float, lengths: dict[str, str]
) -> None:
    """The headers of a request whose body comes later do not reach a replica either."""
    fields = {":method": method, ":scheme": "http", ":path": INFER, ":authority": "x", **lengths}
    for body in (b"x", b"x" * 10_000):
        assert b"only POST may have a body" in http2_exchange(edge.ports["HTTP"], fields, body, pause_s=pause_s)
    assert reached() == 0


def test_a_get_that_does_not_end_times_out_over_http2(edge: Balancer, reached: Callable[[], int]) -> None:
    fields = {":method": "GET", ":scheme": "http", ":path": INFER, ":authority": "x"}
    assert b"408" in http2_exchange(edge.ports["HTTP"], fields, b"x", pause_s=5.5)
    assert reached() == 0


@pytest.mark.parametrize("body", [None, b""])
@pytest.mark.parametrize("pause_s", [0.0, 0.5])
def test_a_get_without_a_body_passes_over_http2(
    edge: Balancer, reached: Callable[[], int], body: bytes | None, pause_s: float
) -> None:
    """HTTP/2 allows the end of a request without a body in its headers or in an empty frame."""
    fields = {":method": "GET", ":scheme": "http", ":path": "/v2/models/recommender", ":authority": "x"}
    assert b"{}" in http2_exchange(edge.ports["HTTP"], fields, body, pause_s=pause_s)
    assert reached() == 1


def test_a_json_length_beyond_the_body_hides_nothing(edge: Balancer, reached: Callable[[], int]) -> None:
    body = request().encode()
    assert sent(edge, post(body, inference_header_content_length=str(len(body) + 1)))[0] == 400
    assert reached() == 0


@pytest.mark.parametrize(
    "lines",
    [
        "transfer-encoding: chunked", "transfer-encoding: gzip, chunked", "Transfer-Encoding: CHUNKED",
        "transfer-encoding: chunked\r\ncontent-length: 5", "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: identity", "transfer-encoding: gzip", "transfer-encoding : chunked",
        "content-length: 5\r\ncontent-length: 6", "content-length: 5, 6", "content-length: +5", "content-length: 0x5",
    ],
)  # fmt: skip
def test_lengths_that_could_be_read_in_two_ways_are_refused(
    edge: Balancer, reached: Callable[[], int], lines: str
) -> None:
    status, _ = sent(edge, f"POST {INFER} HTTP/1.1\r\nhost: x\r\n{lines}\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode())
    assert status in (400, 411, 422, 501)
    assert reached() == 0


@pytest.mark.parametrize("value", ["-1", "", "x", "1e3", "0x10", "99999999999999", "5, 6", "5 6"])
def test_a_json_length_is_one_number(edge: Balancer, reached: Callable[[], int], value: str) -> None:
    assert sent(edge, post(b"{}    ", inference_header_content_length=value))[0] == 400
    assert reached() == 0


def test_two_json_lengths_are_refused(edge: Balancer, reached: Callable[[], int]) -> None:
    body = request().encode()
    data = post(body, inference_header_content_length="2", Inference_Header_Content_Length=str(len(body)))
    assert sent(edge, data)[0] == 400
    # Of other paths than /infer the whole body is JSON to Triton.
    for path in ("generate", "generate_stream", "infer/", "%69nfer"):
        assert sent(edge, post(body, path=f"/v2/models/a/{path}", inference_header_content_length="2"))[0] == 400
    assert reached() == 0


def test_requests_sent_together_are_inspected_one_by_one(edge: Balancer, stand_ins: StandIns) -> None:
    before = len(stand_ins.requests())
    together = post(b"{}") + post(request().encode()) + post(b"{}")
    assert sent(edge, together)[0] == 200
    time.sleep(0.2)
    assert len(stand_ins.requests()) - before == 2


def test_other_protocols_and_expectations(edge: Balancer, stand_ins: StandIns) -> None:
    assert sent(edge, post(b"{}", connection="upgrade", upgrade="h2c"))[0] == 200
    assert "upgrade" not in stand_ins.requests()[-1]["headers"]
    assert sent(edge, post(b"{}", connection="upgrade", upgrade="websocket"))[0] == 200
    assert all("upgrade" not in each["headers"] for each in stand_ins.requests())
    assert b"200 OK" in sent(edge, post(b"{}", expect="100-continue"))[1] + b"200 OK"
    assert sent(edge, post(b"{}", expect="something"))[0] in (200, 417)
    assert sent(edge, post(b"{}", range="bytes=0-1"))[0] == 200


def test_service_headers_pass_unchanged(edge: Balancer, stand_ins: StandIns) -> None:
    given = {"tritone-service-key": "k" * 40, "tritone-user-token": "a.b-c_d=="}
    for host in HOSTS:
        (stand_ins.folder / host).unlink(missing_ok=True)
    assert sent(edge, post(b"{}", **{name.replace("-", "_"): value for name, value in given.items()}))[0] == 200
    assert called(edge, message(), metadata=tuple(given.items())) == "OK"
    assert len(stand_ins.requests()) == 2
    for each in stand_ins.requests():
        assert given.items() <= each["headers"].items()


@pytest.mark.parametrize(
    "method",
    [
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", SERVICE + "NoSuchMethod", "/x/Y",
        "/grpc.health.v1.Health/Other", SERVICE, "//inference.GRPCInferenceService/ModelInfer", SERVICE + "modelinfer",
    ],
)  # fmt: skip
def test_only_the_methods_that_clients_need_are_open(edge: Balancer, reached: Callable[[], int], method: str) -> None:
    assert called(edge, b"", method=method) == "UNIMPLEMENTED"
    assert reached() == 0


@pytest.mark.parametrize("protocol", ["http", "grpc", "stream"])
@pytest.mark.parametrize("n_bytes", [0, 500_000])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_request_that_ends_its_replica_reaches_no_other(
    edge: Balancer, stand_ins: StandIns, protocol: str, n_bytes: int, is_first: bool
) -> None:
    stand_ins.revive(edge)
    body = message(raw=POISON + bytes(n_bytes))
    good = message(raw=b"x")
    if protocol == "http":
        data = post(POISON + bytes(n_bytes))
        with socket.create_connection(("127.0.0.1", edge.ports["HTTP"]), timeout=10) as connection:
            if not is_first:  # a connection that the balancer has used before, and so has the replica
                connection.sendall(post(b"{}"))
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            connection.sendall(data)
            answer = connection.recv(4096)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 502")
    elif protocol == "grpc":
        with grpc.insecure_channel(edge.grpc, [("grpc.enable_retries", 0)]) as channel:
            call = channel.unary_unary(SERVICE + "ModelInfer")
            for each in [] if is_first else [good, good]:
                call(each, timeout=10)
            with pytest.raises(grpc.RpcError):
                call(body, timeout=10)
    else:
        assert called(edge, *([body] if is_first else [good, body, good]), method="ModelStreamInfer") != "OK"
    time.sleep(1.5)  # longer than any retry of the balancer's waits
    assert stand_ins.n_dead() == 1
    stand_ins.revive(edge)


def test_a_replica_that_refuses_connections_costs_no_request(edge: Balancer, stand_ins: StandIns) -> None:
    stand_ins.revive(edge)
    stand_ins.processes[HOSTS[1]].kill()
    stand_ins.processes[HOSTS[1]].wait()
    for _ in range(6):
        assert sent(edge, post(b"{}"))[0] == 200
        assert called(edge, message()) == "OK"
    stand_ins.revive(edge)


def test_a_large_json_body_passes(edge: Balancer, reached: Callable[[], int]) -> None:
    body = json.dumps({"inputs": [{"name": "audio", "data": [0.123456] * 200_000}]}).encode()
    begun_s = time.monotonic()
    assert sent(edge, post(body))[0] == 200
    assert time.monotonic() - begun_s < 5
    assert reached() == 1
    letters = ("\\u0061" * 300_000).encode()
    assert sent(edge, post(b'{"inputs": [{"data": ["' + letters + b'"]}]}'))[0] == 200


def test_json_that_is_too_large_for_the_parser_is_refused(edge: Balancer, reached: Callable[[], int]) -> None:
    status, answer = sent(edge, post(b'{"inputs":' + b"[" * 5_000_000 + b"]" * 5_000_000 + b"}"))
    assert status == 400
    assert b"binary data extension" in answer
    assert reached() == 0


def test_the_word_in_a_large_json_body_is_refused(edge: Balancer, reached: Callable[[], int]) -> None:
    body = json.dumps({"inputs": [{"data": [0.5] * 30_000}], "id": KEY}).encode()
    status, answer = sent(edge, post(body))
    assert status == 400
    assert b"binary data extension" in answer
    assert reached() == 0
