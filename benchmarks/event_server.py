"""A repository with only `recommender_events`, and the secrets of its server, for benchmarks of events."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.replica import Replica
from tritone_export.pipeline import export_artifact
from tritone_serving.events import EVENTS_VARIABLE
from tritone_serving.recommender import make_key
from tritone_serving.recommender.pseudonyms import KEY_VARIABLE, key_check
from tritone_serving.security.callers import SERVICE_KEY_VARIABLE
from tritone_serving.security.service_key import make_service_key
from tritone_training.kinds.recommender.export import events_export
from tritone_training.registry import get_kind


@dataclass(frozen=True)
class EventServer:
    """Files of a server that stores events.

    Attributes:
        key: of the users' pseudonyms.
        service_key: gives access to all users.
    """

    repository: Path
    key: bytes
    service_key: str


@contextlib.contextmanager
def event_server(folder: Path, url: str) -> Iterator[EventServer]:
    """Export the model, and name store, keys and repository to the servers that this process starts meanwhile.

    Args:
        folder: for the files.
        url: address of the event store.
    """
    key_file, service_key = folder / "recommender.key", folder / "service" / "service.key"
    key = make_key(key_file)
    make_service_key(service_key)
    variables = {EVENTS_VARIABLE: url, KEY_VARIABLE: str(key_file), SERVICE_KEY_VARIABLE: str(service_key)}
    before = {name: os.environ.get(name) for name in (*variables, "XDG_STATE_HOME")}
    os.environ.update(variables, XDG_STATE_HOME=str(folder / "state"))
    try:
        export = replace(events_export(key_check(key)), key=(key_check(key), key_file))
        export_artifact(export, get_kind("recommender"), repository=folder / "repository")
        yield EventServer(folder / "repository", key, service_key.read_text())
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def free_ports(n: int) -> tuple[int, ...]:
    """Return ports that no program listens on."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return tuple(each.getsockname()[1] for each in held)


def start_replica(server: EventServer, folder: Path) -> Replica:
    """Start `tritone serve` with its watchdog."""
    http, grpc, metrics = free_ports(3)
    return Replica(server.repository, folder, host="127.0.0.1", ports=(http, grpc, metrics))
