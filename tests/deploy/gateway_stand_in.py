"""A gateway with fake models, of which the composer is slow.

    python gateway_stand_in.py HOST PORT KEYS_FILE UNREADY_FILE

It is a real gateway (`tritone_gateway.server.serve`); only its client has no server. While UNREADY_FILE exists,
no model is ready.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BAR_S = 0.2
DRAIN_S = 3.0
MAX_BODY_MB = 2


def serve(host: str, port: int, keys_file: Path, unready: Path) -> None:
    """Serve until SIGTERM."""
    from fastapi import FastAPI

    from tritone import AsyncMusicClient
    from tritone.messages import ReadyRequest, ReadyResponse
    from tritone.testing import AsyncMockTransport, FakeComposer, FakeGenreModel, FakeServer
    from tritone_gateway import GatewaySettings, create_app, server

    class SlowComposer(FakeComposer):
        def split(self, outputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
            for part in super().split(outputs):
                yield part
                time.sleep(BAR_S)

    fakes = FakeServer(FakeGenreModel(), SlowComposer())

    def respond(request: Any) -> Any:
        if isinstance(request, ReadyRequest) and unready.exists():
            return ReadyResponse(False)
        return fakes(request)

    def app() -> FastAPI:
        settings = GatewaySettings.from_environment(os.environ[server.SETTINGS_VARIABLE])
        return create_app(settings, music=AsyncMusicClient(retries=0, transport=AsyncMockTransport(respond)))

    server.app_from_environment = app
    settings = GatewaySettings(
        host=host, port=port, keys_file=keys_file, allow_anonymous=True, drain_s=DRAIN_S, max_body_mb=MAX_BODY_MB
    )
    server.serve(settings, on_ready=lambda url: print(url, flush=True))


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
