"""Bodies with arbitrary content and framing result in a response or a problem, never in an internal error."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from encodings.aliases import aliases
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.gateways import listening
from tests.support.tones import tone_file
from tests.unit.gateway.conftest import FAKES, LOCAL

from tritone import AsyncMusicClient
from tritone.testing import AsyncMockTransport, FakeInspirer, FakeServer
from tritone_gateway import GatewaySettings, create_app
from tritone_gateway.bodies import COMPONENTS

RECORDING = tone_file(1.0)
ROUTES = {
    "/v1/classify": "ClassifyRequest",
    "/v1/recommend": "RecommendRequest",
    "/v1/similar": "SimilarRequest",
    "/v1/playlist": "PlaylistRequest",
    "/v1/compose": "ComposeRequest",
    "/v1/continue": "ContinueRequest",
    "/v1/infill": "InfillRequest",
    "/v1/interpolate": "InterpolateRequest",
    "/v1/convert": "ConvertRequest",
    "/v1/inspire": "InspireRequest",
}
REFUSALS = {400, 404, 413, 415, 422}
# What changes the work of the models rather than how a body is read.
CHEAP = {"bars": 1, "n": 1, "steps": 2}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    music = AsyncMusicClient(retries=0, transport=AsyncMockTransport(FakeServer(*FAKES, FakeInspirer(*FAKES))))
    app = create_app(GatewaySettings(keys_file=tmp_path_factory.mktemp("keys") / "keys.json"), music=music)
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


def check(response: Any) -> None:
    if response.status_code != 200:
        assert response.status_code in REFUSALS, (response.status_code, response.text)
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == response.status_code


texts = st.text(st.characters(), max_size=12)  # with halves of surrogate pairs
names = st.sampled_from(["file", "file", "a", "n", "history", "bars", "seed", "", " ", "file\x00", 'a"b', "é", "n[]"])
boundaries = st.sampled_from([b"x", b"-", b"--", b"a b", b"x" * 70, b"x" * 300, b"'()+_,-./:=?"])
charsets = st.sampled_from(
    ["", "utf-8", "nonsense", "undefined", "idna", "unicode_escape", *sorted(set(aliases.values()))]
)


@st.composite
def parts(draw: st.DrawFn, boundary: bytes) -> bytes:
    disposition = f'form-data; name="{draw(names)}"'
    if draw(st.booleans()):
        filename = draw(st.sampled_from(["a.ogg", "", "../../etc/passwd", "é.mid", "a\\b", 'a"b', "x" * 5_000]))
        star = draw(st.sampled_from(["", "*"]))
        disposition += f'; filename{star}="{filename}"'
    lines = [b"Content-Disposition: " + disposition.encode()]
    lines += draw(
        st.lists(
            st.sampled_from(
                [
                    b"Content-Type: audio/ogg",
                    b"Content-Type: multipart/mixed; boundary=" + boundary,
                    b"Content-Type: text/plain; charset=utf-16",
                    b"Content-Transfer-Encoding: base64",
                    b"Content-Disposition: attachment",
                    b"X-\xff: \xff",
                    b"no colon",
                    b"",
                ]
            ),
            max_size=2,
        )
    )
    content = draw(
        st.sampled_from([b"", b"1", b"null", b"[1, 2]", b"[NaN]", b'["\\ud800"]', b"\\ud800", b"a..b", RECORDING])
        | st.binary(max_size=200)
        | st.just(b"--" + boundary + b"\r\n\r\ninner\r\n--" + boundary + b"--")
    )
    return b"\r\n".join([b"--" + boundary, *lines, b"", content, b""])


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a Content-Type and a body, which are often not what a form should be."""
    boundary = draw(boundaries)
    body = b"".join(draw(st.lists(parts(boundary), max_size=4))) + b"--" + boundary + b"--\r\n"
    if draw(st.integers(0, 3)) == 0:
        body = body[: draw(st.integers(0, len(body)))]
    body += draw(st.sampled_from([b"", b"", b"epilogue", b"\r\n--" + boundary]))
    if draw(st.booleans()):
        boundary = draw(boundaries)
    charset = draw(charsets)
    quoted = f'"{boundary.decode()}"'
    return f"multipart/form-data; boundary={quoted}" + (f"; charset={charset}" if charset else ""), body


UNDEFINED = (
    "multipart/form-data; boundary=x; charset=undefined",
    b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n--x--\r\n',
)
HALF = (
    "multipart/form-data; boundary=x; charset=unicode_escape",
    b'--x\r\nContent-Disposition: form-data; name="mood"\r\n\r\n\\ud800\r\n--x--\r\n',
)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # of charset=unicode_escape
@given(form=forms(), route=st.sampled_from(sorted(ROUTES)))
@example(form=UNDEFINED, route="/v1/recommend")
@example(form=HALF, route="/v1/recommend")
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_form_has_a_result_or_a_problem(gateway: TestClient, form: tuple[str, bytes], route: str) -> None:
    media_type, body = form
    check(
        gateway.post(
            route, params=CHEAP if route == "/v1/compose" else {}, content=body, headers={"Content-Type": media_type}
        )
    )


@given(
    media_type=st.sampled_from(
        [
            "",
            "audio/ogg",
            "audio/midi",
            "audio/\xff",
            "application/octet-stream",
            "application/json; charset=utf-16",
            "application/problem+json",
            "application/vnd.recordare.musicxml",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/mixed; boundary=x",
            "text/plain",
            ";",
            "a/b/c",
        ]
    ),
    content=st.binary(max_size=300)
    | st.sampled_from([RECORDING, RECORDING[:200], b"MThd\x00\x00\x00\x06", b"<?xml?>", b"{}"]),
    route=st.sampled_from(sorted(ROUTES)),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_content_of_any_type_has_a_result_or_a_problem(
    gateway: TestClient, media_type: str, content: bytes, route: str
) -> None:
    headers = {"Content-Type": media_type.encode("latin-1")} if media_type else {}
    check(gateway.post(route, content=content, headers=headers))


numbers = st.integers(-(1 << 80), 1 << 80) | st.floats() | st.sampled_from([0, 1, -1, 1e308, 2**31, 2**63, 2**64])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["url", "base64", "notes", "meter", "n_frames"]) | texts, inner, max_size=3)
    ),
    max_leaves=8,
)
scores = st.fixed_dictionaries(
    {"notes": st.lists(st.lists(numbers, max_size=4), max_size=3) | st.just([[0, 4, 60]])},
    optional={
        "frames_per_quarter": numbers,
        "tempo_qpm": numbers,
        "meter": st.lists(numbers, max_size=3) | st.none(),
        "frames_per_bar": numbers,
        "first_frame_in_bar": numbers,
        "n_frames": st.integers(-1, 64) | numbers,
    },
)


@st.composite
def json_bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a route and a JSON object with names that the route knows, and values of any kind."""
    route = draw(st.sampled_from(sorted(ROUTES)))
    known = COMPONENTS[ROUTES[route]].model_fields
    body: dict[str, Any] = {
        name: CHEAP[name] for name in known if name in CHEAP and not (name == "bars" and route == "/v1/infill")
    }
    for name in draw(st.lists(st.sampled_from(sorted(known)), max_size=4, unique=True)):
        body[name] = draw(scores if name in {"file", "a", "b"} and draw(st.booleans()) else values)
    for name in draw(st.lists(texts, max_size=1)):
        body[name] = draw(values)
    for name, most in (("bars", 4), ("n", 16), ("steps", 8)):  # the work is bounded, not the kinds of values
        value = body.get(name)
        if isinstance(value, int | float) and most < value < 1e7:
            body[name] = most
    return route, json.dumps(body).encode()


@given(request=json_bodies())
@example(request=("/v1/recommend", b'{"mood": "\\ud800"}'))
@example(request=("/v1/recommend", b'{"\\ud800": 1}'))
@example(request=("/v1/recommend", b'{"history": ["\\ud800"]}'))
@example(request=("/v1/recommend", b'{"mood": "\xed\xa0\x80"}'))
@example(request=("/v1/convert", b'{"file": {"notes": [[0, 4, 60]], "tempo_qpm": Infinity}}'))
@example(request=("/v1/convert", b'{"file": {"notes": [[0, 4, 60]], "tempo_qpm": 1e999}}'))
@example(request=("/v1/recommend", b'{"history": ["reel-1"], "weights": [NaN]}'))
@settings(max_examples=250, deadline=None, derandomize=True)
def test_any_json_has_a_result_or_a_problem(gateway: TestClient, request: tuple[str, bytes]) -> None:
    route, body = request
    check(gateway.post(route, content=body, headers={"Content-Type": "application/json"}))


@given(query=st.dictionaries(st.sampled_from(["n", "mood", "history", "top", "file"]) | texts, texts, max_size=3))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_query_has_a_result_or_a_problem(gateway: TestClient, query: dict[str, str]) -> None:
    sent = {
        name.encode("utf-8", "surrogatepass"): value.encode("utf-8", "surrogatepass") for name, value in query.items()
    }
    escaped = "&".join("=".join("".join(f"%{byte:02x}" for byte in each) for each in pair) for pair in sent.items())
    check(gateway.post(f"/v1/recommend?{escaped}"))


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with listening(tmp_path_factory.mktemp("keys"), body_timeout_s=0.15, header_timeout_s=0.15, max_body_mb=1) as found:
        yield found


@st.composite
def framings(draw: st.DrawFn) -> bytes:
    """Return a request whose length and framing are often wrong."""
    body = draw(st.sampled_from([b"", b"OggS", RECORDING]))
    lengths = [len(body), len(body), len(body) + 1, max(len(body) - 1, 0), 0, -1, 2 << 20, 10**30, "x", "+1", ""]
    headers = [f"Content-Length: {each}" for each in draw(st.lists(st.sampled_from(lengths), min_size=1, max_size=2))]
    if draw(st.integers(0, 2)) == 0:
        coding = draw(
            st.sampled_from(["chunked", "chunked", "gzip, chunked", "identity", "chunked, chunked", "\tchunked"])
        )
        headers = [f"Transfer-Encoding: {coding}", *draw(st.sampled_from([[], headers]))]
        size = draw(st.sampled_from([f"{len(body):x}", f"{len(body) + 1:x}", "ffffffffffffffff", "-1", "zz", "0"]))
        ending = draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"\r\n"]))
        body = size.encode() + b"\r\n" + body + b"\r\n" + ending
    if draw(st.integers(0, 4)) == 0:
        headers.append("Expect: 100-continue")
    lines = ["POST /v1/classify HTTP/1.1", "Host: localhost", "Content-Type: audio/ogg", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@given(content=framings())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_framing_has_a_response_or_the_end_of_the_connection(port: int, content: bytes) -> None:
    statuses = statuses_of(port, content)
    assert set(statuses) <= {100, 200, 400, 408, 413, 422}, statuses
    assert len([each for each in statuses if each != 100]) <= 1
    assert statuses_of(port, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") == [200]


def statuses_of(port: int, content: bytes) -> list[int]:
    """Send bytes; return the statuses of all responses on the connection."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        try:
            connection.sendall(content)
            while part := connection.recv(65_536):
                found += part
        except ConnectionError:  # closed before everything was sent
            pass
    return [int(each) for each in re.findall(rb"HTTP/1\.1 (\d{3}) ", found)]


def test_the_routes_of_this_module_exist(gateway: TestClient) -> None:
    paths = gateway.get("/openapi.json").json()["paths"]
    assert set(ROUTES) <= set(paths)
    assert set(ROUTES.values()) <= set(COMPONENTS)


def test_a_recording_in_an_odd_but_valid_form_is_classified(gateway: TestClient) -> None:
    body = (
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="\xc3\xa9\\"--x.ogg"\r\n'
        b"Content-Type: application/x-unknown\r\n\r\n" + RECORDING + b"\r\n--x--\r\nepilogue"
    )
    response = gateway.post("/v1/classify", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("path", "values", "argument"),
    [
        ("/v1/recommend", {"history": [1] * 200_000}, None),
        ("/v1/recommend", {"weights": ["x"] * 200_000}, "weights.0"),
        ("/v1/convert", {"file": {"notes": [["a", "b", "c"]] * 100_000}}, None),
        ("/v1/compose", {f"k{index}": 1 for index in range(100_000)}, None),
    ],
    ids=["ids", "weights", "notes", "names"],
)
def test_many_invalid_values_get_a_short_problem(
    gateway: TestClient, path: str, values: dict[str, Any], argument: str | None
) -> None:
    response = gateway.post(path, json=values)

    assert response.status_code == 422
    assert len(response.content) < 4_000
    problem = response.json()
    assert problem["type"] == "urn:tritone:problem:invalid-argument"
    assert problem.get("argument") == argument
    assert len(problem.get("errors", ())) <= 3


def test_more_values_than_can_be_parsed_in_time_are_413(gateway: TestClient) -> None:
    many = "[" + "[]," * 700_001 + "[]]"
    as_json = gateway.post("/v1/compose", content=f'{{"bars": {many}}}', headers={"Content-Type": "application/json"})
    halves = {f"f{index}": "[" + "[]," * 240_000 + "[]]" for index in range(3)}
    as_form = gateway.post("/v1/compose", files={name: (None, text) for name, text in halves.items()})

    for response in (as_json, as_form):
        assert response.status_code == 413
        assert response.json()["type"] == "urn:tritone:problem:too-many-values"


def test_a_meter_of_thousands_of_digits_is_an_invalid_score(gateway: TestClient) -> None:
    content = f'{{"file": {{"notes": [[0, 4, 60]], "meter": [{"9" * 4_299}, 1]}}}}'
    response = gateway.post("/v1/convert", content=content, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    assert response.json()["argument"] == "meter"
