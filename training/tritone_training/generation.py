"""Sampling inside exported graphs, and loops that export as one ONNX node.

All randomness is an input (inverse transform sampling), so that equal noise gives equal notes. Loops have two forms:
plain Python for training and tests, one ONNX node each when exported. torch's own loops compile their body when they
run eagerly, which takes seconds; the plain ones compute the same.

Shapes: B batch, V choices, N steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

NEVER: Final = -1e9  # a logit that is never chosen; finite, because 0 x inf is not a number
LEAST_TEMPERATURE: Final = 1e-3  # below, logits overflow; `top_k = 1` selects the most likely value
MOST_TEMPERATURE: Final = 1e6  # above, what is never chosen would come near what is; all else is equally likely by far


@dataclass(frozen=True)
class SamplingFilter:
    """Sampling parameters, prepared outside the sampling loop, because an ONNX loop repeats everything inside it.

    Attributes:
        temperature: (B, 1).
        reach: (B, V) for each rank, most probable first: the rank is kept if the sum of those before it is below this.
        floor: (B, 1) probability below which no choice is kept.
        most: (B, 1) int64, number of ranks of which any may be the last one that is kept.
        is_limited: (B, 1) 0 where all choices are kept, 1 elsewhere.
    """

    temperature: Tensor
    reach: Tensor
    floor: Tensor
    most: Tensor
    is_limited: Tensor

    @classmethod
    def of(cls, *, temperature: Tensor, top_k: Tensor, top_p: Tensor, n_choices: int) -> SamplingFilter:
        """Return the prepared parameters.

        Args:
            temperature: (B,) above 0; below 1 is more conservative, above 1 more random.
            top_k: (B,) int64, number of most probable choices to keep (all from V on); at least 1.
            top_p: (B,) keep the most probable choices that together reach this probability (Holtzman et al. 2020,
                arXiv:1904.09751); 0 < p <= 1.
            n_choices: V.
        """
        rank = torch.arange(n_choices, device=top_k.device)
        stays = rank < top_k[:, None]
        reach = torch.where(stays, top_p[:, None], -1.0)
        # The most probable choice is always kept.
        reach = torch.where(rank == 0, 1.0, reach)
        is_limited = (top_k < n_choices) | (top_p < 1)
        # All choices below the floor together have less than 1 - p, so that the more probable ones reach p. Half of
        # what would suffice: at least the most probable choice is above it in spite of rounding.
        floor = 0.5 * (1 - top_p) / n_choices
        most = torch.where(is_limited, top_k.clamp(1, n_choices), 1)
        return cls(
            temperature=temperature.clamp(LEAST_TEMPERATURE, MOST_TEMPERATURE)[:, None],
            reach=reach,
            floor=floor[:, None],
            most=most[:, None],
            is_limited=is_limited[:, None].to(torch.float32),
        )

    def clone(self) -> SamplingFilter:
        """Return a copy of all tensors.

        A `while_loop` within two scans needs copies from the inner scan: for what the loop reads, torch 2.13 uses names
        that are unique within each scan only ("SyntaxError: duplicate argument").
        """
        return SamplingFilter(*(getattr(self, each.name).clone() for each in fields(self)))


def least_kept(shares: Tensor, reach: Tensor, floor: Tensor, most: Tensor) -> Tensor:
    """Return the probability of the last choice that is kept, by top_k and top_p.

    Sorts only as many choices as may be kept. An operator of its own, because PyTorch's exporter knows no sizes that
    depend on values; `tritone_export.operators` has its ONNX form.

    Args:
        shares: (B, V) probabilities.
        reach, floor, most: see `SamplingFilter`.

    Returns:
        (B, 1).
    """
    least: Tensor = _LEAST_KEPT(shares, reach, floor, most)
    return least


def _ranked_least(shares: Tensor, reach: Tensor, floor: Tensor, most: Tensor) -> Tensor:
    n_ranked = int(torch.minimum((shares >= floor).sum(1, keepdim=True), most).amax())
    ranked = torch.topk(shares, n_ranked, dim=1).values  # (B, n), falling
    before = torch.cumsum(ranked, dim=1) - ranked
    return torch.where(before < reach[:, :n_ranked], ranked, torch.inf).amin(1, keepdim=True)


def _shape_of_least(shares: Tensor, reach: Tensor, floor: Tensor, most: Tensor) -> Tensor:
    return torch.empty_like(shares[:, :1])


_LEAST_KEPT: Final[Any] = torch.library.custom_op("tritone::least_kept", _ranked_least, mutates_args=())
_LEAST_KEPT.register_fake(_shape_of_least)


def choose(logits: Tensor, noise: Tensor, choice: SamplingFilter) -> Tensor:
    """Sample one of V choices for each row.

    The cumulative sum is in the order of the vocabulary, not of the probabilities, because the order of two almost
    equally probable choices may differ between hosts, and with it the result.

    Args:
        logits: (B, V), NEVER for forbidden choices; each row must have an allowed one.
        noise: (B, 1) uniform in 0 <= u < 1.
        choice: prepared sampling parameters.

    Returns:
        (B, 1) int64.
    """
    shares = torch.softmax(logits / choice.temperature, dim=1)
    least = least_kept(shares, choice.reach, choice.floor, choice.most) * choice.is_limited
    reached = torch.cumsum(torch.where(shares >= least, shares, 0.0), dim=1)
    # The first whose cumulative sum exceeds the noise. Forbidden choices add nothing, so they are never the first.
    # `open_above` keeps the product below the total in spite of rounding.
    passed = reached > noise * reached[:, -1:]
    return torch.argmax(passed.to(torch.uint8), dim=1, keepdim=True)


def open_above(noise: Tensor) -> Tensor:
    """Return noise (any shape) whose rounded product with any positive number is below that number."""
    return noise.clamp_max(1 - 2.0**-23)


def choose_each(logits: Tensor, noise: Tensor, *, temperature: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Switch each of V notes on or off, independently of the others.

    Args:
        logits: (B, V) of being on.
        noise: (B, V) uniform in 0 <= u < 1.
        temperature: (B,) above 0.
        top_k: (B,) int64, largest number of notes that may be on, the most probable ones.
        top_p: (B,) a note less likely than 1 - p is never on.

    Returns:
        (B, V) bool.
    """
    likely = torch.sigmoid(logits / temperature.clamp_min(LEAST_TEMPERATURE)[:, None])
    n_kept = top_k.clamp(1, logits.shape[1])
    ranked = torch.topk(logits, logits.shape[1], dim=1).values
    least = torch.gather(ranked, 1, (n_kept - 1)[:, None])
    kept = (logits >= least) & (likely >= 1 - top_p[:, None])
    return (noise < likely) & kept


State: TypeAlias = tuple[Tensor, ...]
Step: TypeAlias = Callable[[State, State], tuple[State, State]]


def unrolled_or_scan(step: Step, state: State, inputs: Sequence[Tensor]) -> tuple[State, tuple[Tensor, ...]]:
    """Apply a step function N times; exported as a `Scan`.

    Args:
        step: (state, inputs of one step) -> (state, outputs of one step). States keep shape and type, and no
            output may be the very tensor of a state or input (clone it): torch's scan forbids aliases.
        state: tensors before the first step.
        inputs: each (N, B, ...), sliced along its first axis.

    Returns:
        the state after the last step, and the outputs, each (N, B, ...).
    """
    if torch.compiler.is_exporting():
        # Not public yet: https://github.com/pytorch/pytorch/issues/50688, https://github.com/pytorch/pytorch/pull/164874
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
    """Apply a step function while a condition holds; exported as a `Loop`.

    Args:
        goes_on: state -> () bool, whether there is another step.
        step: state -> state. States keep shape and type, and none may be the very tensor of the state before.
        state: tensors before the first step.

    Returns:
        the first state for which `goes_on` is false.
    """
    if torch.compiler.is_exporting():
        untyped: Any = torch.while_loop
        exported = untyped(lambda *each: goes_on(each), lambda *each: step(each), tuple(state))
        return tuple(exported)
    while bool(goes_on(state)):
        state = step(state)
    return state
