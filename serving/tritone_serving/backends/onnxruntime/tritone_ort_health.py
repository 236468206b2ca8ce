"""Recognises the health checks of the launcher that started this server.

Such a request carries the server's health token as a parameter. A backend answers it at once, without outputs and
without running the model: it shows that requests reach this process and that the process takes them, at a fraction of
the cost of an inference. The token is known to the launcher and to its backends only, so that no caller can get answers
without outputs, which Triton's response cache could keep.
"""

from __future__ import annotations

import hmac
import json
import os
from typing import Any

TOKEN_VARIABLE = "TRITONE_HEALTH_TOKEN"  # noqa: S105  - set by the launcher; see tritone_serving.runtime
PARAMETER = "tritone_health_check"
_TOKEN = os.environ.get(TOKEN_VARIABLE, "")


def is_health_check(request: Any) -> bool:
    """Return whether a request of Triton's Python backend is a health check of this server's launcher."""
    if not _TOKEN:
        return False
    try:
        text = request.parameters()
        given = json.loads(text).get(PARAMETER) if PARAMETER in text else None
    except (ValueError, AttributeError, RecursionError):  # also a forwarded header of bytes that are no text
        return False
    return isinstance(given, str) and hmac.compare_digest(given.encode(), _TOKEN.encode())
