"""Losses that draw classes, from the rows of the weight that they drew: neither m x k logits nor a k x d gradient.

    form = sampled_form_of(losses.configured("nce", classes=k, class_frequencies=counts, negatives="shared"), k)
    SampledLoss(form)(features, layer.weight, layer.bias, labels).backward()    # gradients of the rows drawn: sparse
    step = in_place_sampled_step(features, weight, bias, labels, form, lr=0.1)  # or applied at once

| key | loss of one example, its noise j_1 .. j_t drawn from q | with correction="none", where u = z |
|---|---|---|
| nce | softplus(-u_y) + sum_s softplus(u_s) | binary CE of the classes drawn |
| importance-sampling | -z_y + log(e^z_y + sum_{s: j_s != y} e^u_s) | Z of the drawn classes alone, too low |
| negative-sampling | softplus(-u_y) + sum_{s: j_s != y} softplus(u_s) | word2vec's, and the default |

u_j = z_j - log(t q_j) is the log-q correction: with it NCE's mean is the exact loss of all classes, and importance
sampling estimates the partition function without bias. Without it importance sampling under-estimates log Z (of uniform
noise all false classes together k/t times): its logits are wrong where they are read one at a time. Negative sampling
has none unless asked: with it, it is NCE with draws of the true class left out. (In importance sampling the true class
is in the sum with certainty, so z_y is never corrected.)

Shared noise (negatives="shared") is one set of t classes for the whole minibatch: one product of (m, d) and (d, t) in
place of m products of (t, d), so that t can be in the thousands. Each example's loss has the same mean; examples' noise
is no longer independent, which adds to the variance of the gradient's mean.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from bench.accuracy import losses
from bench.accuracy.chunked.forms import arguments, noise_rate
from bench.accuracy.chunked.layer import Step
from bench.accuracy.chunked.shards import check_layer, computed_in, refuse_outside
from bench.accuracy.chunked.updates import Gradients, PlainSGD, update_rows
from bench.accuracy.losses import Configured
from bench.errors import UsageError


@dataclass(frozen=True, eq=False)
class SampledForm:
    """A loss of true logits and those of drawn classes.

    t: noise classes of an example. q: their distribution, (k,) in float64, or none for the uniform one. generator:
    what draws, torch's own if none. shared: one draw for a whole minibatch. corrected: with the log-q correction.
    """

    key: str
    classes: int
    t: int
    q: Tensor | None = None
    generator: Generator | None = None
    shared: bool = False
    corrected: bool = True

    def draw(self, examples: int) -> Tensor:
        """Classes drawn with replacement, on the generator's device: (t,) where shared, else (examples, t).

        They are those that bench.accuracy.losses draws with the same generator.
        """
        shape = (self.t,) if self.shared else (examples, self.t)
        if self.q is None:
            device = None if self.generator is None else self.generator.device
            return torch.randint(self.classes, shape, generator=self.generator, device=device)
        return self._drawn_from_q(torch.Size(shape))

    def _drawn_from_q(self, shape: torch.Size) -> Tensor:
        assert self.q is not None
        q = self.q if self.generator is None else self.q.to(self.generator.device)
        # In float64 the running sum of a million shares is exact to 1e-10; in float32 rare classes would vanish in it.
        return torch.multinomial(q, shape.numel(), replacement=True, generator=self.generator).view(shape)

    def log_rate(self, classes: Tensor) -> Tensor:
        """log(t q_j) of these classes, in float64; quickest with q on their device."""
        if self.q is None:
            return torch.full(
                classes.shape, math.log(self.t / self.classes), dtype=torch.float64, device=classes.device
            )
        return (self.t * self.q[classes.to(self.q.device)]).log().to(classes.device)

    def value(self, true: Tensor, noise: Tensor, labels: Tensor, drawn: Tensor) -> Tensor:
        """The loss, a scalar: true logits (m,) of labels (m,), and noise's (m, t) of drawn, (m, t) or (t,)."""
        hit = drawn == labels[:, None]
        true_u, noise_u = true, noise
        if self.corrected:
            true_u, noise_u = true - self.log_rate(labels).to(true), noise - self.log_rate(drawn).to(noise)
        if self.key == "importance-sampling":
            others = noise_u.masked_fill(hit, -torch.inf)
            return (torch.logsumexp(torch.cat([true[:, None], others], 1), 1) - true).mean()
        against = -F.logsigmoid(-noise_u)
        if self.key == "negative-sampling":
            against = against.masked_fill(hit, 0)
        return (-F.logsigmoid(true_u) + against.sum(1)).mean()


def sampled_form_of(configured: Configured, classes: int) -> SampledForm:
    """The form of a sampled loss as a run uses it, over k = `classes` classes; shared and corrected as it says.

    Raises UsageError for a loss that draws nothing, and class frequencies of another number of classes.
    """
    key = configured.setting.key
    if key not in losses.CORRECTED or not losses.draws_noise(configured.setting):
        raise UsageError(
            f"{key} as configured draws no classes: use bench.accuracy.chunked.forms"
            + (", or configure it with estimate='sampled'" if key == "nce" else "")
        )
    given: dict[str, Any] = arguments(configured)
    q: Tensor | None = given.get("q")
    noise_rate(classes, given["t"], q)  # refuses a q of another length
    return SampledForm(
        key=key,
        classes=classes,
        t=given["t"],
        q=None if q is None else q.double(),
        generator=given.get("generator"),
        shared=given["shared"],
        corrected=given["corrected"],
    )


@dataclass(frozen=True, eq=False)
class SampledLoss:
    """The loss of a linear layer's logits of the true and the drawn classes; differentiable.

    sparse: the gradient of weight and bias is a sparse tensor of those rows, for optimisers that take it (SGD,
    SparseAdam); else one of all k rows.
    """

    form: SampledForm
    sparse: bool = True

    def __call__(
        self, features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, drawn: Tensor | None = None
    ) -> Tensor:
        """features (m, d), weight (k, d), bias (k,) or none, labels (m,) -> a scalar, float32 or float64.

        drawn: noise classes, (m, t), or (t,) where shared; drawn by the form if none are given. Raises UsageError for
        shapes, types, labels or noise that do not fit.
        """
        labels, drawn = _checked(features, weight, bias, labels, self.form, drawn)
        rows = torch.cat([labels, drawn.flatten()])
        gathered = F.embedding(rows, weight, sparse=self.sparse)
        own_bias = None if bias is None else torch.gather(bias, 0, rows, sparse_grad=self.sparse)
        return _loss(features, gathered, own_bias, labels, drawn, self.form)


def row_gradients(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    form: SampledForm,
    drawn: Tensor | None = None,
) -> tuple[Tensor, Gradients]:
    """The loss, a scalar, and its gradients for the features and for the rows of labels and drawn classes.

    Arguments and errors as of SampledLoss. Gradients.rows, (m + m t,) or (m + t,), may hold a class more than once;
    gradients are in the type of the computation.
    """
    labels, drawn = _checked(features, weight, bias, labels, form, drawn)
    rows = torch.cat([labels, drawn.flatten()])
    dtype = computed_in(features, weight)
    sources = [features, weight[rows]] if bias is None else [features, weight[rows], bias[rows]]
    leaves = [source.detach().to(dtype).requires_grad_() for source in sources]
    with torch.enable_grad():
        value = _loss(leaves[0], leaves[1], leaves[2] if bias is not None else None, labels, drawn, form)
    of_features, of_weight, *of_bias = torch.autograd.grad(value, leaves)
    return value.detach(), Gradients(of_features, of_weight, of_bias[0] if of_bias else None, rows)


def in_place_sampled_step(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    form: SampledForm,
    lr: float,
    *,
    weight_decay: float = 0.0,
    drawn: Tensor | None = None,
) -> Step:
    """One step of plain SGD on the rows of labels and drawn classes, in place; weight decay is of all rows.

    Arguments and errors as of SampledLoss and bench.accuracy.chunked.layer.in_place_step.
    """
    update = PlainSGD(lr, weight_decay)
    value, of = row_gradients(features, weight, bias, labels, form, drawn)
    assert of.weight is not None
    assert of.rows is not None
    with torch.no_grad():
        update_rows(weight, bias, of.rows, of.weight, of.bias, update)
    return Step(value, of.features.to(features.dtype))


def _checked(
    features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, form: SampledForm, drawn: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Labels and noise as indices of the layer's rows."""
    if weight.dim() == 2 and len(weight) != form.classes:
        raise UsageError(f"a layer of {len(weight)} classes and noise over {form.classes}: configure the loss for it")
    check_layer(features, weight, bias, labels, form.classes)
    shape = (form.t,) if form.shared else (len(labels), form.t)
    if drawn is None:
        return labels.long(), form.draw(len(labels)).to(labels.device)
    if drawn.shape != shape or drawn.dtype != torch.int64:
        raise UsageError(f"noise of shape {tuple(drawn.shape)} and {drawn.dtype}: give {shape} int64")
    refuse_outside("noise classes", drawn.flatten(), form.classes)
    return labels.long(), drawn


def _loss(
    features: Tensor, gathered: Tensor, bias: Tensor | None, labels: Tensor, drawn: Tensor, form: SampledForm
) -> Tensor:
    """The loss from the rows of labels and drawn classes: (m + m t, d) or (m + t, d), bias of the same length."""
    examples, dtype = len(features), computed_in(features, gathered)
    with torch.autocast(features.device.type, enabled=False):
        x, rows = features.to(dtype), gathered.to(dtype)
        true = (x * rows[:examples]).sum(1)
        if form.shared:
            noise = x @ rows[examples:].t()
        else:
            noise = torch.bmm(rows[examples:].view(examples, form.t, -1), x[:, :, None]).squeeze(2)
        if bias is not None:
            true = true + bias[:examples]
            noise = noise + bias[examples:].view(drawn.shape)
        return form.value(true, noise, labels, drawn)
