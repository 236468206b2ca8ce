"""Recognise Triton's warm-up requests, whose zeros are outside the limits of some inputs.

Triton 2.51 sends the samples of `model_warmup` to each instance before any other request, without an id, parameters or
any other mark. If a sample is refused, the model fails to load.
"""

from __future__ import annotations

from typing import Any


class WarmUp:
    """Counts the warm-up requests that an instance has yet to receive."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Count the samples in a config, as Triton passes it to a backend."""
        # Triton sends `batch_size` requests, `count` times.
        self._n_left = sum(
            max(int(sample.get("batch_size", 1)), 1) * max(int(sample.get("count", 1)), 1)
            for sample in config.get("model_warmup") or ()
        )

    def consume(self, request: Any) -> bool:
        """Return whether a request is a warm-up sample; call it once for each request."""
        if self._n_left <= 0:
            return False
        self._n_left -= 1
        # If Triton ever omits a sample, a caller's first request gets here; its values are usually not all zero.
        return not any(tensor.as_numpy().any() for tensor in request.inputs())
