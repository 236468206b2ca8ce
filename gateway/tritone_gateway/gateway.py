"""What all routes share: the client of the models, the settings, and the state of this worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Request

from tritone import AsyncMusicClient
from tritone_gateway.admission import Load
from tritone_gateway.metrics import Metrics
from tritone_gateway.readiness import ReadinessCheck
from tritone_gateway.settings import GatewaySettings


@dataclass
class Gateway:
    """The state of one worker process.

    Attributes:
        music: the client of the models; set while the application runs.
    """

    settings: GatewaySettings
    metrics: Metrics
    load: Load = field(default_factory=Load)
    music: AsyncMusicClient | None = None

    @cached_property
    def readiness(self) -> ReadinessCheck:
        """Return the check of the models for probes."""
        return ReadinessCheck(self.settings.required_models, self.metrics)

    @property
    def client(self) -> AsyncMusicClient:
        """Return the client of the models.

        Raises:
            RuntimeError: the application does not run.
        """
        if self.music is None:
            raise RuntimeError("the gateway's client exists only while the application runs; start it first")
        return self.music


async def gateway_of(request: Request) -> Gateway:
    """Return the gateway that serves a request.

    Asynchronous, because FastAPI runs other dependencies in a thread each.
    """
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayOf = Annotated[Gateway, Depends(gateway_of)]
