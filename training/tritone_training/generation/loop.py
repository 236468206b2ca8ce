"""Loops in two forms: plain Python for training and tests, one ONNX node each when exported.

torch's own loops compile their body when they run eagerly, which takes seconds; the plain ones compute the same.

Shapes: B batch, N steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = tuple[Tensor, ...]
Step: TypeAlias = Callable[[State, State], tuple[State, State]]


def unrolled_or_scan(step: Step, state: State, inputs: Sequence[Tensor]) -> tuple[State, tuple[Tensor, ...]]:
    """Carry a state through N steps; exported as a `Scan`.

    Args:
        step: (state, inputs of one step) -> (state, outputs of one step). States keep shape and type, and no
            output may be the very tensor of a state or input (clone it): torch's scan forbids aliases.
        state: tensors before the first step.
        inputs: each (N, B, ...), sliced along its first axis.

    Returns:
        the state after the last step, and the outputs, each (N, B, ...).
    """
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan

        exported: Any = scan(lambda carry, xs: step(tuple(carry), tuple(xs)), tuple(state), tuple(inputs), dim=0)
        final, stacked = exported
        return tuple(final), tuple(stacked)
    outputs: list[State] = []
    for n in range(inputs[0].shape[0]):
        state, answer = step(state, tuple(each[n] for each in inputs))
        outputs.append(answer)
    return state, tuple(torch.stack(each) for each in zip(*outputs, strict=True))


def unrolled_or_loop(goes_on: Callable[[State], Tensor], step: Callable[[State], State], state: State) -> State:
    """Carry a state through steps for as long as it says; exported as a `Loop`.

    Args:
        goes_on: state -> () bool, whether there is another step.
        step: state -> state. States keep shape and type, and none may be the very tensor of the state before.
        state: tensors before the first step.

    Returns:
        the state that goes on no more.
    """
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.while_loop import while_loop

        untyped: Any = while_loop
        exported = untyped(lambda *each: goes_on(each), lambda *each: step(each), tuple(state))
        return tuple(exported)
    while bool(goes_on(state)):
        state = step(state)
    return state
