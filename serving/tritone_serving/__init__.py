"""Launches NVIDIA Triton on a model repository: the server from a pip wheel, or an installed one.

```python
from pathlib import Path
from tritone_serving import ServerOptions, TritonServer

with TritonServer.start(ServerOptions(repository=Path("model_repository"), http_port=0)) as server:
    print(server.http_url, server.models)
```
"""

from tritone_serving._exceptions import (
    AdminApiError,
    CanaryError,
    CrashLoopError,
    GpuMissingError,
    ModelLoadError,
    ModelRepositoryError,
    OptionsError,
    PerfAnalyzerError,
    PerfAnalyzerMissingError,
    PortTakenError,
    RefusedVersionError,
    ServerExitedError,
    ServerNotInstalledError,
    ServingError,
    StartupError,
    StartupTimeoutError,
    UnstableError,
)
from tritone_serving.admin import ADMIN_HEADER, GRPC_ADMIN_HEADER
from tritone_serving.server.options import ServerOptions
from tritone_serving.server.triton_server import TritonServer

__all__ = [
    "ADMIN_HEADER",
    "GRPC_ADMIN_HEADER",
    "AdminApiError",
    "CanaryError",
    "CrashLoopError",
    "GpuMissingError",
    "ModelLoadError",
    "ModelRepositoryError",
    "OptionsError",
    "PerfAnalyzerError",
    "PerfAnalyzerMissingError",
    "PortTakenError",
    "RefusedVersionError",
    "ServerExitedError",
    "ServerNotInstalledError",
    "ServerOptions",
    "ServingError",
    "StartupError",
    "StartupTimeoutError",
    "TritonServer",
    "UnstableError",
]
