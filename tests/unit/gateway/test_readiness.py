"""`/readyz`: which failures make a gateway unready, and how often the models are checked."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.unit.gateway.conftest import FAKES, Start

import tritone
from tritone import AsyncMusicClient
from tritone.messages import ReadyRequest, ReadyResponse, StatisticsRequest, StatisticsResponse
from tritone.testing import AsyncMockTransport, FakeServer
from tritone_gateway import readiness
from tritone_gateway.metrics import Metrics
from tritone_gateway.readiness import ReadinessCheck

ROOT = Path(__file__).parents[3]
MODELS = {"composer", "genre_cnn", "music_transformer", "recommender"}


class Models:
    """Fake models, some of which are not ready; counts the requests by type."""

    def __init__(self, *unready: str) -> None:
        self.unready = set(unready)
        self.asked: Counter[type] = Counter()
        self._fakes = FakeServer(*FAKES)

    def __call__(self, request: Any) -> Any:
        self.asked[type(request)] += 1
        if isinstance(request, ReadyRequest) and request.model in self.unready:
            return ReadyResponse(False)
        return self._fakes(request)


def metric(gateway: TestClient, state: str) -> float:
    lines = gateway.get("/metrics").text.splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f'tritone_gateway_models{{state="{state}"}}')]
    return float(value)


def test_all_models_ready(start: Start) -> None:
    gateway = start(Models())
    response = gateway.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"ready": True, "degraded": False, "models": dict.fromkeys(MODELS, True), "reason": None}
    assert (metric(gateway, "ready"), metric(gateway, "not_ready")) == (4, 0)


def test_one_unready_model_does_not_make_the_gateway_unready(start: Start) -> None:
    gateway = start(Models("composer"))
    response = gateway.get("/readyz")
    assert response.status_code == 200
    found = response.json()
    assert (found["ready"], found["degraded"], found["reason"]) == (True, True, "not ready: composer")
    assert found["models"] == {name: name != "composer" for name in MODELS}
    assert (metric(gateway, "ready"), metric(gateway, "not_ready")) == (3, 1)


@pytest.mark.parametrize("required", [(), ("genre_cnn",)])
def test_no_model_ready(start: Start, required: tuple[str, ...]) -> None:
    response = start(Models(*MODELS), required_models=required).get("/readyz")
    assert response.status_code == 503
    assert (response.json()["ready"], response.json()["degraded"]) == (False, False)
    assert response.json()["models"] == dict.fromkeys(MODELS, False)


@pytest.mark.parametrize(
    ("required", "unready", "status"),
    [
        (("genre_cnn",), ("genre_cnn",), 503),
        (("genre_cnn", "composer"), ("composer",), 503),
        (("genre_cnn",), ("composer",), 200),
        (("music_vae",), (), 503),  # not loaded at all
    ],
)
def test_required_models(start: Start, required: tuple[str, ...], unready: tuple[str, ...], status: int) -> None:
    response = start(Models(*unready), required_models=required).get("/readyz")
    found = response.json()
    assert response.status_code == status
    assert found["ready"] == (status == 200)
    assert set(found["models"]) == MODELS | set(required)
    waiting = {*unready, *(set(required) - MODELS)}
    assert {name for name, ready in found["models"].items() if not ready} == waiting
    assert all(name in found["reason"] for name in waiting & set(required))


def test_a_server_without_models(start: Start) -> None:
    def empty(request: object) -> object:
        return StatisticsResponse(()) if isinstance(request, StatisticsRequest) else ReadyResponse(True)

    response = start(empty).get("/readyz")
    assert response.status_code == 503
    assert response.json()["reason"] == "the server has no models"


def test_a_server_that_cannot_be_reached(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "MAX_UNREADY_AGE_S", 60.0)
    asked = []

    def down(request: object) -> object:
        asked.append(request)
        raise tritone.ConnectionFailedError("no connection to localhost:8001")

    gateway = start(down)
    for _ in range(5):
        response = gateway.get("/readyz")
        assert response.status_code == 503
        assert response.json() == {
            "ready": False, "degraded": False, "models": {}, "reason": "no connection to localhost:8001",
        }  # fmt: skip
    assert len(asked) == 1  # a server in trouble is not asked by each probe
    assert metric(gateway, "ready") == 0


def test_a_draining_gateway_is_unready_despite_a_recent_check(start: Start) -> None:
    gateway = start(Models())
    assert gateway.get("/readyz").status_code == 200
    gateway.app.state.gateway.load.draining = True  # type: ignore[attr-defined]
    response = gateway.get("/readyz")
    assert response.status_code == 503
    assert response.json()["reason"] == "the gateway is shutting down"


def test_many_probes_cause_one_check(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "MAX_AGE_S", 60.0)
    models = Models()
    gateway = start(models)
    assert {gateway.get("/readyz").status_code for _ in range(20)} == {200}
    assert models.asked == {StatisticsRequest: 1, ReadyRequest: 4}


def test_an_old_result_is_not_reused(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for age in ("MAX_AGE_S", "MAX_UNREADY_AGE_S"):
        monkeypatch.setattr(readiness, age, 0.0)
    models = Models()
    gateway = start(models)
    assert gateway.get("/readyz").status_code == 200
    models.unready |= MODELS
    assert gateway.get("/readyz").status_code == 503
    models.unready.clear()
    assert gateway.get("/readyz").status_code == 200


def test_a_failed_check_is_repeated_before_a_balancer_repeats_its_probe() -> None:
    (fastinter_ms,) = set(re.findall(r"fastinter (\d+)ms", (ROOT / "docker/haproxy-gateway.cfg").read_text()))
    assert int(fastinter_ms) > 1e3 * readiness.MAX_UNREADY_AGE_S


async def test_concurrent_probes_share_one_check_and_a_cancelled_one_does_not_affect_the_others() -> None:
    models, gate = Models("composer"), asyncio.Event()

    async def slow(request: Any) -> Any:
        await gate.wait()
        return models(request)

    check = ReadinessCheck((), Metrics())
    async with AsyncMusicClient(retries=0, transport=AsyncMockTransport(slow)) as music:
        probes = [asyncio.create_task(check.state(music)) for _ in range(50)]
        await asyncio.sleep(0.01)
        probes[0].cancel()  # the one that began to ask
        await asyncio.sleep(0.01)
        gate.set()
        states = await asyncio.gather(*probes, return_exceptions=True)
    assert isinstance(states[0], asyncio.CancelledError)
    assert all(isinstance(each, readiness.Readiness) and each.degraded for each in states[1:])
    assert models.asked[StatisticsRequest] == 1


async def test_an_unexpected_error_is_not_cached() -> None:
    answers = iter([ZeroDivisionError("a fault"), None])

    class Client:
        async def models(self, *, timeout_s: float) -> tuple[Any, ...]:
            error = next(answers)
            if error is not None:
                raise error
            return ()

    check = ReadinessCheck((), Metrics())
    with pytest.raises(ZeroDivisionError):
        await check.state(Client())  # type: ignore[arg-type]
    assert (await check.state(Client())).reason == "the server has no models"  # type: ignore[arg-type]
