"""Start, control and stop one Triton server.

```python
with TritonServer.start(ServerOptions(repository=Path("model_repository"))) as server:
    server.load_model("genre_cnn")  # a version was exported: make it live
```
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final

from tritone_serving._exceptions import AdminApiError as _AdminApiError
from tritone_serving._exceptions import (
    ModelLoadError,
    OptionsError,
    ServerExitedError,
    ServingError,
    StartupTimeoutError,
)
from tritone_serving.admin import AdminApi, in_one_line
from tritone_serving.events import EVENTS_VARIABLE
from tritone_serving.repository import find_faults, servable_models
from tritone_serving.security import admin_token
from tritone_serving.security.access import own_endpoint
from tritone_serving.security.service_key import service_key_environment
from tritone_serving.server import runtime_folder as runtime
from tritone_serving.server.binary_fixes import fixed_copy
from tritone_serving.server.command import claim_ports, server_command, wait_for_ports
from tritone_serving.server.installation import find_installation, require_gpu
from tritone_serving.server.logs import has_begun, last_lines, names_in_tail, reason_in_log
from tritone_serving.server.options import ServerOptions
from tritone_serving.supervision.cpu_pressure import CpuPressure, recent_pressure

if TYPE_CHECKING:
    from tritone.endpoints import Endpoint

POLL_S: Final = 0.03  # a refused connection costs 0.1 ms, cheap compared with the second that a start takes
STOP_MARGIN_S: Final = 2.5  # the supervisor's own time after the server's: killing, removing shared memory
START_ATTEMPTS: Final = 3
# Triton's Python backend shares robust mutexes with its stubs: where a process or a thread ends while it holds one, the
# next to lock it raises this exception, which nothing in the server catches. It was seen when many stubs started at
# once on few, busy processors (https://github.com/triton-inference-server/server/issues/8882 has it under load).
LOCK_EXCEPTION: Final = "boost::interprocess::lock_exception"
_LOAD_THREADS: Final = 4  # Triton's own default
# If tasks wait for a CPU for more than this share of the time, models are loaded one after the other.
_BUSY_START: Final = 0.5
# Factor on `startup_timeout_s` on a busy machine.
_LONGEST_START: Final = 5.0
_PORTS_TIMEOUT_S: Final = 30.0
_SUPERVISOR: Final = Path(__file__).with_name("supervisor_process.py")


class TritonServer:
    """A running server; `start` creates one, and leaving a `with` block stops it.

    The server also stops when the process that started it ends in any way.

    Attributes:
        options: what it was started with.
        reachable_host: address at which HTTP and metrics can be called from this machine.
        http_url: `http://127.0.0.1:8000`.
        grpc_url: `127.0.0.1:8001`; gRPC addresses carry no scheme.
        metrics_url: where Prometheus scrapes.
        admin_token: secret for the admin APIs, sent in the header `ADMIN_HEADER`.
        token_path: file with the token; None if the options contain the token.
        log_path: the server's log.
        pid: the server's process id.
        ready_s: duration of the start in seconds.
        is_wiped: whether the secrets have been removed from its command line, which all users can read.
        binary_fixes: names of the fixes of known faults in the binary that runs; see `binary_fixes`.
        failed_models: models that did not load and their reasons; empty with `require_all`.
        health_token: secret in the launcher's health checks, by which backends recognise them.
    """

    def __init__(
        self,
        options: ServerOptions,
        *,
        ports: dict[str, int],
        token: str,
        token_path: Path | None,
        log_path: Path,
    ) -> None:
        # 0.0.0.0 is an address to listen on, not to call.
        host, plain_host = (
            "127.0.0.1" if each == "0.0.0.0" else each  # noqa: S104
            for each in (options.host, options.plain_host)
        )
        self.options = options
        self.reachable_host = plain_host
        self.http_url = f"http://{plain_host}:{ports['http_port']}"
        self.grpc_url = f"{host}:{ports['grpc_port']}"
        self.metrics_url = f"http://{plain_host}:{ports['metrics_port']}/metrics"
        self.admin_token = token
        self.token_path = token_path
        self.log_path = log_path
        self.pid = 0
        self.ready_s = 0.0
        self._folder: Path | None = None
        self.is_wiped = False
        self.binary_fixes: frozenset[str] = frozenset()
        self.failed_models: dict[str, str] = {}
        self.health_token = secrets.token_urlsafe(16)
        self._ports = ports
        self._api = AdminApi(plain_host, ports["http_port"], token=token, api_key=options.api_key)
        self._supervisor: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls,
        options: ServerOptions,
        *,
        stored_token: str | None = None,
        report_faults: Callable[[Mapping[str, str]], None] = lambda faults: None,
    ) -> TritonServer:
        """Start a server and wait until its models are loaded.

        If the Python backend aborts the start because the machine is busy, the start is repeated with one model after
        the other.

        Args:
            options: the server's options.
            stored_token: the token to store if the options contain none, instead of a new one.
            report_faults: called before the server starts with the models whose files show that they cannot load, and
                the reasons; the others are loaded.

        Raises:
            RepositoryError: no folder, no model, or no version.
            PortTakenError: another program has a port; nothing was started.
            ServerNotInstalledError: there is no Triton.
            GpuMissingError: profile `gpu` without a GPU.
            ModelLoadError: no model loads, or one does not with `require_all`; the server is stopped again.
            StartupTimeoutError: not ready within `startup_timeout_s`, or five times that on a busy machine; the server
                is stopped again.
            ServerExitedError: the server ended by itself.
        """
        n_threads = 1 if recent_pressure() > _BUSY_START else _LOAD_THREADS
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                return cls._start_once(
                    options, stored_token=stored_token, n_load_threads=n_threads, report_faults=report_faults
                )
            except ServerExitedError as error:
                if attempt == START_ATTEMPTS or not error.is_lock_exception:
                    raise
                n_threads = 1
        raise AssertionError("unreachable: the last attempt returns or raises")

    @classmethod
    def _start_once(
        cls,
        options: ServerOptions,
        *,
        stored_token: str | None,
        n_load_threads: int,
        report_faults: Callable[[Mapping[str, str]], None],
    ) -> TritonServer:
        begun = time.monotonic()
        models = servable_models(options.repository, options.models)
        installation = find_installation(options.installation)
        if options.profile == "gpu":
            require_gpu()
        hosts = _hosts(options)
        ports = claim_ports(hosts, {name: getattr(options, name) for name in hosts})
        runtime.remove_left_behind()

        log_path, token, token_path = options.log_path, options.admin_token, None
        if log_path is None or token is None:
            state = admin_token.make_state_folder(for_log=log_path is None, for_token=token is None)
            log_path = log_path or state / f"{ports['http_port']}.log"
            if token is None:
                token, token_path = stored_token or admin_token.new_token(), state / f"{ports['http_port']}.token"
                admin_token.store_token(token_path, token)
        server = cls(options, ports=ports, token=token, token_path=token_path, log_path=log_path.absolute())
        try:
            folder = server._folder = runtime.make_runtime_folder()
            environment = runtime.fill_runtime_folder(folder, installation, health_token=server.health_token)
            server.failed_models = server._file_faults(*models)
            sound = tuple(name for name in models if name not in server.failed_models)
            if server.failed_models:
                if options.require_all or not sound:
                    raise _load_error(server.failed_models)
                report_faults(server.failed_models)
            environment |= service_key_environment(options)
            if options.events is not None:
                environment[EVENTS_VARIABLE] = options.events
            binary, server.binary_fixes = fixed_copy(installation, folder)
            command = server_command(
                options,
                installation=replace(installation, binary=binary),
                folder=folder,
                ports=ports,
                token=token,
                models=sound,
                n_load_threads=n_load_threads,
            )
            server._launch(command, environment=environment, folder=folder)
            server._await_live(begun)
            server.is_wiped = admin_token.wipe_from_command_line(server.pid, *server._secrets())
            server._check_loaded(sound)
        except BaseException:  # Ctrl-C too: nothing that was started may stay
            server.stop()
            raise
        server.ready_s = time.monotonic() - begun
        return server

    @property
    def models(self) -> dict[str, list[str]]:
        """Return the versions that are ready, by model name."""
        ready: dict[str, list[str]] = {}
        for entry in self._api.index():
            if entry.get("state") == "READY":
                ready.setdefault(entry["name"], []).append(entry["version"])
        return ready

    @property
    def runtime_folder(self) -> Path | None:
        """Return the server's private folder, whose name is the prefix of its shared memory."""
        return self._folder

    def runs_processes_of(self, backend: str) -> bool:
        """Return whether the instances of a backend's models are Python processes, and not threads of the server."""
        if backend == "python":
            return True
        return self._folder is not None and (self._folder / "backends" / backend / "model.py").is_file()

    def own_endpoint(self) -> Endpoint:
        """Return the endpoint for gRPC calls from this process, with key and TLS; see `access.own_endpoint`."""
        return own_endpoint(self.options, self.grpc_url)

    def is_alive(self) -> bool:
        """Return whether the server's process runs, even if it hangs."""
        return self._supervisor is not None and self._supervisor.poll() is None

    def load_model(self, name: str, *, timeout_s: float = 60.0) -> None:
        """Load a model, or the version that was added since.

        The version before serves until the new one is ready, and remains live if the new one fails.

        Raises:
            ModelLoadError: the model does not load; the message has its reason.
        """
        self._check_files(name)
        try:
            self._api.load(name, timeout_s=timeout_s)
        except _AdminApiError as error:
            raise ModelLoadError(f"{name} does not load: {error}", reasons={name: str(error)}) from error

    def unload_model(self, name: str, *, timeout_s: float = 60.0) -> None:
        """Unload a model; requests in flight are answered.

        Raises:
            AdminApiError: the server knows no such model.
        """
        self._api.unload(name, timeout_s=timeout_s)

    def reload_model(self, name: str, *, timeout_s: float = 60.0) -> None:
        """Reload a model that has not changed: new processes replace the old ones without an interruption.

        Raises:
            ModelLoadError: the model does not load; the message has its reason.
        """
        self._check_files(name)
        try:
            self._api.reload(name, timeout_s=timeout_s)
        except _AdminApiError as error:
            raise ModelLoadError(f"{name} does not load: {error}", reasons={name: str(error)}) from error

    def is_live(self, *, timeout_s: float = 1.0) -> bool:
        """Return whether the server responds."""
        return self._api.is_live(timeout_s=timeout_s)

    def kill(self) -> None:
        """Kill the server and its stubs at once; `stop` then cleans up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def start_again(self) -> TritonServer:
        """Stop this server and start another in its place: the same models, ports and token; its log is kept as .1.

        Raises:
            ServingError: as `start`.
        """
        self.stop()
        # A killed process keeps its ports until the kernel has freed its memory, which takes time on a busy machine.
        wait_for_ports(
            {name: (host, self._ports[name]) for name, host in _hosts(self.options).items()},
            timeout_s=_PORTS_TIMEOUT_S,
        )
        with contextlib.suppress(OSError):
            self.log_path.replace(self.log_path.with_name(f"{self.log_path.name}.1"))
        http_port, grpc_port, metrics_port = (self._ports[f"{name}_port"] for name in ("http", "grpc", "metrics"))
        options = replace(self.options, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port)
        return TritonServer.start(options, stored_token=self.admin_token)

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the server to end; returns its exit code, or None if it still runs after `timeout_s`."""
        if self._supervisor is None:
            return 0
        try:
            return self._supervisor.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def exited_error(self, exit_code: int) -> ServerExitedError:
        """Return the error for a server that ended by itself, with the end of its log."""
        how = f"killed by signal {exit_code - 128}" if exit_code > 128 else f"exit code {exit_code}"
        return ServerExitedError(
            f"the server ended by itself ({how}); the end of its log {self.log_path}:\n{last_lines(self.log_path)}",
            log_path=self.log_path,
            exit_code=exit_code,
            is_lock_exception=names_in_tail(self.log_path, LOCK_EXCEPTION),
        )

    def stop(self) -> None:
        """Stop the server with its stubs and remove its shared memory; does nothing the second time.

        Takes at most `stop_timeout_s` and two seconds and a half.
        """
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            stdin, stdout = _pipes(supervisor)
            stdout.close()
            with contextlib.suppress(OSError):  # the supervisor may be gone already
                stdin.close()
            try:
                supervisor.wait(self.options.stop_timeout_s + STOP_MARGIN_S)
            except subprocess.TimeoutExpired:
                supervisor.kill()  # the kernel then kills the server
                supervisor.wait()
            if self._folder is not None:  # the supervisor has removed all of it, unless it was killed itself
                runtime.remove_of(self._folder)
        if self.token_path is not None:
            self.token_path.unlink(missing_ok=True)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, command: list[str], *, environment: dict[str, str], folder: Path) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists() and not self.log_path.is_file():
            # The path is replaced below, which must not remove a device or a pipe.
            raise OptionsError(
                f"log_path is {self.log_path}: expected the path of a regular file; give another path for the log"
            )
        self.log_path.unlink(missing_ok=True)
        os.close(os.open(self.log_path, os.O_WRONLY | os.O_CREAT, 0o600))
        # -I and -S: the supervisor must start at once and depend on nothing that a package could break.
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SUPERVISOR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for this process alone
        )
        order = {
            "command": command,
            "environment": environment,
            "cwd": str(folder / "cwd"),
            "folder": str(folder),
            "stop_file": environment[runtime.STOP_FILE_VARIABLE],
            "prefix": folder.name,
            "shared_memory": str(runtime.SHARED_MEMORY),
            "log": str(self.log_path),
            "log_max_bytes": self.options.log_max_bytes,
            "stop_timeout_s": self.options.stop_timeout_s,
        }
        stdin, stdout = _pipes(self._supervisor)
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()
        reported = stdout.readline()
        if not reported:
            raise ServingError(f"{command[0]} cannot be started; see the messages above")
        self.pid = int(reported)

    def _file_faults(self, *models: str) -> dict[str, str]:
        """Return the models whose files show that they cannot load, with the reasons."""
        if self._folder is None:
            return {}
        return find_faults(
            self.options.repository,
            models,
            backends={path.name for path in (self._folder / "backends").iterdir()},
            config="configs/gpu.pbtxt" if self.options.profile == "gpu" else "config.pbtxt",
        )

    def _check_files(self, model: str) -> None:
        if faults := self._file_faults(model):
            raise _load_error(faults)

    def _secrets(self) -> list[str]:
        return [secret for secret in (self.admin_token, self.options.api_key) if secret]

    def _await_live(self, begun: float) -> None:
        pressure = CpuPressure()
        timeout_s = self.options.startup_timeout_s
        while not self._api.is_live():
            # The log's first line comes after the command line was read, and before the models are loaded.
            if not self.is_wiped and has_begun(self.log_path):
                self.is_wiped = admin_token.wipe_from_command_line(self.pid, *self._secrets())
            exit_code = self.wait(POLL_S)
            if exit_code is not None:
                raise self.exited_error(exit_code)
            waited_s = time.monotonic() - begun
            # On a busy machine models get more time to load.
            longest = _LONGEST_START if pressure.sample().some > _BUSY_START else 1.0
            if waited_s > timeout_s * longest:
                raise StartupTimeoutError(
                    f"the server was not ready after {waited_s:.2g} s (startup_timeout_s is {timeout_s:g}); "
                    f"the end of its log {self.log_path}:\n{last_lines(self.log_path)}",
                    log_path=self.log_path,
                )

    def _check_loaded(self, models: tuple[str, ...]) -> None:
        entries = self._api.index()
        ready = {entry["name"] for entry in entries if entry.get("state") == "READY"}
        said = {entry["name"]: entry["reason"] for entry in entries if entry.get("reason")}
        self.failed_models |= {
            name: in_one_line(said.get(name) or reason_in_log(self.log_path, name))
            for name in models
            if name not in ready
        }
        if self.failed_models and (self.options.require_all or not ready):
            raise _load_error(self.failed_models)


def _hosts(options: ServerOptions) -> dict[str, str]:
    """Return the address of each port, by option."""
    return {"http_port": options.plain_host, "grpc_port": options.host, "metrics_port": options.plain_host}


def _load_error(reasons: Mapping[str, str]) -> ModelLoadError:
    listed = "\n".join(f"{name} does not load: {reason}" for name, reason in reasons.items())
    return ModelLoadError(listed, reasons=reasons)


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise ServingError("the supervisor was started without pipes")
    return process.stdin, process.stdout
