"""Recognise health checks, canaries and warm-up requests among the requests of a Python backend.

A request of the launcher that started this server carries the server's health token as a parameter. A backend answers
it at once, without outputs and without running the model, at a fraction of the cost of an inference: the response shows
that requests reach this process and that the process handles them. Only the launcher and its backends know the token,
so no caller can obtain a response without outputs, which Triton's response cache would keep.

Any sender may mark a request with the parameter `tritone_canary`. Such a request is answered like any other; backends
only leave it out of their own metrics.

Triton 2.51 sends the samples of `model_warmup` to each instance before any other request, without an id, parameters or
any other mark. Their zeros are outside the limits of some inputs, and if a sample is refused, the model fails to load.
"""

from __future__ import annotations

import hmac
import json
import os
from typing import Any

TOKEN_VARIABLE = "TRITONE_HEALTH_TOKEN"  # noqa: S105  - set by the launcher; see tritone_serving.server.runtime_folder
PARAMETER = "tritone_health_check"
CANARY_PARAMETER = "tritone_canary"
_TOKEN = os.environ.get(TOKEN_VARIABLE, "")


def is_health_check(request: Any) -> bool:
    """Return whether a request is a health check of this server's launcher."""
    if not _TOKEN:
        return False
    token = request_parameter(request, PARAMETER)
    return isinstance(token, str) and hmac.compare_digest(token.encode("utf-8", "surrogatepass"), _TOKEN.encode())


def is_canary(request: Any) -> bool:
    """Return whether a request is marked as one that metrics leave out."""
    return request_parameter(request, CANARY_PARAMETER) is True


def request_parameter(request: Any, name: str) -> Any:
    """Return the value of a request's parameter; None if it is missing or the parameters cannot be read."""
    try:
        text = request.parameters()
        if name not in text:
            return None
        parameters = json.loads(text)
    except (ValueError, RecursionError):  # also a forwarded header of bytes that are not UTF-8
        return None
    return parameters.get(name) if isinstance(parameters, dict) else None


class WarmUp:
    """Counts the warm-up requests that an instance has yet to receive."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Count the samples in a config, as Triton passes it to a backend."""
        # Triton sends `batch_size` requests, `count` times.
        self._n_left = sum(
            max(int(sample.get("batch_size", 1)), 1) * max(int(sample.get("count", 1)), 1)
            for sample in config.get("model_warmup") or ()
        )

    def consume(self, request: Any) -> bool:
        """Return whether a request is a warm-up sample; call it once for each request."""
        if self._n_left <= 0:
            return False
        self._n_left -= 1
        # If Triton ever omits a sample, a caller's first request gets here; its values are usually not all zero.
        return not any(tensor.as_numpy().any() for tensor in request.inputs())
