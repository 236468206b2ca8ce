"""Responses of the `recordings` backend: outputs, versions of the classifier, and requests that are cancelled."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.unit.client.audio_files import encoded, tone
from tests.unit.serving.conftest import BACKENDS

CODES = ("INTERNAL", "INVALID_ARG", "UNAVAILABLE", "CANCELLED")


class FakeTensor:
    def __init__(self, name: str, values: Any) -> None:
        self.name, self.values = name, values

    def as_numpy(self) -> Any:
        return self.values


class FakeError(SimpleNamespace):
    def __init__(self, text: str, code: int) -> None:
        super().__init__(text=text, code=code)


class FakeRequest:
    """A request with one recording; it counts as cancelled after a number of calls of the classifier."""

    def __init__(
        self,
        content: bytes,
        outputs: tuple[str, ...],
        parameters: dict[str, Any],
        calls: list[int],
        cancelled_after: int,
    ) -> None:
        self.content, self._outputs, self._parameters, self._calls = content, outputs, parameters, calls
        self._cancelled_after = cancelled_after

    def parameters(self) -> str:
        return json.dumps(self._parameters)

    def requested_output_names(self) -> tuple[str, ...]:
        return self._outputs

    def request_id(self) -> str:
        return "1"

    def is_cancelled(self) -> bool:
        return len(self._calls) >= self._cancelled_after


@pytest.fixture
def model(backend: Any, recordings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend with a classifier that records the versions of its requests in `calls`."""
    calls: list[int] = []

    class FakeInference:
        def __init__(self, *, model_version: int, requested_output_names: list[str], inputs: Any, **_: Any) -> None:
            self.version, self.names, self.n = model_version, requested_output_names, len(inputs[0].values)

        def exec(self) -> Any:
            calls.append(self.version)
            return SimpleNamespace(
                has_error=lambda: False, outputs={name: np.ones((self.n, 2), np.float32) for name in self.names}
            )

    fake = SimpleNamespace(
        InferenceRequest=FakeInference,
        InferenceResponse=lambda output_tensors=(), error=None: SimpleNamespace(outputs=output_tensors, error=error),
        PreferredMemory=lambda _: None,
        TRITONSERVER_MEMORY_CPU=0,
        Tensor=FakeTensor,
        TritonError=FakeError,
        TritonModelException=RuntimeError,
        get_input_tensor_by_name=lambda request, _: FakeTensor("", np.array([[request.content]], object)),
        get_output_tensor_by_name=lambda response, name: FakeTensor(name, response.outputs[name]),
    )
    for code in CODES:
        setattr(FakeError, code, code)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    # By its path: each backend has a module of the name `model`.
    spec = importlib.util.spec_from_file_location("recordings_model", BACKENDS / "recordings" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.TritonPythonModel()
    parameters = {
        "classifier_model": "genre_cnn", "max_recording_bytes": "1e8", "max_recording_s": "600", "max_decode_s": "5",
    }  # fmt: skip
    names = ("probabilities", "mean_probabilities", "embedding", "start_s", "duration_s", "notes")
    config = {
        "parameters": {name: {"string_value": text} for name, text in parameters.items()},
        "output": [{"name": name} for name in names],
    }
    made.initialize({"model_config": json.dumps(config), "model_name": "genre_cnn_file"})
    made.calls = calls
    return made


def respond(model: Any, *outputs: str, duration_s: float = 4, cancelled_after: int = 99, **parameters: Any) -> Any:
    content = encoded(tone(duration_s), format="WAV")
    (response,) = model.execute([FakeRequest(content, outputs, parameters, model.calls, cancelled_after)])
    return response


def outputs_of(response: Any) -> dict[str, Any]:
    return {tensor.name: tensor.as_numpy() for tensor in response.outputs}


def test_all_outputs_are_returned_unless_some_are_requested(model: Any) -> None:
    found = outputs_of(respond(model, duration_s=7))
    assert {name: each.shape for name, each in found.items()} == {
        "probabilities": (1, 3, 2), "mean_probabilities": (1, 2), "embedding": (1, 2), "start_s": (1, 3),
        "duration_s": (1, 1), "notes": (1, 1),
    }  # fmt: skip
    np.testing.assert_allclose(found["mean_probabilities"], [[1, 1]])
    np.testing.assert_allclose(found["embedding"], [[0.5**0.5, 0.5**0.5]], rtol=1e-6)
    some = outputs_of(respond(model, "mean_probabilities", "duration_s"))
    assert list(some) == ["mean_probabilities", "duration_s"]


def test_nothing_is_classified_for_outputs_of_the_recording_alone(model: Any) -> None:
    found = outputs_of(respond(model, "start_s", "duration_s", "notes", duration_s=7))
    np.testing.assert_allclose(found["start_s"], [[0, 3, 4]])
    assert model.calls == []


@pytest.mark.parametrize(
    ("parameters", "version"),
    [
        ({}, -1),
        ({"classifier_version": "12"}, 12),
        ({"classifier_version": 12}, 12),
        ({"classifier_version": "-1"}, -1),
    ],
)
def test_versions_of_the_classifier(model: Any, parameters: dict[str, Any], version: int) -> None:
    assert respond(model, **parameters).error is None
    assert model.calls == [version]


@pytest.mark.parametrize("value", ["", "latest", "-5", "1.0", "9" * 30, "\u0663", True, 1.5, ["1"]])
def test_invalid_versions_are_refused(model: Any, value: Any) -> None:
    error = respond(model, classifier_version=value).error
    assert error.code == "INVALID_ARG"
    assert "classifier_version" in error.text
    assert model.calls == []


def test_a_cancelled_request_ends_before_its_next_windows(model: Any) -> None:
    assert respond(model, duration_s=150, cancelled_after=2).error.code == "CANCELLED"
    assert len(model.calls) == 2  # of four
    assert respond(model, duration_s=150).error is None
