"""Sampled losses from gathered rows, against those of all logits for the same drawn classes."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.accuracy import losses
from bench.accuracy.chunked import (
    SampledForm,
    SampledLoss,
    in_place_sampled_step,
    row_gradients,
    sampled_form_of,
)
from bench.accuracy.losses import Configured, configured
from bench.errors import UsageError

SAMPLED = ("nce", "importance-sampling", "negative-sampling")
EVERY = pytest.mark.parametrize("key", SAMPLED)
NOISE = pytest.mark.parametrize("frequencies", [None, torch.arange(1.0, 38)], ids=["uniform", "frequencies"])
NEGATIVES = pytest.mark.parametrize("negatives", ["own", "shared"])
CORRECTION = pytest.mark.parametrize("correction", ["log-q", "none"])
Make = Callable[..., Any]


def loss_of(
    key: str, classes: int, frequencies: Tensor | None = None, seed: int | None = None, **more: Any
) -> Configured:
    if key == "nce":
        more["estimate"] = "sampled"
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return configured(key, classes=classes, class_frequencies=frequencies, generator=generator, **more)


def fixed_noise(monkeypatch: pytest.MonkeyPatch, drawn: Tensor) -> None:
    """Let the dense losses use these classes, (m, t) or (t,)."""
    monkeypatch.setattr(losses, "_noise", lambda logits, t, *of: drawn.expand(len(logits), t))


@EVERY
@NOISE
@NEGATIVES
@CORRECTION
@pytest.mark.parametrize("t", [1, 6, 60])
def test_for_the_same_draws_they_are_the_losses_of_all_logits(
    key: str, frequencies: Tensor | None, negatives: str, correction: str, t: int,
    make_layer: Make, dense: Make, same: Make, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    layer = make_layer()
    loss = loss_of(key, 37, frequencies, seed=4, t=t, negatives=negatives, correction=correction)
    form = sampled_form_of(loss, 37)
    drawn = form.draw(6)  # of 60 draws some hit true classes
    assert drawn.shape == ((t,) if negatives == "shared" else (6, t))
    fixed_noise(monkeypatch, drawn)
    expected = dense(layer, loss)
    value, gradients = row_gradients(*layer, form, drawn)
    rows = gradients.dense(37)
    same(value, expected.loss)
    same(gradients.features, expected.features)
    same(rows.weight, expected.weight)
    same(rows.bias, expected.bias)


@EVERY
@NOISE
@NEGATIVES
@CORRECTION
def test_a_seed_draws_what_the_loss_of_all_logits_draws(
    key: str, frequencies: Tensor | None, negatives: str, correction: str, make_layer: Make, same: Make
) -> None:
    layer = make_layer()
    given: dict[str, Any] = {"negatives": negatives, "correction": correction}
    ours, theirs = (loss_of(key, 37, frequencies, seed=9, **given) for _ in range(2))
    form = sampled_form_of(ours, 37)
    for _ in range(3):  # the generator moves on
        same(SampledLoss(form)(*layer), theirs(layer.features @ layer.weight.t() + layer.bias, layer.labels))


@EVERY
@NEGATIVES
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_autograd_gives_the_rows_gradients(
    key: str, negatives: str, sparse: bool, bias: bool, make_layer: Make, same: Make
) -> None:
    layer = make_layer(bias=bias)
    form = sampled_form_of(loss_of(key, 37, seed=1, negatives=negatives), 37)
    drawn = form.draw(6)
    value, gradients = row_gradients(*layer, form, drawn)
    expected = gradients.dense(37)
    leaves = [each.clone().requires_grad_() for each in (layer.features, layer.weight)]
    own_bias = layer.bias.clone().requires_grad_() if bias else None
    found = SampledLoss(form, sparse=sparse)(*leaves, own_bias, layer.labels, drawn)
    found.backward()  # type: ignore[no-untyped-call]
    same(found.detach(), value)
    same(leaves[0].grad, expected.features)
    assert leaves[1].grad is not None
    assert leaves[1].grad.is_sparse == sparse
    same(leaves[1].grad.to_dense() if sparse else leaves[1].grad, expected.weight)
    if own_bias is not None:
        assert own_bias.grad is not None
        assert own_bias.grad.is_sparse == sparse
        same(own_bias.grad.to_dense() if sparse else own_bias.grad, expected.bias)


@EVERY
@NEGATIVES
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_in_place_it_is_a_step_of_sgd(key: str, negatives: str, decay: float, make_layer: Make, same: Make) -> None:
    layer = make_layer()
    form = sampled_form_of(loss_of(key, 37, seed=1, negatives=negatives), 37)
    drawn = form.draw(6)
    value, gradients = row_gradients(*layer, form, drawn)
    rows = gradients.dense(37)
    weight = layer.weight - 0.5 * (rows.weight + decay * layer.weight)
    bias = layer.bias - 0.5 * rows.bias
    step = in_place_sampled_step(*layer, form, 0.5, weight_decay=decay, drawn=drawn)
    same(step.loss, value)
    same(step.features, gradients.features)
    same(layer.weight, weight)
    same(layer.bias, bias)


def test_each_correction_by_its_formula(make_layer: Make) -> None:
    layer = make_layer(3, 4, 2, seed=2)
    counts = torch.tensor([1.0, 2, 3, 4])
    q = (counts / 10).double()
    drawn = torch.tensor([[0, 3], [1, 1], [2, 0]])
    logits = layer.features @ layer.weight.t() + layer.bias
    for corrected in (True, False):
        expected = dict.fromkeys(SAMPLED, 0.0)
        for z, y, noise in zip(logits.tolist(), layer.labels.tolist(), drawn.tolist(), strict=True):
            u = [z[j] - (math.log(2 * q[j]) if corrected else 0) for j in range(4)]
            others = [j for j in noise if j != y]
            partition = math.exp(z[y]) + sum(math.exp(u[j]) for j in others)
            expected["importance-sampling"] += (math.log(partition) - z[y]) / 3
            for key, against in (("nce", noise), ("negative-sampling", others)):
                expected[key] += (math.log1p(math.exp(-u[y])) + sum(math.log1p(math.exp(u[j])) for j in against)) / 3
        for key, value in expected.items():
            form = SampledForm(key, 4, t=2, q=q, corrected=corrected)
            assert float(row_gradients(*layer, form, drawn)[0]) == pytest.approx(value, rel=1e-12)


def test_the_corrections_are_the_losses_own_unless_asked() -> None:
    assert {key: sampled_form_of(loss_of(key, 37), 37).corrected for key in SAMPLED} == {
        "nce": True,
        "importance-sampling": True,
        "negative-sampling": False,
    }
    for key in SAMPLED:
        for correction, corrected in (("log-q", True), ("none", False)):
            assert sampled_form_of(loss_of(key, 37, correction=correction), 37).corrected is corrected
        assert not sampled_form_of(loss_of(key, 37), 37).shared


def test_negative_samples_are_drawn_by_frequencies_to_their_power() -> None:
    counts = torch.tensor([1.0, 16, 81, 256])
    form = sampled_form_of(loss_of("negative-sampling", 4, counts, seed=0, t=50_000, negatives="shared"), 4)
    assert form.q is not None
    shares = torch.bincount(form.draw(1), minlength=4) / 50_000
    torch.testing.assert_close(shares, torch.tensor([1.0, 8, 27, 64]) / 100, rtol=0, atol=0.01)


@pytest.mark.parametrize("shared", [False, True])
def test_the_partition_function_is_estimated_without_bias(shared: bool, make_layer: Make) -> None:
    """At any t, and shared draws no less; without the correction it is far too low."""
    layer = make_layer(1, 30, 4, seed=1, bias=False, spread=0.5)
    counts = torch.arange(1.0, 31)
    logits = (layer.features @ layer.weight.t())[0]
    exact = float(logits.exp().sum())

    def estimates(corrected: bool) -> Tensor:
        form = SampledForm("importance-sampling", 30, 3, (counts / counts.sum()).double(), None, shared, corrected)
        draws = torch.stack([form.draw(1).flatten() for _ in range(4000)])
        true = float(logits[layer.labels])
        return (
            torch.stack(
                [
                    form.value(logits[layer.labels], logits[d][None], layer.labels, d if shared else d[None])
                    for d in draws
                ]
            )
            .add(true)
            .exp()
        )

    torch.manual_seed(0)
    found = estimates(True)
    assert abs(float(found.mean()) - exact) < 5 * float(found.std()) / math.sqrt(len(found))
    assert float(estimates(False).mean()) < 0.5 * exact


@NEGATIVES
def test_370_727_classes_by_rows_alone(negatives: str, make_layer: Make, memory_made: Any) -> None:
    """Zipf noise; nothing of the size of a logit for each class is made, for one example or for all."""
    classes, t = 370_727, 200
    frequencies = 1 / torch.arange(1.0, classes + 1, dtype=torch.float64)
    form = sampled_form_of(loss_of("nce", classes, frequencies, seed=0, t=t, negatives=negatives), classes)
    layer = make_layer(4, classes, 3, dtype=torch.float32)
    drawn = form.draw(4)
    assert int(drawn.max()) > 10_000  # the tail is drawn too
    before = layer.weight.clone()
    with memory_made:
        step = in_place_sampled_step(*layer, form, 0.1, drawn=drawn)
    assert max(memory_made.sizes) <= 8 * max(len(drawn.flatten()) + 4, 4 * t) * 3  # rows of 3 numbers, in float64
    assert step.loss.isfinite()
    moved = (before != layer.weight).any(1).nonzero().flatten()
    assert set(moved.tolist()) <= {*drawn.flatten().tolist(), *layer.labels.tolist()}
    assert len(moved) > t / 4


def test_rare_classes_are_drawn_as_often_as_they_should_be() -> None:
    """One class has nearly everything; 370,726 share 1 % and fall below float32's steps near 1."""
    classes = 370_727
    counts = torch.full((classes,), 0.01 / (classes - 1), dtype=torch.float64)
    counts[0] = 0.99
    form = sampled_form_of(loss_of("nce", classes, counts, seed=3, t=200_000, negatives="shared"), classes)
    drawn = form.draw(1)
    assert int((drawn > 0).sum()) == pytest.approx(2000, abs=5 * math.sqrt(2000))
    halves = int(((drawn > 0) & (drawn <= classes // 2)).sum())
    assert halves == pytest.approx(1000, abs=5 * math.sqrt(1000))


@EVERY
def test_half_precision_weights_are_computed_in_float32_and_rounded_once(key: str, make_layer: Make) -> None:
    half = make_layer(dtype=torch.bfloat16)
    double = type(half)(*(each if each is half.labels else each.double() for each in half))
    form = sampled_form_of(loss_of(key, 37, seed=1, negatives="shared"), 37)
    drawn = torch.zeros(25, dtype=torch.long)  # one row, 25 times: 25 roundings would add up
    expected, gradients = row_gradients(*double, form, drawn)
    wanted = double.weight - 0.5 * gradients.dense(37).weight
    step = in_place_sampled_step(*half, form, 0.5, drawn=drawn)
    assert step.loss.dtype == torch.float32
    assert float(step.loss) == pytest.approx(float(expected), rel=1e-5)
    assert bool(((half.weight.double() - wanted).abs() <= wanted.abs() * 2**-8 + 1e-5).all())


@pytest.mark.parametrize(
    ("drawn", "reason"),
    [
        (torch.zeros(6, 3, dtype=torch.long), r"give \(6, 25\) int64"),
        (torch.zeros(25, dtype=torch.long), r"give \(6, 25\) int64"),
        (torch.zeros(6, 25), "int64"),
        (torch.full((6, 25), 37), "150 of 150 noise classes lie outside 0 .. 36"),
    ],
)
def test_noise_that_does_not_fit_is_refused(drawn: Tensor, reason: str, make_layer: Make) -> None:
    form = sampled_form_of(loss_of("nce", 37), 37)
    with pytest.raises(UsageError, match=reason):
        row_gradients(*make_layer(), form, drawn)


def test_losses_and_layers_that_do_not_fit_are_refused(make_layer: Make) -> None:
    layer = make_layer()
    with pytest.raises(UsageError, match="estimate='sampled'"):
        sampled_form_of(configured("nce", classes=37), 37)
    with pytest.raises(UsageError, match="draws no classes"):
        sampled_form_of(configured("ce", classes=37), 37)
    with pytest.raises(UsageError, match="each of 38 classes"):
        sampled_form_of(loss_of("nce", 37, torch.ones(37)), 38)
    with pytest.raises(UsageError, match="a layer of 37 classes and noise over 38"):
        SampledLoss(sampled_form_of(loss_of("nce", 38), 38))(*layer)
    form = sampled_form_of(loss_of("nce", 37), 37)
    with pytest.raises(UsageError, match="labels lie outside"):
        SampledLoss(form)(layer.features, layer.weight, layer.bias, layer.labels - 37)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY
@NEGATIVES
def test_on_a_gpu(key: str, negatives: str, make_layer: Make) -> None:
    layer = make_layer()
    form = sampled_form_of(loss_of(key, 37, torch.arange(1.0, 38), seed=1, negatives=negatives), 37)
    drawn = form.draw(6)
    value, gradients = row_gradients(*layer, form, drawn)
    there, found = row_gradients(*layer.on("cuda"), form, drawn.cuda())
    torch.testing.assert_close(there.cpu(), value, rtol=1e-11, atol=0)
    torch.testing.assert_close(found.dense(37).weight.cpu(), gradients.dense(37).weight, rtol=1e-10, atol=1e-13)  # type: ignore[union-attr]
