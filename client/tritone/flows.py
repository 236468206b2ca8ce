"""Flows: the request sequences of the operations, written as generators that do no input or output.

A flow yields requests, receives their responses (or has their errors thrown into it) and returns the result of the
operation. `MusicClient` and `AsyncMusicClient` run the same flows and differ only in how they send the requests.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, cast

from tritone.exceptions import ClientError, InvalidInputError
from tritone.messages import ReadyRequest, ReadyResponse, Request, Response
from tritone.processes import PerProcess

T = TypeVar("T")


@dataclass(frozen=True)
class Pause:
    """Asks the client to wait before the flow starts again with other model versions; see `tritone.retry`.

    Attributes:
        n_starts: number of starts so far, at least 1.
        error: raised if the time of the call does not allow the wait.
    """

    n_starts: int
    error: ClientError


Flow: TypeAlias = Generator[Request | Pause, Response | None, T]

_MODEL_NAME: Final = re.compile(r"(?!\.+$)[A-Za-z0-9_.-]+")


def check_model_name(model: str) -> str:
    """Return the name of a model if it is safe in a URL, a file name and a log.

    Raises:
        InvalidInputError: it holds other characters or is no text.
    """
    if not isinstance(model, str) or not _MODEL_NAME.fullmatch(model):
        raise InvalidInputError(
            f"invalid model name: expected letters, digits, '_', '-' and '.', as in genre_cnn, got {model!r}",
            argument="model",
        )
    return model


def _new_ids() -> tuple[str, itertools.count[int]]:
    """Return a random prefix and a counter for the ids of one process."""
    return secrets.token_hex(4), itertools.count(1)


_ids = PerProcess(_new_ids)  # a forked child would otherwise repeat its parent's ids


def next_request_id(operation: str) -> str:
    """Return a unique request id, such as `classify-1a2b3c4d-7`."""
    prefix, counter = _ids.get()
    return f"{operation}-{prefix}-{next(counter)}"


def ready_flow(model: str | None) -> Flow[bool]:
    """Ask whether the server, or one of its models, is ready."""
    name = None if model is None else check_model_name(model)
    return cast(ReadyResponse, (yield ReadyRequest(name))).ready
