"""Triton backend `renderer`: plays frames of music on a synthesizer and cuts the sound into windows for `genre_cnn`.

It joins models that write scores with models that listen, inside ensembles. Triton's stub loads this file as a
top-level module named `model`, and the modules in this folder by their own names. Requests are read by modules of the
`onnxruntime` backend's folder; sound is made by the package `tritone` with its extra `render`.

Shapes: N frames, W windows of 66,150 samples.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The folder that Triton knows is a link; the other backend is next to the target of the link.
sys.path.append(str(Path(__file__).resolve().parent.parent / "onnxruntime"))

from tritone_ort_batching import Failed, read_request
from tritone_ort_contract import Contract, Spec
from tritone_ort_limits import read_limits
from tritone_ort_marks import is_health_check
from tritone_ort_session import SessionError

_TYPES = {"frames": np.uint8, "frame_s": np.float32}
_OUTPUTS = ("audio", "start_s", "duration_s", "render_s")


class TritonPythonModel:
    """One instance of a model; Triton calls it from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the config, and load the synthesizer."""
        config = json.loads(args["model_config"])
        try:
            # Imported here, so that a missing package is reported as the reason why the model does not load.
            import tritone_renderer_sound as sound

            self._contract = _contract(config)
            sound.warm_up()
        except ImportError as error:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: backend 'renderer' cannot import {error.name or 'a package'}: expected the "
                f"package tritone with its extra 'render' in the Python of the server, got: {error}; install it with: "
                f"pip install 'tritone[render]'"
            ) from error
        except (SessionError, sound.RenderError) as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from error
        self._sound = sound

    def execute(self, requests: list[Any]) -> list[Any]:
        """Render the frames of each request."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        if is_health_check(request):
            return pb_utils.InferenceResponse(output_tensors=[])
        try:
            ready = read_request(0, request, self._contract)
            began_s = time.perf_counter()
            made = self._sound.render_windows(ready.feed["frames"][0], float(ready.feed["frame_s"][0, 0]))
        except (Failed, self._sound.RenderError) as error:
            return _refusal(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # a fault of one request must not fail the others of the call
            pb_utils.Logger.log_error(f"renderer: [request id: {request.request_id()}] {type(error).__name__}: {error}")
            return _refusal(f"the frames cannot be rendered ({type(error).__name__})", pb_utils.TritonError.INTERNAL)
        outputs = {
            "audio": made.windows,  # (W, 66150)
            "start_s": made.starts_s,  # (W,)
            "duration_s": np.array([made.duration_s], np.float32),
            "render_s": np.array([time.perf_counter() - began_s], np.float32),
        }
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, outputs[name]) for name in ready.wanted]
        )


def _contract(config: dict[str, Any]) -> Contract:
    """Return the checks of requests, from the config.

    Raises:
        SessionError: the config has other tensors than this backend.
    """
    for side, expected in (("input", tuple(_TYPES)), ("output", _OUTPUTS)):
        found = sorted(tensor["name"] for tensor in config[side])
        if found != sorted(expected):
            raise SessionError(
                f"invalid {side}s in config.pbtxt: expected {', '.join(sorted(expected))}, got "
                f"{', '.join(found) or 'none'}; export the ensemble that uses this model again"
            )
    if int(config["max_batch_size"]):
        raise SessionError(
            f"invalid max_batch_size: expected 0, got {config['max_batch_size']}; export the model again"
        )
    inputs = []
    for tensor in config["input"]:
        sizes = [int(size) for size in tensor["dims"]]
        dims = tuple(None if size < 0 else size for size in sizes)
        inputs.append(Spec(tensor["name"], _TYPES[tensor["name"]], dims))
    no_metadata = SimpleNamespace(get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}))
    return Contract(tuple(inputs), _OUTPUTS, batched=False, limits=read_limits(config, no_metadata))


def _refusal(text: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
