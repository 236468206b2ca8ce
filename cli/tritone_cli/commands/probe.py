"""`tritone probe`: does every model of a running server really answer?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console
from tritone_cli.addresses import derivation, grpc_address
from tritone_cli.options import ApiKeyFile, CaFile, LiveServer, api_key, client_file


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("probe")(probe)


def probe(
    *,
    model: Annotated[
        list[str] | None, typer.Option(help="Ask only this model; may be repeated. Default: all that are loaded.")
    ] = None,
    server: LiveServer = "127.0.0.1:8001",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds for all models together.")] = 5.0,
    api_key_file: ApiKeyFile = None,
    ca_file: CaFile = None,
    client_cert_file: Annotated[Path | None, typer.Option(help="PEM with this client's certificate.")] = None,
    client_key_file: Annotated[Path | None, typer.Option(help="PEM with its key.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Send a small inference through each model: exit status 0 if all answer, 1 if one does not."""
    from tritone import InvalidInputError
    from tritone.endpoints import make_endpoint
    from tritone_serving import CanaryError
    from tritone_serving.calls import Calls
    from tritone_serving.canary import probe as ask

    grpc_url = grpc_address(server, tls=ca_file is not None)
    try:
        endpoint = make_endpoint(
            grpc_url,
            api_key=api_key(api_key_file),
            ca_file=ca_file,
            client_cert_file=client_cert_file or client_file(grpc_url, "TRITONE_CLIENT_CERT"),
            client_key_file=client_key_file or client_file(grpc_url, "TRITONE_CLIENT_KEY"),
        )
        calls = Calls(endpoint)
    except (InvalidInputError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--server (TRITONE_SERVER)") from error
    with calls:
        try:
            results = ask(calls, model or (), timeout_s=timeout)
        except CanaryError as error:
            why = f"{error}{derivation(server) if 'http://' in server else ''}"
            if json:
                console.print_json({"ok": False, "why": why, "models": {}})
            console.fail(why)
            raise typer.Exit(1) from error
    if json:
        models = {
            each.model: {
                "ok": each.ok,
                "version": each.version or None,
                "seconds": round(each.seconds, 4),
                "why": each.why or None,
            }
            for each in results
        }
        console.print_json({"ok": all(each.ok for each in results), "models": models})
    for each in results:
        if not each.ok:
            console.fail(each.why)
        elif not json:
            console.say(f"{each.model}: version {each.version} answered in {each.seconds * 1000:.0f} ms")
    if not all(each.ok for each in results):
        raise typer.Exit(1)
