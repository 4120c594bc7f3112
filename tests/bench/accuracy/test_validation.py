from typing import Any

import pytest
import torch
from torch import Tensor

from archs.small import mlp
from bench.accuracy import losses, validation
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.settings import Recipe
from bench.accuracy.steps import Learner
from bench.accuracy.validation import validate

CLASSES, BATCH = 3, 4


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, 1, 3, 3, generator=generator), torch.arange(count) % CLASSES

    return from_arrays("toy", drawn(12), drawn(6), validation=drawn(11))


def learner(count: int, *keys: str, **fields: Any) -> Learner:
    recipe = Recipe(network="mlp", steps=1, batch_size=BATCH, **fields)
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(mlp((1, 3, 3), CLASSES, hidden=(5,)))
    return Learner(made, [losses.configured(key, classes=CLASSES) for key in keys], [0.1] * count, recipe)


@pytest.mark.parametrize("numbers", [1, 80, 2**20])
def test_loss_and_accuracy_are_those_of_a_plain_loop(
    dataset: Dataset, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the size of a forward; the last of three minibatches has 3 examples, and batch CE looks at each."""
    monkeypatch.setitem(validation._INPUT_NUMBERS, "cpu", numbers)
    one = learner(1, "batch-ce")
    one.step(dataset.train.images(torch.arange(8))[None], dataset.train.labels[None, :8])
    ((loss, accuracy),) = validate(one, dataset.validation, 1)
    assert one.module.training
    with torch.no_grad():
        logits = one.module.eval()(dataset.validation.images(torch.arange(11))).double()
    labels = dataset.validation.labels
    total = sum(
        float(losses.batch_cross_entropy(logits[start : start + BATCH], labels[start : start + BATCH])) * size
        for start, size in ((0, 4), (4, 4), (8, 3))
    )
    assert loss == pytest.approx(total / 11, rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_members_of_a_stack_are_validated_by_their_own_losses(dataset: Dataset) -> None:
    together = learner(2, "ce", "batch-max-margin")
    found = validate(together, dataset.validation, 2)
    for member, key in enumerate(("ce", "batch-max-margin")):
        alone = learner(1, key)
        alone.module.load_state_dict(together.state_dicts()[member])
        ((loss, accuracy),) = validate(alone, dataset.validation, 1)
        assert found[member][0] == pytest.approx(loss, rel=1e-5)
        assert found[member][1] == accuracy


def test_statistics_and_weights_stay_as_they_are(dataset: Dataset) -> None:
    one = learner(1, "ce")
    before = {name: tensor.clone() for name, tensor in one.module.state_dict().items()}
    validate(one, dataset.validation, 1)
    for name, tensor in one.module.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_loss_that_is_not_finite_is_returned_as_it_is(dataset: Dataset) -> None:
    one = learner(1, "ce")
    with torch.no_grad():
        next(one.module.parameters()).fill_(float("nan"))
    ((loss, _),) = validate(one, dataset.validation, 1)
    assert loss != loss


MANY = 37


def over_chunks(key: str, step: str, *, seed: int = 0, **given: Any) -> Learner:
    """Many classes on the same data; noise of sampled losses from a generator of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = mlp((1, 3, 3), MANY, hidden=(5,))
    counts, noise = torch.arange(1, MANY + 1), torch.Generator().manual_seed(3)
    loss = losses.configured(key, classes=MANY, class_frequencies=counts, generator=noise, **given)
    recipe = Recipe(network="mlp", steps=1, batch_size=BATCH, top_layer_step=step)
    return Learner([network], [loss], [0.1], recipe, top=None if step == "dense" else "4")


CASES: dict[str, dict[str, Any]] = {key: {} for key in losses.registry()} | {
    "nce": {"estimate": "exact", "q": "class frequencies", "t": 5.0},  # its logits are read less a shift a class
    "importance-sampling": {"t": 5.0},
    "negative-sampling": {"t": 5.0},
}


@pytest.mark.parametrize("step", ["chunked", "in-place"])
@pytest.mark.parametrize("key", CASES)
def test_over_chunks_of_classes_it_is_what_all_logits_say(
    dataset: Dataset, key: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((loss, accuracy),) = validate(over_chunks(key, "dense", **CASES[key]), dataset.validation, 1, MANY)
    for rows in (1, 8, 1024):
        monkeypatch.setattr(validation, "_ROWS_OVER_CHUNKS", rows)
        one = over_chunks(key, step, **CASES[key])
        ((found, right),) = validate(one, dataset.validation, 1, MANY)
        assert found == pytest.approx(loss, rel=1e-5)
        assert right == accuracy
        assert one.module.training


def test_over_chunks_the_lowest_of_equal_classes_counts(dataset: Dataset) -> None:
    """All logits equal: only examples of class 0 are classified rightly, as by argmax."""
    for step in ("dense", "chunked"):
        one = over_chunks("ce", step)
        with torch.no_grad():
            for parameter in one.module[4].parameters():
                parameter.zero_()
        ((_, accuracy),) = validate(one, dataset.validation, 1)
        assert accuracy == float((dataset.validation.labels == 0).double().mean())


def test_never_more_logits_are_held_than_a_bound_or_a_minibatch(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense: examples of one forward by their logits. Over chunks: none of the whole layer's are ever made."""
    seen: list[int] = []
    monkeypatch.setattr(validation, "CHUNK", 2 * BATCH * MANY)
    one = over_chunks("ce", "dense")
    one.module.register_forward_hook(lambda module, given, made: seen.append(len(made)))
    validate(one, dataset.validation, 1, MANY)
    assert seen == [8, 3]
    one = over_chunks("ce", "chunked")
    one.module[4].register_forward_hook(lambda module, given, made: pytest.fail("all logits were made"))
    validate(one, dataset.validation, 1, MANY)


def test_over_chunks_statistics_and_weights_stay_as_they_are(dataset: Dataset) -> None:
    one = over_chunks("batch-ce", "in-place")
    before = {name: tensor.clone() for name, tensor in one.module.state_dict().items()}
    validate(one, dataset.validation, 1)
    for name, tensor in one.module.state_dict().items():
        assert torch.equal(tensor, before[name])
