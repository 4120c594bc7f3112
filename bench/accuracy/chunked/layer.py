"""A top layer and its loss in one, over chunks of classes: for autograd and any optimiser, or with SGD in place.

loss = ChunkedLoss(form_of(losses.configured("batch-ce", classes=k), k))
loss(features, layer.weight, layer.bias, labels).backward()          # weight's gradient (k, d): for any optimiser

step = in_place_step(features, weight, bias, labels, form, lr=0.1)   # the layer has made its step
backbone_output.backward(step.features)                              # and the backbone's gradient is here
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.accuracy.chunked.coefficients import coefficients
from bench.accuracy.chunked.forms import Form
from bench.accuracy.chunked.passes import backward, row_statistics
from bench.accuracy.chunked.updates import Gradients, PlainSGD
from bench.errors import UsageError


@dataclass(frozen=True, eq=False)
class ChunkedLoss:
    """The loss of a linear layer's logits, which are never all held; differentiable once.

    chunk: classes at a time, by default what suits the device. sparse: the gradient of weight and bias is a sparse
    tensor of the rows that have one, for optimisers that take it; only a margin loss has such rows.
    """

    form: Form
    chunk: int | None = None
    sparse: bool = False

    def __post_init__(self) -> None:
        """Refuse sparse gradients of a loss whose gradient is in every row."""
        if self.sparse and "largest_false" not in self.form.statistics:
            raise UsageError(f"the gradient of {self.form.key} is in every row: leave sparse out")

    def __call__(self, features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        """features (m, d), weight (k, d), bias (k,) or none, labels (m,) -> a scalar, float32 or float64.

        Raises UsageError for shapes, types or labels that do not fit, and for a layer of another number of classes.
        """
        _refuse_shard(weight, self.form)
        loss: Tensor = _Chunked.apply(features, weight, bias, labels, self)
        return loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, loss: ChunkedLoss
    ) -> Tensor:
        rows = row_statistics(features, weight, bias, labels, loss.form, chunk=loss.chunk)
        value, found = coefficients(loss.form, rows)
        ctx.loss, ctx.found = loss, found
        ctx.save_for_backward(features, weight, bias, labels)
        return value

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a second derivative would silently be 0
            raise UsageError("a chunked loss is differentiable once: leave create_graph out")
        loss, found = ctx.loss, ctx.found
        features, weight, bias, labels = ctx.saved_tensors
        of = found.times(slope)
        gradients = backward(features, weight, bias, labels, loss.form, of, chunk=loss.chunk)
        layer = _as_sparse(gradients, len(weight)) if loss.sparse else gradients.dense(len(weight))
        return gradients.features.to(features.dtype), layer.weight, layer.bias, None, None


def _as_sparse(gradients: Gradients, classes: int) -> Gradients:
    """Rows as sparse tensors of the layer's shapes; of a dense gradient, which ties make, its rows that are not 0."""
    assert gradients.weight is not None
    if gradients.rows is None:
        bias = None if gradients.bias is None else gradients.bias.to_sparse(1)
        return Gradients(gradients.features, gradients.weight.to_sparse(1), bias)
    index = gradients.rows[None]
    shape = (classes, gradients.weight.shape[1])
    made = functools.partial(torch.sparse_coo_tensor, index, check_invariants=False)  # rows are those of labels
    weight = made(gradients.weight, shape)
    bias = None if gradients.bias is None else made(gradients.bias, shape[:1])
    return Gradients(gradients.features, weight, bias)


class Step(NamedTuple):
    """loss: a scalar, before the step. features: its gradient for them, (m, d), in their type."""

    loss: Tensor
    features: Tensor


def in_place_step(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    form: Form,
    lr: float,
    *,
    weight_decay: float = 0.0,
    chunk: int | None = None,
) -> Step:
    """One step of plain SGD on the layer, in place, without its gradient ever being held.

    Arguments as of ChunkedLoss. Autograd knows nothing of it: give features' gradient to the backbone. The step is
    that of torch.optim.SGD(lr, weight_decay) on the weight, without momentum, and without decay on the bias. Raises
    UsageError as ChunkedLoss does, and for a rate or decay below 0.
    """
    update = PlainSGD(lr, weight_decay)
    _refuse_shard(weight, form)
    rows = row_statistics(features, weight, bias, labels, form, chunk=chunk)
    value, found = coefficients(form, rows)
    gradients = backward(features, weight, bias, labels, form, found, chunk=chunk, update=update)
    return Step(value, gradients.features.to(features.dtype))


def _refuse_shard(weight: Tensor, form: Form) -> None:
    if len(weight) != form.classes:
        raise UsageError(
            f"a layer of {len(weight)} classes and a loss over {form.classes}: configure the loss for the layer, or "
            "put shards together by RowStatistics.merged"
        )
