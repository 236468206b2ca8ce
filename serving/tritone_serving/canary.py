"""Canaries: small inferences that show whether the models of a running server respond.

The inputs of a canary are made from the server's configuration of the model. So canaries work for every model of every
reachable server: in a container without the repository, for models of other origin and for ensembles. Triton's own
readiness only shows that a model was loaded: a model whose Python process has died since remains ready.

The values suit all kinds: a single number is 1 (k, top_k, temperature, a length), up to 15 numbers are zeros as in
`model_warmup`, and more numbers are random, in [0, 1) or 0 and 1 for integers. If a model refuses these values, zeros
are sent.

```python
with Calls(make_endpoint("127.0.0.1:8001")) as calls:
    healthy = all(result.ok for result in probe(calls, timeout_s=5))
```
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import triton_to_np_dtype

from tritone_serving._exceptions import CanaryError
from tritone_serving.calls import Array, Calls
from tritone_serving.security.callers import CANARY_PARAMETER

# A request parameter that holds the server's health token: our backends answer such a request without running the
# model. (`CANARY_PARAMETER` marks a request that they leave out of their own metrics.)
HEALTH_PARAMETER: Final = "tritone_health_check"  # as in backends/onnxruntime/tritone_ort_marks.py
FEW: Final = 16


@dataclass(frozen=True)
class CanaryResult:
    """The response to a canary.

    Attributes:
        seconds: time until the response, or until the first response of a stream.
        inputs: arrays that were sent, by name.
        outputs: arrays that were returned, by name.
    """

    model: str
    version: str
    seconds: float
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def run_canary(
    calls: Calls,
    model: str,
    config: Any,
    *,
    timeout_s: float,
    version: str = "",
    inputs: Mapping[str, Array] | None = None,
) -> CanaryResult:
    """Send a canary to a model and check the response against the model's configuration.

    Args:
        config: from `Calls.config`.
        inputs: arrays to send; None makes them from the configuration.

    Raises:
        CanaryError: no response, an error, or outputs of the wrong type or shape or with NaN or infinity.
    """
    deadline = time.monotonic() + timeout_s
    tries = [inputs] if inputs is not None else [make_inputs(config), make_inputs(config, zeros=True)]
    for last, each in zip((False, True)[-len(tries) :], tries, strict=True):
        begun = time.monotonic()
        try:
            answer = calls.infer(
                model,
                each,
                timeout_s=max(0.01, deadline - begun),
                version=version,
                decoupled=config.model_transaction_policy.decoupled,
                parameters={CANARY_PARAMETER: True},
            )
        except CanaryError as error:
            # A Python model that cannot use the values reports an internal error.
            if last or error.failure not in ("refused", "broken") or "not healthy" in str(error):
                raise
            continue
        seconds = time.monotonic() - begun
        check_outputs(model, config, answer.outputs)
        return CanaryResult(model, answer.version, seconds, each, answer.outputs)
    raise AssertionError("unreachable: the last try answers or raises")


def check_health(calls: Calls, model: str, config: Any, *, token: str, timeout_s: float) -> None:
    """Send a request that our backends answer without running the model; other backends run it.

    Args:
        config: from `Calls.config`.
        token: the server's `health_token`.

    Raises:
        CanaryError: no answer, or an error.
    """
    calls.infer(
        model,
        make_inputs(config),
        timeout_s=timeout_s,
        decoupled=config.model_transaction_policy.decoupled,
        parameters={CANARY_PARAMETER: True, HEALTH_PARAMETER: token},
    )


def make_inputs(config: Any, *, zeros: bool = False) -> dict[str, Array]:
    """Return the smallest request that a configuration allows: one row, size 1 of variable axes, nothing optional.

    Raises:
        CanaryError: an input has a type that requests cannot carry.
    """
    wanted = [tensor for tensor in config.input if not tensor.optional]
    if not wanted:  # Triton refuses a request without any input; a single integer restricts the request least
        integers = [tensor for tensor in config.input if _type(tensor).startswith(("TYPE_INT", "TYPE_UINT"))]
        single = [tensor for tensor in integers if -1 not in tensor.dims]  # a list may belong to another input
        wanted = [*single, *integers, *config.input][:1]
    return {tensor.name: _values(config, tensor, zeros=zeros) for tensor in wanted}


def check_outputs(model: str, config: Any, outputs: Mapping[str, Array]) -> None:
    """Check outputs against the configuration.

    Raises:
        CanaryError: an output is missing, has another type or shape, or holds NaN or infinity.
    """

    def failed(why: str) -> CanaryError:
        return CanaryError(f"{model}: {why}", model=model, failure="broken")

    for tensor in config.output:
        array = outputs.get(tensor.name)
        if array is None:
            raise failed(f"the answer lacks output {tensor.name}")
        wanted = _numpy_type(tensor)
        if wanted is not None and array.dtype != wanted:
            raise failed(f"output {tensor.name} is {array.dtype}; expected {wanted}")
        dims = [1, *tensor.dims] if config.max_batch_size > 0 else list(tensor.dims)
        if len(dims) != array.ndim or any(d not in (-1, n) for d, n in zip(dims, array.shape, strict=True)):
            said = ", ".join("any" if d == -1 else str(d) for d in dims)
            raise failed(f"output {tensor.name} has shape {list(array.shape)}; expected [{said}]")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            n_bad = int((~np.isfinite(array)).sum())
            raise failed(f"output {tensor.name} holds {n_bad} of {array.size} numbers that are NaN or infinite")


def _values(config: Any, tensor: Any, *, zeros: bool) -> Array:
    dtype = _numpy_type(tensor)
    if dtype is None:
        raise CanaryError(
            f"{config.name}: input {tensor.name} is {_type(tensor)}, which no canary can carry",
            model=config.name,
            failure="refused",
        )
    shape = [1 if size == -1 else size for size in tensor.dims]
    if config.max_batch_size > 0:
        shape = [1, *shape]
    size = math.prod(shape)
    if dtype == np.object_:
        # An ensemble requires inputs that are optional in its steps; an empty text means that none is given.
        is_empty = zeros or config.platform == "ensemble"
        return np.full(shape, b"" if is_empty else b"1", np.object_)
    if zeros or dtype == np.bool_:
        return np.zeros(shape, dtype)
    if size < FEW:
        return np.full(shape, 1 if size == 1 else 0, dtype)
    rng = np.random.default_rng()
    if np.issubdtype(dtype, np.floating):
        return rng.random(shape, np.float32).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def _numpy_type(tensor: Any) -> np.dtype[Any] | None:
    """Return the type of a tensor's array; None for types that NumPy lacks."""
    name = _type(tensor).removeprefix("TYPE_")
    if name == "BF16":  # tritonclient would send FP32
        return None
    found = triton_to_np_dtype("BYTES" if name == "STRING" else name)
    return None if found is None else np.dtype(found)


def _type(tensor: Any) -> str:
    name: str = model_config_pb2.DataType.Name(tensor.data_type)
    return name


_N_AT_ONCE = 8


@dataclass(frozen=True)
class Probed:
    """Result of the canary of one model.

    Attributes:
        ok: whether the response was as configured.
        seconds: latency.
        version: the version that responded; empty if none did.
        why: the error in one line; empty if there was none.
    """

    model: str
    ok: bool
    seconds: float
    version: str = ""
    why: str = ""


def probe(calls: Calls, models: Sequence[str] = (), *, timeout_s: float) -> list[Probed]:
    """Send a canary to each model, all within `timeout_s`.

    Args:
        models: names of models; empty for all that are loaded.

    Raises:
        CanaryError: the server does not respond, or has no model loaded.
    """
    deadline = time.monotonic() + timeout_s
    loaded = calls.models(timeout_s=timeout_s)
    wanted = sorted(models or loaded)
    if not wanted:
        raise CanaryError("the server has no model loaded", model="", failure="absent")

    def ask(model: str) -> Probed:
        begun = time.monotonic()
        try:
            config = calls.config(model, timeout_s=max(0.01, deadline - begun))
            result = run_canary(calls, model, config, timeout_s=max(0.01, deadline - time.monotonic()))
        except CanaryError as error:
            return Probed(model, False, time.monotonic() - begun, why=str(error))
        return Probed(model, True, result.seconds, result.version)

    with ThreadPoolExecutor(_N_AT_ONCE) as pool:
        return list(pool.map(ask, wanted))
