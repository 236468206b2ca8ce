"""Batch normalisation over the batches of all processes on CPUs, for which torch's SyncBatchNorm needs GPUs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        distributed.all_reduce(total, group=ctx.group)
        return total, None


def _sum(values: Tensor, group: Any) -> Tensor:
    total: Tensor = _Sum.apply(values, group)  # type: ignore[no-untyped-call]
    return total


class SyncBatchNormCPU(_BatchNorm):
    """torch's SyncBatchNorm for CPUs: statistics in training are those of the batches of all processes together."""

    group: Any = None  # its own, so that its sums do not mix with those of DDP

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 axes, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise (B, C, ...) over all axes but the second."""
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        n_own = input.new_tensor([input.numel() / input.shape[1]])
        sums = _sum(torch.cat([input.sum(axes), n_own]), self.group)
        n, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = input - mean.view(shape)
        variance = _sum(centred.square().sum(axes), self.group) / n
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked += 1
                weight = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked or 1)
                self.running_mean.lerp_(mean.detach(), weight)
                self.running_var.lerp_(variance.detach() * n / (n - 1).clamp_min(1), weight)
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if not self.affine:
            return normal
        return normal * self.weight.view(shape) + self.bias.view(shape)


class SyncBatchNormPlugin(LayerSync):
    """Lightning plugin that replaces the batch normalisation of a module while it is trained.

    Args:
        timeout: longest time that a process waits for the others.
    """

    def __init__(self, timeout: timedelta) -> None:
        self._timeout = timeout
        self._replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace every batch normalisation by one with the same parameters and statistics."""
        group = distributed.new_group(timeout=self._timeout)
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                    synced = SyncBatchNormCPU(
                        child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
                    )
                    synced.group = group
                    synced._parameters, synced._buffers = child._parameters, child._buffers
                    synced.train(child.training)
                    setattr(parent, name, synced)
                    self._replaced.append((parent, name, child))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the module's own batch normalisation back."""
        for parent, name, child in self._replaced:
            child.train(getattr(parent, name).training)
            setattr(parent, name, child)
        self._replaced.clear()
        return model
