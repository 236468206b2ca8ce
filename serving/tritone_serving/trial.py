"""Test a candidate version on a running server before it goes live.

The candidate is loaded under a temporary name and gets the same requests as the live version. The test compares its
tensors with those of the live version, its outputs with what its file computes outside of the server, and its latency
with that of the live version.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tritonclient.grpc import model_config_pb2

from tritone_serving._exceptions import CanaryError, RefusedVersionError
from tritone_serving.calls import Array, Calls
from tritone_serving.canary import CanaryResult, run_canary

DEFAULT_TOLERANCE: Final = 1e-3  # for outputs without a tolerance in the model card
_N_ROUNDS: Final = 3
_PAUSE_S: Final = 1.0  # between rounds
# Computes the outputs of a version's file in this process: inputs -> outputs by name.
Reference = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Requirements for a candidate version.

    Attributes:
        n_canaries: number of test requests of a round, each of which is also sent to the live version. A candidate that
            seems too slow gets up to three rounds.
        timeout_s: time limit for each request.
        max_slowdown: largest allowed ratio of its median latency to that of the live version.
        slack_s: additional time that is allowed, since noise matters for a fast model.
        other_tensors: whether its tensors may differ from those of the live version, which breaks existing clients.
    """

    n_canaries: int = 8
    timeout_s: float = 10.0
    max_slowdown: float = 1.5
    slack_s: float = 0.005
    other_tensors: bool = False


@dataclass(frozen=True)
class Trial:
    """Measurements of a candidate version that passed.

    Attributes:
        median_s: median latency of its canaries; the shortest, if there were several rounds.
        live_median_s: the same of the live version; None if there is none, or it did not respond.
        max_abs_difference: largest difference from the reference by output; empty without a reference.
    """

    model: str
    median_s: float
    live_median_s: float | None
    max_abs_difference: Mapping[str, float]


def try_version(
    calls: Calls,
    model: str,
    candidate: str,
    *,
    bounds: Bounds,
    reference: Reference | None = None,
    tolerance: Mapping[str, float] | None = None,
) -> Trial:
    """Test a loaded candidate against the live version.

    Args:
        model: name of the model; no version need be live.
        candidate: the candidate's temporary name.
        reference: computes the expected outputs, which are compared within `tolerance` by output.

    Raises:
        RefusedVersionError: the candidate failed a test; the message has the reason.
    """
    live_config: Any = None
    try:
        if model in calls.models(timeout_s=bounds.timeout_s):
            live_config = calls.config(model, timeout_s=bounds.timeout_s)
        config = calls.config(candidate, timeout_s=bounds.timeout_s)
        if live_config is not None and not bounds.other_tensors:
            _check_tensors(model, live_config, config)
        differences: dict[str, float] = {}
        # Load delays some requests, to either version, so the shortest median of several rounds counts.
        median_s, live_median_s = math.inf, math.inf
        for number in range(_N_ROUNDS):
            if number:
                time.sleep(_PAUSE_S)
            seconds: list[float] = []
            live_seconds: list[float] = []
            for _ in range(bounds.n_canaries):
                each = run_canary(calls, candidate, config, timeout_s=bounds.timeout_s)
                seconds.append(each.seconds)
                if live_config is not None:
                    live_seconds += _live_seconds(calls, model, live_config, each, bounds)
                if reference is not None:
                    _compare(model, each, reference(each.inputs), tolerance or {}, differences)
            median_s = min(median_s, _median(seconds))
            if not live_seconds:
                return Trial(model, median_s, None, differences)
            live_median_s = min(live_median_s, _median(live_seconds))
            if median_s <= bounds.max_slowdown * live_median_s + bounds.slack_s:
                return Trial(model, median_s, live_median_s, differences)
    except CanaryError as error:
        reason = str(error).removeprefix(f"{candidate}: ")
        raise _refused(model, reason) from error
    raise _refused(
        model,
        f"it takes {median_s * 1000:.1f} ms where the live version takes {live_median_s * 1000:.1f} ms, each the "
        f"shortest of {_N_ROUNDS} measurements; allowed is {bounds.max_slowdown:g} times that and "
        f"{bounds.slack_s * 1000:g} ms (--max-slowdown)",
    )


def _median(seconds: Sequence[float]) -> float:
    """Return the median without the first request, which may be slow."""
    return statistics.median(seconds[1:] or seconds)


def _live_seconds(calls: Calls, model: str, config: Any, each: CanaryResult, bounds: Bounds) -> list[float]:
    inputs = None if bounds.other_tensors else each.inputs
    try:
        return [run_canary(calls, model, config, timeout_s=bounds.timeout_s, inputs=inputs).seconds]
    except CanaryError:
        return []  # a broken live version is no reason to refuse the candidate


def _check_tensors(model: str, live: Any, new: Any) -> None:
    """Raise an error if clients of the live version could not use the candidate."""

    def said(tensors: Any) -> dict[str, str]:
        return {
            tensor.name: f"{model_config_pb2.DataType.Name(tensor.data_type)} {list(tensor.dims)}" for tensor in tensors
        }

    problems = []
    had, has = said(live.output), said(new.output)
    problems += [
        f"output {name} is {has.get(name, 'gone')} and was {had[name]}" for name in had if has.get(name) != had[name]
    ]
    took, takes = said(live.input), said(new.input)
    optional = {tensor.name for tensor in new.input if tensor.optional}
    problems += [
        f"input {name} is {takes.get(name, 'gone')} and was {took[name]}"
        for name in took
        if takes.get(name) != took[name]
    ]
    problems += [f"input {name} is new and not optional" for name in takes if name not in took and name not in optional]
    if problems:
        raise _refused(model, f"{'; '.join(problems)} (--other-tensors lets it pass)")


def _compare(
    model: str,
    result: CanaryResult,
    expected: Mapping[str, Array],
    tolerance: Mapping[str, float],
    differences: dict[str, float],
) -> None:
    for name, wanted in expected.items():
        got = result.outputs.get(name)
        if got is None or got.dtype.kind not in "fiub":
            continue
        if got.size != wanted.size:
            raise _refused(model, f"output {name} has shape {list(got.shape)}; its file computes {list(wanted.shape)}")
        if not got.size:
            continue
        difference = float(np.abs(got.astype(np.float64).ravel() - wanted.astype(np.float64).ravel()).max())
        differences[name] = max(difference, differences.get(name, 0.0))
        allowed = tolerance.get(name, DEFAULT_TOLERANCE)
        if not difference <= allowed:
            raise _refused(
                model,
                f"output {name} differs by {difference:.3g} from what its file computes; allowed is {allowed:.3g}",
            )


def _refused(model: str, reason: str) -> RefusedVersionError:
    return RefusedVersionError(
        f"{model}: the new version is refused, the previous one stays live: {reason}", model=model, reason=reason
    )
