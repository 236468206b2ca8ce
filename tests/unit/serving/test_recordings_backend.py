"""The `recordings` backend: windows of files, refusals of files that would cost too much, and responses to requests."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.unit.client.audio_files import encoded, tone
from tests.unit.serving.conftest import BACKENDS

from tritone.audio import iter_windows


def limits(recordings: Any, **changed: float) -> Any:
    return recordings.decoding.Limits(
        **{"max_bytes": 1 << 25, "max_duration_s": 1200.0, "max_decode_s": 5.0, **changed}
    )


def decode(recordings: Any, content: bytes, **changed: float) -> tuple[Any, list[np.ndarray[Any, Any]]]:
    decoding = recordings.decoding.Decoding(limits(recordings, **changed))
    return decoding, list(decoding.batches(content))


def refusal(recordings: Any, content: bytes, **changed: float) -> str:
    with pytest.raises(recordings.decoding.RecordingError) as caught:
        decode(recordings, content, **changed)
    return str(caught.value)


def silence(duration_s: float, *, n_channels: int, rate_hz: int) -> bytes:
    """A FLAC file of little more than silence, which is small for its length."""
    samples = np.zeros((round(duration_s * rate_hz), n_channels), np.float32)
    samples[: rate_hz // 10] = 0.5
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="FLAC")
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["OGG", "FLAC", "MP3", "WAV"])
def test_windows_are_those_of_the_client(recordings: Any, file_format: str) -> None:
    content = encoded(tone(50.5), format=file_format)
    expected = list(iter_windows(content))
    decoding, batches = decode(recordings, content)
    assert [len(batch) for batch in batches] == [16, len(expected) - 16]
    np.testing.assert_array_equal(np.concatenate(batches), [window.samples for window in expected])
    assert decoding.starts_s == [window.start_s for window in expected]
    assert decoding.duration_s == pytest.approx(expected[-1].start_s + 3)


def test_notes_are_collected(recordings: Any) -> None:
    left = tone(5)
    decoding, _ = decode(recordings, encoded(np.stack([left, -left], axis=1), format="WAV"))
    assert len(decoding.notes) == 1
    assert "cancel" in decoding.notes[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"1", "unreadable"),
        (os.urandom(1 << 20), "unreadable"),
        (b"RIFF\xff\xff\xff\xffWAVE" + b"junk\0\0\0\0" * 100_000, "unreadable"),
        (b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(100), "unreadable"),
        (encoded(tone(0.2), format="WAV"), "too_short"),
        (encoded(1e-6 * tone(5), format="WAV", subtype="FLOAT"), "silent"),
        (encoded(tone(5), format="FLAC")[:3_000], "unreadable"),
    ],
    ids=["empty", "one-byte", "random", "chunks", "huge-tag", "short", "silent", "cut-off"],
)
def test_unusable_files_are_refused(recordings: Any, content: bytes, reason: str) -> None:
    assert refusal(recordings, content).startswith(f"invalid recording ({reason}): ")


def test_files_beyond_the_limits_are_refused(recordings: Any) -> None:
    content = encoded(tone(10), format="MP3")
    assert refusal(recordings, content, max_bytes=1_000).startswith("invalid recording (too_large): ")
    assert refusal(recordings, content, max_duration_s=5).startswith("invalid recording (too_long): ")


@pytest.fixture
def n_windows(recordings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns how many windows were decoded in this test."""
    decoded: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        for window in iter_windows(*arguments, **options):
            decoded.append(window)
            yield window

    monkeypatch.setattr(recordings.decoding, "iter_windows", counted)
    return lambda: len(decoded)


def test_a_small_file_of_many_samples_is_refused_at_its_beginning(
    recordings: Any, n_windows: Callable[[], int]
) -> None:
    content = silence(60, n_channels=8, rate_hz=655_350)
    assert len(content) < 1 << 20
    # Three seconds of it are 16 million samples, which no machine decodes in that time.
    assert refusal(recordings, content, max_decode_s=0.005).startswith("invalid recording (too_costly): ")
    assert n_windows() == 1


def test_a_long_silence_is_refused_by_its_header(recordings: Any, n_windows: Callable[[], int]) -> None:
    content = silence(1300, n_channels=1, rate_hz=8_000)
    assert refusal(recordings, content).startswith("invalid recording (too_long): ")
    assert n_windows() == 0


def test_the_time_of_the_classifier_does_not_count(recordings: Any) -> None:
    decoding = recordings.decoding.Decoding(limits(recordings, max_decode_s=0.5))
    for _ in decoding.batches(encoded(tone(100), format="WAV")):
        end_s = time.thread_time() + 0.3
        while time.thread_time() < end_s:
            pass


def test_a_canary_is_a_usable_recording(recordings: Any) -> None:
    decoding, batches = decode(recordings, recordings.decoding.canary_recording())
    assert [batch.shape for batch in batches] == [(1, 66_150)]
    assert not decoding.notes


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "many"])
def test_invalid_parameters(recordings: Any, text: str) -> None:
    valid = {"max_recording_bytes": "1000", "max_recording_s": "60", "max_decode_s": "0.5"}
    assert recordings.decoding.read_limits(valid) == recordings.decoding.Limits(1_000, 60.0, 0.5)
    for name in valid:
        with pytest.raises(recordings.decoding.ParameterError):
            recordings.decoding.read_limits({**valid, name: text})


# --- responses to requests ---------------------------------------------------------------------------------------


class Tensor:
    """A tensor as in Triton's module for Python backends."""

    def __init__(self, name: str, values: np.ndarray[Any, Any]) -> None:
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self._values


class Request:
    """A request for some outputs; all if there are none."""

    def __init__(self, content: bytes, *outputs: str, **parameters: Any) -> None:
        self.recording = np.array([[content]], np.object_)
        self._outputs, self._parameters = outputs, parameters

    def requested_output_names(self) -> tuple[str, ...]:
        return self._outputs

    def parameters(self) -> str:
        return json.dumps(self._parameters)


class TritonError:
    """A refusal, as in Triton's module for Python backends."""

    INVALID_ARG, UNAVAILABLE, INTERNAL = 3, 4, 5

    def __init__(self, text: str, code: int) -> None:
        self.text, self.code = text, code


class Served:
    """An instance of the model, with a stand-in for Triton's module and for the classifier."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.classified: list[Any] = []  # model, version, outputs and windows of each request to the classifier
        served = self

        class ToClassifier:
            def __init__(self, **options: Any) -> None:
                self._options = options

            def exec(self) -> Any:
                options = self._options
                (windows,) = (each.as_numpy() for each in options["inputs"])
                served.classified.append(
                    (options["model_name"], options["model_version"], options["requested_output_names"], len(windows))
                )
                rows = np.tile(np.array([[0.6, 0.8]], np.float32), (len(windows), 1))
                tensors = [Tensor(name, rows) for name in options["requested_output_names"]]
                return SimpleNamespace(has_error=lambda: False, tensors=tensors)

        fake: Any = ModuleType("triton_python_backend_utils")
        fake.Tensor, fake.InferenceRequest = Tensor, ToClassifier
        fake.InferenceResponse = lambda output_tensors=(), error=None: SimpleNamespace(
            outputs={each.name(): each.as_numpy() for each in output_tensors}, error=error
        )
        fake.TritonError = TritonError
        fake.TritonModelException = type("TritonModelException", (Exception,), {})
        fake.PreferredMemory = fake.TRITONSERVER_MEMORY_CPU = lambda *_: None
        fake.get_input_tensor_by_name = lambda request, name: Tensor(name, getattr(request, name))
        fake.get_output_tensor_by_name = lambda response, name: next(
            each for each in response.tensors if each.name() == name
        )
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
        spec = importlib.util.spec_from_file_location("recordings_model", BACKENDS / "recordings" / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._model = module.TritonPythonModel()
        parameters = {
            "classifier_model": "genre_cnn", "max_recording_bytes": "1e6", "max_recording_s": "60", "max_decode_s": "5",
        }  # fmt: skip
        outputs = ("probabilities", "mean_probabilities", "embedding", "start_s", "duration_s", "notes")
        config = {
            "parameters": {name: {"string_value": value} for name, value in parameters.items()},
            "output": [{"name": name} for name in outputs],
        }
        self._model.initialize({"model_name": "genre_cnn_file", "model_config": json.dumps(config)})

    def ask(self, *outputs: str, **parameters: Any) -> Any:
        (response,) = self._model.execute([Request(encoded(tone(7), format="WAV"), *outputs, **parameters)])
        return response


@pytest.fixture
def served(backend: Any, recordings: Any, monkeypatch: pytest.MonkeyPatch) -> Served:
    """`backend` and `recordings` put the folders of both backends on the path, as Triton's stub does."""
    return Served(monkeypatch)


def test_all_outputs_are_returned_unless_some_are_requested(served: Served) -> None:
    found = served.ask().outputs
    assert {name: each.shape for name, each in found.items()} == {
        "probabilities": (1, 3, 2), "mean_probabilities": (1, 2), "embedding": (1, 2), "start_s": (1, 3),
        "duration_s": (1, 1), "notes": (1, 1),
    }  # fmt: skip
    np.testing.assert_allclose(found["mean_probabilities"], [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(found["embedding"], [[0.6, 0.8]], rtol=1e-6)
    assert list(served.ask("mean_probabilities", "duration_s").outputs) == ["mean_probabilities", "duration_s"]
    assert served.classified == [
        ("genre_cnn", -1, ["probabilities", "embedding"], 3),
        ("genre_cnn", -1, ["probabilities"], 3),
    ]


def test_nothing_is_classified_for_outputs_of_the_recording_alone(served: Served) -> None:
    found = served.ask("start_s", "duration_s", "notes").outputs
    np.testing.assert_allclose(found["start_s"], [[0, 3, 4]])
    assert served.classified == []


@pytest.mark.parametrize("version", ["12", 12])
def test_a_request_may_name_a_version_of_the_classifier(served: Served, version: Any) -> None:
    assert served.ask(classifier_version=version).error is None
    assert [each[1] for each in served.classified] == [12]


@pytest.mark.parametrize("version", ["", "newest", "-1", "1.0", "9" * 19, 1.5, [1]])
def test_an_invalid_version_of_the_classifier_is_refused(served: Served, version: Any) -> None:
    error = served.ask(classifier_version=version).error
    assert error.code == TritonError.INVALID_ARG
    assert "classifier_version" in error.text
    assert served.classified == []
