"""Asks the model `taste_vae` of the same server, while the other base models score.

Shapes: B queries, L items of the longest history, T items that the network knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tritone_serving.recommender import TasteInputs

Array = np.ndarray[Any, Any]

PAUSE_S = 2.0  # after a failure it is not asked for so long: an error costs as much as an answer


class TasteError(Exception):
    """`taste_vae` did not answer as it should."""


class RemoteModel:
    """Asks through Triton's business logic scripting; the other base models score meanwhile, in a thread.

    They go into the thread and not the query: whoever asks waits without holding Python's lock, so they begin at
    once, and nothing stands between the answer and who waits for it. The other way round, half a millisecond passes
    on a busy host before the query is out, and five at worst.

    Attributes:
        model: the model's name on this server.
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
        """Whether it failed a moment ago."""
        return self._clock() < self._paused_until_s

    def pause(self) -> None:
        """It failed: leave it alone for a while."""
        self._paused_until_s = self._clock() + PAUSE_S

    def ask(self, inputs: TasteInputs, meanwhile: Callable[[], None]) -> Array:
        """The scores (B, T); `meanwhile` has returned, too.

        Raises:
            TasteError: there are none.
            Exception: what `meanwhile` raised.
        """
        pb_utils = self._pb_utils
        request = pb_utils.InferenceRequest(
            model_name=self.model,
            requested_output_names=["scores"],
            inputs=[pb_utils.Tensor("items", inputs.items), pb_utils.Tensor("weights", inputs.weights)],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        others = self._pool.submit(meanwhile)
        try:
            response = request.exec()
        except pb_utils.TritonModelException as error:
            raise TasteError(str(error)) from error
        finally:
            others.result()
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
        """End the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
