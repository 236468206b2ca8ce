"""Gateways that listen on a socket: in a thread with fake models, or in a process of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tritone import AsyncMusicClient
from tritone.testing import AsyncMockTransport, FakeGenreModel
from tritone_gateway import GatewaySettings, create_app
from tritone_gateway.http_protocol import TimedProtocol


@contextmanager
def listening(
    tmp_path: Path, handler: object = None, *, send_buffer: int | None = None, **settings: object
) -> Iterator[int]:
    """Yield the port of a gateway that runs in a thread.

    Args:
        tmp_path: folder of its keys.
        handler: the fake models.
        send_buffer: bytes that the kernel keeps for a caller that does not read; its own choice if None.
        settings: of the gateway.
    """
    music = AsyncMusicClient(retries=0, transport=AsyncMockTransport(handler or FakeGenreModel()))
    app = create_app(GatewaySettings(keys_file=tmp_path / "keys.json", **settings), music=music)
    server = uvicorn.Server(uvicorn.Config(app, http=TimedProtocol, log_config=None, ws="none"))
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def request_head(path: str, *headers: str, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    return "\r\n".join(lines).encode()


def received(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def gateway_process(server: str, keys: Path, *options: str, log: Path | None = None) -> Iterator[str]:
    """Run `tritone gateway` and yield its URL; it must stop by itself.

    Args:
        server: address of the models' server.
        keys: file of the API keys.
        options: further options of the command.
        log: file for its log. Without one, nobody reads the log, which must not stop the gateway.
    """
    command = [
        *(sys.executable, "-m", "tritone_cli", "gateway", "--server", server, "--port", "0", "--json"),
        *("--keys-file", str(keys), "--drain", "0.2", *options),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    file: Any = subprocess.PIPE if log is None else log.open("wb")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, env=environment) as process:
        if log is not None:
            file.close()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text() if log is not None else process.stderr and process.stderr.read()
            facts: dict[str, Any] = json.loads(line)
            yield facts["url"]
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        finally:
            process.kill()
