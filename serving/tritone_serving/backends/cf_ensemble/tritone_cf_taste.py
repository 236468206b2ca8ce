"""Client of the model `taste_vae` on the same server.

Shapes: B queries, T items known to the network.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tritone_serving.recommender import TasteInputs

Array = np.ndarray[Any, Any]

PAUSE_S = 2.0  # how long the circuit breaker stays open after a failure, since errors take as long as responses


class TasteError(Exception):
    """Raised when `taste_vae` fails or returns an invalid response."""


class RemoteModel:
    """Calls `taste_vae` by business logic scripting, while the local base models score in a worker thread.

    The call itself is made in the calling thread: it waits without holding the GIL, so the worker starts at once. With
    the call in the worker, sending it would be delayed by 0.5 ms on a busy host, and by up to 5 ms.

    Attributes:
        model: name of the model on this server.
    """

    def __init__(self, pb_utils: Any, model: str, n_known: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.model = model
        self._pb_utils = pb_utils
        self._n_known = n_known
        self._clock = clock
        self._paused_until_s = 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="base_models")

    @property
    def is_paused(self) -> bool:
        """Whether the circuit breaker is open, `PAUSE_S` after a failure."""
        return self._clock() < self._paused_until_s

    def pause(self) -> None:
        """Open the circuit breaker after a failure."""
        self._paused_until_s = self._clock() + PAUSE_S

    def ask(self, inputs: TasteInputs, meanwhile: Callable[[], None]) -> Array:
        """Return the scores (B, T) after `meanwhile` has returned too.

        Raises:
            TasteError: the model failed, or its response is invalid.
            Exception: raised by `meanwhile`.
        """
        pb_utils = self._pb_utils
        request = pb_utils.InferenceRequest(
            model_name=self.model,
            requested_output_names=["scores"],
            inputs=[pb_utils.Tensor("items", inputs.items), pb_utils.Tensor("weights", inputs.weights)],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        local = self._pool.submit(meanwhile)
        try:
            response = request.exec()
        except pb_utils.TritonModelException as error:
            raise TasteError(str(error)) from error
        finally:
            local.result()
        if response.has_error():
            raise TasteError(response.error().message())
        scores: Array = pb_utils.get_output_tensor_by_name(response, "scores").as_numpy()
        expected = (len(inputs.items), self._n_known)
        if scores.shape != expected:
            raise TasteError(f"scores have shape {scores.shape}, expected {expected}; export both models together")
        if not np.isfinite(scores).all():
            raise TasteError("scores hold NaN or infinity")
        return scores

    def close(self) -> None:
        """Stop the worker thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
