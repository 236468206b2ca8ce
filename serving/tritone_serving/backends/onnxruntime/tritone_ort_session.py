"""Opens an ONNX Runtime session with the options of NVIDIA's native backend.

The names and values are those of github.com/triton-inference-server/onnxruntime_backend; what has no
counterpart here (TensorRT, OpenVINO, sessions shared between instances) is logged and ignored. One parameter is ours,
and ignored there: `max_rows_per_run`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# `optimization { graph { level } }`: 0 is the default of the protobuf, and means all.
GRAPH_LEVELS = {-1: "ORT_ENABLE_BASIC", 0: "ORT_ENABLE_ALL", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
CUDNN_SEARCH = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
ARENA_STRATEGY = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
ENV_ALLOCATORS = "session.use_env_allocators"  # 1: the arena of the process


class SessionError(Exception):
    """Raised when a model cannot be served; the message is for its operator."""


def model_file(folder: str, config: dict[str, Any]) -> str:
    """Return the path of a version's ONNX file.

    Raises:
        SessionError: it does not exist, or is outside the version's folder.
    """
    name = Path(config.get("default_model_filename") or "model.onnx")
    if name.is_absolute() or ".." in name.parts:
        raise SessionError(f"default_model_filename is {str(name)!r}; expected a file inside the version's folder")
    path = Path(folder) / name
    if path.is_dir():  # Triton's form for a model of several files
        path = path / "model.onnx"
    if not path.is_file():
        raise SessionError(f"there is no file {path}; export the model again")
    return str(path)


def open_session(
    path: str,
    config: dict[str, Any],
    *,
    instance_kind: str,
    device_id: int,
    n_threads: int | None = None,
    shares_arena: bool = False,
    warn: Callable[[str], Any] = print,
) -> Any:
    """Open a session.

    Args:
        path: the ONNX file.
        config: the model's config as Triton passes it to a backend.
        instance_kind: `CPU` or `GPU`, as the instance group says.
        device_id: which GPU.
        n_threads: threads within an operator, instead of the config's number.
        shares_arena: use the CPU arena that this process shares among such sessions, because each arena keeps the
            memory of the largest runs. Only for sessions that never run at the same time: they would wait for each
            other's allocations.
        warn: called with each setting of the config that is ignored.

    Raises:
        SessionError: the file or an option is not valid, or the GPU cannot be used.
    """
    import onnxruntime as ort

    parameters = _parameters(config)
    options = session_options(ort, config, parameters)
    if n_threads is not None:
        options.intra_op_num_threads = n_threads
    if shares_arena and options.enable_cpu_mem_arena and ENV_ALLOCATORS not in parameters:
        problem = _make_common_arena()
        if problem:
            warn(f"each session of this model has an arena of its own: {problem}")
        else:
            options.add_session_config_entry(ENV_ALLOCATORS, "1")
    providers: list[Any] = [CPU]
    if instance_kind == "GPU":
        if CUDA not in ort.get_available_providers():
            raise SessionError(
                f"the instance group asks for a GPU, and onnxruntime {ort.__version__} here has no {CUDA}; "
                f"run: pip install 'tritone[serve-gpu]', or serve with --profile cpu"
            )
        providers.insert(0, (CUDA, cuda_options(config, parameters, device_id)))
    for name in _accelerators(config):
        if name != "cuda":
            warn(f"execution accelerator {name} is not available in this backend; serving without it")
    if parameters.get("share_session_between_instances", "false").lower() in ("true", "1"):
        warn("share_session_between_instances is ignored: each instance is a process with its own session")
    try:
        session = ort.InferenceSession(path, options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common root
        raise SessionError(f"onnxruntime cannot load {path}: {_reason(error)}") from error
    if instance_kind == "GPU" and CUDA not in session.get_providers():
        # onnxruntime falls back to the CPU without an error, and the model would be slow.
        raise SessionError(f"onnxruntime could not use GPU {device_id} for {path}; its log lines say why")
    _return_freed_memory()
    return session


@functools.cache
def _make_common_arena() -> str:
    """Register the shared CPU arena, once per process; return the problem if onnxruntime cannot do it."""
    import onnxruntime as ort

    try:
        memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        ort.create_and_register_allocator(memory, None)
    except Exception as error:  # an onnxruntime without this function, or which has registered one already
        return _reason(error)
    return ""


def _return_freed_memory() -> None:
    """Return to the kernel what malloc keeps of the file and of the graph before its optimization.

    That is up to 1.7 times the size of a file that holds its weights, in each process.
    """
    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


class PartsSession:
    """A session that runs large batches in parts, whose intermediate values fit the CPU's caches.

    Args:
        session: onnxruntime's `InferenceSession`, or an object with its `run`.
        n_rows: maximum number of rows of a part.
    """

    def __init__(self, session: Any, n_rows: int) -> None:
        self._session = session
        self._n_rows = n_rows

    def run(self, wanted: list[str], feed: dict[str, Any]) -> Any:
        """Run the model, as onnxruntime's `InferenceSession.run`; the first axis of each tensor is the batch."""
        n_rows = max(array.shape[0] for array in feed.values())
        if n_rows <= self._n_rows:
            return self._session.run(wanted, feed)
        parts = [
            self._session.run(wanted, {name: array[first : first + self._n_rows] for name, array in feed.items()})
            for first in range(0, n_rows, self._n_rows)
        ]
        return [np.concatenate(values) for values in zip(*parts, strict=True)]


def max_rows_per_run(config: dict[str, Any]) -> int:
    """Return how many rows a CPU instance runs at once; 0 for no limit.

    Args:
        config: the model's configuration, as Triton passes it to a backend.

    Raises:
        SessionError: the parameter is not a whole number, or the model has no batches.
    """
    parameters = _parameters(config)
    n_rows = _whole(parameters, "max_rows_per_run", largest=1 << 20)
    if n_rows and config["max_batch_size"] == 0:
        raise SessionError(f"parameter max_rows_per_run is {n_rows}, but the model has no batches (max_batch_size: 0)")
    return n_rows


def session_options(ort: Any, config: dict[str, Any], parameters: dict[str, str]) -> Any:
    """Return onnxruntime's options for a config."""
    options = ort.SessionOptions()
    level = int((config.get("optimization", {}).get("graph") or {}).get("level", 0))
    if level not in GRAPH_LEVELS:
        raise SessionError(f"optimization.graph.level is {level}; expected -1 (basic), 0 (all), 1 or 2 (none)")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, GRAPH_LEVELS[level])
    mode = _whole(parameters, "execution_mode", largest=1)
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if mode else ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = _whole(parameters, "intra_op_thread_count")  # 0: one per core
    options.inter_op_num_threads = _whole(parameters, "inter_op_thread_count")
    if "enable_mem_arena" in parameters:
        options.enable_cpu_mem_arena = _flag(parameters, "enable_mem_arena")
    if "enable_mem_pattern" in parameters:
        options.enable_mem_pattern = _flag(parameters, "enable_mem_pattern")
    # Threads that spin while they wait take the cores from Triton's own threads, from the client on the same
    # host and from the other instances. The native backend leaves this to onnxruntime, which spins.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Denormal numbers, for example in audio that fades out, slow some CPUs down a hundredfold. The setting applies to
    # onnxruntime's threads and to the thread that opens the session; threads that it starts later inherit it.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    for key, value in parameters.items():
        if key.startswith("session."):  # onnxruntime's own names pass through, as in the native backend
            options.add_session_config_entry(key, value)
    options.log_severity_level = 3  # errors only: warnings about the graph do not help an operator
    return options


def cuda_options(config: dict[str, Any], parameters: dict[str, str], device_id: int) -> dict[str, str]:
    """Return the options of the CUDA provider: ours, then the deprecated parameters, then the accelerator's."""
    options = {
        "device_id": str(device_id),
        # The native default, EXHAUSTIVE, benchmarks every algorithm for every new batch size.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    for key in (
        "cudnn_conv_algo_search",
        "gpu_mem_limit",
        "arena_extend_strategy",
        "do_copy_in_default_stream",
    ):
        if key in parameters:
            options[key] = parameters[key]
    options.update(_accelerators(config).get("cuda", {}))
    options["cudnn_conv_algo_search"] = CUDNN_SEARCH.get(
        options["cudnn_conv_algo_search"], options["cudnn_conv_algo_search"]
    )
    if "arena_extend_strategy" in options:
        options["arena_extend_strategy"] = ARENA_STRATEGY.get(
            options["arena_extend_strategy"], options["arena_extend_strategy"]
        )
    return options


def _parameters(config: dict[str, Any]) -> dict[str, str]:
    """Return the parameters of a config: text by name."""
    return {key: value["string_value"] for key, value in config.get("parameters", {}).items()}


def _accelerators(config: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the config's execution accelerators: parameters by name."""
    groups = config.get("optimization", {}).get("execution_accelerators") or {}
    listed = [*groups.get("gpu_execution_accelerator", ()), *groups.get("cpu_execution_accelerator", ())]
    return {accelerator["name"]: dict(accelerator.get("parameters") or {}) for accelerator in listed}


def _whole(parameters: dict[str, str], key: str, largest: int = 1024) -> int:
    text = parameters.get(key, "0")
    if not (re.fullmatch("[0-9]{1,10}", text) and int(text) <= largest):
        raise SessionError(f"parameter {key} is {text!r}; expected a whole number from 0 to {largest}")
    return int(text)


def _flag(parameters: dict[str, str], key: str) -> bool:
    text = parameters[key].lower()
    if text not in ("0", "1", "true", "false"):
        raise SessionError(f"parameter {key} is {text!r}; expected 0, 1, true or false")
    return text in ("1", "true")


def _reason(error: Exception) -> str:
    """Return onnxruntime's message without its prefix «[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : »."""
    parts = str(error).split(" : ", 3)
    text = parts[3] if len(parts) == 4 and parts[0].endswith("[ONNXRuntimeError]") else str(error)
    text = re.sub(r"^Load model from .*? failed: ?", "", text)  # the caller has named the file
    return " ".join(text.split())
