"""Join the requests of one execute call into one run, and split the outputs.

Shapes: R requests of a group, B = the sum of their batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tritone_ort_contract import Contract, Spec
from tritone_ort_limits import non_finite

Array = np.ndarray[Any, Any]
Outcome = "dict[str, Array] | Failed"


class Failed(Exception):  # noqa: N818  - the response to one request, raised or returned
    """One request failed; the message is sent to its client."""


class Refused(Failed):
    """One request is invalid: the model can run other requests."""


@dataclass(frozen=True)
class Ready:
    """A request that has passed the checks.

    Attributes:
        index: its position in the execute call.
        feed: arrays by input name. The stub has copied them from shared memory, where they are not aligned as
            onnxruntime requires, so they need no further copy.
        wanted: names of the requested outputs.
        n_rows: its batch size; 1 for a model without batching.
        is_warm_up: whether it is a warm-up request, whose outputs are not checked.
    """

    index: int
    feed: dict[str, Array]
    wanted: tuple[str, ...]
    n_rows: int
    is_warm_up: bool = False


def read_request(index: int, request: Any, contract: Contract, *, is_warm_up: bool = False) -> Ready:
    """Read a request and check it against the model.

    Triton has checked names, types and shapes against the config before; this catches what a config
    cannot say, so that one request does not spoil a joint run.

    Args:
        is_warm_up: whether it is a warm-up request, of which only sizes are checked: its zeros are outside some limits.

    Raises:
        Failed: the request is invalid.
    """
    given = {tensor.name(): tensor for tensor in request.inputs()}
    feed: dict[str, Array] = {}
    for spec in contract.inputs:
        tensor = given.get(spec.name)
        if tensor is not None:
            feed[spec.name] = _checked(spec, tensor.as_numpy())
        elif not spec.optional:
            raise Failed(f"input {spec.name} is missing; this model takes {_names(contract)}")
    sizes = {name: array.shape[0] for name, array in feed.items()} if contract.batched else {}
    if len(set(sizes.values())) > 1:
        raise Failed(f"the inputs' batch sizes differ: {sizes}")
    n_rows = next(iter(sizes.values()), 1)
    if contract.limits is not None:
        problem = contract.limits.problem(feed, n_rows, batched=contract.batched, only_sizes=is_warm_up)
        if problem is not None:
            raise Failed(problem)
    wanted = set(request.requested_output_names())
    outputs = tuple(name for name in contract.outputs if not wanted or name in wanted)
    return Ready(index, feed, outputs, n_rows, is_warm_up)


def group_requests(ready: list[Ready], contract: Contract) -> list[list[Ready]]:
    """Group requests that can run together: the same inputs with the same shapes after the batch axis.

    No group exceeds the largest number of rows times size that the model's limits allow in one run.
    """
    if not contract.batched:
        return [[member] for member in ready]
    groups: dict[Any, list[Ready]] = {}
    for member in ready:
        key = tuple((name, array.shape[1:]) for name, array in member.feed.items())
        groups.setdefault(key, []).append(member)
    if contract.limits is None:
        return list(groups.values())
    totals = contract.limits.totals
    return [part for group in groups.values() for part in _parts(group, totals(group[0].feed))]


def _parts(group: list[Ready], totals: dict[str, tuple[int, int]]) -> list[list[Ready]]:
    """Divide a group into parts that do not exceed `totals`: axis -> (size, largest rows times size)."""
    n_most = min((total // max(size, 1) for size, total in totals.values()), default=None)
    if n_most is None:
        return [group]
    parts: list[list[Ready]] = []
    n_rows = 0
    for member in group:
        if not parts or n_rows + member.n_rows > n_most:
            parts.append([])
            n_rows = 0
        parts[-1].append(member)
        n_rows += member.n_rows
    return parts


class JointRun:
    """Runs groups of requests on one session, and reuses the memory in which it joins inputs."""

    def __init__(self, session: Any, contract: Contract) -> None:
        self._session = session
        self._contract = contract
        # Joined in place over and over: fresh memory for 17 MB costs more page faults than the copy itself.
        self._buffers: dict[str, Array] = {}

    def run(self, group: list[Ready]) -> list[Any]:
        """Return the outputs by name of each request of a group, or a `Failed`.

        If the joint run fails, each request runs alone, so that only invalid requests fail.
        """
        if len(group) == 1:
            return [self._alone(group[0])]
        wanted = [name for name in self._contract.outputs if any(name in member.wanted for member in group)]
        n_rows = sum(member.n_rows for member in group)
        try:
            values = self._session.run(wanted, self._joined(group, n_rows))
        except Exception:  # onnxruntime's exceptions have no common root; the runs below show which request failed
            return [self._alone(member) for member in group]
        if any(value.ndim == 0 or value.shape[0] != n_rows for value in values):
            # An output without the batch as its first axis cannot be split.
            return [self._alone(member) for member in group]
        outputs = dict(zip(wanted, values, strict=True))
        answers = []
        start = 0
        for member in group:
            stop = start + member.n_rows
            answers.append(self._finite(member, {name: outputs[name][start:stop] for name in member.wanted}))  # views
            start = stop
        return answers

    def _alone(self, member: Ready) -> Any:
        """Run one request on its own arrays, without joining anything."""
        try:
            values = self._session.run(list(member.wanted), member.feed)
        except Exception as error:
            return run_failed(error, "request", is_refused=self._answers_others(error))
        for name, value in zip(member.wanted, values, strict=True):
            if self._contract.batched and (value.ndim == 0 or value.shape[0] != member.n_rows):
                return Failed(
                    f"the model answered {name} with shape {list(value.shape)} "
                    f"for a batch of {member.n_rows}; its first axis must be the batch"
                )
        return self._finite(member, dict(zip(member.wanted, values, strict=True)))

    def _finite(self, member: Ready, outputs: dict[str, Array]) -> Any:
        """Return the outputs of a request, or a `Failed` if one holds NaN or infinity.

        Models without limits are not checked: they may return such values on purpose.
        """
        if self._contract.limits is not None and not member.is_warm_up:
            for name, value in outputs.items():
                if non_finite(value):
                    return Failed(f"the model answered {name} with NaN or infinity for a request within its limits")
        return outputs

    def _answers_others(self, error: Exception) -> bool:
        """Return whether a failed run was due to its request: the model can run the smallest possible request.

        A lack of memory is not due to the request.
        """
        if not type(error).__module__.startswith("onnxruntime") or "allocat" in str(error):
            return False
        feed = {
            spec.name: np.full([size or 1 for size in spec.dims], "" if spec.dtype is np.object_ else 0, spec.dtype)
            for spec in self._contract.inputs
            if not spec.optional
        }
        try:
            self._session.run(list(self._contract.outputs), feed)
        except Exception:
            return False
        return True

    def _joined(self, group: list[Ready], n_rows: int) -> dict[str, Array]:
        return {name: self._stacked(name, [member.feed[name] for member in group], n_rows) for name in group[0].feed}

    def _stacked(self, name: str, parts: list[Array], n_rows: int) -> Array:
        """Copy parts of shape (b, ...) into one array (B, ...)."""
        if parts[0].dtype.kind == "O":
            return np.concatenate(parts)
        row = parts[0].shape[1:]
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape[1:] != row or buffer.shape[0] < n_rows:
            buffer = self._buffers[name] = np.empty((n_rows, *row), parts[0].dtype)
        return np.concatenate(parts, out=buffer[:n_rows])


def run_failed(error: Exception, what: str, *, is_refused: bool) -> Failed:
    """Return the error for the client of a failed run; `is_refused` if the request is invalid."""
    said = " ".join(str(error).split())
    return (
        Refused(f"this {what} does not fit the model: {said}")
        if is_refused
        else Failed(f"the model failed on this {what}: {said}")
    )


def _checked(spec: Spec, array: Array) -> Array:
    fits = array.ndim == len(spec.dims) and all(
        want is None or have == want for have, want in zip(array.shape, spec.dims, strict=True)
    )
    if not fits:
        raise Failed(f"invalid {spec.name}: expected shape {_shown(spec)}, got {list(array.shape)}")
    if spec.dtype is np.object_:
        return _as_text(spec.name, array)
    if array.dtype != spec.dtype:
        raise Failed(f"invalid {spec.name}: expected type {np.dtype(spec.dtype)}, got {array.dtype}")
    return array


def _as_text(name: str, array: Array) -> Array:
    try:
        text = [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise Failed(f"input {name} holds bytes that are not UTF-8: {error}") from error
    return np.array(text, np.object_).reshape(array.shape)


def _shown(spec: Spec) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in spec.dims) + "]"


def _names(contract: Contract) -> str:
    return ", ".join(spec.name for spec in contract.inputs)
