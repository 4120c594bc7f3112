"""The top layer's part of a step: features of a whole minibatch in, the loss and their gradient out.

    images -- backbone, micro-batch by micro-batch --> features (m, d)
    features, labels -- top layer, loss --> loss, features' gradient (m, d)        dense, chunked or in place
    features' gradient -- backbone, micro-batch by micro-batch --> its weights' gradients

The loss sees all m examples at once, whatever the micro-batches: the batch losses are those of the whole minibatch. The
weight's gradient is left where optimisers look for it, or is applied at once.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from bench.accuracy import losses
from bench.accuracy.chunked import (
    ChunkedLoss,
    SampledLoss,
    Step,
    form_of,
    in_place_sampled_step,
    in_place_step,
    sampled_form_of,
)
from bench.accuracy.losses import Configured
from bench.accuracy.stacking import Loss

#: A loss on its way to its backward, times the scale of gradients in float16.
Scaled = Callable[[Tensor], Tensor]


class TopStep(Protocol):
    """What turns features (m, d) and labels (m,) into a loss, and leaves or applies the layer's gradients."""

    def __call__(self, features: Tensor, labels: Tensor, scaled: Scaled) -> Step:
        """The loss before the step, not scaled, and its gradient for the features, scaled."""


@dataclass(frozen=True, eq=False)
class DenseStep:
    """By autograd through all logits (m, k). layer: any top layer, also a rival of the full one."""

    layer: nn.Module
    loss: Loss
    precision: Callable[[], AbstractContextManager[object]]

    def __call__(self, features: Tensor, labels: Tensor, scaled: Scaled) -> Step:
        """As TopStep."""
        leaf = features.detach().requires_grad_()
        with self.precision():
            logits = self.layer(leaf)
        return _by_autograd(self.loss(at_least_single(logits), labels), leaf, scaled)


@dataclass(frozen=True, eq=False)
class ChunkedStep:
    """Over chunks of classes; the weight's gradient (k, d) goes to the optimiser."""

    layer: nn.Linear
    loss: ChunkedLoss | SampledLoss

    def __call__(self, features: Tensor, labels: Tensor, scaled: Scaled) -> Step:
        """As TopStep."""
        leaf = features.detach().requires_grad_()
        return _by_autograd(self.loss(leaf, self.layer.weight, self.layer.bias, labels), leaf, scaled)


@dataclass(eq=False)
class InPlaceStep:
    """Over chunks of classes, each of which makes its step of plain SGD at once. rate: of the next step."""

    layer: nn.Linear
    loss: ChunkedLoss | SampledLoss
    rate: float
    weight_decay: float

    def __call__(self, features: Tensor, labels: Tensor, scaled: Scaled) -> Step:
        """As TopStep; gradients are not scaled."""
        weight, bias = self.layer.weight.detach(), None if self.layer.bias is None else self.layer.bias.detach()
        decay, rate = self.weight_decay, self.rate
        if isinstance(self.loss, SampledLoss):
            form = self.loss.form
            return in_place_sampled_step(features.detach(), weight, bias, labels, form, rate, weight_decay=decay)
        return in_place_step(features.detach(), weight, bias, labels, self.loss.form, rate, weight_decay=decay)


def chunked_loss(configured: Configured, classes: int) -> ChunkedLoss | SampledLoss:
    """A loss over chunks of classes; of one that draws classes, over those that it draws.

    Raises UsageError for a loss that has neither form.
    """
    if losses.draws_noise(configured.setting):
        return SampledLoss(sampled_form_of(configured, classes), sparse=False)
    return ChunkedLoss(form_of(configured, classes))


def at_least_single(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.float() if values.element_size() < torch.float32.itemsize else values


def _by_autograd(loss: Tensor, leaf: Tensor, scaled: Scaled) -> Step:
    scaled(loss).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return Step(loss.detach(), leaf.grad)
