"""Importance sampling and negative sampling against what they are in the mean."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.accuracy import losses
from bench.accuracy.losses import configured, importance_sampling, negative_sampling, sampled_nce
from bench.accuracy.settings import BEYOND_THE_PAPER, FURTHER_LOSSES, PAPER_LOSSES, LossSetting
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
    assert configured("importance-sampling", classes=5).setting.hyperparameters == {
        "t": 25.0, "q": "uniform", "negatives": "own", "correction": "log-q",
    }  # fmt: skip
    used: dict[str, dict[str, Any]] = {
        key: configured(key, classes=5, class_frequencies=counts).setting.hyperparameters for key in FURTHER_LOSSES
    }
    assert used == {
        "importance-sampling": {
            "t": 25.0, "q": "class frequencies", "power": 1.0, "negatives": "own", "correction": "log-q",
        },
        "negative-sampling": {
            "t": 25.0, "q": "class frequencies", "power": 0.75, "negatives": "own", "correction": "none",
        },
    }  # fmt: skip
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
        ({"negatives": "mine"}, "negative-sampling with negatives = 'mine': give 'own', 'shared' or 'auto'"),
        ({"correction": "logq"}, "negative-sampling with correction = 'logq': give 'log-q', 'none' or 'auto'"),
        ({"estimate": "sampled"}, "no hyperparameter 'estimate'; it has t, q, power, negatives, correction"),
    ],
)
def test_what_makes_no_sense_is_refused(hyperparameters: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        configured("negative-sampling", classes=5, **hyperparameters)
    with pytest.raises(UsageError, match="label smoothing is not defined"):
        configured("importance-sampling", classes=5, label_smoothing=0.1)


# --- negatives of a whole minibatch, and the log-q correction given or left out

DRAWING = {"nce": sampled_nce, "importance-sampling": importance_sampling, "negative-sampling": negative_sampling}
EVERY = pytest.mark.parametrize("key", DRAWING)
BATCH = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def drawing(key: str, **given: Any) -> losses.Configured:
    """Seeded noise by the frequencies of SKEWED, raised to no power."""
    more = {"estimate": "sampled"} if key == "nce" else {"power": 1.0}
    generator = torch.Generator().manual_seed(13)
    return configured(key, classes=5, class_frequencies=SKEWED, generator=generator, t=4, **more, **given)


@EVERY
@pytest.mark.parametrize("correction", ["log-q", "none"])
def test_shared_negatives_are_one_draw_for_the_whole_minibatch(key: str, correction: str) -> None:
    z, y = torch.zeros(6, 400, dtype=torch.float64, requires_grad=True), torch.arange(6)
    for negatives, most in (("shared", 1), ("own", 6)):
        more = {"estimate": "sampled"} if key == "nce" else {}
        generator = torch.Generator().manual_seed(1)
        given = {"negatives": negatives, "correction": correction, "t": 4, **more}
        loss = configured(key, classes=400, generator=generator, **given)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(loss(z, y), z)
        noise = {frozenset((row[6:] != 0).nonzero().flatten().tolist()) for row in gradient}
        assert len(noise) == most
        assert all(2 <= len(drawn) <= 4 for drawn in noise)  # a class may be drawn twice


@EVERY
@pytest.mark.parametrize("shared", [False, True])
def test_of_one_example_shared_negatives_are_its_own(key: str, shared: bool) -> None:
    own, one = (drawing(key, negatives=negatives) for negatives in ("own", "shared"))
    assert own(BATCH[:1], LABELS[:1]) == one(BATCH[:1], LABELS[:1])
    minibatch = drawing(key, negatives="shared" if shared else "own")(BATCH, LABELS)
    apart = drawing(key, negatives="own")  # an example's draws follow those of the one before
    if shared:  # the same four classes for each
        values = [drawing(key, negatives="shared")(z[None], y[None]) for z, y in zip(BATCH, LABELS, strict=True)]
    else:
        values = [apart(z[None], y[None]) for z, y in zip(BATCH, LABELS, strict=True)]
    torch.testing.assert_close(minibatch, torch.stack(values).mean(), rtol=1e-12, atol=0)


def test_shared_negatives_leave_the_mean_as_it_is() -> None:
    """Of NCE the exact loss, of the partition function its value."""
    z, y, t = BATCH, LABELS, 3
    torch.manual_seed(5)

    def found(function: Any) -> Tensor:
        return torch.stack([function(z, y, t=t, q=SKEWED, shared=True) for _ in range(4_000)])

    assert_mean(found(sampled_nce), float(losses.nce(z, y, t=t, q=SKEWED)))
    one = torch.vmap(
        lambda z, y: importance_sampling(z, y, t=t, q=SKEWED, shared=True), randomness="different"
    )(LOGITS.expand(DRAWS, 1, -1), torch.full((DRAWS, 1), LABEL))  # fmt: skip
    assert_mean((one + LOGITS[LABEL]).exp(), float(LOGITS.exp().sum()))


def test_a_stack_draws_shared_negatives_for_each_member() -> None:
    z, y = torch.arange(50.0).expand(2, 6, 50), torch.zeros(2, 6).long()

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return importance_sampling(z, y, t=4, shared=True)

    same, different = (torch.vmap(loss, randomness=kind)(z, y) for kind in ("same", "different"))
    assert same[0] == same[1]
    assert different[0] != different[1]


@pytest.mark.parametrize("shared", [False, True])
def test_without_the_correction_a_binary_loss_learns_the_logit_and_log_tq(shared: bool) -> None:
    """For the same draws, to the last digits: what is read as z is z + log(t q_j)."""
    shift = (4 * SKEWED).log()
    for key, function in (("nce", sampled_nce), ("negative-sampling", negative_sampling)):
        plain, moved = (
            function(
                z, LABELS, t=4, q=SKEWED, shared=shared, corrected=corrected, generator=torch.Generator().manual_seed(3)
            )
            for z, corrected in ((BATCH, False), (BATCH + shift, True))
        )
        torch.testing.assert_close(moved, plain, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("t", [1, 3])
def test_without_the_correction_the_partition_function_is_that_of_the_classes_drawn(t: int) -> None:
    """Its mean is e^z_y + sum t q_j e^z_j: of uniform noise the false part is k/t times too low."""

    def uncorrected(z: Tensor, y: Tensor, *, t: int, q: Tensor | None) -> Tensor:
        return importance_sampling(z, y, t=t, q=q, corrected=False)

    false = torch.arange(5) != LABEL
    for q in (None, SKEWED):
        shares = torch.full((5,), 0.2, dtype=torch.float64) if q is None else q
        estimates = (drawn(uncorrected, t, q) + LOGITS[LABEL]).exp()
        expected = float(LOGITS[LABEL].exp() + t * (shares * LOGITS.exp())[false].sum())
        assert_mean(estimates, expected)
        if q is None:
            assert float((estimates - LOGITS[LABEL].exp()).mean()) == pytest.approx(
                t / 5 * float(LOGITS.exp()[false].sum()), rel=0.05
            )


@pytest.mark.parametrize("correction", ["log-q", "none"])
def test_importance_sampling_leaves_the_level_free_with_the_correction_or_without(correction: str) -> None:
    plain, moved = (
        drawing("importance-sampling", correction=correction),
        drawing("importance-sampling", correction=correction),
    )
    levels = torch.arange(-3.0, 3.0, dtype=torch.float64)[:, None] * 10
    torch.testing.assert_close(plain(BATCH, LABELS), moved(BATCH + levels, LABELS), rtol=1e-10, atol=1e-10)
    assert not plain.setting.aligned


def test_the_name_says_what_another_correction_makes_of_a_loss() -> None:
    named = {
        (key, correction): drawing(key, correction=correction).setting.name
        for key in DRAWING
        for correction in ("auto", "log-q", "none")
    }
    assert named == {
        ("nce", "auto"): "NCE",
        ("nce", "log-q"): "NCE",
        ("nce", "none"): "NCE without log-q",
        ("importance-sampling", "auto"): "CE by importance sampling",
        ("importance-sampling", "log-q"): "CE by importance sampling",
        ("importance-sampling", "none"): "sampled softmax without log-q",
        ("negative-sampling", "auto"): "negative sampling",
        ("negative-sampling", "log-q"): "negative sampling with log-q",
        ("negative-sampling", "none"): "negative sampling",
    }


@EVERY
def test_an_older_record_is_the_same_loss(key: str) -> None:
    """It says neither whose the negatives are nor how they are corrected."""
    now = drawing(key)
    older = {name: value for name, value in now.setting.hyperparameters.items() if name not in
             ("negatives", "correction")}  # fmt: skip
    generator = torch.Generator().manual_seed(13)
    again = configured(key, classes=5, class_frequencies=SKEWED, generator=generator, **older)
    assert again(BATCH, LABELS) == now(BATCH, LABELS)
    record = LossSetting(key=key, name=now.setting.name, aligned=now.setting.aligned, hyperparameters=older)
    assert losses.is_corrected(record) is losses.is_corrected(now.setting) is losses.CORRECTED[key]
    assert losses.pulls_to_prior(record) is losses.pulls_to_prior(now.setting)


@EVERY
def test_all_of_them_draw_by_class_frequencies_when_asked(key: str) -> None:
    assert drawing(key, q="class frequencies").setting.hyperparameters["q"] == "class frequencies"
    z = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    certain = [1e-12, 1e-12, 1e-12, 1e-12, 1.0]
    more = {"estimate": "sampled"} if key == "nce" else {"power": 1.0}
    given = {"q": "class frequencies", "t": 9, **more}
    loss = configured(key, classes=5, class_frequencies=certain, generator=generator, **given)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(loss(z, torch.tensor([0])), z)
    assert gradient[0, 1:4].tolist() == [0, 0, 0]
    assert gradient[0, 4] > 0


def test_q_of_another_length_is_refused() -> None:
    for function in DRAWING.values():
        for corrected in (True, False):
            with pytest.raises(UsageError, match="one probability for each of 5 classes"):
                function(BATCH, LABELS, q=torch.ones(7), corrected=corrected)


def test_the_likelihood_of_normalised_scores_is_cross_entropy() -> None:
    log_prob = F.log_softmax(torch.stack([LOGITS, -LOGITS]), 1)
    labels = torch.tensor([0, 3])
    for smoothing in (0.0, 0.1):
        ours = losses.negative_log_likelihood(log_prob, labels, label_smoothing=smoothing)
        torch.testing.assert_close(ours, F.cross_entropy(log_prob, labels, label_smoothing=smoothing))
