"""Client of a remote base model, `taste_vae`, on the same server.

Shapes: B requests, T items known to the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritone_serving.recommender import LocalScores, RemoteInputs

Array = np.ndarray[Any, Any]

PAUSE_S = 2.0  # how long the circuit breaker stays open after a failure, since errors take as long as responses


class RemoteModelError(Exception):
    """Raised when the remote model fails or returns an invalid response."""


@dataclass(frozen=True, eq=False)
class FetchedScores:
    """Result of `RemoteModel.fetch`.

    Attributes:
        remote: log-probabilities (B, T); None if the model failed or the circuit breaker is open.
        local: scores of the local base models.
        waited_s: time for which the local base models had been done when the response arrived.
    """

    remote: Array | None
    local: LocalScores
    waited_s: float


class RemoteModel:
    """Calls the network of a remote base model by business logic scripting, with a circuit breaker.

    Attributes:
        base_model: name of the base model in the artifact.
        model: name of the model on this server.
    """

    def __init__(
        self,
        pb_utils: Any,
        base_model: str,
        model: str,
        n_known: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base_model = base_model
        self.model = model
        self._pb_utils = pb_utils
        self._n_known = n_known
        self._clock = clock
        self._open_until_s = clock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="base_models")

    def fetch(self, inputs: RemoteInputs, score_local: Callable[[], LocalScores]) -> FetchedScores:
        """Fetch the remote scores, while a worker thread scores the local base models.

        After a failure, the circuit breaker is open for `PAUSE_S`: the model is not called.

        Args:
            inputs: inputs of the remote base model.
            score_local: scores the local base models; its exceptions are raised here.
        """
        if self._clock() < self._open_until_s:
            return FetchedScores(None, score_local(), 0.0)

        def score() -> tuple[LocalScores, float]:
            return score_local(), time.perf_counter()

        # The call is made in this thread: it waits without holding the GIL, so the worker starts at once. With the call
        # in the worker, sending it would be delayed by 0.5 ms on a busy host, and by up to 5 ms.
        scoring = self._pool.submit(score)
        remote: Array | None = None
        try:
            remote = self._call(inputs)
        except RemoteModelError as error:
            self._open_until_s = self._clock() + PAUSE_S
            self._pb_utils.Logger.log_warn(
                f"cf_ensemble: recommending without {self.model} for {PAUSE_S:g} s, because it failed: {error}"
            )
        finally:
            arrived_s = time.perf_counter()
            local, done_s = scoring.result()
        return FetchedScores(remote, local, max(0.0, arrived_s - done_s))

    def _call(self, inputs: RemoteInputs) -> Array:
        pb_utils = self._pb_utils
        request = pb_utils.InferenceRequest(
            model_name=self.model,
            requested_output_names=["scores"],
            inputs=[pb_utils.Tensor("items", inputs.items), pb_utils.Tensor("weights", inputs.weights)],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        try:
            response = request.exec()
        except pb_utils.TritonModelException as error:
            raise RemoteModelError(str(error)) from error
        if response.has_error():
            raise RemoteModelError(response.error().message())
        scores: Array = pb_utils.get_output_tensor_by_name(response, "scores").as_numpy()
        expected = (len(inputs.items), self._n_known)
        if scores.shape != expected:
            raise RemoteModelError(
                f"invalid scores: expected shape {expected}, got {scores.shape}; export both models together"
            )
        if not np.isfinite(scores).all():
            raise RemoteModelError("invalid scores: expected finite numbers, got NaN or infinity")
        return scores

    def close(self) -> None:
        """Stop the worker thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
