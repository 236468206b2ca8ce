"""The graph that generates a few frames of several pieces, and its state between runs.

Besides the inputs of config.pbtxt it takes states (`state_x`), all zeros at the beginning of a piece, and returns the
states after its frames (`next_state_x`).

Shapes: B pieces of a run, n frames.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from tritone_composer_piece import FIRST_FRAME, GIVEN, NOISE, Options, RequestedPiece
from tritone_ort_batching import Failed, run_failed
from tritone_ort_contract import TYPES, Spec, read_contract
from tritone_ort_limits import non_finite
from tritone_ort_session import SessionError

Array = np.ndarray[Any, Any]
State = dict[str, Array]

STATE = "state_"
NEXT = "next_"


class ChunkGraph:
    """A session that has been checked against its config.

    Attributes:
        contract: the checks of requests.
        states: tensors that are passed from run to run; a variable axis begins at length 0.

    Raises:
        SessionError: config and file differ; the message lists all differences.
    """

    def __init__(self, session: Any, config: dict[str, Any], path: str) -> None:
        self._session = session
        takes = {node.name: node for node in session.get_inputs()}
        answers = {node.name: node for node in session.get_outputs()}
        self.states = _states(takes, answers, path)
        carried = {spec.name for spec in self.states}
        if FIRST_FRAME not in {tensor["name"] for tensor in config["output"]}:
            raise SessionError(f"the config lacks output {FIRST_FRAME} (TYPE_INT64, dims [1], reshape {{}})")
        # The backend computes this output by itself; the others are checked against the file as for any model.
        wire = SimpleNamespace(
            get_inputs=lambda: [node for name, node in takes.items() if name not in carried],
            get_outputs=lambda: [
                *(node for name, node in answers.items() if name.removeprefix(NEXT) not in carried),
                SimpleNamespace(name=FIRST_FRAME, type="tensor(int64)", shape=["batch"]),
            ],
            get_overridable_initializers=list,
            get_modelmeta=session.get_modelmeta,
        )
        self.contract = read_contract(config, wire, path)
        missing = {*GIVEN, NOISE, "meter"} - {spec.name for spec in self.contract.inputs}
        if missing:
            raise SessionError(
                f"{path} lacks input {', '.join(sorted(missing))}, which backend composer cuts pieces by"
            )
        self._outputs = tuple(name for name in self.contract.outputs if name != FIRST_FRAME)

    def first_state(self) -> State:
        """Return the state of one piece before its first frame: zeros."""
        return {spec.name: np.zeros([1, *(size or 0 for size in spec.dims[1:])], spec.dtype) for spec in self.states}

    def advance(self, feed: dict[str, Array], state: State) -> tuple[dict[str, Array], State]:
        """Generate n frames of B pieces.

        Args:
            feed: arrays by input name, the batch as first axis.
            state: of the same pieces.

        Returns:
            outputs (B, n, ...) by name, and the pieces' next state.

        Raises:
            Failed: the run failed, or an output has another shape.
        """
        n_rows, n_frames = feed[NOISE].shape[:2]
        names = [*self._outputs, *(NEXT + name for name in state)]
        try:
            values = self._session.run(names, {**feed, **state})
        except Exception as error:  # onnxruntime's exceptions have no common root
            # An argument that is invalid is a value that was sent, such as a style that is not there.
            raise run_failed(error, "piece", is_refused=type(error).__name__ == "InvalidArgument") from error
        answered = dict(zip(names, values, strict=True))
        outputs = {name: answered[name] for name in self._outputs}
        for name, value in outputs.items():
            if value.shape[:2] != (n_rows, n_frames):
                raise Failed(
                    f"the model answered {name} with shape {list(value.shape)} for {n_frames} frames of "
                    f"{n_rows} pieces; export it again"
                )
            if self.contract.limits is not None and non_finite(value):
                raise Failed(f"the model answered {name} with NaN or infinity for a piece within its limits")
        return outputs, {name: answered[NEXT + name] for name in state}

    def warm_up(self, options: Options) -> None:
        """Generate a few frames before the first request, because the first run of a session is slow.

        Raises:
            Failed: the run failed.
        """
        n_frames = options.first_answer_frames
        feed: dict[str, Array] = {}
        for spec in self.contract.inputs:
            sizes = [n_frames if size is None else size for size in spec.dims[1:]]
            # Ones where zero means something else: no temperature, no choice left.
            value = 1 if spec.name in ("temperature", "top_k", "top_p") else 0
            feed[spec.name] = np.full([1, *sizes], value, spec.dtype)
        state = self.first_state()
        for n in (n_frames, 1):
            _, state = self.advance(RequestedPiece(feed, options).chunk(0, n), state)


def _states(takes: dict[str, Any], answers: dict[str, Any], path: str) -> tuple[Spec, ...]:
    states = []
    for name, node in takes.items():
        if not name.startswith(STATE):
            continue
        after = answers.get(NEXT + name)
        if after is None or after.type != node.type or len(after.shape) != len(node.shape) or node.type not in TYPES:
            raise SessionError(
                f"{path} takes {name} as {node.type} {node.shape} and has no {NEXT}{name} like it; export it again"
            )
        dims = tuple(size if isinstance(size, int) and size >= 0 else None for size in node.shape)
        states.append(Spec(name, TYPES[node.type][1], dims))
    if not states:
        raise SessionError(f"{path} has no state (inputs named {STATE}...); is it a graph for backend onnxruntime?")
    return tuple(states)
