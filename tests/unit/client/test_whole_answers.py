"""A server whose response cache keeps answers with some of a model's outputs, and looks at the inputs alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tritone import InferRequest, InferResponse, ServerError
from tritone.messages import MissingOutputError
from tritone.operations.whole_answers import whole_answer


class Cache:
    """Stands before a model as Triton's response cache does: for the same inputs the same answer, whole or not.

    Attributes:
        kept: names of the outputs that were asked for first, by the inputs.
    """

    def __init__(self, model: Any) -> None:
        self.kept: dict[Any, tuple[str, ...]] = {}
        self._answer = model.infer
        model.infer = self.infer

    def infer(self, request: InferRequest) -> InferResponse:
        if not request.n_classes:
            there = self.kept.setdefault(_key(request.inputs["audio"]), request.outputs)
            for name in request.outputs:
                if name not in there:
                    raise MissingOutputError(f"answered without {name!r}", model=request.model)
        return self._answer(request)

    def poison(self, windows: Any) -> None:
        self.kept[_key(windows)] = ("embedding",)


def _key(windows: Any) -> Any:
    return windows.shape, windows.tobytes()


def cut(audio: tuple[Any, int]) -> Any:
    samples, _ = audio
    return samples.reshape(-1, 66_150)


@pytest.mark.parametrize("n_windows", [1, 3, 4, 6])  # the model takes four at once
def test_a_poisoned_cache_is_asked_in_other_words(connect: Any, model: Any, make_noise: Any, n_windows: int) -> None:
    audio = make_noise(3 * n_windows)
    wanted = connect()("classify", audio)
    cache = Cache(model)
    for start in range(0, n_windows, 4):
        cache.poison(cut(audio)[start : start + 4])
    found = connect()("classify", audio)
    assert found.probabilities == pytest.approx(wanted.probabilities)
    assert [each.probabilities for each in found.timeline] == [each.probabilities for each in wanted.timeline]
    if n_windows < 4:  # the fake's embedding goes by the row, and four windows were asked in another order
        np.testing.assert_allclose(found.embedding, wanted.embedding)
    assert len(set(found.request_ids)) == len(found.request_ids)


def test_where_there_is_no_other_way_to_ask_it_is_told(connect: Any, model: Any, make_noise: Any) -> None:
    model.max_batch_size = 1
    Cache(model).poison(cut(make_noise(3)))
    with pytest.raises(ServerError, match=r"without 'probabilities'.*response cache.*switch response_cache off"):
        connect()("classify", make_noise(3))


def test_a_model_that_never_answers_an_output_is_asked_twice_and_not_more() -> None:
    asked: list[Any] = []
    request = InferRequest("m", "listen-1-1", {"audio": np.arange(6.0).reshape(3, 2)}, ("probabilities",))
    flow = whole_answer(request, 4)
    asked.append(next(flow))
    asked.append(flow.throw(MissingOutputError("answered without 'probabilities'")))
    with pytest.raises(MissingOutputError, match="response cache"):
        flow.throw(MissingOutputError("answered without 'probabilities'"))
    assert [len(each.inputs["audio"]) for each in asked] == [3, 4]
    assert asked[0].request_id != asked[1].request_id


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4])
def test_rows_come_back_in_their_order(n_rows: int) -> None:
    rows = np.arange(n_rows, dtype=np.float32)[:, None]
    flow = whole_answer(InferRequest("m", "listen-1-1", {"x": rows, "y": 2 * rows}, ("sum",)), 4)
    next(flow)
    again: Any = flow.throw(MissingOutputError("answered without 'sum'"))
    assert again.inputs["x"].tobytes() != rows.tobytes()
    assert again.inputs["x"].flags.c_contiguous
    with pytest.raises(StopIteration) as end:
        flow.send(InferResponse("m", "1", "r", {"sum": again.inputs["x"] + again.inputs["y"]}))
    assert end.value.value.outputs["sum"].ravel().tolist() == [3 * row for row in range(n_rows)]
