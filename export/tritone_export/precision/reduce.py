"""Reduce the precision of a graph, measure its quality and latency, and refuse it if it loses too much quality."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from tritone_export._exceptions import PrecisionError, QualityLossError, translating
from tritone_export.parity import Arrays, check_signature, draw_inputs, open_session
from tritone_export.precision.conversion import as_rounded, subgraph_names, to_half, to_int8

if TYPE_CHECKING:
    import onnx

    from tritone_training.declaration import Declaration
    from tritone_training.kind import EvaluateRequest
    from tritone_training.quality import HeldOut, Quality

Precision: TypeAlias = Literal["fp16", "int8"]  # in addition to fp32, which every version has

FILENAMES: Final[Mapping[Precision, str]] = {"fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
_LATENCY_BATCHES: Final = (1, 8)
_N_TIMES: Final = 15
_LATENCY_S: Final = 2.0  # longest measurement per batch size


@dataclass(frozen=True)
class Reduction:
    """Precisions that an export adds to fp32.

    Attributes:
        precisions: the precisions to add.
        request: locations of the checkpoint and its validation data.
        max_loss: largest allowed loss of each metric; None for the limits that the kind declares.
    """

    precisions: tuple[Precision, ...]
    request: EvaluateRequest
    max_loss: float | None = None


@dataclass(frozen=True)
class Loss:
    """Change of one metric from single to reduced precision."""

    metric: str
    fp32: float
    reduced: float
    loss: float
    max_loss: float


@dataclass(frozen=True)
class Reduced:
    """A graph in reduced precision that passed all checks.

    Attributes:
        losses: change of each metric on validation data.
        source: description of the validation data.
        n: number of validation examples.
        n_bytes: size of the graph with its weights, and of the one in single precision.
        latency_ratio: latency divided by that of single precision, by batch size, measured in process on this machine's
            CPU; above 1 is slower.
        max_abs_difference: largest difference from single precision on example inputs, by output.
    """

    precision: Precision
    content: bytes
    losses: tuple[Loss, ...]
    source: str
    n: int
    n_bytes: tuple[int, int]
    latency_ratio: Mapping[int, float]
    max_abs_difference: Mapping[str, float] = field(default_factory=dict)

    @property
    def filename(self) -> str:
        """Name of the file in the version folder."""
        return FILENAMES[self.precision]

    def describe(self) -> dict[str, Any]:
        """Return the entry of the model card."""
        return {
            "file": self.filename,
            "data": self.source,
            "split": "valid",
            "n": self.n,
            "metrics": {
                each.metric: {
                    "fp32": each.fp32,
                    self.precision: each.reduced,
                    "loss": each.loss,
                    "max_loss": each.max_loss,
                }
                for each in self.losses
            },
            "n_bytes": {"fp32": self.n_bytes[1], self.precision: self.n_bytes[0]},
            "latency_ratio": {str(n_batch): ratio for n_batch, ratio in self.latency_ratio.items()},
            "latency_of": "this file over fp32, medians of alternating runs in process, CPU, by batch size",
            "max_abs_difference": dict(self.max_abs_difference),
        }


def check_reducible(precision: Precision, declaration: Declaration, quality: Quality | None) -> None:
    """Check that a model supports a precision, before the conversion.

    Raises:
        PrecisionError: it does not.
    """
    name = declaration.name
    if quality is None or declaration.backend != "onnxruntime":
        raise PrecisionError(
            f"{name} can only be served in fp32: it computes in a loop, and the converters of ONNX Runtime do not "
            f"support subgraphs"
        )
    if precision == "fp16" and declaration.serving.instances.n_gpu == 0:
        raise PrecisionError(f"{name} runs on the CPU in every profile, where fp16 is slower than fp32")
    if precision == "int8" and quality.int8 is None:
        raise PrecisionError(f"{name} does not support int8")


def reduce_graph(
    model: onnx.ModelProto,
    content: bytes,
    precision: Precision,
    *,
    declaration: Declaration,
    quality: Quality,
    held_out: HeldOut,
    before: Mapping[str, float],
    draw: Callable[[int, int], Arrays],
    max_loss: float | None = None,
) -> Reduced:
    """Convert a graph and compare it with the one in single precision.

    Args:
        model: graph in single precision.
        content: the same graph, serialised.
        held_out: validation data, from `quality.held_out`.
        before: metrics of the graph in single precision, from `measure`.
        draw: returns example inputs for a batch size and a seed, for latency and differences.
        max_loss: largest allowed loss of each metric; None for the limits that the kind declares.

    Raises:
        PrecisionError: the graph cannot be converted, or returns NaN or infinity.
        QualityLossError: a metric loses more than allowed.
        ConversionError, ParityError: a library rejected the graph, or its tensors are not as declared.
    """
    loops = subgraph_names(model)
    if loops:
        raise PrecisionError(
            f"{declaration.name} cannot be converted to {precision}: the converters do not support the subgraphs of "
            f"{' and '.join(loops)}; export it in fp32"
        )
    if precision == "fp16":
        converted = to_half(model)
    else:
        assert quality.int8 is not None  # noqa: S101 - `check_reducible` ensures it
        converted = to_int8(model, quality.int8, held_out.calibration())
    reduced: bytes = converted.SerializeToString(deterministic=True)
    sessions = (open_session(content), open_session(reduced))
    check_signature(sessions[1], declaration)
    evaluated = sessions[1]
    if precision == "fp16":
        evaluated = open_session(as_rounded(model).SerializeToString())
    differences = _differences((sessions[0], evaluated), declaration, draw, precision)
    found = measure(evaluated, held_out, precision)
    losses = tuple(
        Loss(
            metric=metric.name,
            fp32=before[metric.name],
            reduced=found[metric.name],
            loss=metric.loss(before[metric.name], found[metric.name]),
            max_loss=metric.max_loss if max_loss is None else max_loss,
        )
        for metric in quality.metrics
        if metric.name in before
    )
    _check_losses(declaration.name, precision, losses, held_out.source, int(found["n"]))
    return Reduced(
        precision=precision,
        content=reduced,
        losses=losses,
        source=held_out.source,
        n=int(found["n"]),
        n_bytes=(len(reduced), len(content)),
        latency_ratio=_latency_ratio(sessions, declaration, draw),
        max_abs_difference=differences,
    )


def measure(session: Any, held_out: HeldOut, precision: str) -> Mapping[str, float]:
    """Return the metrics of a graph on validation data.

    Args:
        session: from `open_session`.

    Raises:
        PrecisionError: an output is NaN or infinite.
    """
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        with translating(f"running the {precision} graph on validation data"):
            outputs = dict(zip(names, session.run(names, dict(inputs)), strict=True))
        _check_finite(outputs, precision)
        return outputs

    return held_out.measure(run)


def _check_finite(outputs: Arrays, precision: str) -> None:
    for name, output in outputs.items():
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise PrecisionError(
                f"output {name!r} in {precision} is not finite, because values inside the graph exceed the range of "
                f"{precision}; export in fp32"
            )


def _check_losses(name: str, precision: str, losses: tuple[Loss, ...], source: str, n: int) -> None:
    for each in losses:
        # Not `>`, which would accept NaN.
        if not each.loss <= each.max_loss:
            metrics = ", ".join(f"{one.metric} {one.fp32:.4f} in fp32, {one.reduced:.4f} reduced" for one in losses)
            raise QualityLossError(
                f"{name} loses too much quality in {precision}: expected a loss of {each.metric} of at most "
                f"{each.max_loss:g}, got {each.loss:.4f} ({metrics}; {n} validation examples of {source}); nothing was "
                f"written; export in fp32, or allow more with --max-loss",
                metric=each.metric,
                before=each.fp32,
                after=each.reduced,
                max_loss=each.max_loss,
            )


def _differences(
    sessions: tuple[Any, Any], declaration: Declaration, draw: Callable[[int, int], Arrays], precision: str
) -> dict[str, float]:
    names = [tensor.name for tensor in declaration.outputs]
    inputs = dict(draw_inputs(declaration, draw, 3))
    with translating(f"running the {precision} graph"):
        before, after = (dict(zip(names, session.run(names, inputs), strict=True)) for session in sessions)
    _check_finite(after, precision)
    return {
        name: float(np.abs(after[name].astype(np.float64) - before[name].astype(np.float64)).max(initial=0.0))
        for name in names
    }


def _latency_ratio(
    sessions: tuple[Any, Any], declaration: Declaration, draw: Callable[[int, int], Arrays]
) -> dict[int, float]:
    """Measure the ratio of latencies; runs alternate, so that other load on the machine affects both."""
    ratios = {}
    for n_batch in _LATENCY_BATCHES:
        if n_batch > declaration.serving.batching.max_batch_size:
            continue
        inputs = dict(draw_inputs(declaration, draw, n_batch))
        times_s: tuple[list[float], list[float]] = ([], [])
        until_s = time.perf_counter() + _LATENCY_S
        while len(times_s[0]) < _N_TIMES and (len(times_s[0]) < 3 or time.perf_counter() < until_s):
            for session, found in zip(sessions, times_s, strict=True):
                start_s = time.perf_counter()
                session.run(None, inputs)
                found.append(time.perf_counter() - start_s)
        before_s, after_s = (statistics.median(found) for found in times_s)
        ratios[n_batch] = round(after_s / before_s, 3)
    return ratios
