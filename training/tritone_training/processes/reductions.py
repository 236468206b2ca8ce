"""Sums and means over the processes that train one model; in a single process they are the identity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn


def n_processes() -> int:
    """Return the number of processes of the running training."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def global_mean(values: Tensor) -> Tensor:
    """Return the mean over processes of equally many samples each, with the gradient of this process's own values.

    The gradients are averaged over processes afterwards, so that a function of the mean gets the gradient that one
    process would compute for all samples.
    """
    if n_processes() == 1:
        return values
    mean = values.detach().clone()
    distributed.all_reduce(mean)
    return values + (mean / n_processes() - values.detach())


def loss_weight(count: Tensor | int) -> Tensor | float:
    """Return the factor of a loss that is a mean over `count` samples of this process.

    Gradients are averaged over processes; with this factor, the result is that of the mean over all samples, even if
    processes have different numbers of them. Every process has to call it equally often.

    Args:
        count: samples, tokens or frames that this process's loss is the mean of; a tensor on the training's device.
    """
    if n_processes() == 1:
        return 1.0
    if not isinstance(count, Tensor):
        count = torch.tensor(float(count), device=_device())
    total = count.detach().float().clone()
    distributed.all_reduce(total)
    return count * n_processes() / total.clamp_min(1e-12)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of parameters over processes, for optimisers within a training step."""
    if n_processes() == 1:
        return
    gradients = [each.grad for each in parameters if each.grad is not None]
    flat = torch.cat([each.flatten() for each in gradients])
    distributed.all_reduce(flat)
    flat /= n_processes()
    start = 0
    for each in gradients:
        each.copy_(flat[start : start + each.numel()].view_as(each))
        start += each.numel()


def _device() -> torch.device:
    backend: Any = distributed.get_backend()
    return torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
