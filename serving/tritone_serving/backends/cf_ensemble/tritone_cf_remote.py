"""Clients of the remote base models, `taste_vae` and `taste_sequence`, on the same server.

Shapes: B requests, T items known to a network.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritone_cf_breaker import CircuitBreaker

from tritone_serving.recommender import LocalScores, RemoteInputs
from tritone_serving.recommender.candidates import CandidateScores

Array = np.ndarray[Any, Any]

PAUSE_S = 2.0  # how long a model is not called after a failure
TIMEOUT_S = 1.0  # of one call, if the config does not say otherwise
_HANDOVER_S = 0.002  # longest wait until the calls are sent, before this thread takes the GIL for the local base models


class RemoteModelError(Exception):
    """Raised when the remote model fails or returns an invalid response."""


@dataclass(frozen=True, eq=False)
class FetchedScores:
    """Result of `fetch_scores`.

    Attributes:
        remote: base model -> log-probabilities (B, T); None if the model failed or its circuit breaker is open.
        waited_s: base model -> time for which the local base models had been done when its response arrived.
        local: scores of the local base models.
    """

    remote: Mapping[str, Array | None]
    waited_s: Mapping[str, float]
    local: LocalScores | CandidateScores


class RemoteModel:
    """Calls the network of a remote base model by business logic scripting, with a timeout and a circuit breaker.

    Attributes:
        base_model: name of the base model in the artifact.
        model: name of the model on this server.
        timeout_s: longest time until a response.
    """

    def __init__(
        self,
        pb_utils: Any,
        base_model: str,
        model: str,
        n_known: int,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_model = base_model
        self.model = model
        self.timeout_s = timeout_s
        self._pb_utils = pb_utils
        self._n_known = n_known
        self._breaker = CircuitBreaker(PAUSE_S, clock)
        self._late: Future[tuple[Array, float]] | None = None  # a call whose response did not arrive in time
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=base_model)

    def send(self, inputs: RemoteInputs) -> PendingScores | None:
        """Start a call in a thread; None while the circuit breaker is open or an earlier call has not returned.

        Args:
            inputs: inputs of the base model.
        """
        if self._breaker.is_open or (self._late is not None and not self._late.done()):
            return None
        sent = threading.Event()
        return PendingScores(self._pool.submit(self._call, inputs, sent), sent, time.perf_counter() + self.timeout_s)

    def receive(self, pending: PendingScores | None) -> tuple[Array, float] | None:
        """Return the scores and the time of their arrival; None if there are none.

        After a failure, the circuit breaker is open for `PAUSE_S`: the model is not called.
        """
        if pending is None:
            return None
        try:
            return pending.response.result(max(0.0, pending.until_s - time.perf_counter()))
        except FutureTimeoutError:
            self._late = pending.response
            problem = f"no response within {self.timeout_s:g} s"
        except RemoteModelError as error:
            problem = str(error)
        self._breaker.record_failure()
        self._pb_utils.Logger.log_warn(
            f"cf_ensemble: recommending without {self.model} for {PAUSE_S:g} s, because it failed: {problem}"
        )
        return None

    def _call(self, inputs: RemoteInputs, sent: threading.Event) -> tuple[Array, float]:
        pb_utils = self._pb_utils
        try:
            request = pb_utils.InferenceRequest(
                model_name=self.model,
                requested_output_names=["scores"],
                inputs=[pb_utils.Tensor(name, array) for name, array in inputs.tensors.items()],
                preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
            )
            sent.set()  # `exec` is next, and waits without holding the GIL
            response = request.exec()
        except pb_utils.TritonModelException as error:
            raise RemoteModelError(str(error)) from error
        finally:
            sent.set()
        if response.has_error():
            raise RemoteModelError(response.error().message())
        scores: Array = pb_utils.get_output_tensor_by_name(response, "scores").as_numpy()
        arrived_s = time.perf_counter()
        expected = (inputs.n, self._n_known)
        if scores.shape != expected:
            raise RemoteModelError(
                f"invalid scores: expected shape {expected}, got {scores.shape}; export both models together"
            )
        if not np.isfinite(scores).all():
            raise RemoteModelError("invalid scores: expected finite numbers, got NaN or infinity")
        return scores, arrived_s

    def close(self) -> None:
        """Stop the worker thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class PendingScores:
    """A call that was started.

    Attributes:
        response: scores and the time of their arrival.
        sent: set when the call waits for the response.
        until_s: time by which the response must arrive, by `time.perf_counter`.
    """

    response: Future[tuple[Array, float]]
    sent: threading.Event
    until_s: float


def fetch_scores(
    calls: Sequence[tuple[RemoteModel, RemoteInputs]], score_local: Callable[[], LocalScores | CandidateScores]
) -> FetchedScores:
    """Fetch the scores of the remote base models, all at once, while this thread scores the local base models.

    Args:
        calls: the remote base models and their inputs.
        score_local: scores the local base models; its exceptions are raised here.
    """
    pending = [(remote, remote.send(inputs)) for remote, inputs in calls]
    for _, call in pending:
        if call is not None:
            call.sent.wait(_HANDOVER_S)  # else this thread would hold the GIL for up to 5 ms before they are sent
    try:
        local = score_local()
        done_s = time.perf_counter()
    finally:
        received = {remote.base_model: remote.receive(call) for remote, call in pending}
    return FetchedScores(
        {name: None if each is None else each[0] for name, each in received.items()},
        {name: max(0.0, each[1] - done_s) for name, each in received.items() if each is not None},
        local,
    )
