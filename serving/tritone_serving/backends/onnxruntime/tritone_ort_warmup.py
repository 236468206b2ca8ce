"""Recognises Triton's warm-up requests, whose zeros are outside the limits of some inputs.

Triton 2.51 sends the samples of `model_warmup` to each instance before any other request and marks them in no way: they
have neither an id nor parameters. A sample that is refused fails the load of the model.
"""

from __future__ import annotations

from typing import Any


class WarmUp:
    """Counts the warm-up requests that an instance has still to get."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Count the samples of a config, as Triton hands it to a backend."""
        # Triton makes one request for each of `batch_size`, `count` times.
        self._n_left = sum(
            max(int(sample.get("batch_size", 1)), 1) * max(int(sample.get("count", 1)), 1)
            for sample in config.get("model_warmup") or ()
        )

    def consume(self, request: Any) -> bool:
        """Whether a request is a warm-up sample; each call counts one request."""
        if self._n_left <= 0:
            return False
        self._n_left -= 1
        # Should Triton ever leave a sample out, the first request of a caller would come here: it has other values.
        return not any(tensor.as_numpy().any() for tensor in request.inputs())
