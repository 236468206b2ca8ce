"""Readiness: which models the server reports as ready, asked once a second at most however many probes there are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from pydantic import BaseModel, Field

from tritone import AsyncMusicClient, TritoneError
from tritone_gateway.metrics import Metrics

MAX_AGE_S: Final = 1.0  # of an answer; most balancers probe once a second
# Balancers probe again after a failure before they believe it, and must not get the same answer then.
MAX_UNREADY_AGE_S: Final = 0.25
_TIMEOUT_S: Final = 2.0


class Readiness(BaseModel):
    """Whether requests can be served, and by which models."""

    ready: bool = Field(description="Whether this gateway should get requests.")
    degraded: bool = Field(description="Whether it is ready although a model is not.")
    models: dict[str, bool] = Field(description="Whether each model is ready; empty if the server cannot be asked.")
    reason: str | None = Field(None, description="Why it is not ready, or degraded.")


class ReadinessCheck:
    """Asks the models' server for the state of its models.

    Probes that come while it is being asked wait for the same answer, and later ones get it for `MAX_AGE_S`, so that
    their number does not matter to the server.
    """

    def __init__(self, required: Sequence[str], metrics: Metrics) -> None:
        """Prepare the check.

        Args:
            required: models without which the gateway is not ready.
            metrics: where the number of ready models is noted.
        """
        self._required = tuple(required)
        self._metrics = metrics
        self._asking: asyncio.Task[Readiness] | None = None
        self._fresh_until_s = float("-inf")

    async def state(self, client: AsyncMusicClient) -> Readiness:
        """Return the readiness, at most `MAX_AGE_S` old."""
        if self._asking is None or (self._asking.done() and time.monotonic() >= self._fresh_until_s):
            self._asking = asyncio.create_task(self._ask(client))
        return await asyncio.shield(self._asking)  # a probe that goes away must not end the others'

    async def _ask(self, client: AsyncMusicClient) -> Readiness:
        try:
            found = await client.models(timeout_s=_TIMEOUT_S)
        except TritoneError as error:
            state = Readiness(ready=False, degraded=False, models={}, reason=str(error))
        else:
            states = dict.fromkeys(self._required, False) | {each.name: each.ready for each in found}
            state = _evaluated(dict(sorted(states.items())), self._required)
        n_ready = sum(state.models.values())
        self._metrics.set_models(n_ready=n_ready, n_not_ready=len(state.models) - n_ready)
        self._fresh_until_s = time.monotonic() + (MAX_AGE_S if state.ready else MAX_UNREADY_AGE_S)
        return state


def _evaluated(models: dict[str, bool], required: Sequence[str]) -> Readiness:
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
