"""`tritone serve`: run Triton on a model repository until it is told to stop."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from tritone_cli import console

if TYPE_CHECKING:
    from tritone_serving import TritonServer
    from tritone_serving.watchdog import Watchdog


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
        log_file: Annotated[Path | None, typer.Option(help="The server's log.")] = None,
        startup_timeout: Annotated[float, typer.Option(help="Seconds to being ready.")] = 60.0,
        auto_complete: Annotated[
            bool, typer.Option("--auto-complete", help="Fill in config.pbtxt files that are not whole.")
        ] = False,
        supervise: Annotated[
            bool,
            typer.Option("--supervise/--no-supervise", help="Restart what dies, hangs or does not answer."),
        ] = True,
        json: Annotated[bool, typer.Option("--json", help="When ready, print one JSON object on stdout.")] = False,
    ) -> None:
        """Serve the models of a repository; Ctrl-C stops."""
        from tritone_serving import ServerOptions, TritonServer

        # Also while it starts: both end in `except` and `finally` blocks, which stop what was started.
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)
        options = ServerOptions(
            repository=repository,
            profile=profile,
            models=tuple(model) if model else None,
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            admin_token=_token_in(admin_token_file),
            log_path=log_file,
            startup_timeout_s=startup_timeout,
            auto_complete=auto_complete,
        )
        try:
            with console.people.status("starting Triton"):
                server = TritonServer.start(options)
            with server:
                watchdog = _watchdog(server) if supervise else None
                _report(server, as_json=json)
                if watchdog is not None:
                    watchdog.run()  # ends by an exception only
                exit_code = server.wait()
        except KeyboardInterrupt:
            console.say("stopped")
            return
        if exit_code is not None:
            raise server.exited_error(exit_code)


def _watchdog(server: TritonServer) -> Watchdog:
    from tritone_serving.watchdog import Watchdog

    return Watchdog(server, report=lambda line: console.say(f"{time.strftime('%H:%M:%S')} {line}"))


def _interrupt(_number: int, _frame: object) -> None:
    # Once: a second Ctrl-C, or a supervisor's repeated SIGTERM, must not cut the stop short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _token_in(path: Path | None) -> str | None:
    if path is None:
        return None
    from tritone_serving import OptionsError

    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionsError(f"--admin-token-file {path} cannot be read: {error}") from error
    if not token:
        raise OptionsError(f"--admin-token-file {path} is empty; expected a token of 8 characters or more")
    return token


def _report(server: TritonServer, *, as_json: bool) -> None:
    """Say where everything is, once the server is ready."""
    models = server.models
    facts: dict[str, Any] = {
        "http": server.http_url,
        "grpc": server.grpc_url,
        "metrics": server.metrics_url,
        "token": server.token_path,
        "log": server.log_path,
    }
    if as_json:
        console.print_json(
            {
                **{key: value and str(value) for key, value in facts.items()},
                "models": models,
                "pid": server.pid,
            }
            | {"ready_s": round(server.ready_s, 3)}
        )
        return
    table = Table.grid(padding=(0, 2))
    for name, versions in models.items():
        table.add_row("model", f"{name}, version {', '.join(versions)}")
    for key, value in facts.items():
        table.add_row(key, str(value or "as given"))
    console.people.print(f"ready in {server.ready_s:.1f} s ({server.options.profile}); Ctrl-C stops")
    console.people.print(table, soft_wrap=True)
    if server.options.host not in ("127.0.0.1", "localhost"):
        console.say(
            f"note: listening on {server.options.host}; inference is open to whoever reaches it, "
            f"and the admin token travels in clear text"
        )
