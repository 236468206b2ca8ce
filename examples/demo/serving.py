"""The server of the demo: started with the starter weights, and given the other models when they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tritone_cli import console

if TYPE_CHECKING:
    from tritone_serving import TritonServer


def start(repository: Path, *, keep: bool, models: Sequence[str] | None = None) -> TritonServer:
    """Start a server.

    Args:
        repository: folder of models.
        keep: use the usual ports, because the server stays after the demo.
        models: the models to load; None for all.
    """
    from tritone_serving import ServerOptions, TritonServer

    server_options = ServerOptions(repository=repository, models=None if models is None else tuple(models))
    if not keep:  # free ports, so that the demo does not collide with another server
        server_options = replace(server_options, http_port=0, grpc_port=0, metrics_port=0)
    return TritonServer.start(server_options)


def load_others(server: TritonServer, repository: Path) -> None:
    """Load the models that are not served yet; ensembles last, since they need the others."""
    from tritone_serving import ModelLoadError
    from tritone_serving.repository import servable_models, steps_of

    waiting = set(servable_models(repository)) - set(server.models)
    for name in sorted(waiting, key=lambda name: (bool(steps_of(repository / name)), name)):
        try:
            server.load_model(name)
        except ModelLoadError as error:  # as at a start, a model that is not the demo's may be damaged
            console.say(f"      {error}")


def wait(server: TritonServer) -> None:
    """Wait until the server ends or Ctrl-C is pressed."""
    console.say(f"the server keeps running at {server.grpc_url} (gRPC) and {server.http_url} (HTTP); Ctrl-C stops it")
    try:
        server.wait()
    except KeyboardInterrupt:
        console.say("stopped")
