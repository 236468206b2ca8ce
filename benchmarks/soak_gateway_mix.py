"""Requests to every route of the gateway, and a client that checks their responses."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import aiohttp
import numpy as np
import soundfile

from tritone_gateway.security.keys import SCOPES, KeyStore

TIMEOUT_S = 60.0
RATE_HZ = 22_050
MAX_BODY_MB = 4  # of the gateway
PROBLEM = "application/problem+json"
NOTES = {"notes": [[4 * index, 4, 60 + (index * 5) % 12] for index in range(8)]}
MakeBody = Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class GatewayRequest:
    """One kind of request, sent repeatedly with small variations.

    Attributes:
        model: name in the report; called `model` as in the soak test of the server.
        make_body: returns arguments of `aiohttp.ClientSession.request` for a consecutive number.
        media_type: expected media type of a successful response.
        key: which key to send; "none" for no key.
        events: for server-sent events, whether to read all of them or to disconnect after the first bars.
        weight: relative frequency of the request.
    """

    model: str
    method: str
    path: str
    make_body: MakeBody = field(default=lambda _number: {}, repr=False)
    statuses: tuple[int, ...] = (200,)
    media_type: str = "application/json"
    accept: str = "*/*"
    key: Literal["all", "limited", "none"] = "all"
    events: Literal["all", "some"] | None = None
    weight: float = 1.0
    numbers: count[int] = field(default_factory=count, repr=False)


@dataclass(frozen=True)
class Material:
    """Inputs of requests: recordings, a score and ids of tracks."""

    ogg: tuple[bytes, ...]
    wav: bytes
    midi: bytes
    track_ids: tuple[str, ...]


def make_keys(path: Path) -> dict[str, str]:
    """Create two keys: one with all scopes, and one with a single scope and a low rate."""
    store = KeyStore(path)
    return {
        "all": store.create("soak", SCOPES, users="all")[1],
        "limited": store.create("limited", ("recommend",), rate="1/hour")[1],
    }


def recording(duration_s: float, file_format: str, *, step: int = 0) -> bytes:
    """Return a chord as a file."""
    time_s = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    chord = sum(np.sin(2 * np.pi * 220 * 2 ** ((each + step) / 12) * time_s) for each in (0, 4, 7)) / 6
    file = io.BytesIO()
    soundfile.write(file, chord, RATE_HZ, format=file_format)
    return file.getvalue()


async def find_material(client: GatewayClient) -> Material:
    """Return recordings, a composed score, and ids of tracks.

    Raises:
        RuntimeError: the models do not compose or recommend.
    """
    midi = await client.fetch("/v1/compose", {"bars": 4, "seed": 1}, accept="audio/midi")
    found = await client.fetch("/v1/recommend", {"n": 10})
    track_ids = tuple(each["track_id"] for each in found["recommendations"])
    oggs = tuple(recording(duration_s, "OGG", step=step) for step, duration_s in enumerate((3.0, 5.0, 12.0)))
    return Material(oggs, recording(4.0, "WAV"), midi, track_ids)


def requests_of_all_routes(material: Material) -> list[GatewayRequest]:
    """Return a mix of requests to all routes: all response formats, whole and abandoned streams, invalid requests."""
    return [*_listening(material), *_writing(material), *_recommending(material), *_operations(), *_errors(material)]


def _form(**files: tuple[str, bytes]) -> Callable[[int], dict[str, Any]]:
    def make(_number: int) -> dict[str, Any]:
        form = aiohttp.FormData()
        for name, (file_name, content) in files.items():
            form.add_field(name, content, filename=file_name)
        return {"data": form}

    return make


def _raw(content: bytes, media_type: str) -> MakeBody:
    return lambda _number: {"data": content, "headers": {"Content-Type": media_type}}


def _json(**values: Any) -> MakeBody:
    """Return a maker of JSON bodies, whose `seed`, if any, is the consecutive number."""
    return lambda number: {"json": {**values, **({"seed": number} if "seed" in values else {})}}


def _listening(material: Material) -> list[GatewayRequest]:
    ogg = material.ogg

    def one_of_three(number: int) -> dict[str, Any]:
        return _form(file=("clip.ogg", ogg[number % len(ogg)]))(number)

    post = "POST"
    return [
        GatewayRequest("classify (form)", post, "/v1/classify?top=3", one_of_three, weight=3),
        GatewayRequest("classify (body)", post, "/v1/classify", _raw(material.wav, "audio/wav"), weight=2),
        GatewayRequest(
            "classify (plot)",
            post,
            "/v1/classify",
            one_of_three,
            accept="image/png",
            media_type="image/png",
            weight=0.3,
        ),
        GatewayRequest("embed", post, "/v1/embed", _raw(ogg[0], "audio/ogg")),
        GatewayRequest("predict", post, "/v1/predict", _json(file=NOTES)),
    ]


def _writing(material: Material) -> list[GatewayRequest]:
    score = _form(file=("tune.mid", material.midi))
    post, compose = "POST", "/v1/compose"
    events = "text/event-stream"
    forms = {
        "audio/midi": 1.0,
        "audio/wav": 0.5,
        "application/vnd.recordare.musicxml+xml": 0.5,
        "image/png": 0.3,
    }
    return [
        GatewayRequest("compose", post, compose, _json(bars=2, seed=0), weight=2),
        *(
            GatewayRequest(f"compose ({each})", post, compose, _json(bars=2, seed=0), accept=each, media_type=each,
                           weight=weight)
            for each, weight in forms.items()
        ),
        GatewayRequest("compose (events)", post, compose, _json(bars=4, seed=0), accept=events, media_type=events,
                       events="all", weight=2),
        GatewayRequest("compose (events, left)", post, compose, _json(bars=64, seed=0), accept=events,
                       media_type=events, events="some", weight=2),
        GatewayRequest("continue (form)", post, "/v1/continue?bars=1", score),
        GatewayRequest("continue (events)", post, "/v1/continue", _json(file=NOTES, bars=2, seed=0), accept=events,
                       media_type=events, events="all"),
        GatewayRequest("harmonize", post, "/v1/harmonize", _json(file=NOTES)),
        GatewayRequest("infill", post, "/v1/infill", _json(file=NOTES, bars=[1, 2])),
        GatewayRequest("vary", post, "/v1/vary", _json(file=NOTES, attribute="note_density", amount=1)),
        GatewayRequest("reconstruct", post, "/v1/reconstruct", _json(file=NOTES)),
        GatewayRequest("interpolate", post, "/v1/interpolate", _json(a=NOTES, b=NOTES, steps=3)),
        GatewayRequest("sample", post, "/v1/sample", _json(n=2, seed=0)),
        GatewayRequest("convert", post, "/v1/convert", score, accept="audio/midi", media_type="audio/midi"),
        GatewayRequest("inspire", post, "/v1/inspire", _json(bars=2, seed=0), weight=0.5),
    ]  # fmt: skip


def _recommending(material: Material) -> list[GatewayRequest]:
    ids = material.track_ids

    def history(number: int) -> dict[str, Any]:
        return {"json": {"n": 5, "history": [ids[number % len(ids)]], "explain": number % 2 == 0}}

    def event(number: int) -> dict[str, Any]:
        return {"json": {"events": [{"user_id": "soak", "track_id": ids[number % len(ids)], "kind": "play"}]}}

    return [
        GatewayRequest("recommend", "POST", "/v1/recommend", _json(n=10), weight=3),
        GatewayRequest("recommend (history)", "POST", "/v1/recommend", history, weight=3),
        GatewayRequest("similar", "POST", "/v1/similar", _json(track_id=ids[0], n=3)),
        GatewayRequest("similar (form)", "POST", "/v1/similar", _form(file=("a.ogg", material.ogg[0]))),
        GatewayRequest("tracks", "GET", f"/v1/tracks?q={quote(ids[0], safe='')}"),
        GatewayRequest("tracks (audio)", "GET", f"/v1/tracks/{quote(ids[0])}/audio", media_type="audio/"),
        GatewayRequest("search", "GET", f"/v1/search?q={quote('a slow waltz')}&n=5"),
        GatewayRequest("playlist", "POST", "/v1/playlist", _json(start=ids[0], n=5)),
        GatewayRequest("events", "POST", "/v1/events", event),
        GatewayRequest("users (examples)", "GET", "/v1/users/examples"),
        GatewayRequest("models", "GET", "/v1/models"),
    ]


def _operations() -> list[GatewayRequest]:
    return [
        GatewayRequest("livez", "GET", "/livez", key="none"),
        GatewayRequest("readyz", "GET", "/readyz", key="none", weight=2),
        GatewayRequest("metrics", "GET", "/metrics", media_type="text/plain"),
        GatewayRequest("openapi.json", "GET", "/openapi.json", key="none", weight=0.3),
    ]


def _errors(material: Material) -> list[GatewayRequest]:
    classify, recommend = "/v1/classify", "/v1/recommend"
    too_large = _raw(bytes((MAX_BODY_MB << 20) + 1), "audio/wav")
    found = [
        ("malformed", "POST", recommend, _raw(b'{"n": ', "application/json"), 400),
        ("no key", "POST", recommend, _json(n=1), 401),
        ("scope", "POST", "/v1/compose", _json(bars=1), 403),
        ("no route", "GET", "/v1/nothing", _json(), 404),
        ("no recording", "GET", "/v1/tracks/no-such-track/audio", _json(), 404),
        ("method", "DELETE", recommend, _json(), 405),
        ("form", "POST", "/v1/compose", _json(bars=1, seed=0), 406),
        ("large body", "POST", classify, too_large, 413),
        ("media type", "POST", recommend, _raw(b"<n>5</n>", "application/xml"), 415),
        ("value", "POST", "/v1/compose", _json(temperature=-1), 422),
        ("no audio", "POST", classify, _form(file=("a.ogg", material.midi)), 422),
        ("rate", "POST", recommend, _json(n=1), 429),
    ]
    keys: dict[str, Literal["limited", "none"]] = {"no key": "none", "scope": "limited", "rate": "limited"}
    return [
        GatewayRequest(
            f"{status} {name}",
            method,
            path,
            make,
            statuses=(status, 200, 429)
            if keys.get(name) == "limited"
            else (status,),  # the first request of an hour is within the rate
            accept="video/mp4" if name == "form" else "*/*",
            key=keys.get(name, "all"),
            weight=0.3,
        )
        for name, method, path, make, status in found
    ]


class GatewayClient:
    """Sends requests to a gateway and checks their responses; for one event loop.

    Attributes:
        n_sent: finished requests.
        n_failed: those whose response was not as expected.
    """

    def __init__(self, url: str, keys: Mapping[str, str]) -> None:
        self._url = url
        self._headers = {name: {"X-API-Key": key} for name, key in keys.items()} | {"none": {}}
        self._session: aiohttp.ClientSession
        self.n_sent = self.n_failed = 0

    async def __aenter__(self) -> GatewayClient:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def fetch(self, path: str, body: Any = None, *, accept: str = "application/json") -> Any:
        """Return the JSON of a response, or its bytes.

        Raises:
            RuntimeError: the status is not 200.
        """
        headers = {**self._headers["all"], "Accept": accept}
        method = "GET" if body is None else "POST"
        async with self._session.request(method, self._url + path, json=body, headers=headers) as response:
            if response.status != 200:
                raise RuntimeError(f"{path}: expected status 200, got {response.status}: {await response.text()}")
            return await (response.json() if response.content_type == "application/json" else response.read())

    async def ask(self, asked: GatewayRequest) -> str:
        """Send one request and read its response; return the first deviation from the expected response, or ''."""
        try:
            wrong = await self._wrong(asked)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            wrong = f"{type(error).__name__}: {error}"
        self.n_sent += 1
        self.n_failed += bool(wrong)
        return wrong

    async def _wrong(self, asked: GatewayRequest) -> str:
        given = asked.make_body(next(asked.numbers))
        headers = {**self._headers[asked.key], "Accept": asked.accept, **given.pop("headers", {})}
        async with self._session.request(asked.method, self._url + asked.path, headers=headers, **given) as response:
            if response.status not in asked.statuses:
                return f"status {response.status}: {(await response.text(errors='replace'))[:300]}"
            if "x-request-id" not in response.headers:
                return "no request id"
            media_type = asked.media_type if response.status < 400 else PROBLEM
            if not response.content_type.startswith(media_type):
                return f"expected {media_type}, got {response.content_type}"
            if asked.events is not None:
                return await _read_events(response, leave=asked.events == "some")
            return "" if await response.read() else "an empty body"


async def _read_events(response: aiohttp.ClientResponse, *, leave: bool) -> str:
    """Read server-sent events to the end, or disconnect after the first bars; return an error message, or ''."""
    names: Counter[str] = Counter()
    last = ""
    async for line in response.content:
        if line.startswith(b"event: "):
            last = line[7:].decode().strip()
            names[last] += 1
            if leave and last == "bars":
                response.close()  # closes the connection before the rest arrives
                return ""
    return "" if last == "piece" and names["bars"] else f"the stream ended with {last!r} after {names.total()} events"


async def warm_up(client: GatewayClient, mix: Sequence[GatewayRequest], *, rounds: int = 3) -> None:
    """Send each request several times, so that everything that is loaded on first use is loaded.

    Raises:
        RuntimeError: a response is not as expected, so that a measurement would be meaningless.
    """
    for _ in range(rounds):
        for asked in mix:
            wrong = await client.ask(asked)
            if wrong:
                raise RuntimeError(f"{asked.model} ({asked.method} {asked.path}) fails before the load: {wrong}")
