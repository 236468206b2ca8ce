"""Reading and writing of notation in threads of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fastapi.testclient import TestClient

from tritone_gateway.notation_work import MAX_WAITING, N_THREADS, NotationWork
from tritone_gateway.problems import ProblemError


def test_a_conversion_that_takes_too_long_is_503_and_keeps_its_place_until_it_ends() -> None:
    async def main() -> None:
        work, end = NotationWork(max_wait_s=0.05), threading.Event()
        try:
            for _ in range(N_THREADS):
                with pytest.raises(ProblemError) as caught:
                    await work.run(end.wait)
                assert caught.value.status == 503
            with pytest.raises(ProblemError):  # no thread is free
                await work.run(lambda: 1)
            end.set()
            assert await work.run(lambda: 2) == 2
        finally:
            end.set()
            work.close()

    asyncio.run(main())


def test_waiting_conversions_are_bounded() -> None:
    async def main() -> None:
        work, end = NotationWork(), threading.Event()
        try:
            running = [asyncio.create_task(work.run(end.wait)) for _ in range(N_THREADS + MAX_WAITING)]
            await asyncio.sleep(0)
            with pytest.raises(ProblemError) as caught:
                await work.run(lambda: 1)
            assert caught.value.headers["Retry-After"]
            end.set()
            await asyncio.gather(*running)
            assert await work.run(lambda: 2) == 2
        finally:
            end.set()
            work.close()

    asyncio.run(main())


def test_other_requests_are_served_while_notation_is_converted(
    gateway: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, end = threading.Semaphore(0), threading.Event()

    def slow(_score: object) -> None:
        begun.release()
        end.wait(30)

    monkeypatch.setattr("tritone_gateway.notation_work.to_grid", slow)
    tune = {"content": b"X:1\nK:C\nC\n", "headers": {"Content-Type": "application/octet-stream"}}
    callers = [threading.Thread(target=gateway.post, args=("/v1/convert",), kwargs=tune) for _ in range(N_THREADS + 4)]
    for each in callers:
        each.start()
    try:
        for _ in range(N_THREADS):
            assert begun.acquire(timeout=10)
        response = gateway.post("/v1/convert", json={"file": {"notes": [[0, 4, 60]]}}, headers={"Accept": "audio/midi"})
        assert response.status_code == 200
        assert not begun.acquire(blocking=False)
    finally:
        end.set()
        for each in callers:
            each.join()
