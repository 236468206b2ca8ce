"""Logging of the gateway as text or JSON lines, on standard error."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Final, Literal

_FIELDS: Final = (
    "request_id",
    "caller",
    "method",
    "route",
    "status",
    "duration_ms",
    "received_bytes",
    "sent_bytes",
    "traceparent",
)


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in _FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                entry[name] = value
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def logging_config(log_format: Literal["text", "json"]) -> dict[str, Any]:
    """Return a configuration for `logging.config.dictConfig`."""
    formatter: dict[str, Any] = {"format": "%(asctime)s %(levelname)s %(message)s"}
    if log_format == "json":
        formatter = {"()": "tritone_gateway.logs.JsonFormatter"}
    loggers = {name: {"level": "INFO"} for name in ("tritone_gateway", "tritone")}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"default": formatter},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "default"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {**loggers, "uvicorn": {"level": "WARNING"}},
    }
