"""`tritone probe` and `lint`: check a running server, and a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritone_cli import console, options
from tritone_cli.connections import api_key_from, client_file, derivation, grpc_address


def probe(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Check only this model; repeatable. Default: all loaded models.", show_default=False),
    ] = None,
    server: options.LiveServer = "127.0.0.1:8001",
    timeout: Annotated[float, typer.Option(min=0.001, help="Time limit for all models together in seconds.")] = 5.0,
    api_key_file: options.ApiKeyFile = None,
    ca_file: options.CaFile = None,
    client_cert_file: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate of this client (mutual TLS).", show_default=False)
    ] = None,
    client_key_file: Annotated[
        Path | None, typer.Option(help="PEM file with the key of the certificate.", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Send a small request to each model. The exit status is 0 if all respond, else 1."""
    from tritone import InvalidInputError
    from tritone.endpoints import make_endpoint
    from tritone_serving import CanaryError
    from tritone_serving.calls import Calls
    from tritone_serving.canary import probe as probe_models

    grpc_url = grpc_address(server, tls=ca_file is not None)
    try:
        endpoint = make_endpoint(
            grpc_url,
            api_key=api_key_from(api_key_file),
            ca_file=ca_file,
            client_cert_file=client_cert_file or client_file(grpc_url, "TRITONE_CLIENT_CERT"),
            client_key_file=client_key_file or client_file(grpc_url, "TRITONE_CLIENT_KEY"),
        )
        calls = Calls(endpoint)
    except (InvalidInputError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--server (TRITONE_SERVER)") from error
    with calls:
        try:
            results = probe_models(calls, model or (), timeout_s=timeout)
        except CanaryError as error:
            reason = f"{error}{derivation(server) if 'http://' in server else ''}"
            if as_json:
                console.print_json({"ok": False, "why": reason, "models": {}})
            console.fail(reason)
            raise typer.Exit(1) from error
    if as_json:
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
        elif not as_json:
            console.say(f"{each.model}: version {each.version} responded in {each.seconds * 1000:.0f} ms")
    if not all(each.ok for each in results):
        raise typer.Exit(1)


def lint(
    repository: Annotated[Path, typer.Argument(help="Folder of the model repository.")] = Path("model_repository"),
    *,
    as_json: options.Json = False,
) -> None:
    """Check a Triton model repository: configurations, versions, labels and ONNX files.

    Findings go to stdout as `file:line: severity: message (remedy)`. The exit status is 1 if there are any.
    """
    from tritone_export import check_repository

    report = check_repository(repository)
    for note in report.notes:
        console.say(f"note: {note}")
    if as_json:
        console.print_json(
            {
                "n_models": report.n_models,
                "findings": [
                    {
                        "path": str(finding.path),
                        "line": finding.line,
                        "severity": finding.severity,
                        "message": finding.message,
                        "remedy": finding.remedy,
                    }
                    for finding in report.findings
                ],
                "notes": list(report.notes),
            }
        )
    else:
        for finding in report.findings:
            console.print_line(str(finding))
        models = "1 model" if report.n_models == 1 else f"{report.n_models} models"
        findings = "1 finding" if len(report.findings) == 1 else f"{len(report.findings) or 'no'} findings"
        console.say(f"{models}, {findings}")
    if report.findings:
        raise typer.Exit(1)
