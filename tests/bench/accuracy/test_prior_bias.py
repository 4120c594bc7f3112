"""Why some losses start at the prior where there are many classes, and others do not (docs/losses.md)."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.accuracy import losses
from bench.accuracy.settings import AT_PRIOR, LossSetting, Recipe, starts_at_prior

CLASSES, BATCH = 100_000, 4


def start(key: str, bias: float, **given: Any) -> tuple[float, Tensor, Tensor]:
    """The loss of a layer at its start, and its gradient for the true and for the false logits."""
    logits = torch.full((BATCH, CLASSES), bias, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(BATCH)
    if key == "nce":
        given.setdefault("estimate", "exact")
    generator = torch.Generator().manual_seed(0) if given.get("estimate") != "exact" else None
    value = losses.configured(key, classes=CLASSES, generator=generator, **given)(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    true = gradient[torch.arange(BATCH), labels]
    return float(value.detach()), true * BATCH, (gradient.sum(1) - true) * BATCH


PRIOR = losses.prior_bias(CLASSES)


@pytest.mark.parametrize("key", ["nce", "binary-ce"])
def test_without_it_the_false_logits_of_one_example_outweigh_its_true_one_by_their_number(key: str) -> None:
    _, true, false = start(key, 0.0)
    assert false.tolist() == pytest.approx([(CLASSES - 1) / 2] * BATCH)
    assert true.abs().max() <= 0.5
    _, true, false = start(key, PRIOR)
    assert false.tolist() == pytest.approx([1.0] * BATCH, rel=1e-4)
    assert true.tolist() == pytest.approx([-1.0] * BATCH, rel=1e-4)


def test_self_normalisation_starts_at_the_partition_that_it_holds_to() -> None:
    """Its second term otherwise starts at alpha log^2 k, and moves each of k biases by a share of 1/k."""
    assert start("self-norm", 0.0)[0] == pytest.approx(math.log(CLASSES) + 0.1 * math.log(CLASSES) ** 2)
    assert start("self-norm", PRIOR)[0] == pytest.approx(math.log(CLASSES), abs=1e-9)


@pytest.mark.parametrize("key", ["ce", "max-margin", "softmax-cauchy-schwarz", "softmax-tanimoto", "batch-ce"])
def test_a_loss_that_leaves_the_level_free_does_not_notice_it(key: str) -> None:
    value, true, _ = start(key, 0.0)
    other, there, _ = start(key, PRIOR)
    assert other == pytest.approx(value, rel=1e-9)
    torch.testing.assert_close(there, true, rtol=1e-6, atol=1e-12)


def test_sigmoid_cauchy_schwarz_reads_ratios_alone() -> None:
    assert start("sigmoid-cauchy-schwarz", PRIOR)[0] == pytest.approx(start("sigmoid-cauchy-schwarz", 0.0)[0])


def test_sigmoid_tanimoto_would_hardly_begin_there() -> None:
    """The true sigmoid is its numerator: the gradient would be 1/k in place of 1/(2 sqrt k)."""
    _, plain, _ = start("sigmoid-tanimoto", 0.0)
    _, at_prior, _ = start("sigmoid-tanimoto", PRIOR)
    assert float(plain.abs().max()) == pytest.approx(0.5 / math.sqrt(CLASSES), rel=0.05)
    assert float(at_prior.abs().max()) == pytest.approx(1 / CLASSES, rel=0.05)


def test_the_losses_that_start_there() -> None:
    assert set(AT_PRIOR) == {"self-norm", "nce", "binary-ce"}


@pytest.mark.parametrize("key", ["nce", "negative-sampling"])
def test_of_losses_that_draw_the_corrected_ones_start_there(key: str) -> None:
    """25 uniform draws: with the correction they pull by 25 at a bias of 0, and by 1 at the prior, as the true one."""
    given: dict[str, Any] = {"estimate": "sampled"} if key == "nce" else {}
    _, true, false = start(key, 0.0, correction="log-q", **given)
    assert false.tolist() == pytest.approx([25.0] * BATCH, rel=1e-3)
    assert true.abs().max() < 1e-3
    _, true, false = start(key, PRIOR, correction="log-q", **given)
    assert false.tolist() == pytest.approx([25 / 26] * BATCH, rel=1e-4)
    assert true.tolist() == pytest.approx([-25 / 26] * BATCH, rel=1e-4)
    _, true, false = start(key, PRIOR, correction="none", **given)  # the false ones are far below where it wants them
    assert false.abs().max() < 1e-3
    for correction, pulls in (("log-q", True), ("none", False)):
        setting = losses.configured(key, classes=CLASSES, correction=correction, **given).setting
        assert losses.pulls_to_prior(setting) is pulls


def test_what_else_pulls_there() -> None:
    settings = [losses.configured(key, classes=CLASSES).setting for key in (*losses.registry(), *losses.further())]
    assert {setting.key for setting in settings if losses.pulls_to_prior(setting)} == set(AT_PRIOR)
    for correction in ("log-q", "none"):
        setting = losses.configured("importance-sampling", classes=5, correction=correction).setting
        assert not losses.pulls_to_prior(setting)
    assert losses.pulls_to_prior(losses.configured("nce", classes=5).setting)


@pytest.mark.parametrize(
    ("of_recipe", "of_loss", "starts"),
    [(True, None, True), (False, None, False), (False, True, False), ("auto", True, True), ("auto", False, False),
     ("auto", None, False)],
)  # fmt: skip
def test_the_recipe_decides_or_leaves_it_to_the_loss(of_recipe: bool, of_loss: bool | None, starts: bool) -> None:
    recipe = Recipe(network="mlp", steps=1, prior_bias=of_recipe)
    assert starts_at_prior(recipe, LossSetting(key="nce", name="NCE", aligned=True, prior_bias=of_loss)) is starts


def test_what_was_written_before_is_read_as_it_was() -> None:
    for written, found in (("true", True), ("false", False), ('"auto"', "auto")):
        recipe = Recipe.model_validate_json(f'{{"network": "mlp", "steps": 1, "prior_bias": {written}}}')
        assert recipe.prior_bias == found
        assert (recipe.top_layer_step, recipe.accumulation, recipe.ranks, recipe.shard_top_layer) == (
            "dense", 1, 1, False,
        )  # fmt: skip
    old = '{"key": "nce", "name": "NCE", "aligned": true, "hyperparameters": {"t": 25.0}}'
    assert LossSetting.model_validate_json(old).prior_bias is None
