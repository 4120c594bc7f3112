import functools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from bench.accuracy import losses
from bench.accuracy.losses import Loss, configured, registry
from bench.accuracy.settings import LossSetting
from bench.errors import UsageError

KEYS = tuple(registry())
ALIGNED = tuple(key for key, entry in registry().items() if entry.aligned)
SMOOTHABLE = tuple(key for key, entry in registry().items() if entry.smoothable)
SHIFT_INVARIANT = ("ce", "max-margin", "softmax-cauchy-schwarz", "softmax-tanimoto")
BATCH = ("batch-ce", "batch-max-margin")
EVERY = pytest.mark.parametrize("key", KEYS)

#: Noise that is neither uniform nor as many draws as classes.
SKEWED = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)


def function(key: str) -> Callable[..., Tensor]:
    return registry()[key].function


def random_batch(m: int = 6, k: int = 5, seed: int = 0, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(m, k, generator=source, dtype=torch.float64)
    return logits, torch.randint(k, (m,), generator=source)


def value_and_gradient(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, labels)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@st.composite
def batches(draw: st.DrawFn, low: float = -5, high: float = 5, rows: int = 5) -> tuple[Tensor, Tensor]:
    m, k = draw(st.integers(1, rows)), draw(st.integers(2, 5))
    number = st.floats(low, high, allow_nan=False, width=32)
    z = draw(st.lists(st.lists(number, min_size=k, max_size=k), min_size=m, max_size=m))
    y = draw(st.lists(st.integers(0, k - 1), min_size=m, max_size=m))
    return torch.tensor(z, dtype=torch.float64), torch.tensor(y)


# --- the paper's formulas, letter by letter, one example z (k,) and label y at a time


def literal_ce(z: Tensor, y: int) -> Tensor:
    return -(z[y].exp() / z.exp().sum()).log()


def literal_max_margin(z: Tensor, y: int, gamma: float = 1.0) -> Tensor:
    largest = max(float(z[j]) for j in range(len(z)) if j != y)
    return torch.tensor(max(0.0, gamma - float(z[y]) + largest), dtype=z.dtype)


def literal_cauchy_schwarz(scores: Tensor, y: int) -> Tensor:
    target = torch.zeros_like(scores)
    target[y] = 1
    cosine: Tensor = scores.dot(target) / (scores.norm() * target.norm())
    return -cosine.log()


def literal_tanimoto(scores: Tensor, y: int, power: int = 1) -> Tensor:
    target = torch.zeros_like(scores)
    target[y] = 1
    product: Tensor = scores.dot(target)
    loss: Tensor = -product / (scores.norm() ** power + target.norm() ** power - product)
    return loss


def literal_self_norm(z: Tensor, y: int, alpha: float = 0.1) -> Tensor:
    return literal_ce(z, y) + alpha * z.exp().sum().log() ** 2


def literal_nce(z: Tensor, y: int, t: float | None = None, q: Tensor | None = None) -> Tensor:
    t = len(z) if t is None else t
    q = torch.full_like(z, 1 / len(z)) if q is None else q
    g = 1 / (1 + t * q * (-z).exp())
    return -g[y].log() - t * (q * (1 - g).log()).sum()


def literal_binary_ce(z: Tensor, y: int) -> Tensor:
    s = torch.sigmoid(z)
    return -s[y].log() - sum((1 - s[j]).log() for j in range(len(z)) if j != y)


def literal_batch_ce(z: Tensor, y: Tensor) -> Tensor:
    q = z.exp() / z.exp().sum()
    m = len(z)
    return torch.stack([(1 / m) * ((1 / m) / q[i, y[i]]).log() for i in range(m)]).sum()


def literal_batch_max_margin(z: Tensor, y: Tensor, gamma: float = 1.0) -> Tensor:
    m, k = z.shape
    lowest_true = min(float(z[i, y[i]]) for i in range(m))
    highest_false = max(float(z[i, j]) for i in range(m) for j in range(k) if j != y[i])
    each = sum(float(literal_max_margin(z[i], int(y[i]), gamma)) for i in range(m))
    return torch.tensor(max(0.0, gamma - lowest_true + highest_false) / m + each / m, dtype=z.dtype)


def mean_over_examples(example: Callable[[Tensor, int], Tensor]) -> Loss:
    return lambda z, y: torch.stack([example(row, int(label)) for row, label in zip(z, y, strict=True)]).mean()


LITERAL: dict[str, Loss] = {
    "ce": mean_over_examples(literal_ce),
    "max-margin": mean_over_examples(literal_max_margin),
    "softmax-cauchy-schwarz": mean_over_examples(lambda z, y: literal_cauchy_schwarz(z.softmax(0), y)),
    "sigmoid-cauchy-schwarz": mean_over_examples(lambda z, y: literal_cauchy_schwarz(z.sigmoid(), y)),
    "softmax-tanimoto": mean_over_examples(lambda z, y: literal_tanimoto(z.softmax(0), y)),
    "self-norm": mean_over_examples(literal_self_norm),
    "nce": mean_over_examples(literal_nce),
    "binary-ce": mean_over_examples(literal_binary_ce),
    "sigmoid-tanimoto": mean_over_examples(lambda z, y: literal_tanimoto(z.sigmoid(), y)),
    "batch-ce": literal_batch_ce,
    "batch-max-margin": literal_batch_max_margin,
}


@EVERY
@settings(max_examples=50, deadline=None)
@given(batch=batches())
def test_the_stable_form_is_the_papers_formula(key: str, batch: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(function(key)(*batch), LITERAL[key](*batch), rtol=1e-12, atol=1e-12)


def test_every_loss_by_hand() -> None:
    # two examples of class 0 and 1 at z = (log 3, 0) and (0, log 3); softmax (3/4, 1/4), sigmoids (3/4, 1/2)
    z = torch.tensor([[math.log(3), 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    y = torch.tensor([0, 1])
    p_norm, s_norm = math.sqrt(10) / 4, math.sqrt(13) / 4
    expected = {
        "ce": math.log(4 / 3),
        "max-margin": 0.0,  # log 3 exceeds the margin of 1
        "softmax-cauchy-schwarz": math.log(p_norm / 0.75),
        "sigmoid-cauchy-schwarz": math.log(s_norm / 0.75),
        "softmax-tanimoto": -0.75 / (0.25 + p_norm),
        "self-norm": math.log(4 / 3) + 0.1 * math.log(4) ** 2,
        "nce": math.log(4 / 3) + math.log(4) + math.log(2),  # t q_j = 1: g = sigmoid(z)
        "binary-ce": math.log(4 / 3) + math.log(2),
        "sigmoid-tanimoto": -0.75 / (0.25 + s_norm),
        "batch-ce": math.log(8) - math.log(2) - math.log(3),
        "batch-max-margin": 0.0,
    }
    assert {key: pytest.approx(float(function(key)(z, y)), abs=1e-14) for key in KEYS} == expected


def test_a_large_logit_still_costs_what_it_costs() -> None:
    # log(1 + e^-22) = 2.8e-10; torch's softplus is linear above 20 and would make it 0
    z, y = torch.tensor([[22.0, -60.0]], dtype=torch.float64), torch.tensor([0])
    assert float(losses.binary_cross_entropy(z, y)) == pytest.approx(math.log1p(math.exp(-22)), rel=1e-4)
    assert float(F.softplus(z[0, 0]) - z[0, 0]) == 0


def test_margins_reach_as_far_as_gamma_says() -> None:
    z, y = torch.tensor([[2.0, 0.5], [1.0, 3.0]]), torch.tensor([0, 1])
    # margins 1.5 and 2; across the batch the lowest true logit is 2, the highest false one 1
    assert float(losses.max_margin(z, y, gamma=3.0)) == (1.5 + 1.0) / 2
    assert float(losses.batch_max_margin(z, y, gamma=3.0)) == (1.5 + 1.0) / 2 + (3 - 2 + 1) / 2


@settings(deadline=None)
@given(batch=batches(), t=st.floats(0.5, 50), alpha=st.floats(0.01, 3))
def test_hyperparameters_enter_as_in_the_papers_formulas(batch: tuple[Tensor, Tensor], t: float, alpha: float) -> None:
    z, y = batch
    q = torch.arange(1.0, z.shape[1] + 1, dtype=torch.float64)
    q /= q.sum()
    literal = mean_over_examples(functools.partial(literal_nce, t=t, q=q))
    torch.testing.assert_close(losses.nce(z, y, t=t, q=q), literal(z, y), rtol=1e-11, atol=1e-11)
    literal = mean_over_examples(functools.partial(literal_self_norm, alpha=alpha))
    torch.testing.assert_close(losses.self_normalisation(z, y, alpha=alpha), literal(z, y), rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(batch=batches())
def test_tanimoto_with_squared_norms_is_janocha_and_czarneckis(batch: tuple[Tensor, Tensor]) -> None:
    softmax = mean_over_examples(lambda z, y: literal_tanimoto(z.softmax(0), y, power=2))
    sigmoid = mean_over_examples(lambda z, y: literal_tanimoto(z.sigmoid(), y, power=2))
    torch.testing.assert_close(losses.softmax_tanimoto(*batch, squared=True), softmax(*batch), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(losses.sigmoid_tanimoto(*batch, squared=True), sigmoid(*batch), rtol=1e-12, atol=1e-12)


def test_tanimoto_of_the_paper_is_not_janocha_and_czarneckis() -> None:
    z, y = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([0])
    # p = 1/4 each: ||p|| = 1/2, ||p||^2 = 1/4
    assert float(losses.softmax_tanimoto(z, y)) == pytest.approx(-0.25 / 1.25)
    assert float(losses.softmax_tanimoto(z, y, squared=True)) == pytest.approx(-0.25 / 1.0)


# --- gradients


def differentiable() -> Iterator[object]:
    for key in KEYS:
        yield pytest.param(function(key), id=key)
    for key in SMOOTHABLE:
        yield pytest.param(functools.partial(function(key), label_smoothing=0.2), id=f"{key}, smoothed")
    for loss in (losses.softmax_tanimoto, losses.sigmoid_tanimoto):
        yield pytest.param(functools.partial(loss, squared=True), id=f"{loss.__name__}, squared")
    yield pytest.param(functools.partial(losses.nce, t=7.0, q=SKEWED), id="nce, skewed")


@pytest.mark.parametrize("loss", list(differentiable()))
def test_gradients_are_those_of_the_values(loss: Loss) -> None:
    z, y = random_batch(3, 4)
    assert torch.autograd.gradcheck(lambda leaf: loss(leaf, y), z.requires_grad_())


@settings(max_examples=30, deadline=None)
@given(batch=batches())
def test_gradients_are_those_of_the_table(batch: tuple[Tensor, Tensor]) -> None:
    z, y = batch
    m = len(y)
    one = F.one_hot(y, z.shape[1])
    s = z.sigmoid()
    pi = F.softmax(2 * F.logsigmoid(z), 1)
    p = z.softmax(1)
    expected = {
        "ce": p - one,
        "softmax-cauchy-schwarz": (2 * z).softmax(1) - one,
        "sigmoid-cauchy-schwarz": (pi - one) * (1 - s),
        "self-norm": p * (1 + 2 * 0.1 * z.logsumexp(1, keepdim=True)) - one,
        "nce": s - one * (1 - s),  # t q_j = 1
        "binary-ce": s - one,
        "batch-ce": m * z.flatten().softmax(0).view_as(z) - one,
    }
    for key, of_the_sum in expected.items():
        torch.testing.assert_close(value_and_gradient(function(key), z, y)[1], of_the_sum / m, rtol=1e-11, atol=1e-12)


def test_batch_max_margin_pulls_at_no_more_than_two_logits_a_row_and_two_more() -> None:
    z, y = random_batch(8, 50)
    gradient = value_and_gradient(losses.batch_max_margin, z, y)[1]
    assert 2 <= int((gradient != 0).sum()) <= 2 * 8 + 2


def test_tied_logits_share_the_gradient_evenly() -> None:
    z, y = torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([0])
    assert value_and_gradient(losses.max_margin, z, y)[1].tolist() == [[-1.0, 0.5, 0.5]]


EXTREME = st.lists(st.sampled_from([-1e4, -20.0, 0.0, 20.0, 1e4]), min_size=8, max_size=8)


@EVERY
@settings(max_examples=60, deadline=None)
@given(numbers=EXTREME, labels=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_values_and_gradients_stay_finite_at_extreme_logits(
    key: str, numbers: list[float], labels: tuple[int, int]
) -> None:
    z, y = torch.tensor(numbers, dtype=torch.float32).view(2, 4), torch.tensor(labels)
    value, gradient = value_and_gradient(function(key), z, y)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("key", SMOOTHABLE)
def test_smoothed_losses_stay_finite_at_extreme_logits(key: str) -> None:
    z, y = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]]), torch.tensor([1, 2])
    value, gradient = value_and_gradient(functools.partial(function(key), label_smoothing=0.1), z, y)
    assert value.isfinite()
    assert gradient.isfinite().all()


# --- infima


def near_the_optimum(key: str, depth: float) -> tuple[Tensor, Tensor]:
    """Three examples of four classes whose loss tends to its infimum as `depth` grows."""
    y = torch.tensor([0, 2, 1])
    true = 0.0 if key in ("self-norm", "nce") else depth
    return torch.full((3, 4), -depth, dtype=torch.float64).scatter(1, y[:, None], true), y


@EVERY
def test_the_infimum_is_approached(key: str) -> None:
    infimum = registry()[key].infimum
    excess = [float(function(key)(*near_the_optimum(key, depth))) - infimum for depth in (1.0, 3.0, 40.0)]
    assert excess[2] < 1e-13
    if key in ("max-margin", "batch-max-margin"):
        assert excess == [0, 0, 0]  # attained
    else:
        assert excess[0] > excess[1] > 1e-9


@EVERY
@settings(deadline=None)
@given(batch=batches(low=-40, high=40))
def test_no_loss_is_below_its_infimum(key: str, batch: tuple[Tensor, Tensor]) -> None:
    assert float(function(key)(*batch)) >= registry()[key].infimum - 1e-12


@settings(deadline=None)
@given(rate=st.floats(1e-3, 1e3))
def test_the_infimum_of_nce_depends_on_the_rate_of_its_noise(rate: float) -> None:
    # the true class alone: sp(-u) + r sp(u) with u = z - log r, smallest at z = 0
    z = torch.tensor([0.0, -1e-3, 1e-3], dtype=torch.float64)
    u = z - math.log(rate)
    at_zero, below, above = (F.softplus(-u, threshold=1000) + rate * F.softplus(u, threshold=1000)).tolist()
    assert at_zero == pytest.approx(losses.nce_infimum(rate), rel=1e-12)
    assert at_zero <= min(below, above)


# --- what adding a constant to logits changes


@pytest.mark.parametrize("key", SHIFT_INVARIANT)
@settings(deadline=None)
@given(batch=batches(), shift=st.floats(-30, 30))
def test_unaligned_losses_of_differences_ignore_a_constant_for_each_row(
    key: str, batch: tuple[Tensor, Tensor], shift: float
) -> None:
    z, y = batch
    moved = z + shift * torch.arange(1.0, len(y) + 1, dtype=torch.float64)[:, None]
    torch.testing.assert_close(function(key)(moved, y), function(key)(z, y), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("key", BATCH)
@settings(deadline=None)
@given(batch=batches(), shift=st.floats(-30, 30))
def test_batch_losses_ignore_a_constant_for_the_whole_minibatch(
    key: str, batch: tuple[Tensor, Tensor], shift: float
) -> None:
    z, y = batch
    torch.testing.assert_close(function(key)(z + shift, y), function(key)(z, y), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("key", ALIGNED)
def test_aligned_losses_notice_a_constant_for_each_row(key: str) -> None:
    z, y = random_batch()
    moved = z + torch.tensor([30.0, -30.0, 0.0, 20.0, -20.0, 10.0], dtype=torch.float64)[:, None]
    assert abs(float(function(key)(moved, y) - function(key)(z, y))) > 0.05


@pytest.mark.parametrize("key", sorted({*KEYS} - {*SHIFT_INVARIANT, *BATCH}))
def test_the_other_losses_notice_one_constant_for_all(key: str) -> None:
    z, y = random_batch()
    assert abs(float(function(key)(z - 3, y) - function(key)(z, y))) > 0.01


# --- identities


@settings(deadline=None)
@given(batch=batches(low=-20, high=20))
def test_batch_ce_is_ce_and_the_jensen_gap_of_the_partitions(batch: tuple[Tensor, Tensor]) -> None:
    z, y = batch
    log_partitions = z.logsumexp(1)
    gap = log_partitions.exp().mean().log() - log_partitions.mean()
    assert float(gap) >= -1e-12
    torch.testing.assert_close(
        losses.batch_cross_entropy(z, y), losses.cross_entropy(z, y) + gap, rtol=1e-12, atol=1e-12
    )


@settings(deadline=None)
@given(batch=batches())
def test_batch_ce_is_ce_where_all_examples_share_one_partition(batch: tuple[Tensor, Tensor]) -> None:
    z, y = batch
    level = z - z.logsumexp(1, keepdim=True) + 7
    torch.testing.assert_close(losses.batch_cross_entropy(level, y), losses.cross_entropy(z, y), rtol=1e-12, atol=1e-12)


def test_batch_ce_needs_one_partition_and_one_true_logit_of_each_example() -> None:
    z, y = random_batch(8)
    shards = [(z[rows].logsumexp(1), z[rows].gather(1, y[rows, None])) for rows in (slice(0, 3), slice(3, 8))]
    log_partitions = torch.cat([partition for partition, _ in shards])
    true = torch.cat([logit for _, logit in shards])
    joined = log_partitions.logsumexp(0) - math.log(8) - true.mean()
    torch.testing.assert_close(joined, losses.batch_cross_entropy(z, y))


def test_averaging_a_batch_loss_over_shards_gives_another_loss() -> None:
    z, y = random_batch(8)
    for key in BATCH:
        halves = (function(key)(z[:4], y[:4]) + function(key)(z[4:], y[4:])) / 2
        assert abs(float(halves - function(key)(z, y))) > 0.01


@settings(deadline=None)
@given(batch=batches())
def test_softmax_cauchy_schwarz_is_half_the_ce_of_doubled_logits(batch: tuple[Tensor, Tensor]) -> None:
    z, y = batch
    torch.testing.assert_close(
        losses.softmax_cauchy_schwarz(z, y), losses.cross_entropy(2 * z, y) / 2, rtol=1e-12, atol=1e-12
    )


@settings(deadline=None)
@given(batch=batches())
def test_nce_with_as_many_uniform_draws_as_classes_is_binary_ce_and_one_term(batch: tuple[Tensor, Tensor]) -> None:
    z, y = batch
    extra = F.softplus(z.gather(1, y[:, None]), threshold=1000).mean()
    torch.testing.assert_close(losses.nce(z, y), losses.binary_cross_entropy(z, y) + extra, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(batch=batches(rows=1))
def test_a_batch_of_one_gives_the_loss_of_one_example(batch: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(losses.batch_cross_entropy(*batch), losses.cross_entropy(*batch))
    torch.testing.assert_close(losses.batch_max_margin(*batch), 2 * losses.max_margin(*batch))


# --- label smoothing


@settings(deadline=None)
@given(batch=batches(), smoothing=st.floats(0, 0.9))
def test_smoothed_ce_is_torchs(batch: tuple[Tensor, Tensor], smoothing: float) -> None:
    z, y = batch
    ours = losses.cross_entropy(z, y, label_smoothing=smoothing)
    torch.testing.assert_close(ours, F.cross_entropy(z, y, label_smoothing=smoothing), rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(batch=batches(), smoothing=st.floats(0, 0.9))
def test_smoothed_binary_ce_is_torchs_with_soft_targets(batch: tuple[Tensor, Tensor], smoothing: float) -> None:
    z, y = batch
    k = z.shape[1]
    soft = (1 - smoothing) * F.one_hot(y, k).double() + smoothing / k
    torchs = k * F.binary_cross_entropy_with_logits(z, soft)  # torch takes the mean over classes
    ours = losses.binary_cross_entropy(z, y, label_smoothing=smoothing)
    torch.testing.assert_close(ours, torchs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("key", SMOOTHABLE)
@settings(deadline=None)
@given(batch=batches(), smoothing=st.floats(0, 0.9))
def test_smoothing_replaces_the_true_logit_by_a_mean(key: str, batch: tuple[Tensor, Tensor], smoothing: float) -> None:
    z, y = batch
    true = z.gather(1, y[:, None])[:, 0]
    replaced = (1 - smoothing) * true + smoothing * z.mean(1)
    expected = function(key)(z, y) + (true - replaced).mean()
    torch.testing.assert_close(function(key)(z, y, label_smoothing=smoothing), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("key", sorted({*SMOOTHABLE} & {*ALIGNED}))
def test_smoothed_aligned_losses_are_smallest_at_separated_logits(key: str) -> None:
    # p = the smoothed targets at the minimum; as softmax of a row (self-norm), sigmoids, or softmax of the batch
    smoothing, k, y = 0.1, 5, torch.tensor([0, 3, 3])
    targets = (1 - smoothing) * F.one_hot(y, k).double() + smoothing / k
    z = {"self-norm": targets.log(), "binary-ce": targets.logit(), "batch-ce": targets.log() + 4}[key]
    gradient = value_and_gradient(functools.partial(function(key), label_smoothing=smoothing), z, y)[1]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-15, rtol=0)
    true = F.one_hot(y, k).bool()
    assert z[true].min() > z[~true].max()


@pytest.mark.parametrize("key", sorted({*KEYS} - {*SMOOTHABLE}))
def test_smoothing_is_refused_where_it_is_not_defined(key: str) -> None:
    with pytest.raises(UsageError, match=f"label smoothing is not defined for {key}: .* linearly; give 0, or one of"):
        configured(key, classes=4, label_smoothing=0.1)


# --- floating types, autocast, compilation, stacks


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_single_precision_loss(key: str, dtype: torch.dtype) -> None:
    z, y = random_batch(16, 300, spread=5.0)
    z = z.to(dtype)
    value, gradient = value_and_gradient(function(key), z, y)
    single_value, single_gradient = value_and_gradient(function(key), z.float(), y)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert value == single_value
    assert torch.equal(gradient, single_gradient.to(dtype))


@EVERY
def test_half_precision_does_not_overflow_in_the_sum_over_classes(key: str) -> None:
    z, y = torch.full((2, 4), 6e4, dtype=torch.float16), torch.tensor([0, 1])
    assert function(key)(z, y).isfinite()  # four times 6e4 is infinite in float16


@EVERY
def test_double_precision_stays_and_single_is_close_to_it(key: str) -> None:
    z, y = random_batch(16, 300, spread=5.0)
    double = function(key)(z, y)
    assert double.dtype == torch.float64
    torch.testing.assert_close(function(key)(z.float(), y).double(), double, rtol=1e-5, atol=1e-5)


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(key: str, dtype: torch.dtype) -> None:
    z, y = random_batch(8, 40)
    z = z.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(function(key), z, y)
    expected_value, expected_gradient = value_and_gradient(function(key), z, y)
    assert value.dtype == torch.float32
    assert value == expected_value
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("labels", [torch.int8, torch.int32, torch.uint8])
def test_labels_of_any_integer_type_are_read(labels: torch.dtype) -> None:
    z, y = random_batch()
    assert losses.cross_entropy(z, y.to(labels)) == losses.cross_entropy(z, y)


def all_eleven(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([loss(logits, labels) for loss in CONFIGURED])


CONFIGURED = [configured(key, classes=6) for key in KEYS]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_all_losses_are_one_graph_to_the_compiler(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(all_eleven, fullgraph=True, backend=backend)
    for m in (4, 7, 5):  # the last minibatch of an epoch is shorter
        z, y = random_batch(m, 6, seed=m)
        leaf = z.requires_grad_()
        for weights in torch.eye(len(KEYS), dtype=torch.float64)[:: 1 if m == 4 else 5]:
            ours, plain = compiled(leaf, y), all_eleven(leaf, y)
            torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
            gradients = [torch.autograd.grad(weights @ values, leaf)[0] for values in (ours, plain)]
            torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_a_configured_loss_compiles_by_itself() -> None:
    torch._dynamo.reset()
    z, y = random_batch(4, 6)
    compiled = torch.compile(configured("batch-ce", classes=6), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, y), losses.batch_cross_entropy(z, y))


@pytest.mark.parametrize("own_generator", [True, False])
@pytest.mark.parametrize("q", ["uniform", "class frequencies"])
def test_sampled_nce_draws_the_same_noise_when_compiled(own_generator: bool, q: str) -> None:
    """One graph with torch's own generator, and the same draws; a generator in hand breaks it and draws the same."""
    torch._dynamo.reset()
    z, y = random_batch(8, 6)

    def drawing(backend: str | None) -> list[Tensor]:
        generator = torch.Generator().manual_seed(3) if own_generator else None
        torch.manual_seed(3)
        loss: Callable[[Tensor, Tensor], Tensor] = configured(
            "nce", classes=6, estimate="sampled", t=5, q=q, class_frequencies=range(1, 7), generator=generator
        )
        if backend is not None:
            loss = torch.compile(loss, backend=backend, fullgraph=not own_generator)
        leaf = z.clone().requires_grad_()
        values = [loss(leaf, y) for _ in range(3)]
        return [*values, *(torch.autograd.grad(value, leaf)[0] for value in values)]

    plain, compiled = drawing(None), drawing("aot_eager")
    assert len({value.item() for value in plain[:3]}) == 3, "every draw is another"
    torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_gives_the_same_numbers(key: str, dtype: torch.dtype) -> None:
    z, y = random_batch(32, 1000)
    z = z.to(dtype)
    value, gradient = value_and_gradient(function(key), z.cuda(), y.cuda())
    expected_value, expected_gradient = value_and_gradient(function(key), z, y)
    torch.testing.assert_close(value.cpu(), expected_value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        gradient.cpu(), expected_gradient, rtol=1e-2 if dtype != torch.float32 else 1e-4, atol=1e-6
    )


@pytest.mark.gpu
@EVERY
def test_a_captured_loss_is_replayed(key: str) -> None:
    loss = configured(key, classes=1000)
    (z, y), (later_z, later_y) = random_batch(32, 1000), random_batch(32, 1000, seed=1)
    logits, labels = z.float().cuda().requires_grad_(), y.cuda()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for _ in range(3):
            torch.autograd.grad(loss(logits, labels), logits)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(logits, labels)
        (gradient,) = torch.autograd.grad(value, logits)
    with torch.no_grad():
        logits.copy_(later_z)
        labels.copy_(later_y)
    graph.replay()
    expected_value, expected_gradient = value_and_gradient(loss, later_z.float().cuda(), later_y.cuda())
    torch.testing.assert_close(value.detach(), expected_value)
    torch.testing.assert_close(gradient, expected_gradient)


@EVERY
def test_a_stack_of_minibatches_gives_a_loss_each(key: str) -> None:
    loss = configured(key, classes=5)
    z = torch.stack([random_batch(seed=seed)[0] for seed in range(3)])
    y = torch.stack([random_batch(seed=seed)[1] for seed in range(3)])
    leaf = z.clone().requires_grad_()
    values = torch.vmap(loss)(leaf, y)
    (gradients,) = torch.autograd.grad(values.sum(), leaf)
    assert values.shape == (3,)
    for member in range(3):
        value, gradient = value_and_gradient(loss, z[member], y[member])
        torch.testing.assert_close(values[member].detach(), value, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(gradients[member], gradient, rtol=1e-13, atol=1e-13)


@EVERY
def test_a_stack_keeps_a_member_that_diverged_to_itself(key: str) -> None:
    z, y = torch.stack([random_batch(seed=seed)[0] for seed in range(3)]), random_batch()[1].expand(3, 6)
    broken = z.clone()
    broken[1] = math.nan
    results = []
    for logits in (z, broken):
        leaf = logits.clone().requires_grad_()
        values = torch.vmap(function(key))(leaf, y)
        (gradients,) = torch.autograd.grad(values.sum(), leaf)
        results.append((values.detach(), gradients))
    (values, gradients), (beside_nan, gradients_beside_nan) = results
    assert beside_nan[1].isnan()
    for member in (0, 2):
        assert beside_nan[member] == values[member]
        assert torch.equal(gradients_beside_nan[member], gradients[member])


# --- sampled NCE


@pytest.mark.parametrize("q", [None, SKEWED], ids=["uniform", "skewed"])
def test_the_mean_of_many_draws_is_exact_nce(q: Tensor | None) -> None:
    t, draws = 3, 40_000
    z, y = torch.tensor([0.5, -1.0, 2.0, -3.0], dtype=torch.float64), 2
    noise = torch.full_like(z, 0.25) if q is None else q
    terms = F.softplus(z - (t * noise).log())
    deviation = math.sqrt(t * float((noise * terms**2).sum() - (noise * terms).sum() ** 2))
    rows, labels = z.expand(draws, 4), torch.full((draws,), y)
    estimate, gradient = value_and_gradient(
        lambda a, b: losses.sampled_nce(a, b, t=t, q=q, generator=torch.Generator().manual_seed(0)), rows, labels
    )
    exact, exact_gradient = value_and_gradient(functools.partial(losses.nce, t=t, q=q), rows, labels)
    # 5 standard errors; a logit's gradient is at most 1 a draw, so its deviation at most sqrt(t)
    assert abs(float(estimate - exact)) < 5 * deviation / math.sqrt(draws)
    assert deviation > 0.1
    error = (gradient.sum(0) - exact_gradient.sum(0)).abs()
    assert float(error.max()) < 5 * math.sqrt(t / draws)


def test_every_example_draws_its_own_noise_and_a_seed_repeats_it() -> None:
    z, y = torch.arange(50.0).expand(6, 50), torch.zeros(6, dtype=torch.long)

    def drawn(generator: torch.Generator) -> tuple[float, Tensor]:
        value, gradient = value_and_gradient(functools.partial(losses.sampled_nce, t=4, generator=generator), z, y)
        return float(value), gradient

    generator = torch.Generator().manual_seed(3)
    first, second = drawn(generator), drawn(generator)
    again = drawn(torch.Generator().manual_seed(3))
    assert first[0] == again[0] != second[0]
    assert len({tuple(row) for row in first[1].tolist()}) > 1
    assert all(int((row[1:] != 0).sum()) <= 4 for row in first[1])


def test_sampled_noise_can_be_one_for_a_stack_or_each_members_own() -> None:
    z, y = torch.randn(50, generator=torch.Generator().manual_seed(0)).expand(2, 6, 50), torch.zeros(2, 6).long()
    loss = functools.partial(losses.sampled_nce, t=4)
    same = torch.vmap(loss, randomness="same")(z, y)
    different = torch.vmap(loss, randomness="different")(z, y)
    assert same[0] == same[1]
    assert different[0] != different[1]


# --- what is refused


@EVERY
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3).long(), "logits of 1 class.* at least 2"),
        (torch.zeros(0, 4), torch.zeros(0).long(), "without examples"),
        (torch.zeros(3, 4), torch.zeros(2).long(), r"\(3, 4\) and labels of shape \(2,\)"),
        (torch.zeros(4), torch.zeros(()).long(), r"shape \(4,\)"),
        (torch.zeros(3, 4), torch.zeros(3), "labels of torch.float32"),
        (torch.zeros(3, 4).long(), torch.zeros(3).long(), "logits of torch.int64"),
        (torch.zeros(3, 4), torch.zeros(3).bool(), "labels of torch.bool"),
    ],
)
def test_what_is_no_minibatch_is_refused(key: str, logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        function(key)(logits, labels)


@EVERY
@pytest.mark.parametrize("label", [4, -1])
def test_a_label_out_of_range_is_never_read_as_another(key: str, label: int) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        function(key)(torch.zeros(2, 4), torch.tensor([0, label]))


@EVERY
def test_nan_logits_give_a_nan_loss(key: str) -> None:
    z, y = random_batch()
    z[0] = math.nan
    assert function(key)(z, y).isnan()


def test_noise_for_another_number_of_classes_is_refused() -> None:
    z, y = random_batch(k=5)
    for loss in (losses.nce, losses.sampled_nce):
        with pytest.raises(UsageError, match="one probability for each of 5 classes"):
            loss(z, y, t=3, q=SKEWED)


# --- the registry


def test_the_registry_lists_the_papers_eleven_in_its_order() -> None:
    assert (
        *("ce", "max-margin", "softmax-cauchy-schwarz", "sigmoid-cauchy-schwarz", "softmax-tanimoto"),
        *("self-norm", "nce", "binary-ce", "sigmoid-tanimoto", "batch-ce", "batch-max-margin"),
    ) == KEYS
    assert KEYS[5:] == ALIGNED
    assert [registry()[key].name for key in losses.PAPER] == [
        *("CE", "max-margin", "self-norm", "NCE", "binary CE", "batch CE", "batch max-margin")
    ]
    assert tuple(key for key, entry in registry().items() if entry.of_batch) == BATCH


def test_every_entry_says_what_it_is() -> None:
    for key, entry in registry().items():
        assert entry.key == key
        assert entry.equation
        assert entry.reason
        assert "Sect." in entry.source
        assert getattr(losses, entry.function.__name__) is entry.function


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("batch-ce", "batch-ce"),
        ("Batch CE", "batch-ce"),
        (" BATCH_MAX_MARGIN ", "batch-max-margin"),
        ("NCE", "nce"),
        ("softmax Cauchy–Schwarz divergence", "softmax-cauchy-schwarz"),
        ("Sigmoid Tanimoto loss", "sigmoid-tanimoto"),
    ],
)
def test_a_loss_is_found_by_key_and_by_the_papers_name(name: str, key: str) -> None:
    assert losses.find(name).key == key


def test_an_unknown_loss_is_refused_with_what_would_be_right() -> None:
    with pytest.raises(UsageError, match=r"unknown loss 'batch-cee'; did you mean batch-ce\?"):
        losses.find("batch-cee")
    with pytest.raises(UsageError, match=r"unknown loss 'triplet'; give ce, max-margin, .*, batch-max-margin"):
        losses.find("triplet")


# --- losses as a run uses them


def test_configured_records_every_value_that_was_used() -> None:
    recorded = {key: configured(key, classes=10).setting.hyperparameters for key in KEYS}
    assert recorded == {
        "ce": {},
        "max-margin": {"gamma": 1.0},
        "softmax-cauchy-schwarz": {},
        "sigmoid-cauchy-schwarz": {},
        "softmax-tanimoto": {"squared": 0.0},
        "self-norm": {"alpha": 0.1},
        "nce": {"t": 10.0, "q": "uniform", "estimate": "exact"},
        "binary-ce": {},
        "sigmoid-tanimoto": {"squared": 0.0},
        "batch-ce": {},
        "batch-max-margin": {"gamma": 1.0},
    }
    setting = configured("Batch max-margin", classes=10, gamma=2).setting
    assert setting == LossSetting(
        key="batch-max-margin", name="batch max-margin", aligned=True, hyperparameters={"gamma": 2.0}
    )


@EVERY
def test_a_configured_loss_with_defaults_is_the_plain_function(key: str) -> None:
    z, y = random_batch()
    assert configured(key, classes=5)(z, y) == function(key)(z, y)


@pytest.mark.parametrize(
    ("key", "given", "changed"),
    [
        ("max-margin", {"gamma": 0.25}, functools.partial(losses.max_margin, gamma=0.25)),
        ("batch-max-margin", {"gamma": 3}, functools.partial(losses.batch_max_margin, gamma=3.0)),
        ("self-norm", {"alpha": 2.0}, functools.partial(losses.self_normalisation, alpha=2.0)),
        ("softmax-tanimoto", {"squared": True}, functools.partial(losses.softmax_tanimoto, squared=True)),
        ("sigmoid-tanimoto", {"squared": 1.0}, functools.partial(losses.sigmoid_tanimoto, squared=True)),
        ("nce", {"t": 2.5}, functools.partial(losses.nce, t=2.5)),
    ],
)
def test_given_hyperparameters_are_used_recorded_and_read_back(
    key: str, given: dict[str, float], changed: Loss
) -> None:
    z, y = random_batch()
    loss = configured(key, classes=5, **given)  # type: ignore[arg-type]
    ((name, value),) = given.items()
    assert loss.setting.hyperparameters[name] == value
    setting = LossSetting.model_validate_json(loss.setting.model_dump_json())
    again = configured(setting.key, classes=5, **setting.hyperparameters)  # type: ignore[arg-type]
    assert loss(z, y) == again(z, y) == changed(z, y) != function(key)(z, y)
    assert again.setting == loss.setting


@pytest.mark.parametrize("key", SMOOTHABLE)
def test_smoothing_is_passed_on(key: str) -> None:
    z, y = random_batch()
    assert configured(key, classes=5, label_smoothing=0.1)(z, y) == function(key)(z, y, label_smoothing=0.1)


def test_nce_is_exact_up_to_ten_thousand_classes_and_sampled_beyond() -> None:
    def used(classes: int, **values: object) -> dict[str, float | str]:
        return configured("nce", classes=classes, **values).setting.hyperparameters  # type: ignore[arg-type]

    assert used(10_000) == {"t": 10_000.0, "q": "uniform", "estimate": "exact"}
    drawn = {"negatives": "own", "correction": "log-q"}
    assert used(10_001) == {"t": 25.0, "q": "uniform", "estimate": "sampled", **drawn}
    frequencies = torch.arange(1, 10_002)
    assert used(10_001, class_frequencies=frequencies)["q"] == "class frequencies"
    assert used(10_000, class_frequencies=frequencies[:-1])["q"] == "uniform"
    assert used(4, estimate="sampled", t=3) == {"t": 3.0, "q": "uniform", "estimate": "sampled", **drawn}
    assert used(4, q="class frequencies", class_frequencies=[1, 2, 3, 4])["q"] == "class frequencies"


def test_class_frequencies_become_noise() -> None:
    z, y = random_batch(k=4)
    exact = configured("nce", classes=4, class_frequencies=[40, 20, 10, 10], q="class frequencies")
    torch.testing.assert_close(exact(z, y), losses.nce(z, y, q=SKEWED))
    sampled = configured(
        "nce",
        classes=4,
        class_frequencies=torch.tensor([40, 20, 10, 10]),
        estimate="sampled",
        generator=torch.Generator().manual_seed(5),
    )
    plain = losses.sampled_nce(z, y, t=25, q=SKEWED, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(sampled(z, y), plain)


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("triplet", {}, "unknown loss"),
        ("ce", {"classes": 1}, "1 class"),
        ("ce", {"gamma": 1.0}, "ce has no hyperparameter 'gamma'; it has none"),
        ("max-margin", {"alpha": 1.0}, "has no hyperparameter 'alpha'; it has gamma"),
        ("max-margin", {"gamma": 0.0}, "gamma = 0.0: give a number above 0"),
        ("max-margin", {"gamma": math.nan}, "gamma = nan: give a number above 0"),
        ("self-norm", {"alpha": -1.0}, "alpha = -1.0: give a number above 0"),
        ("self-norm", {"alpha": math.inf}, "alpha = inf: give a number above 0"),
        ("self-norm", {"alpha": "much"}, "alpha = 'much': give a number above 0"),
        ("softmax-tanimoto", {"squared": 2}, "squared = 2: give 0"),
        ("nce", {"t": 0}, "t = 0: give a number above 0"),
        ("nce", {"t": 2.5, "estimate": "sampled"}, "sampled nce with t = 2.5: give a whole number"),
        ("nce", {"q": "zipf"}, "q = 'zipf': give 'uniform', 'class frequencies'"),
        ("nce", {"estimate": "guessed"}, "estimate = 'guessed': give 'exact', 'sampled'"),
        ("nce", {"negatives": "shared"}, "negatives = 'shared': its expectation is exact here, .*estimate = 'sampled'"),
        ("nce", {"correction": "none"}, "correction = 'none': its expectation is exact here"),
        ("nce", {"correction": "logq"}, "correction = 'logq': give 'log-q', 'none' or 'auto'"),
        ("nce", {"estimate": "sampled", "negatives": "ours"}, "negatives = 'ours': give 'own', 'shared' or 'auto'"),
        ("nce", {"estimate": "sampled", "correction": 1.0}, "correction = 1.0: give 'log-q', 'none' or 'auto'"),
        ("nce", {"q": "class frequencies"}, "needs the class frequencies"),
        ("nce", {"q": "class frequencies", "class_frequencies": [1, 2]}, r"shape \(2,\): give one for each of 4"),
        ("nce", {"q": "class frequencies", "class_frequencies": [1, 0, 2, 3]}, "class 1 has frequency 0"),
        ("nce", {"q": "class frequencies", "class_frequencies": [1, 1, 1, math.nan]}, "class 3 has frequency nan"),
        ("ce", {"label_smoothing": 1.0}, "label smoothing of 1.0: give 0 or more and less than 1"),
        ("ce", {"label_smoothing": -0.1}, "label smoothing of -0.1"),
    ],
)
def test_values_out_of_range_are_refused(key: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        configured(key, **{"classes": 4, **values})  # type: ignore[arg-type]


def test_the_prior_bias_gives_every_class_its_share() -> None:
    assert torch.tensor(losses.prior_bias(1623)).sigmoid() == pytest.approx(1 / 1623)
    assert losses.prior_bias(2) == 0
    with pytest.raises(UsageError, match="at least 2"):
        losses.prior_bias(1)


# --- traps in other implementations


def test_torchs_multi_margin_loss_is_another_loss() -> None:
    z, y = torch.tensor([[0.0, 0.5, 0.25]]), torch.tensor([0])
    assert float(losses.max_margin(z, y)) == 1.5
    assert float(F.multi_margin_loss(z, y)) == pytest.approx((1.5 + 1.25) / 3)


def test_torchs_binary_cross_entropy_divides_by_the_number_of_classes() -> None:
    z, y = random_batch(4, 100)
    torchs = F.binary_cross_entropy_with_logits(z, F.one_hot(y, 100).double())
    assert float(losses.binary_cross_entropy(z, y)) == pytest.approx(100 * float(torchs))


@pytest.mark.parametrize(("k", "scale"), [(1000, 0.97), (370_727, 0.078)])
def test_the_published_batch_ce_shrinks_gradients_at_many_classes(k: int, scale: float) -> None:
    def published(z: Tensor, y: Tensor) -> Tensor:
        q = z.flatten().softmax(0).view_as(z).gather(1, y[:, None])[:, 0]
        return (1 / len(y)) * torch.log((1 / len(y)) / (q + 1e-6) + 1e-6).sum()

    z, y = torch.zeros(32, k), torch.arange(32)  # as at initialisation
    theirs = value_and_gradient(published, z, y)[1]
    ours = value_and_gradient(losses.batch_cross_entropy, z, y)[1]
    q = 1 / (32 * k)
    ratios = (theirs / ours).flatten()
    assert q / (q + 1e-6) == pytest.approx(scale, abs=5e-3)
    torch.testing.assert_close(ratios, torch.full_like(ratios, q / (q + 1e-6)), rtol=1e-4, atol=0)
