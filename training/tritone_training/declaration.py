"""Declarations of models: their inputs, outputs, limits and serving settings.

ONNX export, config.pbtxt, parity checks, lint and the contract tests all use these declarations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from tritone.constants import LARGEST_TEMPERATURE, LEAST_TEMPERATURE
from tritone.music.grid import STRUCK

DType = Literal["FP32", "FP16", "INT64", "INT32", "INT16", "UINT8", "BOOL", "BYTES"]
LABELS_PARAMETER: Final = "labels"  # of config.pbtxt: class names by output, as JSON
BATCH: Final = "batch"  # the name of every model's leading, dynamic axis


@dataclass(frozen=True)
class Axis:
    """One axis with a name.

    Inputs of one request must have equal sizes along axes of the same name.

    Attributes:
        name: `batch`, `sample`, `label`, ...
        size: None if it differs between calls or between trained versions.
        min_size: smallest size in a request, if `size` is None.
        max_size: largest size in a request, if `size` is None; None for no limit.
        max_total: largest number of rows times size, for one request and for requests that run together; it limits how
            long one call occupies an instance. None for no limit beyond `max_size` and the batch size.
    """

    name: str
    size: int | None = None
    min_size: int = 1
    max_size: int | None = None
    max_total: int | None = None


@dataclass(frozen=True)
class Limits:
    """Allowed values of an input; our backends refuse requests with other values.

    Attributes:
        minimum: None for no limit.
        maximum: None for no limit.
        exclusive_minimum: whether `minimum` itself is refused.
        exclusive_maximum: whether `maximum` itself is refused.
        also: values that are allowed outside the range, such as -1 for "any".
        finite: whether NaN and infinity are refused (floating-point inputs only).
        n_values_key: if the values are indices below a number that depends on the trained version, the key of that
            number in the ONNX file's metadata or else in `Declaration.parameters`. Without such an entry, or if it is
            empty, there is no upper limit.
        is_meter: whether the last axis holds (steps in a bar, index of the first step in its bar), so that the second
            number must be below the first, or both be 0.
        words: the only texts allowed (BYTES inputs only).
    """

    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    also: tuple[float, ...] = ()
    finite: bool = True
    n_values_key: str | None = None
    is_meter: bool = False
    words: tuple[str, ...] | None = None


# Shared by several kinds; the Python client checks the same values.
GRID: Final = Limits(minimum=0, maximum=STRUCK)  # 0 silent, 1 held, 2 struck
UNIFORM: Final = Limits(minimum=0, maximum=1, exclusive_maximum=True)
TEMPERATURE_LIMITS: Final = Limits(minimum=LEAST_TEMPERATURE, maximum=LARGEST_TEMPERATURE)
TOP_K_LIMITS: Final = Limits(minimum=1)
TOP_P_LIMITS: Final = Limits(minimum=0, exclusive_minimum=True, maximum=1)


@dataclass(frozen=True)
class Tensor:
    """One input or output on the wire.

    Attributes:
        axes: the leading batch axis is implied and not listed.
        label_file: name of the file that names this output's classes, for Triton's classification
            extension and for the SDK.
        tolerance: largest absolute difference from PyTorch that parity accepts (outputs only).
        optional: a request may leave this input out.
        ragged: requests that differ in the sizes of this input may be answered together; only a backend of ours can,
            since nothing is padded.
        limits: allowed values (inputs only); None for no check.
    """

    name: str
    dtype: DType
    axes: tuple[Axis, ...]
    description: str
    label_file: str | None = None
    tolerance: float = 1e-4
    optional: bool = False
    ragged: bool = False
    limits: Limits | None = None


@dataclass(frozen=True)
class Batching:
    """Triton's dynamic batcher."""

    max_batch_size: int
    preferred_batch_sizes: tuple[int, ...]
    max_queue_delay_microseconds: int


@dataclass(frozen=True)
class QueuePolicy:
    """Limits of the queue of a model: longest wait and largest number of requests.

    Attributes:
        default_timeout_microseconds: longest wait of an interactive request.
        max_queue_size: largest number of interactive requests that wait.
        batch_timeout_microseconds: longest wait of a batch request, which waits while interactive requests do.
        max_batch_queue_size: largest number of batch requests that wait.
    """

    default_timeout_microseconds: int
    max_queue_size: int
    batch_timeout_microseconds: int = 60_000_000
    max_batch_queue_size: int = 64


@dataclass(frozen=True)
class Instances:
    """Number of instances of a model on CPU and GPU, and how each runs.

    Attributes:
        max_rows_per_run: rows that a CPU instance runs at once; larger batches run in parts, whose intermediate values
            fit the CPU's caches. 0: no limit. NVIDIA's native backend has no such setting and ignores it.
    """

    n_cpu: int
    n_gpu: int  # 0: the kind gains nothing from a GPU, and configs/gpu.pbtxt keeps it on the CPU
    n_intra_op_threads: int  # 0: as many as there are cores, shared out among instances that compute at once
    max_rows_per_run: int = 0


@dataclass(frozen=True)
class Serving:
    """Settings of config.pbtxt apart from the tensors.

    Attributes:
        response_cache: whether Triton caches responses, if the server has a cache (`ServerOptions`). Triton identifies
            a request by its inputs alone and also caches refusals, so only a deterministic model with one output and
            without limits may opt in; `tritone_export.config.build_config` checks that.
        gpu_batching: for the GPU profile, where that gains by joining requests what a CPU does not.
    """

    batching: Batching
    queue: QueuePolicy
    instances: Instances
    warmup_batch_sizes: tuple[int, ...] = (1,)
    gpu_batching: Batching | None = None
    response_cache: bool = False


@dataclass(frozen=True)
class Declaration:
    """The declaration of one model on the server.

    Attributes:
        parameters: constants a caller may want (sample rate, window length), written to config.pbtxt.
        backend: what runs the ONNX file: `onnxruntime`, or one of ours, which may stand between another
            signature of the file (`Exportable.graph`) and this one.
        decoupled: one request gets many responses, over gRPC's streaming call only. Batching, limits and warm-up are
            the backend's, so of `serving` only `max_batch_size` and `instances` count.
        filename: what a version folder has to hold for the backend to load it.
    """

    name: str
    summary: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    serving: Serving
    parameters: Mapping[str, str] = field(default_factory=dict)
    backend: str = "onnxruntime"
    decoupled: bool = False
    filename: str = "model.onnx"


@dataclass(frozen=True)
class Step:
    """One model of an ensemble.

    Attributes:
        inputs: the model's input -> the ensemble's tensor.
        outputs: the model's output -> the ensemble's tensor.
    """

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class EnsembleDeclaration:
    """Models that one request goes through, on the server.

    Attributes:
        inputs: with all their axes: an ensemble of ours has no batch axis, since its steps' differ.
        steps: in any order; tensors that are neither input nor output join them.
        model_parameters: parameter of config.pbtxt -> model of a step, by which clients find the static facts of steps,
            such as the class names of a classifier.
    """

    name: str
    summary: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    model_parameters: Mapping[str, str] = field(default_factory=dict)


def labels_parameter(declaration: Declaration, label_files: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the parameter with the class names of all outputs; empty if there are none.

    Args:
        declaration: names the label file of each output.
        label_files: file name -> class names.
    """
    labels = {
        tensor.name: list(label_files[tensor.label_file])
        for tensor in declaration.outputs
        if tensor.label_file and tensor.label_file in label_files
    }
    return {LABELS_PARAMETER: json.dumps(labels, sort_keys=True)} if labels else {}
