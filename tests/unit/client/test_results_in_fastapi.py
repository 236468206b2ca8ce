"""Tests of results as responses of FastAPI, annotated or not: no field is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from pydantic import TypeAdapter

from tritone import Reason, Recommendation, Recommendations, Track, TrackPage, UnknownIds

REASON = Reason("ease", "history", "t1", 0.5, "Jóga", "Björk")
TRACKS = Recommendations(
    (Recommendation("t2", 1.5, "Hyperballad", "Björk", (REASON,)), Recommendation("t3", 1.0)),
    source="history",
    arm="a",
    unknown=UnknownIds(history=("x",), audio=True),
    model="recommender",
    model_version="3",
    request_id="r-1",
)
PAGE = TrackPage((Track("t2", "Hyperballad", "Björk", "prefix", "title"),), 7, 3, "recommender", "3", "r-2")

app = FastAPI()


@app.get("/annotated")
def annotated() -> Recommendations:
    return TRACKS


@app.get("/plain")
def plain():  # type: ignore[no-untyped-def]
    return TRACKS


@app.get("/page")
def page() -> TrackPage:
    return PAGE


def get(path: str) -> Any:
    """The body of a GET, by the ASGI protocol itself."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "http_version": "1.1"}
    scope |= {"scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": ""}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 200, sent
    return json.loads(b"".join(message.get("body", b"") for message in sent))


@pytest.mark.parametrize(
    ("path", "result"), [("/annotated", TRACKS), ("/plain", TRACKS), ("/page", PAGE)], ids=lambda each: str(each)[:12]
)
def test_routes_answer_every_field(path: str, result: Any) -> None:
    assert get(path) == json.loads(json.dumps(result.to_dict()))


@pytest.mark.parametrize(
    "result", [TRACKS, PAGE, TRACKS[0], REASON, TRACKS.unknown, PAGE[0]], ids=lambda r: type(r).__name__
)
def test_every_encoder_agrees_with_to_dict(result: Any) -> None:
    expected = json.loads(json.dumps(result.to_dict()))
    assert jsonable_encoder(result) == expected
    assert json.loads(json.dumps(dataclasses.asdict(result))) == expected
    adapter = TypeAdapter(type(result))
    assert json.loads(adapter.dump_json(result)) == expected
    assert adapter.validate_python(expected) == result


def test_the_schema_of_the_api_names_every_field() -> None:
    def schema(path: str) -> Any:
        return app.openapi()["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]

    tracks = schema("/annotated")["properties"]
    assert set(tracks) == set(TRACKS.to_dict())
    assert set(schema("/page")["properties"]) == set(PAGE.to_dict())
    reasons = tracks["recommendations"]["items"]["properties"]["reasons"]
    assert set(reasons["items"]["properties"]) == set(REASON.to_dict())
