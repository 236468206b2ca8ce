"""Routes of the gateway, one module for each group. To add a group, add a module and an entry in `ROUTERS`."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from tritone_gateway.routers import events, inspire, listen, models, operations, recommend, studio, write

ROUTERS: Final[tuple[APIRouter, ...]] = (
    operations.router,
    listen.router,
    write.router,
    recommend.router,
    events.router,
    inspire.router,
    models.router,
    studio.router,
)
