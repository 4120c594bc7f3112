from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs.small import mlp
from bench.accuracy import losses
from bench.accuracy.batches import BatchOrder
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.settings import Recipe
from bench.accuracy.stacking import Loss
from bench.accuracy.steps import EagerSteps, GraphedSteps, Learner, Minibatches, can_be_captured

CLASSES, BATCH, STEPS = 3, 4, 7


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, 1, 3, 3, generator=generator), torch.arange(count) % CLASSES

    return from_arrays("toy", drawn(13), drawn(6), validation=drawn(6))


def recipe(**fields: Any) -> Recipe:
    return Recipe(**{"network": "mlp", "steps": STEPS, "batch_size": BATCH, **fields})


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return mlp((1, 3, 3), CLASSES, hidden=(5,))


def loss(key: str) -> Loss:
    return losses.configured(key, classes=CLASSES)


def plain_loop(dataset: Dataset, seed: int, rate: float) -> tuple[nn.Module, list[float]]:
    """The paper's training, written out."""
    model = network(seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    seen = []
    for indices in BatchOrder(len(dataset.train), BATCH, seed).window(0, STEPS):
        value = losses.batch_cross_entropy(model(dataset.train.images(indices)), dataset.train.labels[indices])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        seen.append(value.item())
    return model, seen


def assert_same_values(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-4, atol=1e-5)


def test_steps_are_those_of_a_plain_loop(dataset: Dataset) -> None:
    learner = Learner([network(3)], [loss("batch-ce")], [0.1], recipe())
    steps = EagerSteps(learner, Minibatches(dataset.train, recipe(), [3]), 0)
    seen = torch.cat([steps.run(2), steps.run(STEPS - 2)])
    model, expected = plain_loop(dataset, 3, 0.1)
    assert seen.shape == (STEPS, 1)
    torch.testing.assert_close(seen[:, 0], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert_same_values(learner.state_dicts()[0], model.state_dict())


def test_a_stack_is_as_good_as_its_members_one_by_one(dataset: Dataset) -> None:
    seeds, rates = [3, 5, 3], [0.1, 0.01, 0.01]
    learner = Learner([network(seed) for seed in seeds], [loss("batch-ce")] * 3, rates, recipe())
    EagerSteps(learner, Minibatches(dataset.train, recipe(), seeds), 0).run(STEPS)
    for own, seed, rate in zip(learner.state_dicts(), seeds, rates, strict=True):
        assert_same_values(own, plain_loop(dataset, seed, rate)[0].state_dict())


def test_members_meet_the_minibatches_of_their_seeds(dataset: Dataset) -> None:
    seeds = [4, 2, 4]
    minibatches = Minibatches(dataset.train, recipe(), seeds)
    met = list(minibatches.from_step(2))
    assert len(met) == STEPS - 2
    for ahead, (images, labels) in enumerate(met):
        assert images.shape == (3, BATCH, 1, 3, 3)
        for member, seed in enumerate(seeds):
            indices = BatchOrder(len(dataset.train), BATCH, seed).window(2 + ahead, 1)[0]
            assert torch.equal(images[member], dataset.train.images(indices))
            assert torch.equal(labels[member], dataset.train.labels[indices])
    images, labels = minibatches.gathered(minibatches.indices(3, 1)[0])
    assert torch.equal(images, met[1][0])
    assert torch.equal(labels, met[1][1])


def test_the_rate_follows_its_schedule(dataset: Dataset) -> None:
    cosine = recipe(schedule="cosine")
    learner = Learner([network(0)], [loss("ce")], [0.1], cosine)
    EagerSteps(learner, Minibatches(dataset.train, cosine, [0]), 3).run(2)
    (group,) = learner.optimiser.param_groups
    assert group["lr"] == pytest.approx(0.1 * (1 + torch.cos(torch.tensor(torch.pi * 4 / STEPS)).item()) / 2)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.auxiliary = nn.Linear(9, CLASSES), nn.Linear(9, CLASSES)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        flat = images.flatten(1)
        return (self.head(flat), self.auxiliary(flat)) if self.training else self.head(flat)


def test_the_auxiliary_loss_has_its_weight(dataset: Dataset) -> None:
    torch.manual_seed(0)
    heads = TwoHeads()
    images, labels = dataset.train.images(torch.arange(4)), dataset.train.labels[:4]
    logits, auxiliary = heads(images)
    expected = losses.cross_entropy(logits, labels) + 0.4 * losses.cross_entropy(auxiliary, labels)
    learner = Learner([heads], [loss("ce")], [0.1], recipe(auxiliary_weight=0.4))
    torch.testing.assert_close(learner.step(images[None], labels[None]), expected.detach()[None])
    heads.eval()
    assert learner.logits(images[None]).shape == (1, 4, CLASSES)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_types_descend_and_give_logits_in_single_precision(dataset: Dataset, dtype: str) -> None:
    small = recipe(dtype=dtype)
    learner = Learner([network(0)], [loss("ce")], [0.1], small)
    seen = EagerSteps(learner, Minibatches(dataset.train, small, [0]), 0).run(STEPS)
    assert seen.isfinite().all()
    assert learner.logits(dataset.train.images(torch.arange(2))[None]).dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in learner.module.parameters())
    before = network(0).state_dict()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in learner.state_dicts()[0].items())


def test_what_is_captured(dataset: Dataset) -> None:
    gpu = {"device": "cuda:0"}
    assert can_be_captured(recipe(**gpu), dataset.train)
    assert can_be_captured(recipe(**gpu, optimiser="adam", dtype="bfloat16"), dataset.train)
    assert not can_be_captured(recipe(), dataset.train)
    assert not can_be_captured(recipe(**gpu, dtype="float16"), dataset.train)
    assert not can_be_captured(recipe(**gpu, compile="default"), dataset.train)
    assert not can_be_captured(recipe(**gpu, optimiser="rmsprop"), dataset.train)


@pytest.mark.gpu
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("seeds", [[3], [3, 5, 3]])
def test_a_captured_step_does_what_an_eager_one_does(dataset: Dataset, optimiser: str, seeds: list[int]) -> None:
    on_gpu = recipe(device="cuda:0", optimiser=optimiser, schedule="cosine", steps=40)
    train = dataset.train.on("cuda:0")
    seen, weights = [], []
    for capture in (False, True):
        keys = ["batch-ce", "ce", "max-margin"][: len(seeds)]
        learner = Learner(
            [network(seed) for seed in seeds],
            [loss(key) for key in keys],
            [0.01, 0.001, 0.01][: len(seeds)],
            on_gpu,
            capture=capture,
        )
        minibatches = Minibatches(train, on_gpu, seeds)
        steps = GraphedSteps(learner, minibatches, 0, 16) if capture else EagerSteps(learner, minibatches, 0)
        seen.append(torch.cat([steps.run(count) for count in (2, 16, 6, 16)]))
        weights.append(learner.state_dicts())
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-3, atol=1e-4)
    for eager, captured in zip(*weights, strict=True):
        for name, tensor in eager.items():
            torch.testing.assert_close(captured[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
def test_a_captured_step_draws_new_noise_each_time(dataset: Dataset) -> None:
    on_gpu = recipe(device="cuda:0", steps=60)
    noise = torch.Generator("cuda:0").manual_seed(0)
    sampled = losses.configured("nce", classes=CLASSES, generator=noise, estimate="sampled", t=2)
    learner = Learner([network(0)], [sampled], [1e-30], on_gpu, capture=True)
    steps = GraphedSteps(learner, Minibatches(dataset.train.on("cuda:0"), on_gpu, [0]), 0, 30, [noise])
    seen = torch.cat([steps.run(30), steps.run(30)])
    assert len(seen.unique()) > 30
