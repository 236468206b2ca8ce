"""State of one worker process that all routes share: settings, client of the models, metrics and load."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Request

from tritone import AsyncMusicClient
from tritone_gateway.admission import WorkerLoad
from tritone_gateway.metrics import Metrics
from tritone_gateway.notation_work import NotationWork
from tritone_gateway.readiness import ReadinessCheck
from tritone_gateway.settings import GatewaySettings


@dataclass
class Gateway:
    """State of one worker process.

    Attributes:
        music: the client of the models; set while the application runs.
        notation: the threads that read and write MusicXML and ABC.
    """

    settings: GatewaySettings
    metrics: Metrics
    load: WorkerLoad = field(default_factory=WorkerLoad)
    music: AsyncMusicClient | None = None
    notation: NotationWork = field(default_factory=NotationWork)

    @cached_property
    def readiness(self) -> ReadinessCheck:
        """Return the readiness check of the models."""
        return ReadinessCheck(self.settings.required_models, self.metrics)

    @property
    def client(self) -> AsyncMusicClient:
        """Return the client of the models.

        Raises:
            RuntimeError: the application is not running.
        """
        if self.music is None:
            raise RuntimeError("the gateway's client exists only while the application runs; start it first")
        return self.music


async def get_gateway(request: Request) -> Gateway:
    """Return the gateway that serves a request.

    Asynchronous, because FastAPI runs other dependencies in a thread each.
    """
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDependency = Annotated[Gateway, Depends(get_gateway)]
