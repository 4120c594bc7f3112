"""Batch norm over the global minibatch: the mean and variance of all ranks' examples, not of this rank's share.

torch's SyncBatchNorm does this on CUDA, and refuses tensors on a CPU (in torch 2.11 as in 2.15). GlobalBatchNorm is its
equal there: with R ranks and n_r values of a channel on rank r,

    mean = sum_r sum x / sum_r n_r        variance = sum_r sum (x - mean)^2 / sum_r n_r        (Ioffe and Szegedy 2015)

and the gradient goes back through both sums, over the ranks too: each rank back-propagates its own part of a loss that
is summed over ranks. The running statistics are those of one process (with the unbiased variance).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from bench.accuracy.ranks.process_group import Ranks
from bench.errors import UsageError

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class GlobalBatchNorm(_BatchNorm):
    """Batch norm of inputs (n, c, ...) whose examples are spread over ranks; in evaluation as any other.

    In training every rank must come here equally often. Raises ValueError for one value a channel over all ranks.
    """

    def __init__(self, layer: _BatchNorm, ranks: Ranks) -> None:
        """In the place of `layer`, with its parameters and buffers."""
        super().__init__(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = layer.affine, layer.track_running_stats
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.training = layer.training
        self._ranks = ranks

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"an input of {input.dim()} axes: give (n, c) or (n, c, ...)")

    def forward(self, input: Tensor) -> Tensor:
        """(n, c, ...) -> the same shape."""
        self._check_input_dim(input)
        if not self.training:
            own = self.running_mean is None  # without running statistics: those of what is at hand, as torch has it
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=own, eps=self.eps
            )
        mean, variance, count = self._moments(input)
        if self.running_mean is not None:
            self._track(mean.detach(), variance.detach(), count)
        shape = (1, -1, *(1 for _ in input.shape[2:]))
        scale = (variance + self.eps).rsqrt()
        normal = (input.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    def _moments(self, input: Tensor) -> tuple[Tensor, Tensor, int]:
        """Mean and biased variance of each channel, (c,), and values a channel; in float32 or float64."""
        values = input.float() if input.element_size() < 4 else input
        axes = [axis for axis in range(values.dim()) if axis != 1]
        count = int(self._ranks.all_reduce(torch.tensor([values.numel() // values.shape[1]])))
        if count < 2:
            raise ValueError(f"batch norm of {count} value a channel: give the ranks 2 examples or more together")
        mean = _sum_over_ranks(values.sum(axes), self._ranks) / count
        centred = values - mean.view(1, -1, *(1 for _ in values.shape[2:]))
        # about the mean, in a second sum: that of squares less the mean's square would lose its digits
        variance = _sum_over_ranks(centred.square().sum(axes), self._ranks) / count
        return mean, variance, count

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), factor)


def over_ranks(module: nn.Module, ranks: Ranks) -> nn.Module:
    """The module with every batch-norm layer over the ranks; the layers are replaced in place, and keep their names.

    On a CPU by GlobalBatchNorm, on CUDA by torch's SyncBatchNorm (timm's where a norm holds its activation). Alone,
    nothing is changed. Raises UsageError for a batch norm of another kind on a CPU.
    """
    if ranks.size == 1 or not any(isinstance(part, _BatchNorm) for part in module.modules()):
        return module
    if any(tensor.is_cuda for tensor in module.parameters()):
        from timm.layers import norm_act

        convert: Callable[[nn.Module], nn.Module] = norm_act.convert_sync_batchnorm
        return convert(module)
    if isinstance(module, _BatchNorm):
        return _replaced("", module, ranks)
    for path, part in list(module.named_modules()):
        if isinstance(part, _BatchNorm):
            module.set_submodule(path, _replaced(path, part, ranks))
    return module


def _replaced(path: str, layer: _BatchNorm, ranks: Ranks) -> nn.Module:
    if type(layer) not in _PLAIN:
        raise UsageError(
            f"{path!r} is a {type(layer).__name__}, which cannot see other ranks' examples on a CPU: train it in one "
            "process, or on CUDA"
        )
    return GlobalBatchNorm(layer, ranks)


class _Summed(torch.autograd.Function):
    """Sum over ranks; its gradient is the sum of the ranks' gradients, since each has a part of the loss."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.all_reduce(values.clone())

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.all_reduce(slope.contiguous().clone()), None


def _sum_over_ranks(values: Tensor, ranks: Ranks) -> Tensor:
    summed: Tensor = _Summed.apply(values, ranks)
    return summed
