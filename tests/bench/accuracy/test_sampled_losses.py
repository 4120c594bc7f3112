"""Importance sampling and negative sampling against what they are in the mean."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.accuracy import losses
from bench.accuracy.losses import configured, importance_sampling, negative_sampling
from bench.accuracy.settings import BEYOND_THE_PAPER, FURTHER_LOSSES, PAPER_LOSSES
from bench.errors import UsageError

LOGITS = torch.tensor([1.2, -0.4, 0.3, -2.0, 0.9], dtype=torch.float64)
LABEL = 2
SKEWED = torch.tensor([0.4, 0.05, 0.2, 0.25, 0.1], dtype=torch.float64)
DRAWS = 40_000


def drawn(function: object, t: int, q: Tensor | None, draws: int = DRAWS) -> Tensor:
    """Losses of one example, its noise drawn anew each time: (draws,)."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        one = torch.vmap(lambda z, y: function(z, y, t=t, q=q), randomness="different")  # type: ignore[operator]
        found: Tensor = one(LOGITS.expand(draws, 1, -1), torch.full((draws, 1), LABEL))
    return found


def assert_mean(values: Tensor, expected: float) -> None:
    """Within five standard errors; the seed is fixed."""
    assert abs(float(values.mean()) - expected) < 5 * float(values.std()) / math.sqrt(len(values))


@pytest.mark.parametrize("q", [None, SKEWED], ids=["uniform", "skewed"])
@pytest.mark.parametrize("t", [1, 4])
def test_the_partition_function_is_estimated_without_bias_at_any_number_of_samples(t: int, q: Tensor | None) -> None:
    estimates = (drawn(importance_sampling, t, q) + LOGITS[LABEL]).exp()
    assert_mean(estimates, float(LOGITS.exp().sum()))


@pytest.mark.parametrize("q", [None, SKEWED], ids=["uniform", "skewed"])
def test_importance_sampling_nears_cross_entropy_as_samples_grow(q: Tensor | None) -> None:
    exact = float(F.cross_entropy(LOGITS[None], torch.tensor([LABEL])))
    bias = [exact - float(drawn(importance_sampling, t, q).mean()) for t in (4, 16, 64)]
    assert bias[0] > bias[1] > bias[2] > 0  # the logarithm is concave
    assert 2.5 < bias[0] / bias[1] < 6  # of order 1/t: four times the samples, about a quarter
    assert bias[2] < 0.03


def test_its_gradient_nears_that_of_cross_entropy() -> None:
    z = LOGITS.expand(64, -1).clone().requires_grad_()
    y = torch.full((64,), LABEL)
    generator = torch.Generator().manual_seed(3)
    (ours,) = torch.autograd.grad(importance_sampling(z, y, t=4000, q=SKEWED, generator=generator), z)
    (exact,) = torch.autograd.grad(F.cross_entropy(z, y), z)
    torch.testing.assert_close(ours.sum(0), exact.sum(0), rtol=0, atol=0.005)


@pytest.mark.parametrize("q", [None, SKEWED], ids=["uniform", "skewed"])
@pytest.mark.parametrize("t", [1, 6])
def test_negative_sampling_is_a_weighted_binary_cross_entropy_in_the_mean(t: int, q: Tensor | None) -> None:
    shares = torch.full((5,), 0.2, dtype=torch.float64) if q is None else q
    softplus = torch.log1p(LOGITS.exp())
    false = torch.arange(5) != LABEL
    expected = float(torch.log1p((-LOGITS[LABEL]).exp()) + t * (shares * softplus)[false].sum())
    assert_mean(drawn(negative_sampling, t, q), expected)


def test_of_certain_noise_both_are_worked_by_hand() -> None:
    z, y = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([0])
    certain = torch.tensor([1e-300, 1.0], dtype=torch.float64)  # class 1 in every draw
    # e^1 + 3 draws of e^2 / (3 * 1)
    assert float(importance_sampling(z, y, t=3, q=certain)) == pytest.approx(math.log(math.e + math.e**2) - 1)
    binary = math.log(1 + math.exp(-1)) + 3 * math.log(1 + math.exp(2))
    assert float(negative_sampling(z, y, t=3, q=certain)) == pytest.approx(binary)
    # the true class in every draw: nothing is held against it
    assert float(importance_sampling(z, torch.tensor([1]), t=3, q=certain)) == 0
    assert float(negative_sampling(z, torch.tensor([1]), t=3, q=certain)) == pytest.approx(math.log(1 + math.exp(-2)))


@pytest.mark.parametrize("key", FURTHER_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_finite_far_out(key: str, dtype: torch.dtype) -> None:
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    value = losses.find(key).function(z, torch.tensor([1, 0]))
    value.backward()  # type: ignore[no-untyped-call]
    assert value.isfinite()
    assert value.dtype == torch.float32
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("key", FURTHER_LOSSES)
def test_gradients_of_fixed_noise(key: str) -> None:
    z = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.tensor([0, 4, 2])

    def loss(z: Tensor) -> Tensor:
        value: Tensor = losses.find(key).function(z, y, t=4, q=SKEWED, generator=torch.Generator().manual_seed(1))
        return value

    assert torch.autograd.gradcheck(loss, (z,))


def test_they_are_further_losses_and_none_of_the_papers() -> None:
    assert tuple(losses.further()) == FURTHER_LOSSES
    assert not set(losses.further()) & set(losses.registry())
    assert not BEYOND_THE_PAPER & set(PAPER_LOSSES)
    assert losses.find("Negative sampling").key == "negative-sampling"
    for key, entry in losses.further().items():
        assert entry.key == key
        assert entry.equation
        assert entry.reason
        assert getattr(losses, entry.function.__name__) is entry.function
        assert losses.draws_noise(configured(key, classes=5).setting)
    assert not losses.draws_noise(configured("nce", classes=5).setting)
    assert losses.draws_noise(configured("nce", classes=5, estimate="sampled").setting)


def test_values_used_are_recorded_and_make_the_same_loss_again() -> None:
    counts = [10.0, 20, 30, 40, 900]
    assert configured("importance-sampling", classes=5).setting.hyperparameters == {"t": 25.0, "q": "uniform"}
    used: dict[str, dict[str, Any]] = {
        key: configured(key, classes=5, class_frequencies=counts).setting.hyperparameters for key in FURTHER_LOSSES
    }
    assert used == {
        "importance-sampling": {"t": 25.0, "q": "class frequencies", "power": 1.0},
        "negative-sampling": {"t": 25.0, "q": "class frequencies", "power": 0.75},
    }
    for key, hyperparameters in used.items():
        first, again = (
            configured(
                key, classes=5, class_frequencies=counts, generator=torch.Generator().manual_seed(7), **hyperparameters
            )(LOGITS[None], torch.tensor([LABEL]))
            for _ in range(2)
        )
        assert first == again


def test_frequencies_are_raised_to_the_power() -> None:
    counts = torch.tensor([1.0, 16.0, 81.0, 256.0, 625.0], dtype=torch.float64)
    q = counts**0.75 / (counts**0.75).sum()
    assert q[1] / q[0] == pytest.approx(8)
    made, plain = (torch.Generator().manual_seed(2) for _ in range(2))
    loss = configured("negative-sampling", classes=5, class_frequencies=counts, generator=made, t=50)
    labels = torch.tensor([LABEL])
    assert loss(LOGITS[None], labels) == negative_sampling(LOGITS[None], labels, t=50, q=q, generator=plain)


@pytest.mark.parametrize(
    ("hyperparameters", "reason"),
    [
        ({"t": 2.5}, "whole number"),
        ({"t": 0.0}, "above 0"),
        ({"q": "zipf"}, "negative-sampling with q = 'zipf'"),
        ({"q": "class frequencies"}, "negative-sampling with q = 'class frequencies' needs the class frequencies"),
        ({"power": 0.5}, "noise is uniform here"),
        ({"gamma": 1.0}, "no hyperparameter 'gamma'"),
    ],
)
def test_what_makes_no_sense_is_refused(hyperparameters: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        configured("negative-sampling", classes=5, **hyperparameters)
    with pytest.raises(UsageError, match="label smoothing is not defined"):
        configured("importance-sampling", classes=5, label_smoothing=0.1)


def test_the_likelihood_of_normalised_scores_is_cross_entropy() -> None:
    log_prob = F.log_softmax(torch.stack([LOGITS, -LOGITS]), 1)
    labels = torch.tensor([0, 3])
    for smoothing in (0.0, 0.1):
        ours = losses.negative_log_likelihood(log_prob, labels, label_smoothing=smoothing)
        torch.testing.assert_close(ours, F.cross_entropy(log_prob, labels, label_smoothing=smoothing))
