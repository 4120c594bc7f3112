"""What becomes of the layer's gradients: returned, of all rows or of some, or applied in place by plain SGD."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import UsageError


@dataclass(frozen=True)
class PlainSGD:
    """weight <- (1 - lr weight_decay) weight - lr gradient, and bias without decay: no momentum, so no state."""

    lr: float
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a rate or a decay that no step can be made with."""
        for name, value in (("learning rate", self.lr), ("weight decay", self.weight_decay)):
            if not 0 <= value < math.inf:
                raise UsageError(f"a {name} of {value}: give a finite number, 0 or more")

    @property
    def kept(self) -> float:
        """What a step multiplies the weight with."""
        return 1 - self.lr * self.weight_decay


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of a loss through a linear layer, or through a shard of its classes.

    features: (m, d), of this shard alone: the sum over shards is the whole, in the logits' type. weight and bias: in
    the layer's own types and none where they were applied in place; of all rows of the shard, (k_local, d) and
    (k_local,), or, where `rows` is not none, of those alone: (r, d) and (r,). A row may come more than once; its
    gradients are to be added.
    """

    features: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    rows: Tensor | None = None

    def dense(self, classes: int) -> "Gradients":
        """With a gradient of every row: (classes, d)."""
        if self.rows is None or self.weight is None:
            return self
        weight = self.weight.new_zeros((classes, self.weight.shape[1])).index_add_(0, self.rows, self.weight)
        bias = None if self.bias is None else self.bias.new_zeros(classes).index_add_(0, self.rows, self.bias)
        return Gradients(self.features, weight, bias)


def update_rows(
    weight: Tensor, bias: Tensor | None, rows: Tensor, gradient: Tensor, slopes: Tensor | None, update: PlainSGD
) -> None:
    """Plain SGD on some rows in place; a row may come more than once. Weight decay is of all rows.

    weight (k, d), bias (k,) or none, rows (r,), gradient (r, d), slopes (r,): those of the bias, where there is one.
    """
    _step_rows(weight, rows, gradient, update.lr, update.kept)
    if bias is not None and slopes is not None:
        _step_rows(bias, rows, slopes, update.lr)


def _step_rows(values: Tensor, rows: Tensor, gradient: Tensor, lr: float, kept: float = 1.0) -> None:
    """values <- kept * values, and values[rows] -= lr * gradient.

    Where the values are coarser than the gradient, a row is made in the gradient's type and rounded once.
    """
    if values.dtype == gradient.dtype:
        _shrink(values, kept)
        values.index_add_(0, rows, gradient, alpha=-lr)
        return
    own, place = torch.unique(rows, return_inverse=True)
    stepped = (kept * values[own].to(gradient.dtype)).index_add_(0, place, gradient, alpha=-lr)
    _shrink(values, kept)
    values[own] = stepped.to(values.dtype)


def _shrink(values: Tensor, kept: float) -> None:
    if kept != 1:  # without decay the other rows are not read
        values.mul_(kept)
