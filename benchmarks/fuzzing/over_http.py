"""Send malformed requests over HTTP/1.1 from plain sockets, since HTTP libraries would not send most of them."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import time
import urllib.parse
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzzing.mutations import PATHS, VALID, Draw, mutated_requests
from benchmarks.fuzzing.options import draw_headers, named
from benchmarks.fuzzing.outcomes import (
    FAILED,
    HANG,
    HUNG_UP,
    LEFT,
    NOT_SENT,
    OK,
    REFUSED,
    Guard,
    Outcome,
    fatal,
    fatal_json,
)
from benchmarks.fuzzing.requests import FuzzRequest

LIMIT_S: Final = 20.0
MOST_JSON_ITEMS: Final = 2000
ADMIN: Final = "tritone-admin-token"
ADMIN_PATHS: Final = (
    *("/v2/repository/index", "/v2/repository/models/genre_cnn/load", "/v2/repository/models/recommender/unload"),
    *("/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/x/register", "/v2/logging", "/v2/trace/setting"),
    *("/v2/cudasharedmemory/status", "/v2/systemsharedmemory/unregister", "/v2/models/genre_cnn/trace/setting"),
)
OPEN_PATHS: Final = (
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/models/genre_cnn", "/", "/metrics"),
    *("/v2/models/genre_cnn/config", "/v2/models/genre_cnn/ready", "/v2/models/genre_cnn/versions/1/stats", "//v2"),
    *("/v2/models/genre_cnn/generate", "/v2/models/composer/generate_stream", "/v2/models//infer", "*", "/v2/../v2"),
)
METHODS: Final = ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "post", "X" * 300, "", "\x00")
TYPES: Final = (
    "text/plain",
    "application/xml",
    "",
    "application/json; charset=\xff",
    "multipart/form-data",
    "x" * 9000,
)
_NOT_OFFERED: Final = 501  # not implemented by this server: a mistake of the client


@dataclass(frozen=True)
class Frame:
    """The bytes sent on one connection, and how the connection ends.

    Attributes:
        ending: `answer` waits for the response; `half` shuts down writing first; `away` closes at once.
        n_answers: number of expected responses.
        json: the JSON part, if it was changed.
    """

    data: bytes
    ending: str = "answer"
    n_answers: int = 1
    json: bytes = b""


class HttpTarget:
    """The HTTP port of a server."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    def send(self, frame: Frame) -> Outcome:
        """Send and read the response. A timeout is a hang; a closed connection is not."""
        deadline_s = time.monotonic() + LIMIT_S
        outcome = Outcome(HUNG_UP)
        try:
            with socket.create_connection(self._address, timeout=LIMIT_S) as connection:
                # Closing sends a reset, which frees the port at once and is a case of its own for the server.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(
                    ConnectionError
                ):  # the server may respond and close before it has read everything
                    connection.sendall(frame.data)
                if frame.ending == "away":
                    return Outcome(LEFT)
                if frame.ending == "half":
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_WR)
                received = b""
                for _ in range(frame.n_answers):
                    outcome, received = _answer(connection, received, deadline_s)
        except TimeoutError:
            return Outcome(HANG)
        except ConnectionRefusedError:
            return Outcome(FAILED, "refused", "connection refused")
        except ConnectionError:
            return outcome
        return outcome


def _answer(connection: socket.socket, received: bytes, deadline_s: float) -> tuple[Outcome, bytes]:
    """Return one response and the bytes after it.

    Raises:
        TimeoutError: no response in time.
        ConnectionError: the connection ended.
    """
    while (end := received.find(b"\r\n\r\n")) < 0 or received.startswith(b"HTTP/1.1 100"):
        if end >= 0:  # `100 Continue` is not the response
            received = received[end + 4 :]
        else:
            received += _some(connection, deadline_s)
    head, rest = received[:end].decode("latin-1"), received[end + 4 :]
    words = head.split("\r\n", 1)[0].split(" ", 2)
    status = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
    fields = {name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in head.split("\r\n"))}
    if fields.get("transfer-encoding") == "chunked":
        while b"0\r\n\r\n" not in rest:
            rest += _some(connection, deadline_s)
        body, rest = rest, b""
    else:
        n_body = int(fields.get("content-length", "0"))
        while len(rest) < n_body:
            rest += _some(connection, deadline_s)
        body, rest = rest[:n_body], rest[n_body:]
    kind = OK if 200 <= status < 300 else FAILED if status >= 500 and status != _NOT_OFFERED else REFUSED
    return Outcome(kind, str(status), "" if kind == OK else body[:300].decode("utf-8", "replace")), rest


def _some(connection: socket.socket, deadline_s: float) -> bytes:
    connection.settimeout(max(0.01, deadline_s - time.monotonic()))
    some = connection.recv(1 << 18)
    if not some:
        raise ConnectionResetError("the server hung up")
    return some


def body_of(ask: FuzzRequest, *, as_json: bool) -> tuple[bytes, int]:
    """Return the body and the length of its JSON part."""
    inputs: list[dict[str, Any]] = []
    binary = b""
    for tensor in ask.tensors:
        described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if as_json:
            described["data"] = _json_data(tensor.datatype, tensor.data)
        else:
            described["parameters"] = {"binary_data_size": len(tensor.data)}
            binary += tensor.data
        if tensor.parameters:
            described["parameters"] = {**described.get("parameters", {}), **tensor.parameters}
        inputs.append(described)
    whole: dict[str, Any] = {"inputs": inputs}
    if ask.id:
        whole["id"] = ask.id if isinstance(ask.id, str) else ask.id.decode("latin-1")
    if ask.parameters:
        whole["parameters"] = ask.parameters
    if ask.outputs:
        whole["outputs"] = [{"name": name, "parameters": parameters} for name, parameters in ask.outputs]
    header = json.dumps(whole, ensure_ascii=len(inputs) % 2 == 0).encode("utf-8", "surrogatepass")
    return header + binary, len(header)


def _json_data(datatype: str, data: bytes) -> list[Any]:
    if datatype == "BYTES":
        words = []
        while len(data) >= 4:
            size = int.from_bytes(data[:4], "little")
            words.append(data[4 : 4 + size].decode("latin-1"))
            data = data[4 + size :]
        return words
    dtype = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}
    each = np.dtype(dtype.get(datatype, np.uint8))
    return np.frombuffer(data[: len(data) // each.itemsize * each.itemsize], each)[:MOST_JSON_ITEMS].tolist()


def framed(
    path: str, body: bytes, headers: Mapping[str, str], *, method: str = "POST", length: str | None = None
) -> bytes:
    """Return a request as bytes; it is valid if the arguments are."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body


def whole(ask: FuzzRequest, *, as_json: bool) -> Frame:
    """Return a request to its model, without changes."""
    body, n_json = body_of(ask, as_json=as_json)
    headers = {} if as_json else {"Inference-Header-Content-Length": str(n_json)}
    return Frame(framed(f"/v2/models/{ask.model}/infer", body, headers))


Send = Callable[[HttpTarget], Outcome]
Attempt = tuple[str, str, str, Send | str]


@st.composite
def attempts(draw: Draw, configs: Mapping[str, Any], guard: Guard, sent: Counter[str]) -> Attempt:
    """Draw (category, expected kind of outcome or empty, description, function that sends it or reason not to).

    Args:
        sent: counts the options of the requests.
    """
    shape = draw(st.sampled_from(("ask",) * 6 + ("admin", "place", "frame", "frame", "frame")))
    if shape == "admin":
        return _admin(draw)
    if shape == "place":
        return _place(draw)
    category, ask = draw(mutated_requests(configs))
    small = sum(len(tensor.data) for tensor in ask.tensors) < MOST_JSON_ITEMS
    as_json = small and draw(st.booleans())
    why = fatal(ask, guard, as_json=as_json)
    if why is not None:
        return category, NOT_SENT, "", why
    body, n_json = body_of(ask, as_json=as_json)
    path = f"/v2/models/{_quoted(draw, ask.model)}"
    path += f"/versions/{_quoted(draw, ask.version)}" if ask.version else ""
    headers = {} if as_json else {"Inference-Header-Content-Length": str(n_json)}
    if shape == "frame":
        return _malformed_frame(draw, path + "/infer", body, headers, n_json, guard=guard)
    if category != VALID and draw(st.integers(0, 2)) == 0:
        more = draw_headers(draw)
        headers = {**headers, **more}
        sent.update(named(FuzzRequest("", ()), more))
    sent.update(named(ask))
    category = f"{'JSON' if as_json else 'binary'}, {category}"
    must = OK if category.endswith(f" {VALID}") and not ask.decoupled else ""
    return _sent(category, must, Frame(framed(path + "/infer", body, headers)))


def _sent(category: str, must: str, frame: Frame) -> Attempt:
    return category, must, repr(frame.data[:500]), lambda target: target.send(frame)


def _quoted(draw: Draw, text: str) -> str:
    """Return a text as part of a path; characters that need it are sometimes escaped."""
    if text.isidentifier():
        return text
    return urllib.parse.quote(text.encode("utf-8", "replace"), safe="" if draw(st.booleans()) else "/%.?*<>$;'")


def _admin(draw: Draw) -> Attempt:
    path = draw(st.sampled_from(ADMIN_PATHS))
    token = draw(st.sampled_from(({}, {ADMIN: "wrong"}, {ADMIN: ""}, {ADMIN.upper(): "*" * 43})))
    body = draw(st.sampled_from((b"", b"{}", b'{"parameters":{"config":"{}"}}', b"[")) | st.binary(max_size=20))
    method = draw(st.sampled_from(("POST", "POST", "GET")))
    return _sent("admin without a token", REFUSED, Frame(framed(path, body, token, method=method)))


def _place(draw: Draw) -> Attempt:
    """Draw a request with another path or method."""
    path = draw(st.sampled_from((*OPEN_PATHS, *(f"/v2/models/{each}/config" for each in PATHS if each.isprintable()))))
    path = urllib.parse.quote(path, safe="/%.?*<>$;'") if draw(st.booleans()) else path.replace(" ", "%20")
    method = draw(st.sampled_from(("GET", "POST", *METHODS)))
    ending = "answer" if method in ("GET", "POST") else "half"
    return _sent("method or path", "", Frame(framed(path, b"", {}, method=method), ending))


def _malformed_frame(
    draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int, *, guard: Guard
) -> Attempt:
    kind = draw(st.sampled_from(sorted(_FRAMES)))
    made: Frame | Attempt = _FRAMES[kind](draw, path, body, headers, n_json)
    if kind == "JSON changed":
        made = _checked(made, guard)  # type: ignore[arg-type]
    return made if isinstance(made, tuple) else _sent(kind, "", made)


def _json_cut(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    at = draw(st.integers(0, max(0, n_json - 1)))
    headers = {**headers, "Inference-Header-Content-Length": str(at)} if headers and draw(st.booleans()) else {}
    return Frame(framed(path, body[:at], headers))


def _json_changed(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    text = bytearray(body[:n_json])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(text), 600) - 1))
        new = draw(
            st.sampled_from((b"{", b"}", b"[", b"]", b'"', b":", b",", b"null", b"-", b"1e9", b"\\u0000", b"\xff"))
        )
        text[at : at + draw(st.integers(0, 2))] = new
    fields = {**headers, "Inference-Header-Content-Length": str(len(text))} if headers else {}
    return Frame(framed(path, bytes(text) + body[n_json:], fields), json=bytes(text))


def _checked(frame: Frame, guard: Guard) -> Frame | Attempt:
    """Return the frame, or the reason why its JSON must not be sent."""
    with contextlib.suppress(ValueError, RecursionError):
        why = fatal_json(json.loads(frame.json, object_pairs_hook=list), guard)
        if why is not None:
            return "JSON changed", NOT_SENT, "", why
    return frame


def _json_odd(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    """Draw JSON that is not a request."""
    depth = draw(st.sampled_from((10, 1000, 30_000)))
    tensor = b'{"name":"audio","datatype":"FP32","shape":[1],"data":%s}'
    odd = draw(
        st.sampled_from(
            (
                *(b"", b"null", b"[]", b"{}", b"1", b'"x"', b'{"inputs":null}', b'{"inputs":{}}', b'{"inputs":[1]}'),
                *(b'{"inputs":[[]]}', b'{"inputs":[],"inputs":[]}', b"[" * depth + b"]" * depth, b"[" * depth),
                *(b'{"a":' * depth + b"1" + b"}" * depth, b'{"inputs":[%s]}' % (tensor % (b"[" * 900 + b"]" * 900))),
                b'{"inputs":[%s]}' % (tensor % b"1e999"),
                b'{"inputs":[%s]}' % (tensor % b'["x"]'),
                b'{"inputs":[%s]}' % (tensor % b"[null]"),
                b'{"inputs":[{"name":1,"datatype":2,"shape":"3","data":4}]}',
                b'{"id":7,"inputs":[],"outputs":7,"parameters":7}',
                b"\xef\xbb\xbf{}",
                b"\x00" * 50,
                b" " * 100_000,
            )
        )
    )
    return Frame(framed(path, odd, {}))


def _header_length(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    odd = ("-1", "0", "1", "99999999999999999999", "x", "", "1e3", " 5", "0x10", "2147483648", str(len(body) + 1))
    length = draw(st.sampled_from(odd) | st.integers(0, n_json + 8).map(str))
    return Frame(framed(path, body, {"Inference-Header-Content-Length": length}))


def _content_length(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    """Draw a wrong Content-Length."""
    odd = ("-1", "", "x", "18446744073709551616", "0x10", "1,2", str(len(body) + 10), str(max(0, len(body) - 10)), "0")
    return Frame(framed(path, body, headers, length=draw(st.sampled_from(odd))), "half")


def _content_type(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    return Frame(framed(path, body, {**headers, "Content-Type": draw(st.sampled_from(TYPES))}))


def _compressed(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    """Draw a Content-Encoding with a body that may not match it."""
    encoding = draw(st.sampled_from(("gzip", "deflate", "br", "gzip, gzip", "identity", "\x00", "GZIP")))
    packed = draw(
        st.sampled_from((body, gzip.compress(body, 1), zlib.compress(body, 1), gzip.compress(bytes(1 << 20))))
    )
    packed = packed[: draw(st.sampled_from((len(packed), len(packed) // 2, 5)))]
    return Frame(framed(path, packed, {**headers, "Content-Encoding": encoding}))


def _chunked(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    """Draw valid, invalid or unfinished chunks."""
    size = draw(st.sampled_from((b"%x" % len(body), b"-1", b"ffffffffffffffff", b"zz", b"", b"5", b"1;x=y")))
    last = draw(st.sampled_from((b"0\r\n\r\n", b"", b"0\r\nA: b\r\n\r\n", b"\r\n")))
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{fields}\r\n".encode(
        "utf-8", "surrogatepass"
    )
    return Frame(head + size + b"\r\n" + body + b"\r\n" + last, "half")


def _huge_headers(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    odd = ({"X": "y" * 200_000}, {f"X-{n}": "z" for n in range(2000)}, {"Y" * 60_000: "1"}, {"": "1"}, {"A b": "\x00"})
    return Frame(framed(path, body, {**headers, **draw(st.sampled_from(odd))}), "half")


def _pipelined(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    n = draw(st.integers(2, 4))
    return Frame(framed(path, body, headers) * n, draw(st.sampled_from(("half", "away"))), n)


def _half_open(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    whole = framed(path, body, headers)
    return Frame(whole[: draw(st.integers(0, len(whole)))], draw(st.sampled_from(("half", "away"))))


def _garbage(draw: Draw, path: str, body: bytes, headers: dict[str, str], n_json: int) -> Frame:
    odd = (
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n" * 500,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    )
    return Frame(draw(st.sampled_from(odd) | st.binary(min_size=1, max_size=200)), "half")


_FRAMES: Final[Mapping[str, Callable[..., Frame]]] = {
    "JSON cut": _json_cut,
    "JSON changed": _json_changed,
    "JSON that is not a request": _json_odd,
    "length of the JSON part": _header_length,
    "content length": _content_length,
    "content type": _content_type,
    "compression": _compressed,
    "chunks": _chunked,
    "huge headers": _huge_headers,
    "requests sent together": _pipelined,
    "connection left open": _half_open,
    "not HTTP": _garbage,
}
