"""Tests of class names in the parameters of a model: complete, missing, malformed, or too many or too few."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tritone import ModelRequest, MusicClient, Request
from tritone.constants import EMOTIONS
from tritone.exceptions import VersionChangedError
from tritone.messages import ModelResponse
from tritone.model_cache import CLASSIFIER, CachedModel
from tritone.testing import FakeGenreModel, MockTransport, Reply

TONE = (0.5 * np.sin(np.arange(70_000) / 10).astype(np.float32), 22_050)


def cached(labels: str | None) -> CachedModel:
    parameters = {} if labels is None else {"labels": labels}
    return CachedModel(ModelResponse("m", ("1",), {}, {}, 8, parameters), CLASSIFIER, "1")


def test_names_are_those_of_the_parameters() -> None:
    model = cached(json.dumps({"probabilities": ["jazz", "夜"], "tags": [1, "fast"]}))
    assert model.labels("probabilities", 2) == ("jazz", "夜")
    assert model.labels("tags", 2) == ("1", "fast")


@pytest.mark.parametrize(
    "labels",
    [
        None,
        "",
        "{",
        "null",
        "7",
        '["jazz", "rock"]',
        "{}",
        '{"probabilities": []}',
        '{"probabilities": null}',
        '{"probabilities": "jazz"}',
        '{"probabilities": {"jazz": 0}}',
        '{"tags": ["fast", "slow"]}',
        "[" * 100_000,
    ],
)
def test_classes_without_usable_names_are_numbered(labels: str | None) -> None:
    model = cached(labels)
    assert model.labels("probabilities", 2) == ("0", "1")
    assert model.labels("emotions", 9) == EMOTIONS
    assert model.labels("emotions", 3) == ("0", "1", "2")


def test_numbered_classes_are_logged_once_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    info = ModelResponse("written by hand", ("1",), {}, {}, 8)
    for _ in range(3):
        CachedModel(info, CLASSIFIER, "1").labels("probabilities", 2)
        CachedModel(info, CLASSIFIER, "1").labels("emotions", 9)
    (record,) = caplog.records
    assert record.args == ("written by hand", "probabilities")
    assert "the parameter `labels` of its config.pbtxt" in record.getMessage()


@pytest.mark.parametrize("n_labels", [0, 1, 3])
def test_another_number_of_values_than_names_is_another_version(n_labels: int) -> None:
    with pytest.raises(VersionChangedError) as caught:
        cached('{"probabilities": ["jazz", "rock"]}').labels("probabilities", n_labels)
    assert caught.value.model == "m"


@pytest.mark.parametrize("labels", ["{", '{"probabilities": ["jazz", "rock", "folk"]}'])
def test_clients_fetch_the_metadata_again_if_the_number_of_names_is_wrong(labels: str) -> None:
    model, n_looked_up = FakeGenreModel({"jazz": 0.2, "rock": 0.8}), 0

    def handler(request: Request) -> Reply:
        nonlocal n_looked_up
        reply = model(request)
        if not isinstance(reply, ModelResponse):
            return reply
        n_looked_up += 1
        return replace(reply, parameters={"labels": labels}) if n_looked_up == 1 else reply

    transport = MockTransport(handler)
    with MusicClient(transport=transport) as music:
        found = music.classify(TONE)
    if labels == "{":
        assert (found.label, n_looked_up) == ("1", 1)
    else:
        assert (found.label, n_looked_up) == ("rock", 2)
    assert isinstance(transport.requests[0], ModelRequest)
