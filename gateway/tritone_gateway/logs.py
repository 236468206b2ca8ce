"""Logging of the gateway to standard error, as text or JSON lines."""

from __future__ import annotations

import atexit
import json
import logging
import logging.handlers
import queue
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Final, Literal

MAX_QUEUED_RECORDS: Final = 10_000
_COLLECT_S: Final = 0.05
_FLUSH_S: Final = 1.0
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


class BackgroundHandler(logging.handlers.QueueHandler):
    """Passes records to a thread that writes them to standard error.

    Otherwise, a full pipe whose reader has stopped reading would block the event loop. Records beyond
    `MAX_QUEUED_RECORDS` are dropped and counted.
    """

    def __init__(self) -> None:
        self._records: queue.Queue[logging.LogRecord] = queue.Queue(MAX_QUEUED_RECORDS)
        super().__init__(self._records)
        self._n_dropped = 0
        self._started = False

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Format the record in the thread that logs, because tracebacks cannot be queued."""
        record.msg, record.args, record.exc_info = self.format(record), None, None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a record into the queue, or count it as dropped."""
        if not self._started:  # started on first use, because a forked process has no threads
            self._started = True
            threading.Thread(target=self._write, name="tritone-gateway-log", daemon=True).start()
            atexit.register(self._flush)
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self._n_dropped += 1

    def _write(self) -> None:
        while True:
            lines = [self._records.get().msg]
            time.sleep(_COLLECT_S)  # collect many lines for one write: waking up for each line slows the event loop
            with suppress(queue.Empty):
                while True:
                    lines.append(self._records.get_nowait().msg)
            n_dropped, self._n_dropped = self._n_dropped, 0
            if n_dropped:
                sys.stderr.write(f"{n_dropped} lines of the log were dropped\n")
            sys.stderr.write("\n".join(lines) + "\n")
            sys.stderr.flush()
            for _ in lines:
                self._records.task_done()

    def _flush(self) -> None:
        """Wait up to `_FLUSH_S` until the last lines are written."""
        deadline_s = time.monotonic() + _FLUSH_S
        while self._records.unfinished_tasks and time.monotonic() < deadline_s:
            time.sleep(0.01)


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
        "handlers": {"stderr": {"class": "tritone_gateway.logs.BackgroundHandler", "formatter": "default"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {**loggers, "uvicorn": {"level": "WARNING"}},
    }
