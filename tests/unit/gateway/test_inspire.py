"""The route `inspire` with fake models."""

from __future__ import annotations

import json
import re

import pytest
from fastapi.testclient import TestClient
from tests.unit.gateway.conftest import FAKES, TRACKS, Start

from tritone import Inspiration, MusicClient
from tritone.testing import FakeInspirer, FakeServer, MockTransport
from tritone_gateway.security.keys import KeyStore, Scope

NOTES = {"notes": [[4 * i, 4, 60 + i] for i in range(8)]}


def test_the_response_is_that_of_the_sdk(gateway: TestClient) -> None:
    response = gateway.post("/v1/inspire", json={"bars": 2, "seed": 7, "n": 2, "mood": "power"})
    assert response.status_code == 200, response.text
    found = Inspiration.from_dict(response.json())
    with MusicClient(transport=MockTransport(FakeServer(*FAKES, FakeInspirer(*FAKES)))) as music:
        expected = music.inspire(bars=2, seed=7, n=2, mood="power")
    assert found.piece.to_dict() == json.loads(json.dumps(expected.piece.to_dict()))
    assert found.recommendations.track_ids == TRACKS[:2] == expected.recommendations.track_ids
    assert found.classification.probabilities == expected.classification.probabilities
    assert found.mood == "power"


def test_the_latency_is_reported(gateway: TestClient) -> None:
    response = gateway.post("/v1/inspire", json={"bars": 1})
    timing = re.fullmatch(r"model;dur=([\d.]+), render;dur=([\d.]+)", response.headers["server-timing"])
    assert timing is not None
    assert float(timing[1]) == pytest.approx(1_000 * response.json()["request_s"], abs=0.06)


@pytest.mark.parametrize(("accept", "signature"), [("audio/midi", b"MThd"), ("audio/wav", b"RIFF")])
def test_audio_media_types_return_only_the_piece(gateway: TestClient, accept: str, signature: bytes) -> None:
    response = gateway.post("/v1/inspire", json={"bars": 1, "seed": 3}, headers={"Accept": accept})
    assert response.status_code == 200
    assert response.content.startswith(signature)
    assert response.headers["tritone-seed"] == "3"
    assert "server-timing" in response.headers
    assert (
        response.content == gateway.post("/v1/compose", json={"bars": 1, "seed": 3}, headers={"Accept": accept}).content
    )


def test_a_score_is_continued(gateway: TestClient) -> None:
    piece = gateway.post("/v1/inspire", json={"file": NOTES, "bars": 1, "seed": 1}).json()["piece"]
    assert piece["notes"][:8] == NOTES["notes"]
    assert piece["n_frames"] == 48


@pytest.mark.parametrize(
    ("body", "status", "argument"),
    [
        ({"mood": "grumpy"}, 422, "mood"),
        ({"bars": 0}, 422, "bars"),
        ({"bars": 200}, 422, "bars"),
        ({"n": 0}, 422, "n"),
        ({"model": "nobody"}, 404, None),
    ],
)
def test_invalid_requests_are_problems(
    gateway: TestClient, body: dict[str, object], status: int, argument: str | None
) -> None:
    response = gateway.post("/v1/inspire", json=body)
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, problem.get("argument")) == (status, argument), problem


def test_unsupported_media_types_are_406(gateway: TestClient) -> None:
    assert gateway.post("/v1/inspire", json={}, headers={"Accept": "image/png"}).status_code == 406


@pytest.mark.parametrize(
    ("scopes", "status"),
    [(("write",), 403), (("recommend",), 403), (("listen",), 403), (("write", "recommend"), 200)],
)
def test_both_scopes_are_required(start: Start, keys: KeyStore, scopes: tuple[Scope, ...], status: int) -> None:
    _, key = keys.create("app", scopes)
    response = start().post("/v1/inspire", json={"bars": 1}, headers={"X-API-Key": key})
    assert response.status_code == status
