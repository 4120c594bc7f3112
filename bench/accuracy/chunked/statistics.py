"""What the losses need to know of a row of logits: a few sums and a maximum over its classes.

Each is found of some classes at a time, combined exactly over chunks and over shards of classes, and says how it moves
with each logit. m examples, c classes of a chunk; logits (m, c) are float32 or float64 and so is every statistic.

| statistic | of a row z | derivative for z_j |
|---|---|---|
| lse | log sum_j e^z_j | e^(z_j - lse) |
| lse_doubled | log sum_j e^(2 z_j) | 2 e^(2 z_j - lse_doubled) |
| lse_doubled_logsigmoid | log sum_j sigma(z_j)^2 | 2 sigma(z_j)^2 e^(-lse_doubled_logsigmoid) sigma(-z_j) |
| softplus | sum_j w_j log(1 + e^(z_j - s_j)) | w_j sigma(z_j - s_j) |
| largest_false | max_{j != y} z_j | 1 at the largest, shared evenly among ties |
| mean | mean_j z_j, over all k classes | 1/k |
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Statistic = Literal["lse", "lse_doubled", "lse_doubled_logsigmoid", "softplus", "largest_false", "mean"]

#: What combines by log-sum-exp, and what is a plain sum.
_LOGARITHMIC: frozenset[Statistic] = frozenset({"lse", "lse_doubled", "lse_doubled_logsigmoid"})


class ClassTerms(NamedTuple):
    """What the softplus and the mean need to know of the classes at hand: weights and shifts (c,), and k in all."""

    weights: Tensor | None
    shifts: Tensor | None
    classes: int

    def of(self, columns: slice) -> "ClassTerms":
        """Those of some of the classes."""
        weights, shifts = (None if values is None else values[columns] for values in (self.weights, self.shifts))
        return ClassTerms(weights, shifts, self.classes)


def neutral(statistic: Statistic) -> float:
    """The statistic of no class at all."""
    return -math.inf if statistic in _LOGARITHMIC or statistic == "largest_false" else 0.0


def of_chunk(statistic: Statistic, logits: Tensor, terms: ClassTerms) -> Tensor:
    """The statistic of a chunk's classes alone: logits (m, c) -> (m,). For largest_false see `largest`."""
    if statistic == "lse":
        return torch.logsumexp(logits, 1)
    if statistic == "lse_doubled":
        return torch.logsumexp(2 * logits, 1)
    if statistic == "lse_doubled_logsigmoid":
        return torch.logsumexp(F.logsigmoid(logits).mul_(2), 1)
    if statistic == "softplus":
        shifted = logits if terms.shifts is None else logits - terms.shifts
        # -logsigmoid(-x) is exact at both ends; torch's softplus cuts off at 20.
        found = F.logsigmoid(-shifted)
        # summed pairwise; a product with the weights sums one after the other, 100 times less exact in float32
        return -(found if terms.weights is None else found.mul_(terms.weights)).sum(1)
    if statistic == "mean":
        return logits.sum(1).div_(terms.classes)
    raise ValueError(f"{statistic} needs the true logits masked: use largest")


def largest(masked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a chunk whose true logits are -inf: the largest logit of each row, a column that has it, how many have it.

    (m, c) -> (m,), (m,), (m,).
    """
    values, columns = masked.max(1)
    return values, columns, (masked == values[:, None]).sum(1)


def combined(statistic: Statistic, parts: Tensor) -> Tensor:
    """The statistic of all classes from that of each part of them: (parts, m) -> (m,)."""
    if statistic in _LOGARITHMIC:
        return torch.logsumexp(parts, 0)
    return parts.amax(0) if statistic == "largest_false" else parts.sum(0)


def into_derivative(
    statistic: Statistic, logits: Tensor, value: Tensor, coefficient: Tensor, terms: ClassTerms
) -> Tensor:
    """Turn a chunk's logits, in place, into coefficient_i times the derivative of row i's statistic for each of them.

    logits (m, c), value and coefficient (m,), the value being that over all classes -> (m, c). For largest_false the
    true logits are -inf and the coefficient is each tied logit's share. That of mean is a constant and not formed.
    """
    scale, level = coefficient[:, None], value[:, None]
    if statistic == "lse":
        return logits.sub_(level).exp_().mul_(scale)
    if statistic == "lse_doubled":
        return logits.mul_(2).sub_(level).exp_().mul_(2 * scale)
    if statistic == "lse_doubled_logsigmoid":
        # in logarithms: far below 0 the squared sigmoids vanish, their shares of the sum do not
        share = F.logsigmoid(logits).mul_(2).sub_(level).exp_()
        return logits.neg_().sigmoid_().mul_(share).mul_(2 * scale)
    if statistic == "softplus":
        slope = (logits if terms.shifts is None else logits.sub_(terms.shifts)).sigmoid_()
        return (slope if terms.weights is None else slope.mul_(terms.weights)).mul_(scale)
    if statistic == "largest_false":
        return logits.eq_(level).mul_(scale)
    raise ValueError(f"the derivative of {statistic} is a constant: nothing to turn logits into")
