"""`tritone gateway`: serve the models as a REST API with OpenAPI."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tritone_cli import console, options
from tritone_cli.connections import api_key_from, model_address, read_secret

if TYPE_CHECKING:
    from tritone_gateway import GatewaySettings


def gateway(
    *,
    server: options.Server = "localhost:8001",
    host: options.Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 selects a free port.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Number of worker processes.")] = 1,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            envvar="TRITONE_GATEWAY_KEYS",
            help="File with the API keys. Default: TRITONE_GATEWAY_KEYS, or the default file of `tritone keys`.",
            show_default=False,
            show_envvar=False,
        ),
    ] = None,
    allow_anonymous: Annotated[
        bool,
        typer.Option(
            "--allow-anonymous",
            help="Serve other machines without a key while no keys exist; only for private networks.",
        ),
    ] = False,
    service_key_file: options.ServiceKeyFile = None,
    api_key_file: options.ApiKeyFile = None,
    require_model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model that must be ready for /readyz to respond 200; repeatable. Default: any one ready model.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Time limit of one call to a model in seconds.")] = 30.0,
    body_timeout: Annotated[
        float, typer.Option(min=0.001, help="Time limit for receiving a request body in seconds.")
    ] = 30.0,
    header_timeout: Annotated[
        float, typer.Option(min=0.001, help="Time limit for receiving request headers in seconds.")
    ] = 10.0,
    send_timeout: Annotated[
        float,
        typer.Option(
            min=0.001, help="Seconds after which a connection whose caller reads nothing of a response is closed."
        ),
    ] = 60.0,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds between SIGTERM, after which /readyz responds 503, and the shutdown.")
    ] = 1.0,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Maximum size of a request body in MiB.")] = 64,
    max_bodies_mb: Annotated[
        int,
        typer.Option(
            min=1,
            help="Maximum size of all request bodies of a worker together in MiB; further requests get status 503.",
        ),
    ] = 512,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Maximum number of concurrent requests of a worker; further ones get status 503.")
    ] = 256,
    rate_store: Annotated[
        str | None,
        typer.Option(
            help="Valkey or Redis server in which gateways count requests together, such as redis://localhost:6379.",
            show_default=False,
        ),
    ] = None,
    url_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Host from which files that callers name by URL are downloaded; repeatable. Default: none.",
            show_default=False,
        ),
    ] = None,
    recordings: options.TrackRecordings = None,
    example_user: options.ExampleUsers = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origin of web pages that may call the gateway; repeatable. Default: none.", show_default=False
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate of the gateway; enables TLS.", show_default=False)
    ] = None,
    tls_key: options.TlsKey = None,
    tls_client_ca: options.TlsClientCa = None,
    otlp_url: options.OtlpUrl = None,
    log_format: Annotated[Literal["text", "json"], typer.Option(help="Format of the log on standard error.")] = "text",
    print_openapi: Annotated[
        bool, typer.Option("--print-openapi", help="Print the OpenAPI schema as JSON and exit.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout when ready.")] = False,
) -> None:
    """Serve the models as a REST API until Ctrl-C; its documentation is at /docs."""
    from tritone_gateway.server import serve

    settings = settings_of(
        server=model_address(server),
        host=host,
        port=port,
        workers=workers,
        keys_file=keys_file,
        allow_anonymous=allow_anonymous,
        service_key_file=_service_key_file(service_key_file),
        api_key=api_key_from(None) if api_key_file is None else None,
        api_key_file=_checked(api_key_file, "--api-key-file"),
        required_models=tuple(require_model or ()),
        timeout_s=timeout,
        body_timeout_s=body_timeout,
        header_timeout_s=header_timeout,
        send_timeout_s=send_timeout,
        drain_s=drain,
        max_body_mb=max_body_mb,
        max_bodies_mb=max_bodies_mb,
        max_in_flight=max_in_flight,
        rate_store=rate_store,
        url_hosts=tuple(url_host or ()),
        recordings=recordings,
        example_users=tuple(example_user or ()),
        cors_origins=tuple(cors_origin or ()),
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        otlp_url=otlp_url,
        log_format=log_format,
    )

    if print_openapi:
        from tritone_gateway import create_app

        console.print_line(json.dumps(create_app(settings).openapi(), indent=1))
        return

    def report(url: str) -> None:
        if as_json:
            console.print_json({"url": url, "docs": f"{url}/docs", "server": settings.server})
        else:
            console.say(f"gateway at {url} (documentation: {url}/docs) for the models at {settings.server}")

    serve(settings, on_ready=report)


def _service_key_file(file: Path | None) -> Path | None:
    """Return the file with the service key: the given one, or the one that TRITONE_SERVICE_KEY_FILE names.

    The file of the environment variable need not exist yet, because a deployment mounts the folder before it has a key.
    """
    if file is not None:
        return _checked(file, "--service-key-file")
    named = os.environ.get("TRITONE_SERVICE_KEY_FILE")
    if not named:
        return None
    path = Path(named).absolute()
    return _checked(path, "TRITONE_SERVICE_KEY_FILE") if path.is_file() else path


def _checked(file: Path | None, option: str) -> Path | None:
    """Return the absolute path of a secret file after checking that it can be read.

    Raises:
        typer.BadParameter: it cannot be read, or is empty.
    """
    if file is None:
        return None
    read_secret(file, option)
    return file.absolute()


def settings_of(**values: Any) -> GatewaySettings:
    """Return settings of the gateway from validated options.

    Raises:
        typer.BadParameter: a value is invalid.
    """
    from pydantic import ValidationError

    from tritone_gateway import GatewaySettings

    try:
        return GatewaySettings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = f"--{str(first['loc'][0]).removesuffix('_s').replace('_', '-')}" if first["loc"] else None
        raise typer.BadParameter(str(first["msg"]), param_hint=name) from error
