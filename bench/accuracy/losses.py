"""The eleven losses of the paper (Keren, Sabato, Schuller 2019, Sect. 3 to 5), each a short function of its logits.

Beside them, and never counted among them: two ways to train by some of the logits alone, and the negative
log-likelihood by which the rivals of a full top layer are trained.

    from bench.accuracy import losses

    losses.batch_cross_entropy(logits, labels)             # logits (m, k), labels (m,) -> a scalar, natural logarithms
    losses.self_normalisation(logits, labels, alpha=0.1)
    losses.registry()["nce"].reason                        # what the paper says of it
    loss = losses.configured("nce", classes=1000)          # with checked values; loss.setting says which

What holds for all of them:

* m examples, k >= 2 classes, labels of an integer type in 0 .. k-1 (one out of range makes torch raise, on a GPU as a
  device-side assertion). Anything else is a UsageError. The loss is the mean over the examples; the two batch losses
  are functions of the whole minibatch, so that averaging over shards or accumulation steps changes them.
* float16 and bfloat16 logits are read as float32 and the loss is float32: the sums over k classes and the
  differences of large logits need it. float32 and float64 stay what they are. Gradients have the logits' own type.
* Values and gradients are finite wherever the float32 logits are within +-1e4, and far beyond.
* They run under autocast, torch.compile(fullgraph=True), CUDA graph capture, and torch.vmap over a leading axis of
  independent minibatches: `torch.vmap(loss)(logits (g, m, k), labels (g, m))` is g scalars.
* Where several logits tie for a largest or smallest one, amax and amin give each an equal part of the gradient.

Aligned means aligned with the Principle of Logit Separation (Definition 1): a loss close enough to its infimum on a
training set puts every true logit of the set above every false one. docs/losses.md says why each is or is not, and
lists the paper's errata.
"""

import difflib
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from bench.accuracy.settings import AT_PRIOR, PAPER_LOSSES, LossSetting
from bench.errors import UsageError

Loss = Callable[[Tensor, Tensor], Tensor]

#: The losses of Table 1, in its order.
PAPER = PAPER_LOSSES

#: The paper gives neither margin nor weight: 1 is Crammer and Singer's margin, 0.1 the weight of Devlin et al. (2014).
GAMMA = 1.0
ALPHA = 0.1

#: Up to this many classes the expectation in NCE costs less than sampling it well would.
EXACT_NCE_CLASSES = 10_000

#: Noise classes per example of sampled NCE, as many as Mnih and Teh (2012) used for language models; of importance and
#: negative sampling too, so that the three cost the same.
NOISE_SAMPLES = 25

#: Negative sampling draws classes by their frequencies to this power (Mikolov et al. 2013, Sect. 2.2).
NEGATIVE_POWER = 0.75

UNIFORM, FREQUENCIES = "uniform", "class frequencies"
EXACT, SAMPLED = "exact", "sampled"
#: Whose the noise classes are: an example's own, or one set for the whole minibatch.
OWN, SHARED = "own", "shared"
#: Whether log(t q_j) is taken off the logits of classes that were drawn.
LOG_Q, UNCORRECTED = "log-q", "none"
#: Chosen by `configured` from the number of classes.
AUTO = "auto"


# --- what the losses share


def _rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits in at least single precision, and labels as gather takes them."""
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise UsageError(
            f"logits of shape {tuple(logits.shape)} and labels of shape {tuple(labels.shape)}: give (m, k) and (m,)"
        )
    if logits.shape[1] < 2:
        raise UsageError(f"logits of {logits.shape[1]} class(es): a loss tells classes apart and needs at least 2")
    if logits.shape[0] < 1:
        raise UsageError("a minibatch without examples has no loss: give at least 1")
    if not logits.is_floating_point() or labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(f"logits of {logits.dtype} and labels of {labels.dtype}: give floating and integer ones")
    return (logits.float() if logits.element_size() < 4 else logits), labels.long()


def _true(values: Tensor, labels: Tensor) -> Tensor:
    """Each row's value at its label: (m, k), (m,) -> (m,)."""
    return values.gather(1, labels[:, None]).squeeze(1)


def _target(values: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The mean of a row under its target distribution: 1 - s at the label, and s spread evenly over all classes."""
    if not smoothing:
        return _true(values, labels)
    return (1 - smoothing) * _true(values, labels) + smoothing * values.mean(1)


def _largest_false(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{j != y} z_j of each row; -inf stands in for the true logit only where nothing but amax reads it."""
    return logits.scatter(1, labels[:, None], -math.inf).amax(1)


def _softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), exact at both ends; torch's softplus cuts off at 20, which is wrong by 2e-9 in float64."""
    return -F.logsigmoid(-x)


def _log_norm(log_scores: Tensor, power: int = 1) -> Tensor:
    """log ||s||^power of each row of log s, in the L2 norm."""
    return (power / 2) * torch.logsumexp(2 * log_scores, 1)


def _cauchy_schwarz(log_scores: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log(s_y / ||s||) of each row of log s (Eq. 3 with a target of one class)."""
    return _log_norm(log_scores) - _target(log_scores, labels, smoothing)


def _tanimoto(log_scores: Tensor, labels: Tensor, squared: bool) -> Tensor:
    """-s_y / (1 + ||s|| - s_y) of each row of log s (Eq. 6 with a target of one class)."""
    score = _true(log_scores, labels).exp()
    norm = _log_norm(log_scores, 2 if squared else 1).exp()
    return -score / (1 + norm - score)


def _noise_rate(logits: Tensor, t: float, q: Tensor | None) -> Tensor:
    """t q_j of every class, (k,): how often noise is expected to be class j."""
    classes = logits.shape[1]
    if q is None:
        return torch.full((classes,), t / classes, dtype=logits.dtype, device=logits.device)
    _refuse_other_length(q, classes)
    return t * q.to(logits)


def _refuse_other_length(q: Tensor, classes: int) -> None:
    if q.shape != (classes,):
        raise UsageError(f"q of shape {tuple(q.shape)}: give one probability for each of {classes} classes")


# --- losses of one example at a time that leave the level of its logits free: not aligned


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy: -log p_y, p = softmax(z) (Eq. 1).

    logits (m, k), labels (m,) -> a scalar. `label_smoothing`: see docs/losses.md. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    return -_target(F.log_softmax(z, 1), y, label_smoothing).mean()


def max_margin(logits: Tensor, labels: Tensor, *, gamma: float = GAMMA) -> Tensor:
    """Multiclass hinge of Crammer and Singer: max(0, gamma - z_y + max_{j != y} z_j) (Eq. 2).

    Not torch's multi_margin_loss, which sums over the false classes and divides by k. `gamma`: the margin, > 0.
    logits (m, k), labels (m,) -> a scalar. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    return F.relu(gamma - _true(z, y) + _largest_false(z, y)).mean()


def softmax_cauchy_schwarz(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Softmax Cauchy-Schwarz divergence: -log(p_y / ||p||), p = softmax(z) (Eq. 4).

    The softmax's denominator cancels: it is 1/2 logsumexp(2z) - z_y, half the cross-entropy of doubled logits.
    logits (m, k), labels (m,) -> a scalar. `label_smoothing`: see docs/losses.md. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    return _cauchy_schwarz(F.log_softmax(z, 1), y, label_smoothing).mean()


def sigmoid_cauchy_schwarz(logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid Cauchy-Schwarz divergence: -log(s_y / ||s||), s = sigmoid(z) (Eq. 5).

    logits (m, k), labels (m,) -> a scalar. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    return _cauchy_schwarz(F.logsigmoid(z), y).mean()


def softmax_tanimoto(logits: Tensor, labels: Tensor, *, squared: bool = False) -> Tensor:
    """Softmax Tanimoto loss: -p_y / (1 + ||p|| - p_y), p = softmax(z) (Eq. 7).

    `squared`: with ||p||^2 instead, as Janocha and Czarnecki (2017) define it. Between -1 and 0.
    logits (m, k), labels (m,) -> a scalar. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    return _tanimoto(F.log_softmax(z, 1), y, squared).mean()


# --- losses of one example at a time that hold its logits to a level: aligned


def self_normalisation(logits: Tensor, labels: Tensor, *, alpha: float = ALPHA, label_smoothing: float = 0.0) -> Tensor:
    """Self-normalisation: -log p_y + alpha log^2(sum_j e^z_j) (Sect. 4.1; Devlin et al. 2014). `alpha` > 0.

    logits (m, k), labels (m,) -> a scalar. `label_smoothing`: see docs/losses.md. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    log_partition = torch.logsumexp(z, 1)
    return (log_partition - _target(z, y, label_smoothing) + alpha * log_partition.square()).mean()


def nce(logits: Tensor, labels: Tensor, *, t: float | None = None, q: Tensor | None = None) -> Tensor:
    """Noise-contrastive estimation, its expectation computed: -log g_y - t sum_j q_j log(1 - g_j) (Eq. 8).

    g_j = 1 / (1 + t q_j e^-z_j) = sigmoid(z_j - log(t q_j)). The sum includes j = y, so that the best true logit is 0.

    `t`: noise classes per example, > 0; k if none is given. `q`: their distribution, (k,), positive everywhere (a
    class that noise never draws has a false logit that nothing holds down) and best on the logits' device, where no
    step has to copy it; uniform if none is given.
    logits (m, k), labels (m,) -> a scalar. Raises UsageError as said above, and for a q of another shape.
    """
    z, y = _rows(logits, labels)
    rate = _noise_rate(z, z.shape[1] if t is None else t, q)
    u = z - rate.log()
    return (_softplus(-_true(u, y)) + (rate * _softplus(u)).sum(1)).mean()


def sampled_nce(
    logits: Tensor,
    labels: Tensor,
    *,
    t: int = NOISE_SAMPLES,
    q: Tensor | None = None,
    generator: Generator | None = None,
    shared: bool = False,
    corrected: bool = True,
) -> Tensor:
    """NCE with its expectation estimated from `t` classes drawn from `q` (Sect. 4.2).

    Without bias: its mean over many draws is `nce(logits, labels, t=t, q=q)`. Arguments as there; classes are drawn
    on the generator's device (the logits', with torch's own generator, if none is given). Under torch.vmap give it
    `randomness="different"` (or "same", one noise for all); in a CUDA graph, a generator registered with the graph.
    torch.compile cannot trace a generator: with one the draw stands between two graphs, with torch's own it is inside.

    `shared`: one set of t classes for the whole minibatch in place of one for every example; the mean is the same, and
    the gradient's variance larger. `corrected`: log(t q_j) is taken off every logit (the log-q correction). Without
    it this is the binary cross-entropy of the label and the classes drawn, which learns z_j + log(t q_j) in its place.
    Raises UsageError as said above, and for a q of another shape.
    """
    z, y = _rows(logits, labels)
    _, true, noise = _with_noise(z, y, t, q, generator, shared, corrected)
    return (_softplus(-true) + _softplus(noise).sum(1)).mean()


def _with_noise(
    z: Tensor, y: Tensor, t: int, q: Tensor | None, generator: Generator | None, shared: bool, corrected: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of the true class, (m, t), the true logits, (m,), and those of the classes drawn, (m, t), corrected."""
    drawn = _noise(z, t, q, generator, shared)
    hit, true, noise = drawn == y[:, None], _true(z, y), z.gather(1, drawn)
    if not corrected:
        return hit, true, noise
    log_rate = _noise_rate(z, t, q).log()
    return hit, true - log_rate[y], noise - log_rate[drawn]


def _noise(logits: Tensor, t: int, q: Tensor | None, generator: Generator | None, shared: bool) -> Tensor:
    """Classes drawn with replacement, (m, t); the same in every row where they are shared."""
    examples, classes = logits.shape
    rows = 1 if shared else examples
    device = logits.device if generator is None else generator.device
    if q is None:
        drawn = torch.randint(classes, (rows, t), generator=generator, device=device)
    else:
        _refuse_other_length(q, classes)
        drawn = torch.multinomial(q.to(device), rows * t, replacement=True, generator=generator).view(rows, t)
    return drawn.to(logits.device).expand(examples, t)


def importance_sampling(
    logits: Tensor,
    labels: Tensor,
    *,
    t: int = NOISE_SAMPLES,
    q: Tensor | None = None,
    generator: Generator | None = None,
    shared: bool = False,
    corrected: bool = True,
) -> Tensor:
    """Cross-entropy with its partition function estimated by importance sampling (Bengio and Senecal 2008, Sect. III).

    -z_y + log(e^z_y + sum_{s: j_s != y} e^(z_{j_s} - log(t q_{j_s}))), j_1 .. j_t drawn from q. Subtracting log(t q_j)
    is the log-q correction: it makes the estimate of the partition function unbiased at any t. The true class is in it
    with certainty, and draws of it are left out (Jean et al. 2015, Sect. 3), so that the loss is never below 0. Its
    logarithm, the loss, is too low by a term of order 1/t, which vanishes as t grows; its mean is then `cross_entropy`.

    Without the correction (`corrected`) it is the softmax over the label and the classes drawn alone, as Partial FC (An
    et al. 2021) trains, though that draws without replacement. The mean of its Z
    is e^z_y + sum_{j != y} t q_j e^z_j: of uniform noise the false classes' part is k/t times too low. So log Z is
    under-estimated, and the level of a logit is that of no probability.

    Arguments as of `sampled_nce`. logits (m, k), labels (m,) -> a scalar. Raises UsageError as there.
    """
    z, y = _rows(logits, labels)
    hit, _, noise = _with_noise(z, y, t, q, generator, shared, corrected)
    true = _true(z, y)  # in the sum with certainty: never corrected
    others = noise.masked_fill(hit, -math.inf)
    return (torch.logsumexp(torch.cat([true[:, None], others], 1), 1) - true).mean()


def negative_sampling(
    logits: Tensor,
    labels: Tensor,
    *,
    t: int = NOISE_SAMPLES,
    q: Tensor | None = None,
    generator: Generator | None = None,
    shared: bool = False,
    corrected: bool = False,
) -> Tensor:
    """Negative sampling: -log s_y - sum_{s: j_s != y} log(1 - s_{j_s}), s = sigmoid(z) (Mikolov et al. 2013, Eq. 4).

    j_1 .. j_t are drawn from q; a draw of the true class is left out, as in word2vec. It is NCE without the log-q
    correction: sampled NCE reads the logit as z_j - log(t q_j), this reads it as z_j, so that what it learns of a class
    is shifted by log(t q_j). Without bias at any t: its mean is softplus(-z_y) + t sum_{j != y} q_j softplus(z_j), a
    binary cross-entropy with weights. `corrected`: with the correction, as NCE has it, and z_j - log(t q_j) above.

    Arguments as of `sampled_nce`. logits (m, k), labels (m,) -> a scalar. Raises UsageError as there.
    """
    z, y = _rows(logits, labels)
    hit, true, noise = _with_noise(z, y, t, q, generator, shared, corrected)
    return (_softplus(-true) + _softplus(noise).masked_fill(hit, 0).sum(1)).mean()


def binary_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy: -log s_y - sum_{j != y} log(1 - s_j), s = sigmoid(z) (Sect. 4.3, its sign corrected).

    Summed over the classes as the paper does; torch's binary_cross_entropy_with_logits takes the mean over them.
    logits (m, k), labels (m,) -> a scalar. `label_smoothing`: see docs/losses.md. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    # softplus(-z) = softplus(z) - z: the true class needs no mask
    return (_softplus(z).sum(1) - _target(z, y, label_smoothing)).mean()


def sigmoid_tanimoto(logits: Tensor, labels: Tensor, *, squared: bool = False) -> Tensor:
    """Sigmoid Tanimoto loss: -s_y / (1 + ||s|| - s_y), s = sigmoid(z) (Eq. 9).

    `squared`: with ||s||^2 instead, as Janocha and Czarnecki (2017) define it. Between -1 and 0.
    logits (m, k), labels (m,) -> a scalar. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    return _tanimoto(F.logsigmoid(z), y, squared).mean()


# --- losses of a whole minibatch: aligned


def batch_cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Batch cross-entropy: KL(P || Q), P(i, y_i) = 1/m, Q = softmax over the whole minibatch (Definition 2).

    It is logsumexp_ij(z) - log m - mean_i z_{i, y_i}; of one example, the cross-entropy. The form the authors
    published, log(P/(Q + 1e-6) + 1e-6), scales gradients by Q/(Q + 1e-6), which is far below 1 at many classes.
    logits (m, k), labels (m,) -> a scalar. `label_smoothing`: see docs/losses.md. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    log_partition = torch.logsumexp(torch.logsumexp(z, 1), 0)
    return log_partition - math.log(z.shape[0]) - _target(z, y, label_smoothing).mean()


def batch_max_margin(logits: Tensor, labels: Tensor, *, gamma: float = GAMMA) -> Tensor:
    """Batch max-margin: 1/m max(0, gamma - z+ + z-) + the max-margin loss (Definition 3).

    z+ is the smallest true logit of the minibatch, z- its largest false one. `gamma`: the margin, > 0.
    logits (m, k), labels (m,) -> a scalar. Raises UsageError as said above.
    """
    z, y = _rows(logits, labels)
    true, false = _true(z, y), _largest_false(z, y)
    across = F.relu(gamma - true.amin(0) + false.amax(0))
    return across / z.shape[0] + F.relu(gamma - true + false).mean()


# --- the loss of what is normalised already: log-probabilities of a rival of the full top layer


def negative_log_likelihood(log_prob: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-log P(y | x) of log-probabilities (m, k) that sum to 1, and labels (m,): a scalar.

    By Definition 1 it is aligned, the score of a class being log P: where its mean over n examples is below
    (log 2)/n, every true class has a probability above 1/2, and no false one can. Raises UsageError as said above.
    """
    scores, y = _rows(log_prob, labels)
    return -_target(scores, y, label_smoothing).mean()


# --- what is known of each


@dataclass(frozen=True)
class Entry:
    """A loss and what the paper says of it.

    name: as in Table 1, or the section's title. infimum: of the mean over examples, with the default
    hyperparameters. aligned: by the paper's proof, of a further loss for its reason. of_batch: not a mean over
    examples. smoothable: the true logit enters it linearly, so that label smoothing is defined.
    """

    key: str
    name: str
    function: Callable[..., Tensor]
    equation: str
    source: str
    infimum: float
    aligned: bool
    reason: str
    hyperparameters: Mapping[str, float | str] = field(default_factory=dict)
    of_batch: bool = False
    smoothable: bool = False


def nce_infimum(rate: float) -> float:
    """Infimum of NCE for one example whose class noise is expected to be `rate` = t q_y > 0 times.

    log(1 + r) + r log((1 + r) / r), approached as z_y -> 0 and every false logit -> -infinity.
    """
    return math.log1p(rate) + rate * math.log1p(1 / rate)


#: Losses that draw classes, by key, and whether they have the log-q correction unless something else is asked for.
CORRECTED = {"nce": True, "importance-sampling": True, "negative-sampling": False}

#: What a loss that draws classes is called where it is corrected otherwise than its name says.
_OTHERWISE_CORRECTED = {
    "nce": "NCE without log-q",
    "importance-sampling": "sampled softmax without log-q",
    "negative-sampling": "negative sampling with log-q",
}

_DIFFERENCES = "only differences between the logits of one example enter it, so examples may lie at any level"

_ENTRIES = (
    Entry(
        key="ce",
        name="CE",
        function=cross_entropy,
        equation="-log p_y, p = softmax(z)",
        source="Eq. 1, Sect. 3.1",
        infimum=0.0,
        aligned=False,
        reason=_DIFFERENCES,
        smoothable=True,
    ),
    Entry(
        key="max-margin",
        name="max-margin",
        function=max_margin,
        equation="max(0, gamma - z_y + max_{j != y} z_j)",
        source="Eq. 2, Sect. 3.2",
        infimum=0.0,
        aligned=False,
        reason=_DIFFERENCES,
        hyperparameters={"gamma": GAMMA},
    ),
    Entry(
        key="softmax-cauchy-schwarz",
        name="Softmax Cauchy-Schwarz divergence",
        function=softmax_cauchy_schwarz,
        equation="-log(p_y / ||p||), p = softmax(z)",
        source="Eq. 4, Sect. 3.3",
        infimum=0.0,
        aligned=False,
        reason=_DIFFERENCES,
        smoothable=True,
    ),
    Entry(
        key="sigmoid-cauchy-schwarz",
        name="Sigmoid Cauchy-Schwarz divergence",
        function=sigmoid_cauchy_schwarz,
        equation="-log(s_y / ||s||), s = sigmoid(z)",
        source="Eq. 5, Sect. 3.4",
        infimum=0.0,
        aligned=False,
        reason="only the ratios between the sigmoids of one example enter it, so all of them may be small",
    ),
    Entry(
        key="softmax-tanimoto",
        name="Softmax Tanimoto loss",
        function=softmax_tanimoto,
        equation="-p_y / (1 + ||p|| - p_y), p = softmax(z)",
        source="Eq. 7, Sect. 3.5",
        infimum=-1.0,
        aligned=False,
        reason=_DIFFERENCES,
        hyperparameters={"squared": 0.0},
    ),
    Entry(
        key="self-norm",
        name="self-norm",
        function=self_normalisation,
        equation="-log p_y + alpha log^2(sum_j e^z_j), p = softmax(z)",
        source="Sect. 4.1, Appendix A",
        infimum=0.0,
        aligned=True,
        reason="the second term ties every example's log-partition to 0: true logits go to 0, false ones to -infinity",
        hyperparameters={"alpha": ALPHA},
        smoothable=True,
    ),
    Entry(
        key="nce",
        name="NCE",
        function=nce,
        equation="-log g_y - t sum_j q_j log(1 - g_j), g_j = 1 / (1 + t q_j e^-z_j)",
        source="Eq. 8, Sect. 4.2, Appendix B",
        infimum=nce_infimum(1.0),  # t = k and uniform q: the rate is 1 at any number of classes
        aligned=True,
        reason="one binary classification a class, of the logit itself: true logits go to 0, false ones to -infinity",
        hyperparameters={"t": AUTO, "q": AUTO, "estimate": AUTO, "negatives": AUTO, "correction": AUTO},
    ),
    Entry(
        key="binary-ce",
        name="binary CE",
        function=binary_cross_entropy,
        equation="-log s_y - sum_{j != y} log(1 - s_j), s = sigmoid(z)",
        source="Sect. 4.3, Appendix C",
        infimum=0.0,
        aligned=True,
        reason="one binary classification a class, of the logit itself: true logits rise, false ones fall without end",
        smoothable=True,
    ),
    Entry(
        key="sigmoid-tanimoto",
        name="Sigmoid Tanimoto loss",
        function=sigmoid_tanimoto,
        equation="-s_y / (1 + ||s|| - s_y), s = sigmoid(z)",
        source="Eq. 9, Sect. 4.4",
        infimum=-1.0,
        aligned=True,
        reason="near its minimum every true sigmoid is near 1 and every false one near 0",
        hyperparameters={"squared": 0.0},
    ),
    Entry(
        key="batch-ce",
        name="batch CE",
        function=batch_cross_entropy,
        equation="KL(P || Q), P(i, y_i) = 1/m, Q = softmax over all logits of the minibatch",
        source="Definition 2, Sect. 5.1, Appendix D",
        infimum=0.0,
        aligned=True,
        reason="all logits of a minibatch share one normalisation: true logits meet at one level, above all false ones",
        of_batch=True,
        smoothable=True,
    ),
    Entry(
        key="batch-max-margin",
        name="batch max-margin",
        function=batch_max_margin,
        equation="1/m max(0, gamma - z+ + z-) + mean of max-margin",
        source="Definition 3, Sect. 5.2, Appendix D",
        infimum=0.0,
        aligned=True,
        reason="it puts the smallest true logit of a minibatch above the largest false one, by the margin",
        hyperparameters={"gamma": GAMMA},
        of_batch=True,
    ),
)

_FURTHER_ENTRIES = (
    Entry(
        key="importance-sampling",
        name="CE by importance sampling",
        function=importance_sampling,
        equation="-z_y + log(e^z_y + sum_{s: j_s != y} e^(z_{j_s} - log(t q_{j_s}))), j_s drawn from q",
        source="Bengio and Senecal 2008, Sect. III; Jean et al. 2015, Sect. 3",
        infimum=0.0,
        aligned=False,
        reason=_DIFFERENCES,
        hyperparameters={"t": AUTO, "q": AUTO, "power": AUTO, "negatives": AUTO, "correction": AUTO},
    ),
    Entry(
        key="negative-sampling",
        name="negative sampling",
        function=negative_sampling,
        equation="-log s_y - sum_{s: j_s != y} log(1 - s_{j_s}), s = sigmoid(z), j_s drawn from q",
        source="Mikolov et al. 2013, Sect. 2.2, Eq. 4",
        infimum=0.0,
        aligned=True,
        reason="in the mean a weighted binary CE of the logit itself: true logits rise, false ones fall without end",
        hyperparameters={"t": AUTO, "q": AUTO, "power": AUTO, "negatives": AUTO, "correction": AUTO},
    ),
)


def registry() -> dict[str, Entry]:
    """Every loss of the paper by its key: first the unaligned ones, then the aligned, in the order of its sections."""
    return {entry.key: entry for entry in _ENTRIES}


def further() -> dict[str, Entry]:
    """The losses that are not the paper's, by their keys."""
    return {entry.key: entry for entry in _FURTHER_ENTRIES}


def draws_noise(setting: LossSetting) -> bool:
    """Whether a loss draws random classes, so that each training needs one of its own."""
    return setting.key in further() or setting.hyperparameters.get("estimate") == SAMPLED


def pulls_to_prior(setting: LossSetting) -> bool:
    """Whether a loss pulls logits to a level far below 0 where classes are many, so that the bias best starts there.

    Of binary losses that draw classes these are the ones with the log-q correction: without it there are t false
    logits for each true one, whatever the number of classes is.
    """
    if setting.key in ("nce", "negative-sampling") and draws_noise(setting):
        return is_corrected(setting)
    return setting.key in AT_PRIOR


def is_corrected(setting: LossSetting) -> bool:
    """Whether a loss that draws classes has the log-q correction; what an older record does not say is its default."""
    return setting.hyperparameters.get("correction", _default_correction(setting.key)) == LOG_Q


def _default_correction(key: str) -> str:
    return LOG_Q if CORRECTED[key] else UNCORRECTED


def find(name: str) -> Entry:
    """The loss of this key or of the paper's name for it, in any case, with spaces or hyphens; also a further one.

    Raises UsageError, saying what would be right, if there is none.
    """
    known = {_plain(alias): entry for entry in _ENTRIES + _FURTHER_ENTRIES for alias in (entry.name, entry.key)}
    if _plain(name) in known:
        return known[_plain(name)]
    keys = [*registry(), *further()]
    close = difflib.get_close_matches(_plain(name), keys, n=1)
    raise UsageError(f"unknown loss {name!r}; " + (f"did you mean {close[0]}?" if close else f"give {', '.join(keys)}"))


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-–—]+", "-", name.strip().casefold())


# --- a loss as a run uses it


@dataclass(frozen=True)
class Configured:
    """A loss with its hyperparameters: (logits, labels) -> a scalar, and every value it uses as a record.

    `configured(setting.key, classes=..., **setting.hyperparameters)` makes it again, with the same smoothing,
    frequencies and generator, which the setting does not hold.
    """

    setting: LossSetting
    loss: Loss

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits (m, k) and labels (m,)."""
        return self.loss(logits, labels)


def configured(
    key: str,
    *,
    classes: int,
    class_frequencies: Sequence[float] | Tensor | None = None,
    label_smoothing: float = 0.0,
    generator: Generator | None = None,
    **hyperparameters: float | str,
) -> Configured:
    """A loss ready for training, with defaults filled in and every value checked.

    classes: k, at least 2. class_frequencies: examples (or shares) of each class, all positive; they are NCE's noise
    when it is sampled, or with q="class frequencies". generator: of sampled NCE's noise; frequencies are kept on its
    device, so give both on the GPU if a step is to be captured. label_smoothing: share of the target that is spread
    over all classes. hyperparameters: those of the entry; for NCE t, q ("uniform" or "class frequencies") and
    estimate ("exact" or "sampled"). NCE's defaults depend on k: exact with t = k and uniform noise up to
    EXACT_NCE_CLASSES, beyond that sampled with t = NOISE_SAMPLES and class frequencies, uniform if none are given.
    Importance and negative sampling have t and q with the latter defaults, and the `power` that frequencies are raised
    to: 1 and NEGATIVE_POWER. Whatever draws classes has `negatives` ("own" of each example, or "shared" by a
    minibatch) and `correction` ("log-q", or "none", which negative sampling has by default): where that makes another
    loss of it, the setting's name says so.

    Raises UsageError for an unknown loss or hyperparameter, a value out of its range, and smoothing of a loss for
    which it is not defined.
    """
    entry = find(key)
    if classes < 2:
        raise UsageError(f"{entry.key} over {classes} class(es): a loss tells classes apart and needs at least 2")
    _refuse_unknown(entry, hyperparameters)
    _refuse_smoothing(entry, label_smoothing)
    values = {**entry.hyperparameters, **hyperparameters}
    if entry.function is nce:
        loss, used = _configured_nce(values, classes, class_frequencies, generator)
    elif entry.key in further():
        loss, used = _configured_sampling(entry, values, classes, class_frequencies, generator)
    else:
        loss, used = _configured(entry, values, label_smoothing)
    name = entry.name
    if "correction" in used and used["correction"] != _default_correction(entry.key):
        name = _OTHERWISE_CORRECTED[entry.key]
    return Configured(LossSetting(key=entry.key, name=name, aligned=entry.aligned, hyperparameters=used), loss)


def of_rival(setting: LossSetting, *, label_smoothing: float = 0.0) -> Configured:
    """The loss of a rival of the full top layer, whose outputs are log-probabilities (archs.rivals)."""
    return Configured(setting, functools.partial(negative_log_likelihood, label_smoothing=label_smoothing))


def prior_bias(classes: int) -> float:
    """Bias of the top layer at which every sigmoid starts as the share of one class in k: -log(k - 1).

    With the usual bias of about 0, binary CE and NCE start k - 1 false logits at a probability of 1/2 each.
    Raises UsageError below 2 classes.
    """
    if classes < 2:
        raise UsageError(f"a prior of {classes} class(es): at least 2 are needed")
    return -math.log(classes - 1)


def _refuse_unknown(entry: Entry, given: Mapping[str, float | str]) -> None:
    unknown = sorted(set(given) - set(entry.hyperparameters))
    if unknown:
        known = ", ".join(entry.hyperparameters) or "none"
        raise UsageError(f"{entry.key} has no hyperparameter {unknown[0]!r}; it has {known}")


def _refuse_smoothing(entry: Entry, smoothing: float) -> None:
    if not 0 <= smoothing < 1:
        raise UsageError(f"label smoothing of {smoothing}: give 0 or more and less than 1")
    if smoothing and not entry.smoothable:
        allowed = ", ".join(one.key for one in _ENTRIES if one.smoothable)
        raise UsageError(
            f"label smoothing is not defined for {entry.key}: its true logit does not enter linearly; "
            f"give 0, or one of {allowed}"
        )


def _configured(
    entry: Entry, values: Mapping[str, float | str], smoothing: float
) -> tuple[Loss, dict[str, float | str]]:
    """Any loss but NCE, and what it uses; a record holds numbers, so a choice is 0 or 1 there."""
    used: dict[str, float | str] = {}
    arguments: dict[str, float | bool] = {"label_smoothing": smoothing} if smoothing else {}
    for name, value in values.items():
        choice = name == "squared"
        used[name] = _zero_or_one(entry.key, name, value) if choice else _positive(entry.key, name, value)
        arguments[name] = bool(used[name]) if choice else float(used[name])
    return functools.partial(entry.function, **arguments), used


def _zero_or_one(key: str, name: str, value: float | str) -> float:
    if value not in (0, 1):
        raise UsageError(f"{key} with {name} = {value!r}: give 0 (the paper's form) or 1")
    return float(value)


def _positive(key: str, name: str, value: float | str) -> float:
    if isinstance(value, str) or not (0 < value < math.inf):
        raise UsageError(f"{key} with {name} = {value!r}: give a number above 0")
    return float(value)


def _configured_nce(
    values: Mapping[str, float | str],
    classes: int,
    frequencies: Sequence[float] | Tensor | None,
    generator: Generator | None,
) -> tuple[Loss, dict[str, float | str]]:
    """NCE, and what it uses in place of AUTO."""
    exact = _choice("nce", "estimate", values["estimate"], EXACT, SAMPLED, classes <= EXACT_NCE_CLASSES)
    uniform = _choice("nce", "q", values["q"], UNIFORM, FREQUENCIES, exact or frequencies is None)
    t = _positive("nce", "t", (classes if exact else NOISE_SAMPLES) if values["t"] == AUTO else values["t"])
    q = None if uniform else _shares("nce", frequencies, classes, generator)
    used: dict[str, float | str] = {
        "t": t,
        "q": UNIFORM if uniform else FREQUENCIES,
        "estimate": EXACT if exact else SAMPLED,
    }
    shared, corrected, recorded = _how_drawn("nce", values)
    if exact:
        _refuse_of_exact(values)
        return functools.partial(nce, t=t, q=q), used
    whole = _whole("sampled nce", t)
    loss = functools.partial(sampled_nce, t=whole, q=q, generator=generator, shared=shared, corrected=corrected)
    return loss, used | recorded


def _refuse_of_exact(values: Mapping[str, float | str]) -> None:
    for name in ("negatives", "correction"):
        if values[name] != AUTO:
            raise UsageError(
                f"nce with {name} = {values[name]!r}: its expectation is {EXACT} here, and no classes are drawn; give "
                f"estimate = {SAMPLED!r} too"
            )


def _how_drawn(key: str, values: Mapping[str, float | str]) -> tuple[bool, bool, dict[str, float | str]]:
    """Whether noise is shared, whether it is corrected, and both as they are recorded."""
    shared = not _choice(key, "negatives", values["negatives"], OWN, SHARED, True)
    corrected = _choice(key, "correction", values["correction"], LOG_Q, UNCORRECTED, CORRECTED[key])
    recorded: dict[str, float | str] = {
        "negatives": SHARED if shared else OWN,
        "correction": LOG_Q if corrected else UNCORRECTED,
    }
    return shared, corrected, recorded


def _configured_sampling(
    entry: Entry,
    values: Mapping[str, float | str],
    classes: int,
    frequencies: Sequence[float] | Tensor | None,
    generator: Generator | None,
) -> tuple[Loss, dict[str, float | str]]:
    """Importance or negative sampling, and what it uses in place of AUTO; of uniform noise there is no power."""
    key = entry.key
    t = _positive(key, "t", NOISE_SAMPLES if values["t"] == AUTO else values["t"])
    used: dict[str, float | str] = {"t": t, "q": UNIFORM}
    q, given = None, values["power"] != AUTO
    if not _choice(key, "q", values["q"], UNIFORM, FREQUENCIES, frequencies is None):
        default = NEGATIVE_POWER if entry.function is negative_sampling else 1.0
        power = _positive(key, "power", values["power"] if given else default)
        shares = _shares(key, frequencies, classes, generator) ** power
        q = shares / shares.sum()
        used |= {"q": FREQUENCIES, "power": power}
    elif given:
        raise UsageError(f"{key} with power = {values['power']!r}: noise is {UNIFORM} here; give q = {FREQUENCIES!r}")
    shared, corrected, recorded = _how_drawn(key, values)
    whole = _whole(key, t)
    loss = functools.partial(entry.function, t=whole, q=q, generator=generator, shared=shared, corrected=corrected)
    return loss, used | recorded


def _whole(key: str, t: float) -> int:
    if not t.is_integer():
        raise UsageError(f"{key} with t = {t}: give a whole number of noise classes")
    return int(t)


def _choice(key: str, name: str, value: float | str, first: str, second: str, automatic: bool) -> bool:
    """Whether the first of two values is chosen."""
    if value == AUTO:
        return automatic
    if value not in (first, second):
        raise UsageError(f"{key} with {name} = {value!r}: give {first!r}, {second!r} or {AUTO!r}")
    return value == first


def _shares(
    key: str, frequencies: Sequence[float] | Tensor | None, classes: int, generator: Generator | None
) -> Tensor:
    """Class frequencies as a distribution, (k,), on the generator's device if there is one."""
    if frequencies is None:
        raise UsageError(f"{key} with q = {FREQUENCIES!r} needs the class frequencies: give them, or q = {UNIFORM!r}")
    counts = torch.as_tensor(frequencies, dtype=torch.float64, device=generator.device if generator else None)
    if counts.shape != (classes,):
        raise UsageError(f"class frequencies of shape {tuple(counts.shape)}: give one for each of {classes} classes")
    lacking = (~(counts > 0) | counts.isinf()).nonzero()
    if len(lacking):
        number = int(lacking[0])
        raise UsageError(
            f"class {number} has frequency {float(counts[number])}: noise that never draws a class leaves its false "
            f"logits unbounded; give positive frequencies, or q = {UNIFORM!r}"
        )
    return counts / counts.sum()
