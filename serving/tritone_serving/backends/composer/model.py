"""Triton backend `composer`: streams a long piece bar by bar from a graph that generates a few frames at a time.

A request is one piece. Its responses are sent while it is generated: the first after a few frames, then one for each
bar. Generation stops when the client cancels or disconnects. Pieces of several requests advance together, in joint
runs of the graph (tritone_composer_engine).

Triton's stub loads this file as a top-level module named `model`, and the modules in this folder by their own names, so
nothing here may import from a package of this project. ONNX files are opened and requests read by modules of the
`onnxruntime` backend's folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The folder that Triton knows is a link; the other backend is next to the target of the link.
sys.path.append(str(Path(__file__).resolve().parent.parent / "onnxruntime"))

from tritone_composer_engine import Engine
from tritone_composer_graph import FIRST_FRAME, ChunkGraph, RequestedPiece, n_graphs, read_options
from tritone_composer_metrics import Counters, make_counters
from tritone_composer_stream import EndReason
from tritone_ort_batching import Failed, read_request
from tritone_ort_marks import is_canary, is_health_check
from tritone_ort_session import SessionError, model_file, open_session

Array = np.ndarray[Any, Any]

# `tritone serve` creates this file when it stops the server: Triton itself notifies a backend only after the last piece
# has ended. (pb_utils.is_model_ready would show it, but crashes the stub of 2.51 if the response is an error.)
_STOP_FILE = Path(os.environ["TRITONE_STOP_FILE"]) if "TRITONE_STOP_FILE" in os.environ else None

# Names in pb_utils.TritonError, which the stub fills in only after it has imported this file.
_CODES = {
    EndReason.INVALID: "INVALID_ARG",
    EndReason.BUSY: "UNAVAILABLE",
    EndReason.LATE: "UNAVAILABLE",
    EndReason.CLOSING: "UNAVAILABLE",
    EndReason.CANCELLED: "CANCELLED",
    EndReason.BROKEN: "INTERNAL",
}


class TritonPythonModel:
    """One instance of a model; Triton calls it from one thread, and the engine responds from another."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the sessions, check the config against them, run each once, and start the engine's threads."""
        config = json.loads(args["model_config"])
        folder = f"{args['model_repository']}/{args['model_version']}"
        try:
            self._options = read_options(config)
            path = model_file(folder, config)
            kind = args["model_instance_kind"]
            graphs: list[ChunkGraph] = []
            # A session for each simultaneous run: two runs in one session contend for memory allocation and take 0 to
            # 40 % longer (benchmarks/batch_loops.py).
            for _ in range(n_graphs(self._options, kind)):
                session = open_session(
                    path,
                    config,
                    instance_kind=kind,
                    device_id=int(args["model_instance_device_id"]),
                    warn=(lambda _: None) if graphs else pb_utils.Logger.log_warn,
                )
                graphs.append(ChunkGraph(session, config, path))
                graphs[-1].warm_up(self._options)
            self._contract = graphs[0].contract
        except (SessionError, Failed) as error:
            raise pb_utils.TritonModelException(str(error)) from error
        name = args["model_name"]
        self._counters = make_counters(pb_utils, {"model": name, "version": args["model_version"]})
        self._engine = Engine(
            graphs,
            self._options,
            self._counters,
            is_stopping=_STOP_FILE.exists if _STOP_FILE else lambda: False,
            warn=pb_utils.Logger.log_error,
        )

    def execute(self, requests: list[Any]) -> None:
        """Pass each request to the engine, or refuse it; never waits for a run."""
        for request in requests:
            if is_health_check(request):
                request.get_response_sender().send(
                    pb_utils.InferenceResponse(output_tensors=[]), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
                )
                continue
            canary = is_canary(request)
            sender = Sender(request.get_response_sender(), Counters() if canary else self._counters)
            try:
                ready = read_request(0, request, self._contract)
                sender.wanted = ready.wanted
                self._engine.add(RequestedPiece(ready.feed, self._options), sender, is_canary=canary)
            except Failed as error:
                _refuse(sender, str(error))
            except Exception as error:  # data that cannot be read must not fail the other requests of the call
                _refuse(sender, f"the inputs cannot be read ({type(error).__name__})")

    def finalize(self) -> None:
        """End all unfinished pieces, and free the sessions."""
        self._engine.close()
        del self._engine


def _refuse(sender: Sender, text: str) -> None:
    try:
        sender.end(EndReason.INVALID, text)
    except Exception as error:  # nor must Triton's own errors
        pb_utils.Logger.log_error(f"composer: a refusal could not be sent: {error}")


class Sender:
    """Sends the responses to one request through Triton.

    Attributes:
        wanted: names of the requested outputs.
    """

    def __init__(self, sender: Any, counters: Counters) -> None:
        self._sender = sender
        self._counters = counters
        self._is_ended = False
        self.wanted: tuple[str, ...] = ()

    def send(self, outputs: dict[str, Array], first_frame: int, *, last: bool) -> None:
        """Send the next frames; each output has the batch axis."""
        arrays = {**outputs, FIRST_FRAME: np.array([first_frame], np.int64)}
        tensors = [pb_utils.Tensor(name, arrays[name]) for name in self.wanted]
        self._sender.send(
            pb_utils.InferenceResponse(output_tensors=tensors),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0,
        )
        self._is_ended = last

    def end(self, reason: EndReason, text: str) -> None:
        """Send the error that ends the responses, unless they have ended."""
        if self._is_ended:
            return
        self._is_ended = True
        self._sender.send(
            pb_utils.InferenceResponse(error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, _CODES[reason]))),
            flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
        )
        if reason is not EndReason.CANCELLED:
            self._counters.add_refused()

    def is_cancelled(self) -> bool:
        """Return whether the client cancelled the request or disconnected."""
        return bool(self._sender.is_cancelled())
