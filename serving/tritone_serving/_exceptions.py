"""Exceptions raised by the serving package.

```
ServingError
├── OptionsError              an option has a value that cannot work
├── ServerNotInstalledError   no Triton, or none that this Python can drive
├── ModelRepositoryError           the model repository is missing or holds nothing to serve
├── PortTakenError            another program listens on a port that was asked for
├── GpuMissingError           the GPU profile was asked for on a host without a GPU
├── StartupError              the server did not become ready
│   ├── StartupTimeoutError   ... in time
│   └── ServerExitedError     ... or, later too, ended by itself
├── ModelLoadError            the server runs, a model does not load
├── CanaryError               a model on a running server does not answer as it should
├── CrashLoopError            the server or a model failed again after each restart
├── RefusedVersionError       a new version did not pass its canaries; the previous one stays live
├── AdminApiError             the server refused an administrative call
└── PerfAnalyzerError         a load could not be measured
    ├── PerfAnalyzerMissingError  perf_analyzer is not installed, or does not start
    └── UnstableError             the windows of a measurement differ too much
```
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tritone import TritoneError


class ServingError(TritoneError):
    """Base class of the errors of starting and controlling a server."""


class OptionsError(ServingError, ValueError):
    """An option has a value that cannot work."""


class ServerNotInstalledError(ServingError):
    """Raised when no Triton is installed that can run models with this Python."""


class ModelRepositoryError(ServingError):
    """The model repository is missing or holds nothing to serve."""


class PortTakenError(ServingError):
    """Another program listens on a port that was asked for.

    Attributes:
        port: its number.
        option: the field of `ServerOptions` that chooses another.
    """

    def __init__(self, message: str, *, port: int, option: str) -> None:
        super().__init__(message)
        self.port = port
        self.option = option


class GpuMissingError(ServingError):
    """The GPU profile was asked for on a host where CUDA finds no device."""


class StartupError(ServingError):
    """The server did not become ready.

    Attributes:
        log_path: the server's whole log.
    """

    def __init__(self, message: str, *, log_path: Path) -> None:
        super().__init__(message)
        self.log_path = log_path


class StartupTimeoutError(StartupError, TimeoutError):
    """The server was not ready within `startup_timeout_s`."""


class ServerExitedError(StartupError):
    """The server ended by itself.

    Attributes:
        exit_code: as in a shell: 128 + the signal's number if a signal ended the process.
        is_lock_exception: whether the Python backend aborted the server because a stub started too slowly.
    """

    def __init__(self, message: str, *, log_path: Path, exit_code: int, is_lock_exception: bool = False) -> None:
        super().__init__(message, log_path=log_path)
        self.exit_code = exit_code
        self.is_lock_exception = is_lock_exception


class ModelLoadError(ServingError):
    """One or more models did not load.

    Attributes:
        reasons: one line for each model, by name.
    """

    def __init__(self, message: str, *, reasons: Mapping[str, str]) -> None:
        super().__init__(message)
        self.reasons = dict(reasons)


class CanaryError(ServingError):
    """A model on a running server does not answer as it should.

    Attributes:
        model: its name; empty if it is the server that does not answer.
        failure: `lost`, `silent`, `broken`, `refused`, `busy` or `absent`; see `tritone_serving.calls`.
    """

    def __init__(self, message: str, *, model: str, failure: str) -> None:
        super().__init__(message)
        self.model = model
        self.failure = failure


class CrashLoopError(ServingError):
    """Raised when the server or a model failed again after each restart; the server is stopped.

    Attributes:
        last: the last failure.
    """

    def __init__(self, message: str, *, last: str) -> None:
        super().__init__(message)
        self.last = last


class RefusedVersionError(ServingError):
    """Raised when a new version fails its tests, or breaks an ensemble that uses it.

    Attributes:
        model: name of the model that failed.
        reason: what was wrong.
    """

    def __init__(self, message: str, *, model: str, reason: str) -> None:
        super().__init__(message)
        self.model = model
        self.reason = reason


class AdminApiError(ServingError):
    """The server refused an administrative call, or did not answer it.

    Attributes:
        status: the HTTP status, None if there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class PerfAnalyzerError(ServingError):
    """A load could not be measured."""


class PerfAnalyzerMissingError(PerfAnalyzerError):
    """perf_analyzer is not installed, or lacks a library."""


class UnstableError(PerfAnalyzerError):
    """Raised when the windows of a measurement differ too much for a result."""
