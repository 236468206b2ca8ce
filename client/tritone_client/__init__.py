"""The Tritone SDK: recordings in, typed results out.

```python
from tritone_client import MusicClient

with MusicClient("localhost:8001") as music:
    result = music.classify("song.mp3")
    print(result.label, result.emotions)
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tritone_client._exceptions import (
    AccessDeniedError,
    ClientError,
    ConnectionFailedError,
    InvalidAudioError,
    InvalidInputError,
    MissingExtraError,
    ModelNotFoundError,
    RequestRejectedError,
    RequestTimeoutError,
    ServerBusyError,
    ServerError,
    TritoneError,
)

if TYPE_CHECKING:
    from tritone_client._async_client import AsyncMusicClient
    from tritone_client._client import MusicClient
    from tritone_client._messages import (
        AsyncTransport,
        InferRequest,
        InferResponse,
        ModelRequest,
        ModelResponse,
        ReadyRequest,
        ReadyResponse,
        Request,
        Response,
        Transport,
    )
    from tritone_client._results import Classification, TimelineWindow
    from tritone_client.audio import Audio

# Looked up when first used: the errors alone are wanted by every package and by `tritone --help`, and
# NumPy, libsndfile and soxr would cost each of them a tenth of a second.
_LAZY = {
    "AsyncMusicClient": "_async_client",
    "AsyncTransport": "_messages",
    "Audio": "audio",
    "Classification": "_results",
    "InferRequest": "_messages",
    "InferResponse": "_messages",
    "ModelRequest": "_messages",
    "ModelResponse": "_messages",
    "MusicClient": "_client",
    "ReadyRequest": "_messages",
    "ReadyResponse": "_messages",
    "Request": "_messages",
    "Response": "_messages",
    "TimelineWindow": "_results",
    "Transport": "_messages",
}

__all__ = [
    "AccessDeniedError",
    "AsyncMusicClient",
    "AsyncTransport",
    "Audio",
    "Classification",
    "ClientError",
    "ConnectionFailedError",
    "InferRequest",
    "InferResponse",
    "InvalidAudioError",
    "InvalidInputError",
    "MissingExtraError",
    "ModelNotFoundError",
    "ModelRequest",
    "ModelResponse",
    "MusicClient",
    "ReadyRequest",
    "ReadyResponse",
    "Request",
    "RequestRejectedError",
    "RequestTimeoutError",
    "Response",
    "ServerBusyError",
    "ServerError",
    "TimelineWindow",
    "Transport",
    "TritoneError",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
