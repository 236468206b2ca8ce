"""Client of the sentence encoder, a model on the same server that embeds descriptions of a search.

Shapes: B texts, T tokens, D size of an embedding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tritone_cf_breaker import CircuitBreaker
from tritone_cf_remote import PAUSE_S, RemoteModelError

from tritone_serving.recommender.wordpiece import WordPieceTokenizer

Array = np.ndarray[Any, Any]

_MOST_TEXTS = 32  # in one call
_LEAST_NORM = 0.5  # of an embedding, which has a norm of 1


class RemoteEncoder:
    """Calls the sentence encoder by business logic scripting, with a circuit breaker.

    Attributes:
        model: name of the model on this server.
    """

    def __init__(
        self,
        pb_utils: Any,
        model: str,
        vocabulary: Sequence[str],
        *,
        n_features: int,
        most_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Build the tokenizer.

        Raises:
            ValueError: the vocabulary is incomplete, or a size is too small.
        """
        if n_features < 1 or most_tokens < 3:
            raise ValueError(f"n_features is {n_features} and most_tokens {most_tokens}; expected at least 1 and 3")
        self.model = model
        self._pb_utils = pb_utils
        self._tokenizer = WordPieceTokenizer(vocabulary)
        self._n_features = n_features
        self._most_tokens = most_tokens
        self._breaker = CircuitBreaker(PAUSE_S, clock)

    def embed(self, texts: Sequence[str]) -> Array | None:
        """Return the embeddings (B, D); None if the model failed, or failed less than `PAUSE_S` ago."""
        if self._breaker.is_open:
            return None
        try:
            parts = [self._call(texts[start : start + _MOST_TEXTS]) for start in range(0, len(texts), _MOST_TEXTS)]
        except RemoteModelError as error:
            self._breaker.record_failure()
            self._pb_utils.Logger.log_warn(
                f"cf_ensemble: searching without {self.model} for {PAUSE_S:g} s, because it failed: {error}"
            )
            return None
        return np.concatenate(parts)

    def _call(self, texts: Sequence[str]) -> Array:
        pb_utils = self._pb_utils
        tokens = self._tokenizer.encode(texts, most_tokens=self._most_tokens)
        request = pb_utils.InferenceRequest(
            model_name=self.model,
            requested_output_names=["embedding"],
            inputs=[pb_utils.Tensor("tokens", tokens)],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        try:
            response = request.exec()
        except pb_utils.TritonModelException as error:
            raise RemoteModelError(str(error)) from error
        if response.has_error():
            raise RemoteModelError(response.error().message())
        embeddings: Array = pb_utils.get_output_tensor_by_name(response, "embedding").as_numpy()
        expected = (len(texts), self._n_features)
        if embeddings.shape != expected:
            raise RemoteModelError(
                f"invalid embedding: expected shape {expected}, got {embeddings.shape}; export both models together"
            )
        # False for NaN, which would spoil every score.
        if not (np.linalg.norm(embeddings, axis=1) > _LEAST_NORM).all():
            raise RemoteModelError("invalid embedding: expected vectors of norm 1")
        return embeddings
