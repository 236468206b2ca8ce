"""Answers with all the outputs that were asked for, whatever a server's response cache keeps.

Triton's cache knows answers by the inputs alone. After somebody's question for some of a model's outputs, whoever asks
the same for others gets that answer again, without theirs. A batch with its last row twice is another question.

Shapes: B rows of a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np

from tritone.messages import Array, InferRequest, InferResponse, MissingOutputError
from tritone.model_cache import Flow, next_request_id


def whole_answer(request: InferRequest, max_batch_size: int) -> Flow[InferResponse]:
    """Ask, and where the answer lacks an output, ask once more in other words.

    Args:
        request: each input's first axis is the batch.
        max_batch_size: the model's.

    Raises:
        MissingOutputError: the second answer lacks one too, or there is no other way to put the question.
    """
    try:
        return cast(InferResponse, (yield request))
    except MissingOutputError as error:
        n_rows = len(next(iter(request.inputs.values()), ()))
        if 0 < n_rows < max_batch_size:  # one row more
            order, back = np.minimum(np.arange(n_rows + 1), n_rows - 1), np.arange(n_rows)
        elif n_rows > 1:  # the last row first
            order, back = np.roll(np.arange(n_rows), 1), np.roll(np.arange(n_rows), -1)
        else:
            raise _told(error) from error
    # Each request has an id of its own: "listen-1a2b-7" becomes "listen-1a2b-8".
    again = replace(
        request, inputs=_picked(request.inputs, order), request_id=next_request_id(request.request_id.split("-")[0])
    )
    try:
        response = cast(InferResponse, (yield again))
    except MissingOutputError as error:
        raise _told(error) from error
    if any(array.shape[:1] != order.shape for array in response.outputs.values()):
        return response  # of a wrong shape: whoever asked says so
    return replace(response, outputs=_picked(response.outputs, back))


def _picked(arrays: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    return {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()}


def _told(error: MissingOutputError) -> MissingOutputError:
    return MissingOutputError(
        f"{error}; the model's response cache may keep the answer to a question that asked for fewer outputs: "
        f"let every client ask for all of them, or switch response_cache off in the model's config.pbtxt",
        model=error.model,
        request_id=error.request_id,
    )
