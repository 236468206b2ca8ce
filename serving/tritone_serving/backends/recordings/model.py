"""Triton backend `recordings`: decodes an audio file and classifies its windows with another model of the server.

Callers send the bytes of a file, a tenth of its samples, and need no decoder. Triton's stub loads this file as a
top-level module named `model`, and the modules in this folder by their own names. Health checks are recognised by a
module of the `onnxruntime` backend's folder; recordings are decoded by the package `tritone`.

Shapes: N windows, L labels, T tags.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The folder that Triton knows is a link; the other backend is next to the target of the link.
sys.path.append(str(Path(__file__).resolve().parent.parent / "onnxruntime"))

from tritone_ort_marks import is_canary, is_health_check, request_parameter

Array = np.ndarray[Any, Any]

_PER_WINDOW = ("probabilities", "emotions", "tags")
_OF_CLASSIFIER = (*_PER_WINDOW, "embedding")


class _ClassifierError(Exception):
    """Raised when the classifier does not respond; the message is sent to the caller."""


class _InvalidParameterError(Exception):
    """Raised when a parameter of a request is invalid; the message is sent to the caller."""


class _CancelledError(Exception):
    """Raised when the caller no longer waits for the response."""


class TritonPythonModel:
    """One instance of a model; Triton calls it from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the config."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        try:
            # Imported here, so that a missing package is reported as the reason why the model does not load.
            import tritone_recordings_decoding as decoding

            from tritone.pooling import mean_direction

            self._limits = decoding.read_limits(parameters)
        except ImportError as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: backend 'recordings' cannot import {error.name or 'a package'}: expected the "
                f"package tritone in the Python of the server, got: {error}; install it with: pip install tritone"
            ) from error
        except decoding.ParameterError as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}; export the model again") from error
        self._decoding = decoding
        self._mean_direction = mean_direction
        self._classifier = parameters.get("classifier_model", "")
        self._outputs = tuple(tensor["name"] for tensor in config["output"])
        if not self._classifier:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: missing parameter classifier_model; export the model again"
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Classify the recording of each request."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        if is_health_check(request):
            return pb_utils.InferenceResponse(output_tensors=[])
        wanted = set(request.requested_output_names())
        names = [name for name in self._outputs if not wanted or name in wanted]
        try:
            outputs = self._classified(request, _version(request), names)
        except (self._decoding.RecordingError, _InvalidParameterError) as error:
            return _refusal(str(error), pb_utils.TritonError.INVALID_ARG)
        except _CancelledError:
            return _refusal("the request was cancelled", pb_utils.TritonError.CANCELLED)
        except _ClassifierError as error:
            return _refusal(str(error), pb_utils.TritonError.UNAVAILABLE)
        except Exception as error:  # a fault of one request must not fail the others of the call
            pb_utils.Logger.log_error(
                f"recordings: [request id: {request.request_id()}] {type(error).__name__}: {error}"
            )
            return _refusal(f"the recording cannot be read ({type(error).__name__})", pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, outputs[name][None]) for name in names])

    def _content(self, request: Any) -> bytes:
        array = pb_utils.get_input_tensor_by_name(request, "recording").as_numpy()
        value = array.reshape(-1)[0] if array.size == 1 else b""
        content: bytes = value if isinstance(value, bytes) else bytes(value)
        # A canary is made from the config, which cannot say what a recording is.
        return self._decoding.canary_recording() if not content and is_canary(request) else content

    def _classified(self, request: Any, version: int, names: list[str]) -> dict[str, Array]:
        """Return the outputs for one recording, without the batch axis."""
        needed = [name for name in _OF_CLASSIFIER if name in names or (name in _PER_WINDOW and f"mean_{name}" in names)]
        decoding = self._decoding.Decoding(self._limits)
        parts: list[dict[str, Array]] = []
        for windows in decoding.batches(self._content(request)):
            if parts and request.is_cancelled():  # a long recording takes seconds, for which others wait
                raise _CancelledError
            # A caller may want only the times of the windows, or the remarks.
            parts.append(self._infer(windows, version, needed) if needed else {})
        found = {name: np.concatenate([part[name] for part in parts]) for name in needed}
        outputs: dict[str, Array] = {}
        for name in needed:
            if name in _PER_WINDOW:
                outputs[name] = found[name]  # (N, L), (N, 9), (N, T)
                outputs[f"mean_{name}"] = found[name].mean(axis=0, dtype=np.float64).astype(np.float32)
        if "embedding" in found:
            outputs["embedding"] = self._mean_direction(found["embedding"])
        outputs["start_s"] = np.array(decoding.starts_s, np.float32)
        outputs["duration_s"] = np.array([decoding.duration_s], np.float32)
        outputs["notes"] = np.array(["\n".join(decoding.notes).encode()], np.object_)
        return outputs

    def _infer(self, windows: Array, version: int, names: list[str]) -> dict[str, Array]:
        request = pb_utils.InferenceRequest(
            model_name=self._classifier,
            model_version=version,
            requested_output_names=names,
            inputs=[pb_utils.Tensor("audio", windows)],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        try:
            response = request.exec()
        except pb_utils.TritonModelException as error:
            raise _ClassifierError(str(error)) from error
        if response.has_error():
            raise _ClassifierError(response.error().message())
        return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in names}


def _version(request: Any) -> int:
    """Return the version of the classifier in the request's parameter `classifier_version`; -1 for the latest.

    Raises:
        _InvalidParameterError: it is not the number of a version.
    """
    value = request_parameter(request, "classifier_version")
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if value is None or text == "-1":
        return -1
    if not (text.isdecimal() and text.isascii() and len(text) <= 18):
        raise _InvalidParameterError(
            f"invalid parameter classifier_version: expected the number of a version of the classifier, got "
            f"{str(value)[:64]!r}; leave it out for the latest version"
        )
    return int(text)


def _refusal(text: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
