"""`tritone serve`: run Triton on a model repository until it is told to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from tritone_cli import console
from tritone_cli.service_manager import ServiceManager

if TYPE_CHECKING:
    from tritone_serving import TritonServer
    from tritone_serving.supervision.options import Level, SupervisionOptions


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command()
    def serve(
        *,
        repository: Annotated[Path, typer.Option(help="Folder of models.")] = Path("model_repository"),
        profile: Annotated[
            Literal["cpu", "gpu"], typer.Option(help="gpu serves each model's configs/gpu.pbtxt.")
        ] = "cpu",
        model: Annotated[
            list[str] | None, typer.Option(help="Load only this model; may be repeated. Default: all.")
        ] = None,
        host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
        http_port: Annotated[int, typer.Option(help="0 picks a free one.")] = 8000,
        grpc_port: Annotated[int, typer.Option(help="0 picks a free one.")] = 8001,
        metrics_port: Annotated[int, typer.Option(help="0 picks a free one.")] = 8002,
        admin_token_file: Annotated[
            Path | None, typer.Option(help="File with the admin token. Default: one is made and stored.")
        ] = None,
        api_key_file: Annotated[
            Path | None, typer.Option(help="File with the key that callers must send; else TRITONE_API_KEY, if set.")
        ] = None,
        service_key_file: Annotated[
            Path | None,
            typer.Option(
                help="File with the key that gives callers access to stored users. Default: TRITONE_SERVICE_KEY_FILE, "
                "or else a key that is created once and kept."
            ),
        ] = None,
        trust_callers: Annotated[
            bool,
            typer.Option("--trust-callers", help="Give every caller access to stored users; private networks only."),
        ] = False,
        tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate: gRPC speaks TLS.")] = None,
        tls_key: Annotated[Path | None, typer.Option(help="PEM key of the certificate.")] = None,
        tls_client_ca: Annotated[
            Path | None, typer.Option(help="PEM authority that callers' certificates must come from (mutual TLS).")
        ] = None,
        http_host: Annotated[
            str | None, typer.Option(help="Address for HTTP and metrics. Default: --host; loopback with TLS.")
        ] = None,
        otlp_url: Annotated[
            str | None, typer.Option(help="Send OpenTelemetry traces here, as http://localhost:4318/v1/traces.")
        ] = None,
        log_format: Annotated[
            Literal["text", "json"], typer.Option(help="json: this command's and the server's log as JSON on stderr.")
        ] = "text",
        log_file: Annotated[Path | None, typer.Option(help="The server's log.")] = None,
        startup_timeout: Annotated[float, typer.Option(help="Seconds to being ready.")] = 60.0,
        auto_complete: Annotated[
            bool, typer.Option("--auto-complete", help="Fill in config.pbtxt files that are not whole.")
        ] = False,
        require_all: Annotated[
            bool,
            typer.Option("--require-all", help="Do not start if a model fails to load. Default: serve the others."),
        ] = False,
        supervise: Annotated[
            bool,
            typer.Option("--supervise/--no-supervise", help="Restart what dies, hangs or does not answer."),
        ] = True,
        supervisor_port: Annotated[
            int | None,
            typer.Option(
                help="Port of the supervisor's metrics and readiness; by default --metrics-port plus 1. 0: a free one.",
                show_default=False,
            ),
        ] = None,
        supervise_check_s: Annotated[
            float, typer.Option(help="Seconds between health checks of a model without traffic.")
        ] = 2.0,
        supervise_silent_s: Annotated[
            float,
            typer.Option(help="Seconds without an answer after which a model with idle processes counts as hung."),
        ] = 1.0,
        supervise_busy_s: Annotated[
            float,
            typer.Option(help="Seconds without an answer after which a model with busy processes counts as hung."),
        ] = 60.0,
        supervise_max_memory_mb: Annotated[
            int,
            typer.Option(help="Resident memory in MiB at which the server restarts. 0: 80 % of the available memory."),
        ] = 0,
        supervise_failed_starts: Annotated[
            int, typer.Option(help="Failed starts in a row after which the supervisor gives up.")
        ] = 5,
        json: Annotated[bool, typer.Option("--json", help="When ready, print one JSON object on stdout.")] = False,
    ) -> None:
        """Serve the models of a repository; Ctrl-C stops."""
        from tritone_serving import ServerOptions, TritonServer
        from tritone_serving.supervision.options import SupervisionOptions

        manager = ServiceManager.from_environment()
        # Also while it starts: both end in `except` and `finally` blocks, which stop what was started.
        interrupt = partial(_interrupt, manager)
        signal.signal(signal.SIGTERM, interrupt)
        signal.signal(signal.SIGINT, interrupt)
        if log_format == "json":
            console.log_as_json()
        options = ServerOptions(
            repository=repository,
            profile=profile,
            models=tuple(model) if model else None,
            require_all=require_all,
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            admin_token=_secret_in(admin_token_file, "--admin-token-file"),
            api_key=_secret_in(api_key_file, "--api-key-file") or os.environ.get("TRITONE_API_KEY") or None,
            service_key_file=service_key_file,
            trust_callers=trust_callers,
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
                server = TritonServer.start(options, report_faults=_report_faults)
            with server, _followed_log(server, log_format):
                if supervise:
                    _supervise(server, supervision, manager, port=supervisor_port, as_json=json)
                else:
                    _report(server, manager, as_json=json)
                exit_code = server.wait()
        except KeyboardInterrupt:
            console.say("stopped")
            return
        if exit_code is not None:
            raise server.exited_error(exit_code)


def _supervise(
    server: TritonServer,
    options: SupervisionOptions,
    manager: ServiceManager,
    *,
    port: int | None,
    as_json: bool,
) -> None:
    """Watch the server and repair what breaks; ends by an exception only."""
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
        watchdog = Watchdog(server, report=_report_event, options=options, metrics=metrics)
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
    # Once: a second Ctrl-C, or a supervisor's repeated SIGTERM, must not cut the stop short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    manager.stopping()
    raise KeyboardInterrupt


def _secret_in(path: Path | None, option: str) -> str | None:
    if path is None:
        return None
    from tritone_serving import OptionsError

    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionsError(f"{option} {path} cannot be read: {error}") from error
    if not secret:
        raise OptionsError(f"{option} {path} is empty; expected a secret of 8 characters or more")
    return secret


def _followed_log(server: TritonServer, log_format: str) -> AbstractContextManager[object]:
    if log_format != "json":
        return nullcontext()
    from tritone_serving.server.logs import LogFollower

    return closing(LogFollower(server.log_path, console.write_log_line))


def _report(server: TritonServer, manager: ServiceManager, *, as_json: bool, supervisor_port: int = 0) -> None:
    """Say where everything is, once the server is ready."""
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
    """What is open that perhaps should not be."""
    local = ("127.0.0.1", "localhost")
    from tritone_serving.security.service_key import privacy_notes

    options = server.options
    notes = []
    reached = [host for host in dict.fromkeys((options.host, options.plain_host)) if host not in local]
    if reached and options.api_key is None and options.tls_client_ca is None:
        notes.append(f"listening on {reached[0]}; inference is open to whoever reaches it (--api-key-file closes it)")
    if options.plain_host not in local:
        notes.append(f"HTTP on {options.plain_host} is not encrypted: keys and the admin token travel in clear text")
    if options.tls_cert is None and options.api_key is not None and options.host not in local:
        notes.append(f"gRPC on {options.host} is not encrypted: the key travels in clear text (--tls-cert)")
    notes += privacy_notes(options)
    if not server.is_wiped:
        notes.append("this kernel leaves the secrets readable in the server's command line for users of this machine")
    return notes
