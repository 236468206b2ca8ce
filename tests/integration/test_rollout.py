"""Two real servers that get a new version one after the other, while clients with both addresses never pause."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.conftest import relabel

from tritone import AsyncMusicClient, MusicClient, TritoneError
from tritone_serving import TritonServer

pytestmark = pytest.mark.triton

MODEL = "genre_cnn"
LABELS = {"1": {"classical", "electronic", "pop", "rock"}, "2": {"a", "b", "c", "d"}}


@pytest.fixture
def two_servers(tmp_path: Path, make_model_repository: Any, options_for: Any) -> Iterator[list[TritonServer]]:
    repositories = [make_model_repository(tmp_path / name) for name in ("first", "second")]
    first, second = map(options_for, repositories)
    with TritonServer.start(first) as one, TritonServer.start(second) as other:
        yield [one, other]


def switch(server: TritonServer, repository: Path) -> None:
    """Load version 2 with labels of its own in place of version 1."""
    folder = repository / MODEL
    shutil.copytree(folder / "1", folder / "2")
    relabel(folder, "abcd")
    server.load_model(MODEL)


def clip(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray[Any, Any], int]:
    return rng.uniform(-0.5, 0.5, int(seconds * 22_050)).astype(np.float32), 22_050


class Callers:
    """Four clients, of each protocol one for threads and one for asyncio; what they got and what they lost."""

    def __init__(self, servers: list[TritonServer]) -> None:
        self.got: Counter[tuple[str, str]] = Counter()
        self.lost: list[str] = []
        self._stop = threading.Event()
        urls = {"grpc": [server.grpc_url for server in servers], "http": [server.http_url for server in servers]}
        self._threads = [
            threading.Thread(target=target, args=(f"{name} {protocol}", addresses))
            for protocol, addresses in urls.items()
            for name, target in (("threads", self._ask), ("asyncio", self._run_async))
        ]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def answered(self, versions: set[str]) -> bool:
        """Wait until every client has got one more answer from one of these versions."""
        before = self.got.copy()
        until_s = time.monotonic() + 15
        while time.monotonic() < until_s:
            more = self.got - before
            if len({who for who, version in more if version in versions}) == len(self._threads):
                return True
            time.sleep(0.02)
        return False

    def _ask(self, who: str, urls: list[str]) -> None:
        rng = np.random.default_rng()
        with MusicClient(urls, timeout_s=10) as music:
            while not self._stop.is_set():
                try:
                    self._note(who, music.classify(clip(rng, rng.choice([3.0, 60.0]))))  # one request or two
                except TritoneError as error:
                    self.lost.append(f"{who}: {error!r}")

    def _run_async(self, who: str, urls: list[str]) -> None:
        asyncio.run(self._ask_async(who, urls))

    async def _ask_async(self, who: str, urls: list[str]) -> None:
        rng = np.random.default_rng()
        async with AsyncMusicClient(urls, timeout_s=10) as music:
            while not self._stop.is_set():
                try:
                    self._note(who, await music.classify(clip(rng, rng.choice([3.0, 60.0]))))
                except TritoneError as error:
                    self.lost.append(f"{who}: {error!r}")

    def _note(self, who: str, result: Any) -> None:
        self.got[who, result.model_version] += 1
        if set(result.probabilities) != LABELS[result.model_version]:
            self.lost.append(f"{who}: {sorted(result.probabilities)} of version {result.model_version}")


def test_no_call_is_lost_while_replicas_change_their_version(two_servers: list[TritonServer], tmp_path: Path) -> None:
    with Callers(two_servers) as callers:
        assert callers.answered({"1"})
        switch(two_servers[0], tmp_path / "first")
        assert callers.answered({"1", "2"}), callers.lost
        time.sleep(0.5)  # both versions are there
        switch(two_servers[1], tmp_path / "second")
        assert callers.answered({"2"})
        n_in_all = sum(callers.got.values())
    assert callers.lost == []
    assert n_in_all > 40
