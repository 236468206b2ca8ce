"""Triton's `events` backend, which stores plays, skips, likes and dislikes, from which `recommender` computes.

The next request of a user to `recommender` reads that user's latest events. All events of an execute call are stored
together. A caller may write events of the users whose stored data the caller may use, see
`tritone_serving.security.callers`. Ids of users are stored as pseudonyms, and neither ids nor events are
logged. While the store is down, requests are refused with the status UNAVAILABLE; sending the events again is safe.

Triton's stub loads this file as a top-level module named `model`, and the modules next to it by their own names.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# Triton loads this backend through a link. The backends that share code are next to the link's target.
sys.path += [str(Path(__file__).resolve().parent.parent / name) for name in ("cf_ensemble", "onnxruntime")]

# ruff: noqa: E402  - the imports below need the changes to sys.path above
import tritone_cf_package

tritone_cf_package.make_importable()

from tritone_events_loading import LoadError, read_key_of
from tritone_events_metrics import EventCounts, make_reporter
from tritone_events_reading import NotAllowedError, Outcome, read_event
from tritone_ort_marks import is_health_check

from tritone_serving.events import (
    Event,
    EventRetention,
    EventStore,
    EventStoreDamagedError,
    EventStoreError,
    EventStoreUrlError,
    InvalidEventError,
    check_store_url,
    open_store,
    parse_address,
    store_url,
)
from tritone_serving.security.callers import CallerCheck, RequestParameters, read_parameters

PRUNE_PERIOD_S = 3_600.0
_FIRST_PRUNE_S = 30.0
_LONGEST_REASON = 1_000  # characters, in the headers of a response


@dataclass
class _Batch:
    """The events of one request, in its order.

    Attributes:
        outcomes: of each event, None until it is stored.
        events: those to be stored, with their indices.
    """

    outcomes: list[Outcome | None]
    events: list[tuple[int, Event]]
    is_counted: bool


class TritonPythonModel:
    """The instance of a model; Triton calls it from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the key, and open the store; a store that is down does not keep the model from loading."""
        config = json.loads(args["model_config"])
        self._retention = EventRetention()
        self._name = args["model_name"]
        self._callers = CallerCheck.from_environment(self._warn)
        try:
            self._key = read_key_of(Path(args["model_repository"]) / args["model_version"], config)
            self._url = store_url()
            if self._url is not None:
                check_store_url(self._url)
                self._retention = parse_address(self._url).retention
        except (LoadError, EventStoreUrlError) as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._store: EventStore | None = None
        self._lock = threading.Lock()
        self._reported = ""
        self._counts = EventCounts()
        self._reporter = make_reporter(
            pb_utils, self._counts, {"model": args["model_name"], "version": args["model_version"]}
        )
        self._closing = threading.Event()
        self._pruning = threading.Thread(target=self._prune_periodically, name="prune", daemon=True)
        if self._url is not None:
            self._advise()
            self._pruning.start()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Store the events of all requests of a call."""
        began_s = time.perf_counter()
        batches = [None if is_health_check(request) else self._read(request) for request in requests]
        given = [batch for batch in batches if batch is not None]
        error = self._append(given) if any(batch.events for batch in given) else None
        if any(batch.is_counted for batch in given):
            self._counts.add("calls_total")
            self._counts.add("seconds_total", time.perf_counter() - began_s)
        return [
            pb_utils.InferenceResponse(output_tensors=[]) if batch is None else self._response(request, batch, error)
            for request, batch in zip(requests, batches, strict=True)
        ]

    def finalize(self) -> None:
        """Report the last counts, and close the store."""
        self._closing.set()
        if self._pruning.is_alive():
            self._pruning.join(5)
        if self._reporter is not None:
            self._reporter.close()
        if self._store is not None:
            self._store.close()

    def _read(self, request: Any) -> _Batch:
        parameters = _parameters(request)
        caller = self._callers.caller(parameters)
        now = time.time()
        batch = _Batch([], [], is_counted=not parameters.is_canary)
        for index, text in enumerate(_texts(request)):
            try:
                batch.events.append((index, read_event(text, caller, self._key, now, self._retention)))
                batch.outcomes.append(None)
            except InvalidEventError as error:
                reason = str(error)[:_LONGEST_REASON]
                is_denied = isinstance(error, NotAllowedError)
                batch.outcomes.append(Outcome("denied", reason) if is_denied else Outcome("refused", reason))
        return batch

    def _append(self, batches: Sequence[_Batch]) -> EventStoreError | None:
        """Store the events of all batches and fill in their outcomes; return the store's error if that fails."""
        events = [event for batch in batches for _, event in batch.events]
        try:
            is_new = iter(self._opened().append(events))
        except EventStoreError as error:
            self._report(error)
            return error
        self._reported = ""
        for batch in batches:
            for index, _ in batch.events:
                batch.outcomes[index] = Outcome("new" if next(is_new) else "duplicate")
        return None

    def _response(self, request: Any, batch: _Batch, error: EventStoreError | None) -> Any:
        if error is not None and batch.events:
            if batch.is_counted:
                self._counts.add("unstored_total", len(batch.events))
            return _refusal(error)
        outcomes = [outcome for outcome in batch.outcomes if outcome is not None]
        if batch.is_counted:
            for outcome in outcomes:
                self._counts.add("events_total", outcome=outcome.name)
        columns = {
            "outcome": [[outcome.name.encode()] for outcome in outcomes],
            "reason": [[outcome.reason.encode("utf-8", "replace")] for outcome in outcomes],
        }
        wanted = request.requested_output_names() or columns
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, np.array(columns[name], np.object_)) for name in wanted]
        )

    def _opened(self) -> EventStore:
        with self._lock:
            if self._store is None:
                if self._url is None:
                    raise EventStoreUrlError(
                        "this server stores no events: expected the address of a store, got off; start it with "
                        "--events URL, or set TRITONE_EVENTS"
                    )
                self._store = open_store(self._url)
            return self._store

    def _advise(self) -> None:
        try:
            for line in self._opened().advice():
                self._warn(line)
        except EventStoreError as error:
            self._report(error)

    def _prune_periodically(self) -> None:
        delay_s = _FIRST_PRUNE_S
        while not self._closing.wait(delay_s):
            delay_s = PRUNE_PERIOD_S
            try:
                self._counts.add("pruned_total", self._opened().prune())
            except EventStoreError as error:
                self._report(error)

    def _report(self, error: EventStoreError) -> None:
        """Log an error of the store, once until it works again."""
        kind = type(error).__name__
        if kind != self._reported:
            self._reported = kind
            self._warn(str(error))

    def _warn(self, text: str) -> None:
        pb_utils.Logger.log_warn(f"events: {self._name}: {text}")


def _parameters(request: Any) -> RequestParameters:
    try:
        text = request.parameters()
    except UnicodeDecodeError:  # a header that is not UTF-8 must not fail the other requests of the call
        return RequestParameters({})
    return read_parameters(text)


def _texts(request: Any) -> list[bytes]:
    texts: list[bytes] = pb_utils.get_input_tensor_by_name(request, "event").as_numpy().ravel().tolist()
    return texts


def _refusal(error: EventStoreError) -> Any:
    if isinstance(error, EventStoreUrlError):
        code = pb_utils.TritonError.INVALID_ARG
    elif isinstance(error, EventStoreDamagedError):
        code = pb_utils.TritonError.INTERNAL
    else:
        code = pb_utils.TritonError.UNAVAILABLE
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{error}"[:_LONGEST_REASON], code))
