"""The eleven losses as functions of true logits and row statistics: all that is left of them once classes are summed.

    form = form_of(losses.configured("batch-ce", classes=370_727), 370_727)
    form.statistics                                   # ("lse",)
    form.value(true, {"lse": lse})                    # true (m,), lse (m,) -> a scalar

A form is an ordinary differentiable function of vectors with one entry an example, so its gradients for these, (m,)
each, are all that a backward over the classes needs. The batch losses are no special case: over ranks or accumulation
steps the same function is applied to the vectors of the whole minibatch, put together.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.accuracy import losses
from bench.accuracy.chunked.statistics import Statistic
from bench.accuracy.losses import Configured
from bench.errors import UsageError

Statistics = Mapping[Statistic, Tensor]
Value = Callable[[Tensor, Statistics], Tensor]


@dataclass(frozen=True, eq=False)
class Form:
    """A loss of m examples as a function of their true logits and row statistics.

    statistics: what it needs of a row. class_weights, class_shifts: w and s of the softplus, (k,) each, or none for 1
    and 0. Where there are shifts the form reads every logit less its class's shift, the true one too: `true` is
    z_y - s_y, which has the same derivative.
    """

    key: str
    classes: int
    statistics: tuple[Statistic, ...]
    function: Value
    class_weights: Tensor | None = None
    class_shifts: Tensor | None = None

    def value(self, true: Tensor, statistics: Statistics) -> Tensor:
        """The loss, a scalar, of true logits (m,) and statistics (m,) each, of the whole minibatch."""
        return self.function(true, statistics)


def form_of(configured: Configured, classes: int) -> Form:
    """The form of a loss as a run uses it, over k = `classes` classes.

    Raises UsageError for a loss that draws classes (see bench.accuracy.chunked.sampled), one that is not among the
    eleven, and class frequencies of another number of classes.
    """
    key = configured.setting.key
    if losses.draws_noise(configured.setting):
        raise UsageError(
            f"{key} draws classes, so it has no sums over all of them: use bench.accuracy.chunked.sampled"
            + (", or configure it with estimate='exact'" if key == "nce" else "")
        )
    if key not in _FORMS:
        raise UsageError(f"{key} has no form in row statistics; give one of {', '.join(_FORMS)}")
    if classes < 2:
        raise UsageError(f"{key} over {classes} class(es): a loss tells classes apart and needs at least 2")
    return _FORMS[key](key, classes, **arguments(configured))


def arguments(configured: Configured) -> dict[str, object]:
    """What a configured loss calls its function with: hyperparameters, smoothing, noise."""
    if not isinstance(configured.loss, functools.partial):
        raise UsageError(
            f"the loss {configured.setting.key} does not say what it was made with: make it by losses.configured"
        )
    return dict(configured.loss.keywords)


# --- each loss in its row statistics, one line of formula each; docs/losses.md has the equations


def _smoothed(value: Callable[[Tensor, Tensor, Statistics], Tensor], smoothing: float) -> Value:
    """A value of (true, mean under the target, statistics): 1 - s of the true logit and s of the mean over classes."""

    def of(true: Tensor, statistics: Statistics) -> Tensor:
        target = (1 - smoothing) * true + smoothing * statistics["mean"] if smoothing else true
        return value(true, target, statistics)

    return of


def _linear(
    value: Callable[[Tensor, Tensor, Statistics], Tensor],
    statistic: Statistic,
    key: str,
    classes: int,
    label_smoothing: float = 0.0,
) -> Form:
    """A loss that the true logit enters linearly, so that its labels can be smoothed."""
    needed: tuple[Statistic, ...] = (statistic, "mean") if label_smoothing else (statistic,)
    return Form(key, classes, needed, _smoothed(value, label_smoothing))


def _cross_entropy(true: Tensor, target: Tensor, of: Statistics) -> Tensor:
    return (of["lse"] - target).mean()


def _softmax_cauchy_schwarz(true: Tensor, target: Tensor, of: Statistics) -> Tensor:
    return (of["lse_doubled"] / 2 - target).mean()


def _binary_cross_entropy(true: Tensor, target: Tensor, of: Statistics) -> Tensor:
    return (of["softplus"] - target).mean()


def _batch_cross_entropy(true: Tensor, target: Tensor, of: Statistics) -> Tensor:
    return torch.logsumexp(of["lse"], 0) - math.log(len(true)) - target.mean()


def _self_normalisation(key: str, classes: int, alpha: float = losses.ALPHA, label_smoothing: float = 0.0) -> Form:
    def value(true: Tensor, target: Tensor, of: Statistics) -> Tensor:
        return (of["lse"] - target + alpha * of["lse"].square()).mean()

    return _linear(value, "lse", key, classes, label_smoothing)


def _sigmoid_cauchy_schwarz(key: str, classes: int) -> Form:
    def value(true: Tensor, of: Statistics) -> Tensor:
        return (of["lse_doubled_logsigmoid"] / 2 - F.logsigmoid(true)).mean()

    return Form(key, classes, ("lse_doubled_logsigmoid",), value)


def _tanimoto(log_score: Tensor, log_norm: Tensor) -> Tensor:
    """Mean of -s_y / (1 + n - s_y), from the logarithms of the true score s_y and of n, the norm or its square."""
    score = log_score.exp()
    return (-score / (1 + log_norm.exp() - score)).mean()


def _softmax_tanimoto(key: str, classes: int, squared: bool = False) -> Form:
    power = 2 if squared else 1

    def value(true: Tensor, of: Statistics) -> Tensor:
        return _tanimoto(true - of["lse"], power * (of["lse_doubled"] / 2 - of["lse"]))

    return Form(key, classes, ("lse", "lse_doubled"), value)


def _sigmoid_tanimoto(key: str, classes: int, squared: bool = False) -> Form:
    power = 2 if squared else 1

    def value(true: Tensor, of: Statistics) -> Tensor:
        return _tanimoto(F.logsigmoid(true), (power / 2) * of["lse_doubled_logsigmoid"])

    return Form(key, classes, ("lse_doubled_logsigmoid",), value)


def _max_margin(key: str, classes: int, gamma: float = losses.GAMMA) -> Form:
    def value(true: Tensor, of: Statistics) -> Tensor:
        return F.relu(gamma - true + of["largest_false"]).mean()

    return Form(key, classes, ("largest_false",), value)


def _batch_max_margin(key: str, classes: int, gamma: float = losses.GAMMA) -> Form:
    def value(true: Tensor, of: Statistics) -> Tensor:
        false = of["largest_false"]
        across = F.relu(gamma - true.amin(0) + false.amax(0))
        return across / len(true) + F.relu(gamma - true + false).mean()

    return Form(key, classes, ("largest_false",), value)


def _nce(key: str, classes: int, t: float | None = None, q: Tensor | None = None) -> Form:
    def value(true: Tensor, of: Statistics) -> Tensor:
        # true is u_y = z_y - log(t q_y) already
        return (-F.logsigmoid(true) + of["softplus"]).mean()

    rate = noise_rate(classes, classes if t is None else t, q)
    # Noise of rate 1, the default, needs neither: not a line is read for it.
    plain = q is None and t in (None, classes)
    weights, shifts = (None, None) if plain else (rate, rate.log())
    return Form(key, classes, ("softplus",), value, weights, shifts)


def noise_rate(classes: int, t: float, q: Tensor | None) -> Tensor:
    """t q_j, how often noise is expected to be class j: (k,) in float64; uniform noise is one number, expanded.

    Raises UsageError for a q that is not one number a class.
    """
    if q is None:
        return torch.tensor([t / classes], dtype=torch.float64).expand(classes)
    if q.shape != (classes,):
        raise UsageError(f"q of shape {tuple(q.shape)}: give one probability for each of {classes} classes")
    return t * q.double()


_FORMS: Mapping[str, Callable[..., Form]] = {
    "ce": functools.partial(_linear, _cross_entropy, "lse"),
    "max-margin": _max_margin,
    "softmax-cauchy-schwarz": functools.partial(_linear, _softmax_cauchy_schwarz, "lse_doubled"),
    "sigmoid-cauchy-schwarz": _sigmoid_cauchy_schwarz,
    "softmax-tanimoto": _softmax_tanimoto,
    "self-norm": _self_normalisation,
    "nce": _nce,
    "binary-ce": functools.partial(_linear, _binary_cross_entropy, "softplus"),
    "sigmoid-tanimoto": _sigmoid_tanimoto,
    "batch-ce": functools.partial(_linear, _batch_cross_entropy, "lse"),
    "batch-max-margin": _batch_max_margin,
}
