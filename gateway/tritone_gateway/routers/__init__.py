"""The routes, one module for each group; a new group is one module here and one entry in `ROUTERS`."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter

from tritone_gateway.routers import inspire, listen, models, operations, recommend, studio, write

ROUTERS: Final[tuple[APIRouter, ...]] = (
    operations.router,
    listen.router,
    write.router,
    recommend.router,
    inspire.router,
    models.router,
    studio.router,
)
