"""The loss of a step, and its top layer's part, where each rank has some of the global minibatch's examples.

    whole layer, all logits       GlobalLoss             in the place of the loss, under autograd
    whole layer, over chunks      GlobalChunkedStep      row statistics go around
                                  GlobalSampledStep      a mean over examples goes around
    layer split over ranks        ShardedStep            features go around; in place, or a gradient of the own rows

Each leaves this rank's part of the gradients: `sum_gradients` makes them whole, for all but a split layer's rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.accuracy import losses
from bench.accuracy.chunked import (
    ChunkedLoss,
    Form,
    PlainSGD,
    SampledForm,
    SampledLoss,
    Step,
    backward,
    form_of,
    row_statistics,
    sampled_form_of,
)
from bench.accuracy.losses import Configured
from bench.accuracy.ranks.global_batch import global_coefficients, global_loss, global_mean, own_noise
from bench.accuracy.ranks.process_group import Ranks
from bench.accuracy.ranks.sharded import ShardedTopLayer
from bench.accuracy.top_steps import Scaled, at_least_single


@dataclass(frozen=True, eq=False)
class Division:
    """How the examples of a global minibatch are divided: places of each rank's, (m_r,) int64 on the CPU."""

    ranks: Ranks
    places: tuple[Tensor, ...]

    @property
    def examples(self) -> int:
        """Of the global minibatch."""
        return sum(len(own) for own in self.places)

    @property
    def own(self) -> Tensor:
        """Places of this rank's examples."""
        return self.places[self.ranks.rank]

    @property
    def everyone(self) -> Tensor:
        """Places of all, rank by rank: (m,)."""
        return torch.cat(self.places)


@dataclass(frozen=True, eq=False)
class GlobalLoss:
    """The loss of the global minibatch, the same on all ranks; its gradient is this rank's part of the global one.

    form: of a loss over all classes, or of one that draws; none for a rival's own loss, a mean over examples.
    """

    loss: Configured
    form: Form | SampledForm | None
    division: Division

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of this rank's logits (m_r, k) and labels (m_r,), m_r as the division has it: a scalar."""
        ranks = self.division.ranks
        if isinstance(self.form, Form):
            return global_loss(logits, labels, self.form, ranks)
        if self.form is None:
            return _mean(self.loss(logits, labels), self.division)
        drawn = own_noise(self.form, self.division.examples, ranks, self.division.own).to(logits.device)
        z, place = at_least_single(logits), labels.long()[:, None]
        noise = z.gather(1, drawn.expand(len(z), self.form.t))  # shared noise is the same for every example
        return _mean(self.form.value(z.gather(1, place)[:, 0], noise, labels, drawn), self.division)


def form_over(configured: Configured, classes: int, *, rival: bool) -> Form | SampledForm | None:
    """The form of a loss as ranks share it; none for a rival's. Raises UsageError for a loss that has none."""
    if rival:
        return None
    if losses.draws_noise(configured.setting):
        return sampled_form_of(configured, classes)
    return form_of(configured, classes)


def _mean(own: Tensor, division: Division) -> Tensor:
    """The global mean as a scalar whose backward is that of this rank's part of it."""
    value, part = global_mean(own, len(division.own), division.ranks)
    moved: Tensor = _ValueOf.apply(value, part)
    return moved


class _ValueOf(torch.autograd.Function):
    """One scalar's value with another's gradient."""

    @staticmethod
    def forward(ctx: object, value: Tensor, part: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, slope: Tensor) -> tuple[None, Tensor]:
        return None, slope


@dataclass(frozen=True, eq=False)
class GlobalChunkedStep:
    """Over chunks of classes of a layer that every rank holds; this rank's part of its gradient goes to the layer."""

    layer: nn.Linear
    loss: ChunkedLoss
    division: Division

    def __call__(self, features: Tensor, labels: Tensor, scaled: Scaled) -> Step:
        """As bench.accuracy.top_steps.TopStep, of this rank's examples; the loss is the global one."""
        layer, form, x = self.layer, self.loss.form, features.detach()
        rows = row_statistics(x, layer.weight, layer.bias, labels, form)
        value, (own,) = global_coefficients(form, [rows], self.division.ranks)
        own = own.times(scaled(value.new_ones(())))
        found = backward(x, layer.weight, layer.bias, labels, form, own).dense(layer.out_features)
        layer.weight.grad = found.weight
        if layer.bias is not None:
            layer.bias.grad = found.bias
        return Step(value, found.features.to(features.dtype))


@dataclass(frozen=True, eq=False)
class GlobalSampledStep:
    """Over the drawn classes of a layer that every rank holds, from one draw for the global minibatch."""

    layer: nn.Linear
    loss: SampledLoss
    division: Division

    def __call__(self, features: Tensor, labels: Tensor, scaled: Scaled) -> Step:
        """As GlobalChunkedStep."""
        leaf = features.detach().requires_grad_()
        drawn = own_noise(self.loss.form, self.division.examples, self.division.ranks, self.division.own)
        own = self.loss(leaf, self.layer.weight, self.layer.bias, labels, drawn.to(labels.device))
        value = _mean(own, self.division)
        scaled(value).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return Step(value.detach(), leaf.grad)


@dataclass(eq=False)
class ShardedStep:
    """Of a layer whose classes are split over ranks. rate: of the next step, in place.

    in_place: plain SGD on the own rows; else their gradient goes to `layer.weight` and `layer.bias`, parameters then.
    """

    layer: ShardedTopLayer
    loss: ChunkedLoss | SampledLoss
    division: Division
    in_place: bool
    rate: float
    weight_decay: float

    def __call__(self, features: Tensor, labels: Tensor, scaled: Scaled) -> Step:
        """As bench.accuracy.top_steps.TopStep, of this rank's examples; gradients are not scaled."""
        places = self.division.everyone
        update = PlainSGD(self.rate, self.weight_decay) if self.in_place else None
        loss, found = self.layer.backward(features, labels, update=update, places=places)
        if not self.in_place:
            whole = found.dense(len(self.layer.weight))
            assert whole.weight is not None
            self.layer.weight.grad = whole.weight.to(self.layer.weight.dtype)
            if self.layer.bias is not None and whole.bias is not None:
                self.layer.bias.grad = whole.bias.to(self.layer.bias.dtype)
        return Step(loss, found.features)
