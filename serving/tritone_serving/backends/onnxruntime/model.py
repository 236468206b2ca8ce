"""Triton backend `onnxruntime`, in Python: runs a model's ONNX file with pip's onnxruntime.

It has the name and reads the parameters of NVIDIA's native backend, so that the same repository works with both.
Triton's stub loads this file as a top-level module named `model`, and the modules in this folder by their own names, so
nothing here may import from a package of this project.

Shapes: R requests of one execute call, B rows of a joint run.
"""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tritone_ort_batching import Failed, JointRun, Ready, Refused, group_requests, read_request
from tritone_ort_contract import Contract, read_contract
from tritone_ort_cores import FILE_VARIABLE, CoreSharingSession, RunningInstances, shared_thread_count
from tritone_ort_marks import WarmUp, is_health_check
from tritone_ort_session import PartsSession, SessionError, max_rows_per_run, model_file, open_session


class TritonPythonModel:
    """One instance of a model; Triton calls each instance from one thread."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Add the inputs and outputs that config.pbtxt leaves out, from the ONNX file."""
        known = config.as_dict()
        if known["input"] and known["output"]:
            return config  # without reading the file: a start waits for this
        from tritone_ort_contract import complete_config

        try:
            session = open_session(model_file(pb_utils.get_model_dir(), known), known, instance_kind="CPU", device_id=0)
            return complete_config(config, session)
        except SessionError as error:
            raise pb_utils.TritonModelException(str(error)) from error

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session and check the config against it."""
        config = json.loads(args["model_config"])
        folder = f"{args['model_repository']}/{args['model_version']}"
        kind, device_id = args["model_instance_kind"], int(args["model_instance_device_id"])
        try:
            path = model_file(folder, config)
            # An instance runs one request, or one batch, after another, with one of its sessions.
            open_one = partial(
                open_session, path, config, instance_kind=kind, device_id=device_id, shares_arena=kind == "CPU"
            )
            session = open_one(warn=pb_utils.Logger.log_warn)
            self._contract: Contract = read_contract(config, session, path)
            self._instances = _running_instances() if kind == "CPU" else None
            if self._instances is not None:
                n_threads = shared_thread_count(config, n_cores=len(os.sched_getaffinity(0)))
                shared = session
                if n_threads is not None:
                    shared = open_one(n_threads=n_threads, warn=lambda _: None)
                session = CoreSharingSession(self._instances, all_cores=session, shared=shared)
            n_rows = max_rows_per_run(config)
            if n_rows and kind == "CPU":
                session = PartsSession(session, n_rows)
        except SessionError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        self._joint = JointRun(session, self._contract)
        self._warm_up = WarmUp(config)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Respond to R requests with as few runs as their shapes allow; each gets its own response or error."""
        answers: list[Any] = [None] * len(requests)
        ready: list[Ready] = []
        for index, request in enumerate(requests):
            if is_health_check(request):
                answers[index] = pb_utils.InferenceResponse(output_tensors=[])
                continue
            try:
                is_warm_up = self._warm_up.consume(request)
                ready.append(read_request(index, request, self._contract, is_warm_up=is_warm_up))
            except Failed as error:
                answers[index] = _refusal(error, pb_utils.TritonError.INVALID_ARG)
            except Exception as error:  # data that cannot be read must not fail the other requests of the call
                problem = Failed(f"the inputs cannot be read ({type(error).__name__})")
                answers[index] = _refusal(problem, pb_utils.TritonError.INVALID_ARG)
        for group in group_requests(ready, self._contract):
            for member, outcome in zip(group, self._joint.run(group), strict=True):
                if isinstance(outcome, Refused):
                    answers[member.index] = _refusal(outcome, pb_utils.TritonError.INVALID_ARG)
                elif isinstance(outcome, Failed):
                    request_id = requests[member.index].request_id()
                    pb_utils.Logger.log_error(f"onnxruntime: [request id: {request_id}] {outcome}")
                    answers[member.index] = _refusal(outcome, pb_utils.TritonError.INTERNAL)
                else:
                    answers[member.index] = pb_utils.InferenceResponse(
                        output_tensors=[pb_utils.Tensor(name, _sendable(value)) for name, value in outcome.items()]
                    )
        return answers

    def finalize(self) -> None:
        """Free the session, and with it the memory of a GPU, before the process ends."""
        del self._joint
        if self._instances is not None:
            self._instances.close()


def _running_instances() -> RunningInstances | None:
    """Return the running instances of the server; None if its launcher has not set up the common file."""
    path = os.environ.get(FILE_VARIABLE)
    if not path:
        return None
    try:
        return RunningInstances(path)
    except OSError as error:
        pb_utils.Logger.log_warn(f"onnxruntime: {path}: {error}; instances do not share the cores")
        return None


def _refusal(error: Failed, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))


def _sendable(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # Text is sent as bytes; everything else is copied once, into shared memory.
    return value.astype(np.object_) if value.dtype.kind in "US" else value
