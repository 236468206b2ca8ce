"""Tests of recordings that clients send as files: what is sent, and when the client decodes instead."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.client.audio_files import encoded, tone
from tests.unit.client.conftest import FakeModel, noise
from tests.unit.client.writers import lacks

from tritone import (
    InferRequest,
    InferResponse,
    InvalidAudioError,
    ModelNotFoundError,
    ModelRequest,
    ModelResponse,
    MusicClient,
    Request,
    RequestRejectedError,
    Response,
    ServerBusyError,
    ServerError,
)
from tritone.operations.classify_files import file_content

FILE = encoded(tone(7), format="FLAC")


@dataclass
class FakeFiles(FakeModel):
    """A `genre_cnn` with a model for files, which answers with three windows of `start_s`."""

    max_recording_bytes: int = 1 << 20
    classifier: str = "genre_cnn"
    error: Exception | None = None
    changed: dict[str, Any] = field(default_factory=dict)
    file_requests: list[Request] = field(default_factory=list)

    def handle(self, request: Request, *, timeout_s: float) -> Response:
        if request.model != "genre_cnn_file":
            response = super().handle(request, timeout_s=timeout_s)
            if isinstance(response, ModelResponse):
                parameters = {**response.parameters, "file_model": "genre_cnn_file"}
                return replace(response, parameters=parameters)
            return response
        self.file_requests.append(request)
        if self.error is not None:
            raise self.error
        if isinstance(request, ModelRequest):
            outputs = {
                "probabilities": (-1, -1, -1),
                "emotions": (-1, -1, 9),
                "embedding": (-1, 256),
                "start_s": (-1, -1),
                "duration_s": (-1, 1),
                "notes": (-1, 1),
            }
            parameters = {"max_recording_bytes": str(self.max_recording_bytes), "classifier_model": self.classifier}
            return ModelResponse("genre_cnn_file", ("7",), {"recording": (-1, 1)}, outputs, 1, parameters)
        assert isinstance(request, InferRequest)
        if request.parameters["classifier_version"] != self.version:
            raise lacks(replace(request, model="genre_cnn", version=request.parameters["classifier_version"]))
        rows = np.tile(np.array([0.5, 0.3, 0.2], np.float32), (1, 3, 1))
        values: dict[str, Any] = {
            "probabilities": rows,
            "emotions": np.tile(np.linspace(0, 0.8, 9, dtype=np.float32), (1, 3, 1)),
            "embedding": np.eye(1, 256, dtype=np.float32),
            "start_s": np.array([[0, 3, 4]], np.float32),
            "duration_s": np.array([[7]], np.float32),
            "notes": np.array([["first\nsecond"]], np.object_),
            **self.changed,
        }
        outputs = {name: values[name] for name in request.outputs}
        return InferResponse(request.model, "7", request.request_id, outputs)

    def n_sent(self) -> tuple[int, int]:
        """Return the numbers of files and of requests with windows."""
        return sum(isinstance(each, InferRequest) for each in self.file_requests), len(self.inferences())


def classify(model: FakeModel, recording: Any, **options: Any) -> Any:
    with MusicClient(transport=model, retries=0, timeout_s=5, **{"audio_format": "file", **options}) as music:
        return music.classify(recording)


def test_a_file_is_sent_as_it_is() -> None:
    model = FakeFiles()
    result = classify(model, FILE)
    (request,) = (each for each in model.file_requests if isinstance(each, InferRequest))
    assert request.inputs["recording"].tolist() == [[FILE]]
    assert model.n_sent() == (1, 0)
    assert result.probabilities == pytest.approx({"classical": 0.5, "synth:pop": 0.3, "rock": 0.2})
    assert [window.start_s for window in result.timeline] == [0, 3, 4]
    assert result.duration_s == 7
    assert result.notes == ("first", "second")
    assert (result.model, result.model_version) == ("genre_cnn", "3")
    assert result.request_ids == (request.request_id,)


def test_a_model_for_files_that_calls_another_classifier_is_not_used() -> None:
    model = FakeFiles(classifier="genre_other")
    assert classify(model, FILE).duration_s == pytest.approx(7)
    assert model.n_sent() == (0, 1)


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "bytearray", "memoryview", "file"])
def test_what_is_a_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "song.flac"
    path.write_bytes(FILE)
    given = {
        "path": path,
        "text": str(path),
        "bytes": FILE,
        "bytearray": bytearray(FILE),
        "memoryview": memoryview(FILE),
        "file": io.BytesIO(FILE),
    }
    assert file_content(given[kind], 1 << 20) == FILE
    assert file_content(given[kind], len(FILE) - 1) is None


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize(
    "audio", [(np.zeros(9), 22_050), b"", "missing.ogg", "/", "\0", Pipe(FILE), io.StringIO("text"), None, 7]
)
def test_what_is_not_a_file(audio: Any) -> None:
    assert file_content(audio, 1 << 20) is None


@pytest.mark.parametrize("audio_format", ["int16", "float32"])
def test_files_are_not_sent_unasked(audio_format: str) -> None:
    model = FakeFiles()
    classify(model, FILE, audio_format=audio_format)
    assert not model.file_requests


def test_samples_are_sent_as_windows() -> None:
    model = FakeFiles()
    classify(model, noise(7))
    assert model.n_sent() == (0, 1)


def test_large_files_are_decoded_by_the_client() -> None:
    model = FakeFiles(max_recording_bytes=100)
    assert classify(model, FILE).duration_s == pytest.approx(7)
    assert model.n_sent() == (0, 1)


def test_a_server_without_the_model_for_files() -> None:
    model = FakeFiles(error=ModelNotFoundError("no such model", model="genre_cnn_file"))
    assert classify(model, FILE).duration_s == pytest.approx(7)
    assert model.n_sent() == (0, 1)


def refused(text: str) -> RequestRejectedError:
    return RequestRejectedError(
        f"the server answered to request 1: {text}; the request does not fit the model; check it"
    )


@pytest.mark.parametrize("reason", ["too_large", "too_long", "too_costly"])
def test_recordings_beyond_a_limit_of_the_server_are_decoded_by_the_client(reason: str) -> None:
    model = FakeFiles()
    model.before = lambda request: None
    with MusicClient(transport=model, audio_format="file") as music:
        music.classify(FILE)
        model.error = refused(f"invalid recording ({reason}): expected less")
        assert music.classify(FILE).duration_s == pytest.approx(7)
    assert model.n_sent() == (2, 1)


def test_an_unusable_recording_has_the_error_of_the_client(tmp_path: Path) -> None:
    path = tmp_path / "song.flac"
    path.write_bytes(FILE)
    model = FakeFiles()
    with MusicClient(transport=model, audio_format="file") as music:
        music.classify(FILE)
        model.error = refused("invalid recording (silent): is silent (its peak of 1e-6 is below 1e-4)")
        with pytest.raises(InvalidAudioError) as caught:
            music.classify(path)
        (error, again) = music.classify_group([path, noise(3)])
    assert (caught.value.reason, caught.value.path) == ("silent", str(path))
    assert str(caught.value) == f"{path}: is silent (its peak of 1e-6 is below 1e-4)"
    assert isinstance(error, InvalidAudioError)
    assert not isinstance(again, InvalidAudioError)


def test_other_refusals_and_busy_servers_are_errors() -> None:
    for error in (refused("another problem"), ServerBusyError("the queue is full")):
        model = FakeFiles()
        with MusicClient(transport=model, audio_format="file", retries=0) as music:
            music.classify(FILE)
            model.error = error
            with pytest.raises(type(error)):
                music.classify(FILE)


def test_a_new_version_of_the_classifier_is_looked_up_again() -> None:
    model = FakeFiles()
    with MusicClient(transport=model, audio_format="file") as music:
        assert music.classify(FILE).model_version == "3"
        model.version = "4"
        assert music.classify(FILE).model_version == "4"


@pytest.mark.parametrize(
    "changed",
    [
        {"probabilities": np.zeros((1, 2, 3), np.float32)},
        {"emotions": np.full((1, 3, 9), np.nan, np.float32)},
        {"start_s": np.zeros((2, 3), np.float32)},
        {"duration_s": np.zeros((3,), np.float32)},
    ],
    ids=["windows", "nan", "rows", "shape"],
)
def test_malformed_responses(changed: dict[str, Any]) -> None:
    with pytest.raises(ServerError) as caught:
        classify(FakeFiles(changed=changed), FILE)
    assert caught.value.reason == "invalid_output"


def test_the_model_for_files_is_not_named_by_callers() -> None:
    with pytest.raises(ServerError, match="name genre_cnn, and the client uses 'genre_cnn_file'") as caught:
        classify(FakeFiles(), FILE, genre_model="genre_cnn_file")
    assert caught.value.reason == "unsuitable_model"
