"""A model in memory behind the transport interface: what the SDK's flows are tested against."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tests.unit.client.writers import lacks

from tritone import (
    AsyncMusicClient,
    ClientError,
    InferRequest,
    InferResponse,
    ModelNotFoundError,
    ModelRequest,
    ModelResponse,
    MusicClient,
    ReadyResponse,
    Request,
    Response,
)

LABELS = ("classical", "synth:pop", "rock")


@dataclass
class FakeModel:
    """Answers as a `genre_cnn` whose probabilities depend on each window's loudness.

    `before` is called with each request and may raise, wait, or change the model.
    """

    version: str = "3"
    labels: tuple[str, ...] = LABELS
    emotions: bool = True
    tags: tuple[str, ...] = ()
    max_batch_size: int = 4
    heeds_versions: bool = True
    before: Callable[[Request], None] = lambda request: None
    requests: list[Request] = field(default_factory=list)
    closed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        assert timeout_s > 0
        with self.lock:
            self.requests.append(request)
        self.before(request)
        if request.model not in (None, "genre_cnn"):
            raise ModelNotFoundError("no such model", model=request.model)
        if isinstance(request, ModelRequest):
            outputs = {"probabilities": (-1, -1), "emotions": (-1, 9), "embedding": (-1, 256)}
            if self.tags:
                outputs["tags"] = (-1, len(self.tags))
            return ModelResponse(
                request.model,
                ("1", self.version),
                {"audio": (-1, 66150)},
                outputs,
                self.max_batch_size,
                {"labels": json.dumps({"probabilities": self.labels, "tags": self.tags})},
            )
        if isinstance(request, InferRequest):
            if self.heeds_versions and request.version not in (None, self.version):
                raise lacks(request)
            return self.infer(request)
        return ReadyResponse(True)

    def infer(self, request: InferRequest) -> InferResponse:
        audio = request.inputs["audio"]
        assert len(audio) <= self.max_batch_size
        loud = np.abs(audio).mean(axis=1, keepdims=True)
        rest = (1 - loud) / (len(self.labels) - 1)
        values = {
            "probabilities": np.concatenate([loud] + [rest] * (len(self.labels) - 1), axis=1),
            "emotions": np.linspace(0, 0.8, 9)[None].repeat(len(audio), 0)
            if self.emotions
            else -np.ones((len(audio), 9)),
            "tags": loud * np.linspace(0.1, 1, len(self.tags)),
            "embedding": np.eye(256)[np.arange(len(audio)) % 2],
        }
        outputs = {name: values[name].astype(np.float32) for name in request.outputs}
        return InferResponse(request.model, self.version, request.request_id, outputs)

    def close(self) -> None:
        self.closed += 1

    def inferences(self) -> list[InferRequest]:
        return [request for request in self.requests if isinstance(request, InferRequest)]


class AsyncFake:
    """The same behind the asynchronous interface."""

    def __init__(self, model: Any) -> None:
        self.model = model

    async def handle(self, request: Request, *, timeout_s: float) -> Response:
        return self.model.handle(request, timeout_s=timeout_s)

    async def stream(self, request: Any, *, timeout_s: float) -> AsyncGenerator[InferResponse, None]:
        with closing(self.model.stream(request, timeout_s=timeout_s)) as responses:
            for response in responses:
                await asyncio.sleep(0)
                yield response

    async def close(self) -> None:
        self.model.close()


class Both:
    """`ask("classify", audio)` on a client that lives as long as the test."""

    def __init__(self, kind: str, transport: Any, **options: Any) -> None:
        make: Any = AsyncMusicClient if kind == "async" else MusicClient
        self.client = make(transport=transport, **options)
        self.loop = asyncio.new_event_loop() if kind == "async" else None

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self.client, method)(*args, **kwargs)
        return self.loop.run_until_complete(result) if self.loop else result


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, model: Any, as_async: Any) -> Any:
    made: list[Both] = []

    def make(**options: Any) -> Both:
        made.append(Both(request.param, as_async(model) if request.param == "async" else model, **options))
        return made[-1]

    yield make
    for both in made:
        if both.loop:
            both.loop.run_until_complete(both.loop.shutdown_default_executor())
            both.loop.close()


def noise(seconds: float, rate_hz: int = 22_050, seed: int = 0, gain: float = 0.1) -> tuple[np.ndarray, int]:
    samples = np.random.default_rng(seed).standard_normal(round(seconds * rate_hz)) * gain
    return samples.clip(-1, 1).astype(np.float32), rate_hz


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def make_noise() -> Callable[..., tuple[np.ndarray, int]]:
    return noise


@pytest.fixture
def as_async() -> Callable[[FakeModel], AsyncFake]:
    return AsyncFake


@pytest.fixture
def failing() -> Callable[[int, ClientError], Callable[[Request], None]]:
    """Makes a `before` that raises the error the first n times."""

    def make(n: int, error: ClientError) -> Callable[[Request], None]:
        left = [n]

        def before(request: Request) -> None:
            left[0] -= 1
            if left[0] >= 0:
                raise error

        return before

    return make
