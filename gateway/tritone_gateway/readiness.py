"""Readiness check: asks the server which models are ready, at most about once a second for any number of probes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, Field

from tritone import AsyncMusicClient, TritoneError
from tritone_gateway.metrics import Metrics

MAX_AGE_S: Final = 1.0  # of a result; most load balancers probe once a second
# Load balancers repeat a probe that failed, and must not get the same result again.
MAX_UNREADY_AGE_S: Final = 0.25
_TIMEOUT_S: Final = 2.0


class Readiness(BaseModel):
    """Readiness of the gateway and of each model."""

    ready: bool = Field(description="Whether this gateway should receive requests.")
    degraded: bool = Field(description="Whether the gateway is ready although a model is not ready.")
    models: dict[str, bool] = Field(description="Whether each model is ready; empty if the server cannot be reached.")
    reason: str | None = Field(None, description="Why the gateway is not ready, or degraded.")


class ReadinessCheck:
    """Asks the models' server which models are ready.

    Concurrent probes share one request, and its result is reused for `MAX_AGE_S`, so many probes cause little load.
    """

    def __init__(self, required: Sequence[str], metrics: Metrics) -> None:
        """Initialise without sending a request.

        Args:
            required: models without which the gateway is not ready.
            metrics: receive the number of ready models.
        """
        self._required = tuple(required)
        self._metrics = metrics
        self._request: asyncio.Task[Readiness] | None = None
        self._fresh_until_s = float("-inf")

    async def state(self, client: AsyncMusicClient) -> Readiness:
        """Return the readiness, at most `MAX_AGE_S` old."""
        if self._request is None or (self._request.done() and time.monotonic() >= self._fresh_until_s):
            self._request = asyncio.create_task(self._query(client))
        return await asyncio.shield(self._request)  # cancelling one probe must not cancel the others

    async def _query(self, client: AsyncMusicClient) -> Readiness:
        try:
            found = await client.models(timeout_s=_TIMEOUT_S)
        except TritoneError as error:
            state = Readiness(ready=False, degraded=False, models={}, reason=str(error))
        else:
            states = dict.fromkeys(self._required, False) | {each.name: each.ready for each in found}
            state = _readiness_of(dict(sorted(states.items())), self._required)
        n_ready = sum(state.models.values())
        self._metrics.set_models(n_ready=n_ready, n_not_ready=len(state.models) - n_ready)
        self._fresh_until_s = time.monotonic() + (MAX_AGE_S if state.ready else MAX_UNREADY_AGE_S)
        return state


def _readiness_of(models: dict[str, bool], required: Sequence[str]) -> Readiness:
    """Decide whether a gateway should get requests.

    One model that fails must not take every gateway out of use, as the others serve; so one that is ready is enough,
    unless the operator names models that are required.
    """
    if not models:
        return Readiness(ready=False, degraded=False, models=models, reason="the server has no models")
    waiting = [name for name, ready in models.items() if not ready]
    missing = ", ".join(name for name in waiting if name in required)
    if missing:
        return Readiness(ready=False, degraded=False, models=models, reason=f"not ready, but required: {missing}")
    reason = f"not ready: {', '.join(waiting)}" if waiting else None
    ready = len(waiting) < len(models)
    return Readiness(ready=ready, degraded=ready and bool(waiting), models=models, reason=reason)
