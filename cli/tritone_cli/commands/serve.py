"""`tritone serve`: run Triton on a model repository."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.table import Table

from tritone_cli import console, options
from tritone_cli.connections import api_key_from, read_secret

if TYPE_CHECKING:
    from tritone_serving import TritonServer
    from tritone_serving.supervision.options import Level, SupervisionOptions


_NOTIFY_VARIABLE: Final = "NOTIFY_SOCKET"


def serve(
    *,
    repository: options.Repository = Path("model_repository"),
    profile: Annotated[
        Literal["cpu", "gpu"],
        typer.Option(help="Configuration to serve: cpu (config.pbtxt) or gpu (configs/gpu.pbtxt)."),
    ] = "cpu",
    model: Annotated[
        list[str] | None, typer.Option(help="Load only this model; repeatable. Default: all.", show_default=False)
    ] = None,
    host: options.Host = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="HTTP port; 0 selects a free port.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="gRPC port; 0 selects a free port.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port of Triton's metrics; 0 selects a free port.")] = 8002,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(help="File with the admin token. Default: a token is created and stored.", show_default=False),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the API key that callers must send. Default: the key in TRITONE_API_KEY, if set.",
            show_default=False,
        ),
    ] = None,
    service_key_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the key that gives callers access to stored users. Default: TRITONE_SERVICE_KEY_FILE, "
            "or a key that is created once and kept.",
            show_default=False,
        ),
    ] = None,
    trust_callers: Annotated[
        bool,
        typer.Option("--trust-callers", help="Give every caller access to stored users; for private networks only."),
    ] = False,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Store of listening events: sqlite:///path/events.db, valkey://host:port/database, or off. Default: "
            "TRITONE_EVENTS, or a file in the state folder.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="PEM file with the server's certificate; enables TLS for gRPC.", show_default=False),
    ] = None,
    tls_key: options.TlsKey = None,
    tls_client_ca: options.TlsClientCa = None,
    http_host: Annotated[
        str | None,
        typer.Option(help="Address for HTTP and metrics. Default: --host; with TLS, loopback.", show_default=False),
    ] = None,
    otlp_url: options.OtlpUrl = None,
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(help="Log format; json logs this command and the server as JSON lines on stderr."),
    ] = "text",
    log_file: Annotated[
        Path | None, typer.Option(help="File for the server's log. Default: in the state folder.", show_default=False)
    ] = None,
    startup_timeout: Annotated[float, typer.Option(help="Time limit for starting in seconds.")] = 60.0,
    auto_complete: Annotated[
        bool, typer.Option("--auto-complete", help="Complete partial config.pbtxt files.")
    ] = False,
    require_all: Annotated[
        bool,
        typer.Option("--require-all", help="Do not start if a model fails to load. Default: serve the others."),
    ] = False,
    supervise: Annotated[
        bool,
        typer.Option("--supervise/--no-supervise", help="Restart models and servers that crash, hang or fail."),
    ] = True,
    supervisor_port: Annotated[
        int | None,
        typer.Option(
            help="Port of the supervisor's metrics and readiness; 0 selects a free port. Default: --metrics-port plus "
            "1.",
            show_default=False,
        ),
    ] = None,
    supervise_check_s: Annotated[
        float, typer.Option(help="Seconds between health checks of a model without traffic.")
    ] = 10.0,
    supervise_silent_s: Annotated[
        float,
        typer.Option(help="Seconds without a response after which a model counts as hung if its processes are idle."),
    ] = 1.0,
    supervise_busy_s: Annotated[
        float,
        typer.Option(help="Seconds without a response after which a model counts as hung if its processes are busy."),
    ] = 60.0,
    supervise_max_memory_mb: Annotated[
        int,
        typer.Option(help="Memory of the server in MiB at which it restarts; 0 means 80 % of the available memory."),
    ] = 0,
    supervise_failed_starts: Annotated[
        int, typer.Option(help="Number of successive failed starts after which the supervisor gives up.")
    ] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout when ready.")] = False,
) -> None:
    """Serve the models of a repository until Ctrl-C."""
    from tritone_serving import ServerOptions, TritonServer
    from tritone_serving.supervision.options import SupervisionOptions

    manager = ServiceManager.from_environment()
    # Installed before the start, so that a signal during the start also stops the server.
    interrupt = partial(_interrupt, manager)
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    if log_format == "json":
        console.log_as_json()
    server_options = ServerOptions(
        repository=repository,
        profile=profile,
        models=tuple(model) if model else None,
        require_all=require_all,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        admin_token=None if admin_token_file is None else read_secret(admin_token_file, "--admin-token-file"),
        api_key=api_key_from(api_key_file),
        service_key_file=service_key_file,
        trust_callers=trust_callers,
        events=events,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
        http_host=http_host,
        otlp_url=otlp_url,
        log_path=log_file,
        startup_timeout_s=startup_timeout,
        auto_complete=auto_complete,
    )
    supervision = SupervisionOptions(
        check_s=supervise_check_s,
        silent_s=supervise_silent_s,
        busy_s=supervise_busy_s,
        max_memory_bytes=supervise_max_memory_mb << 20,
        n_failed_starts=supervise_failed_starts,
    )
    try:
        with console.people.status("starting Triton"):
            server = TritonServer.start(server_options, report_faults=_report_faults)
        with server, _followed_log(server, log_format):
            if supervise:
                _supervise(server, supervision, manager, port=supervisor_port, as_json=as_json)
            else:
                _report(server, manager, as_json=as_json)
            exit_code = server.wait()
    except KeyboardInterrupt:
        console.say("stopped")
        return
    if exit_code is not None:
        raise server.exited_error(exit_code)


def _supervise(
    server: TritonServer,
    supervision: SupervisionOptions,
    manager: ServiceManager,
    *,
    port: int | None,
    as_json: bool,
) -> None:
    """Supervise the server and recover from faults; ends only with an exception."""
    from tritone_serving import PortTakenError
    from tritone_serving.supervision.metrics import SupervisorMetrics
    from tritone_serving.supervision.watchdog import Watchdog

    metrics = SupervisorMetrics()
    wanted = port
    if wanted is None:
        wanted = server.options.metrics_port + 1 if server.options.metrics_port else 0
    try:
        metrics.serve(server.options.plain_host, wanted)
    except PortTakenError as error:
        if port is not None:
            raise
        console.warn(f"{error}; serving without them")
    with closing(metrics):
        watchdog = Watchdog(server, report=_report_event, options=supervision, metrics=metrics)
        _report(server, manager, as_json=as_json, supervisor_port=metrics.port)
        watchdog.run()


def _report_faults(faults: Mapping[str, str]) -> None:
    for name, reason in faults.items():
        console.warn(f"{name} is not served: {reason}")


def _report_event(level: Level, text: str) -> None:
    line = text if console.logs_json() else f"{time.strftime('%H:%M:%S')} {text}"  # JSON entries have a time field
    if level == "warning":
        console.warn(line)
    else:
        console.say(line)


def _interrupt(manager: ServiceManager, _number: int, _frame: object) -> None:
    # A second Ctrl-C, or a repeated SIGTERM of a service manager, must not interrupt the stop.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    manager.stopping()
    raise KeyboardInterrupt


def _followed_log(server: TritonServer, log_format: str) -> AbstractContextManager[object]:
    if log_format != "json":
        return nullcontext()
    from tritone_serving.server.logs import LogFollower

    return closing(LogFollower(server.log_path, console.write_log_line))


def _report(server: TritonServer, manager: ServiceManager, *, as_json: bool, supervisor_port: int = 0) -> None:
    """Print models, addresses and files of a server that is ready."""
    models = server.models
    manager.ready(f"serving {', '.join(models)}")
    for name, reason in server.failed_models.items():
        console.warn(f"{name} is not served: {reason}")
    facts: dict[str, Any] = {
        "http": server.http_url,
        "grpc": server.grpc_url,
        "metrics": server.metrics_url,
        "supervisor_metrics": f"http://{server.reachable_host}:{supervisor_port}/metrics" if supervisor_port else None,
        "token": server.token_path,
        "log": server.log_path,
    }
    if as_json:
        console.print_json(
            {
                **{key: value and str(value) for key, value in facts.items()},
                "models": models,
                "failed_models": server.failed_models,
                "pid": server.pid,
            }
            | {"ready_s": round(server.ready_s, 3)}
        )
        return
    ready = f"ready in {server.ready_s:.1f} s ({server.options.profile})"
    if console.logs_json():
        console.say(f"{ready}: {', '.join(models)} at {server.grpc_url} (gRPC), {server.http_url} (HTTP)")
        return
    table = Table.grid(padding=(0, 2))
    for name, versions in models.items():
        table.add_row("model", f"{name}, version {', '.join(versions)}")
    for key, value in facts.items():
        if value or key == "token":
            table.add_row(key.replace("_", " "), str(value or "as given"))
    console.people.print(f"{ready}; Ctrl-C stops")
    console.people.print(table, soft_wrap=True)
    for note in _notes(server):
        console.say(f"note: {note}")


def _notes(server: TritonServer) -> list[str]:
    """Return notes about security settings that may not be intended."""
    local = ("127.0.0.1", "localhost")
    from tritone_serving.security.service_key import privacy_notes

    given = server.options
    notes = []
    reached = [host for host in dict.fromkeys((given.host, given.plain_host)) if host not in local]
    if reached and given.api_key is None and given.tls_client_ca is None:
        notes.append(
            f"listening on {reached[0]}; anyone who can connect may send requests; restrict this with --api-key-file"
        )
    if given.plain_host not in local:
        notes.append(f"HTTP on {given.plain_host} is not encrypted: keys and the admin token are sent in clear text")
    if given.tls_cert is None and given.api_key is not None and given.host not in local:
        notes.append(
            f"gRPC on {given.host} is not encrypted: the API key is sent in clear text; enable TLS with --tls-cert"
        )
    notes += privacy_notes(given)
    if not server.is_wiped:
        notes.append("on this kernel, users of this machine can read the secrets in the server's command line")
    return notes


class ServiceManager:
    """Send the state of this process to systemd, for units of `Type=notify`; does nothing without systemd.

    Protocol: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
    """

    def __init__(self, address: str | None) -> None:
        """Set the address of the manager's datagram socket.

        Args:
            address: a path, or an abstract name after "@"; None or empty if there is no manager.
        """
        self._address = "\0" + address[1:] if address and address.startswith("@") else address

    @classmethod
    def from_environment(cls) -> ServiceManager:
        """Return the manager in NOTIFY_SOCKET, and remove the variable so that child processes do not get it."""
        return cls(os.environ.pop(_NOTIFY_VARIABLE, None))

    def ready(self, status: str) -> None:
        """Report that the service is ready."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # The service must not fail if the manager does not listen.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.sendto(state.encode(), self._address)
