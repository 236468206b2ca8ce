"""Recognise health checks among the requests of Triton's Python backend.

A request of the launcher that started this server carries the server's health token as a parameter. A backend answers
it at once, without outputs and without running the model, at a fraction of the cost of an inference: the response shows
that requests reach this process and that the process handles them. Only the launcher and its backends know the token,
so no caller can obtain a response without outputs, which Triton's response cache would keep.

Any sender may mark a request with the parameter `tritone_canary`. Such a request is answered like any other; backends
only leave it out of their own metrics.
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
    token = _parameter(request, PARAMETER)
    return isinstance(token, str) and hmac.compare_digest(token.encode("utf-8", "surrogatepass"), _TOKEN.encode())


def is_canary(request: Any) -> bool:
    """Return whether a request is marked as one that metrics leave out."""
    return _parameter(request, CANARY_PARAMETER) is True


def _parameter(request: Any, name: str) -> Any:
    """Return the value of a request's parameter; None if it is missing or the parameters cannot be read."""
    try:
        text = request.parameters()
        if name not in text:
            return None
        parameters = json.loads(text)
    except (ValueError, RecursionError):  # also a forwarded header of bytes that are not UTF-8
        return None
    return parameters.get(name) if isinstance(parameters, dict) else None
