"""Responses that no model of ours sends: each is a `ServerError`, and nothing hangs or is taken for a result."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tritone import MusicClient, ServerError
from tritone.messages import InferRequest, InferResponse, ModelRequest, ModelResponse, Request, StreamRequest
from tritone.testing import (
    FakeComposer,
    FakeGenreModel,
    FakeInspirer,
    FakeRecommender,
    FakeServer,
    MockTransport,
    Reply,
)

FAKES = FakeComposer(), FakeGenreModel(tags={"calm": 0.5}), FakeRecommender(["a", "b", "c"])
SERVER = FakeServer(*FAKES, FakeInspirer(*FAKES))
RATE_HZ = 22_050
SOUND = (0.5 * np.sin(np.arange(RATE_HZ, dtype=np.float32) / 9), RATE_HZ)
CALLS: Mapping[str, Callable[[MusicClient], Any]] = {
    "classify": lambda music: music.classify(SOUND),
    "compose": lambda music: music.compose(bars=1, seed=1),
    "stream_compose": lambda music: list(music.stream_compose(bars=1, seed=1)),
    "recommend": lambda music: music.recommend(history=["a"], explain=True),
    "find_tracks": lambda music: music.find_tracks("a"),
    "inspire": lambda music: music.inspire(bars=1, seed=1),
}
OUTPUTS = {
    "classify": ("probabilities", "emotions", "tags", "embedding"),
    "compose": ("frames", "nll"),
    "stream_compose": ("frames", "nll", "first_frame"),
    "recommend": ("item_ids", "titles", "scores", "reasons", "source", "unknown"),
    "find_tracks": ("item_ids", "match", "total"),
    "inspire": (
        "frames",
        "probabilities",
        "emotions",
        "embedding",
        "window_start_s",
        "duration_s",
        "item_ids",
        "scores",
    ),
}
NUMBERS = {"probabilities", "emotions", "tags", "embedding", "frames", "nll", "first_frame", "scores", "total"}
NUMBERS |= {"window_start_s", "duration_s"}


def ask(call: str, handler: Callable[[Request], Reply]) -> Any:
    with MusicClient(transport=MockTransport(handler), retries=0, timeout_s=2) as music:
        return CALLS[call](music)


def with_output(name: str, change: Callable[[Any], Any]) -> Callable[[Request], Reply]:
    def changed(response: InferResponse) -> InferResponse:
        outputs = dict(response.outputs)
        outputs[name] = change(outputs[name])
        return dataclasses.replace(response, outputs={key: each for key, each in outputs.items() if each is not None})

    def handler(request: Request) -> Reply:
        reply: Any = SERVER(request)
        if isinstance(request, StreamRequest):
            return map(changed, reply)
        return changed(reply) if isinstance(request, InferRequest) else reply

    return handler


def with_metadata(change: Callable[[ModelResponse], Mapping[str, Any]]) -> Callable[[Request], Reply]:
    def handler(request: Request) -> Reply:
        reply: Any = SERVER(request)
        return dataclasses.replace(reply, **change(reply)) if isinstance(request, ModelRequest) else reply

    return handler


@pytest.mark.parametrize(("call", "output"), [(call, output) for call, names in OUTPUTS.items() for output in names])
def test_an_output_of_another_type_or_shape_is_a_server_error(call: str, output: str) -> None:
    ask(call, SERVER)
    changes: list[Callable[[Any], Any]] = [
        lambda array: array[None],
        lambda array: array[:0],
        lambda array: np.array(1),
        lambda array: np.full(array.shape, 1j),
        lambda array: np.full(array.shape, None),
    ]
    if output in NUMBERS:
        changes += [
            lambda array: np.full(array.shape, "1", object),
            lambda array: np.full(array.shape, np.nan),
            lambda array: np.full(array.shape, np.inf),
        ]
    else:
        changes.append(lambda array: np.full(array.shape, 7))
    if output not in ("reasons", "source", "unknown"):  # transports refuse a response without them
        changes.append(lambda array: None)
    for change in changes:
        with pytest.raises(ServerError) as caught:
            ask(call, with_output(output, change))
        assert caught.value.model


@pytest.mark.parametrize("output", ["reasons", "unknown"])
@pytest.mark.parametrize("text", ["{", "5", "[" * 50_000, "9" * 5_000, "[null]"])
def test_json_that_is_none_is_a_server_error(output: str, text: str) -> None:
    with pytest.raises(ServerError):
        ask("recommend", with_output(output, lambda array: np.full(array.shape, text, object)))


@pytest.mark.parametrize("size", [0, -1, 2**40])
def test_a_size_that_nobody_can_send_is_a_server_error(size: int) -> None:
    changed = with_metadata(lambda info: {"inputs": {**info.inputs, "noise": (-1, -1, size)}})
    with pytest.raises(ServerError):
        ask("compose", changed)


def test_versions_that_are_no_numbers_are_not_requested() -> None:
    for version in ("x", "", "9" * 5_000, "\u0661"):
        assert ask("classify", with_metadata(lambda info, v=version: {"versions": (v, "1")})).model_version == "1"


@pytest.mark.parametrize("text", ["", "0", "-3", "x", "1.5", "9" * 5_000, "\u00b2"])
@pytest.mark.parametrize("name", ["frames_per_quarter", "max_frames", "max_notes"])
def test_a_parameter_that_is_no_number_is_taken_for_missing(name: str, text: str) -> None:
    changed = with_metadata(lambda info: {"parameters": {**info.parameters, name: text}})
    assert np.array_equal(ask("compose", changed).grid.frames, ask("compose", SERVER).grid.frames)


@pytest.mark.parametrize(
    "labels", ["", "{", "[]", "5", "[" * 50_000, '{"probabilities": []}', '{"probabilities": "abc"}', "9" * 5_000]
)
def test_labels_that_are_no_names_leave_numbers(labels: str) -> None:
    changed = with_metadata(lambda info: {"parameters": {"labels": labels}})
    assert set(ask("classify", changed).probabilities) == {"0", "1", "2"}


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c", "d"]])
def test_another_number_of_labels_is_a_server_error(names: list[str]) -> None:
    labels = json.dumps({"probabilities": names})
    with pytest.raises(ServerError) as caught:
        ask("classify", with_metadata(lambda info: {"parameters": {"labels": labels}}))
    assert caught.value.model == "genre_cnn"


def test_a_handler_that_raises_stop_iteration_by_mistake_is_not_a_result_of_none() -> None:
    replies = iter([SERVER(ModelRequest("genre_cnn"))])
    with pytest.raises(StopIteration):
        ask("classify", lambda request: next(replies))
