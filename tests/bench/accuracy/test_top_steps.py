"""Steps in parts against the plain step: autograd through all logits of the whole minibatch, written out."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archs import rivals
from bench.accuracy import losses
from bench.accuracy.batches import BatchOrder
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.losses import Configured
from bench.accuracy.settings import LossSetting, Recipe
from bench.accuracy.steps import EagerSteps, Learner, Minibatches, can_be_captured, parted
from bench.accuracy.top_steps import InPlaceStep

CLASSES, BATCH, INPUTS = 37, 8, 5
STEPS = ("dense", "chunked", "in-place")
SAMPLED = {
    "nce": {"estimate": "sampled", "t": 6.0},
    "importance-sampling": {"t": 6.0},
    "negative-sampling": {"t": 6.0},
}
WAYS_TO_DRAW = [
    {"negatives": negatives, "correction": correction}
    for negatives in ("own", "shared")
    for correction in ("log-q", "none")
]


def network(*, seed: int = 0, hidden: int = 4) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(INPUTS, hidden), nn.Tanh(), nn.Linear(hidden, CLASSES)).double()
    nn.init.normal_(made[2].weight, std=2.0, generator=torch.Generator().manual_seed(seed))  # examples at many levels
    return made


def minibatch(seed: int = 1) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    images = torch.randn(BATCH, INPUTS, dtype=torch.float64, generator=source)
    return images, torch.randint(CLASSES, (BATCH,), generator=source)


def recipe(**fields: Any) -> Recipe:
    """Plain SGD at a rate of 1: what a step takes off a weight is its gradient."""
    return Recipe(**{"network": "mlp", "steps": 20, "batch_size": BATCH, "momentum": 0.0, **fields})


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def configured(key: str, **given: Any) -> Configured:
    counts = torch.arange(1, CLASSES + 1)
    return losses.configured(key, classes=CLASSES, class_frequencies=counts, generator=noise(), **given)


def taken_off(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    own = dict(after.named_parameters())
    return {name: (value - own[name]).detach() for name, value in before.named_parameters()}


def gradients(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Of the whole minibatch, by autograd through all its logits."""
    images, labels = minibatch()
    value = loss(model(images), labels)
    names, values = zip(*model.named_parameters(), strict=True)
    return value.detach(), dict(zip(names, torch.autograd.grad(value, values), strict=True))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], exact: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=exact, atol=exact * max(1.0, float(value.abs().max())))


def one_step(loss: Configured, **fields: Any) -> tuple[Tensor, dict[str, Tensor]]:
    model = network()
    before = copy.deepcopy(model)
    images, labels = minibatch()
    learner = Learner([model], [loss], [1.0], recipe(**fields), top="2")
    value = learner.step(images[None], labels[None])
    assert list(learner.state_dicts()[0]) == list(before.state_dict()), "the network keeps its names"
    return value[0], taken_off(before, model)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("key", losses.registry())
def test_micro_batches_give_the_loss_and_gradients_of_the_whole_minibatch(key: str, step: str) -> None:
    value, expected = gradients(network(), configured(key))
    for accumulation in (1, 2, 4):
        found, taken = one_step(configured(key), top_layer_step=step, accumulation=accumulation)
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
        assert_same(taken, expected)


@pytest.mark.parametrize("key", ["batch-ce", "batch-max-margin"])
def test_averaging_over_micro_batches_would_be_another_loss(key: str) -> None:
    """What the test above would not see if these losses were means over examples."""
    images, labels = minibatch()
    logits = network()(images).detach()
    whole = losses.configured(key, classes=CLASSES)(logits, labels)
    halves = [losses.configured(key, classes=CLASSES)(logits[part], labels[part]) for part in (slice(4), slice(4, 8))]
    assert abs(float(whole - sum(halves) / 2)) > 1e-3


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("key", SAMPLED)
@pytest.mark.parametrize("how", WAYS_TO_DRAW)
def test_losses_that_draw_classes_draw_the_same_in_every_way_of_stepping(
    key: str, how: dict[str, Any], step: str
) -> None:
    given: dict[str, Any] = SAMPLED[key] | how
    value, expected = gradients(network(), configured(key, **given))
    for accumulation in (1, 4):
        found, taken = one_step(configured(key, **given), top_layer_step=step, accumulation=accumulation)
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
        assert_same(taken, expected)


def test_a_rival_is_trained_in_micro_batches_too() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rival = rivals.make("adaptive", 4, CLASSES, frequencies=torch.arange(CLASSES, 0, -1).float())
        rival.reset_parameters()
    model = nn.Sequential(*list(network().children())[:2], rival.double())
    setting = LossSetting(key="adaptive", name="adaptive", aligned=True)
    value, expected = gradients(model, losses.of_rival(setting))
    before = copy.deepcopy(model)
    images, labels = minibatch()
    learner = Learner([model], [losses.of_rival(setting)], [1.0], recipe(accumulation=4), top="2")
    torch.testing.assert_close(learner.step(images[None], labels[None])[0], value)
    assert_same(taken_off(before, model), expected)


def normalised() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = (nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, CLASSES))
        return nn.Sequential(*parts).double()


@pytest.mark.parametrize("step", STEPS)
def test_dropout_and_batch_norm_are_those_of_one_pass_over_the_micro_batches(step: str) -> None:
    """Every micro-batch once, all their graphs held: what is computed twice must be this."""
    images, labels = minibatch()
    expected = normalised()
    torch.manual_seed(3)
    features = torch.cat([expected[:4](part) for part in images.tensor_split(2)])
    value = losses.batch_cross_entropy(expected[4](features), labels)
    value.backward()
    state = torch.get_rng_state()

    model = normalised()
    learner = Learner(
        [model], [configured("batch-ce")], [1.0], recipe(accumulation=2, top_layer_step=step), top="4"
    )  # fmt: skip
    before = copy.deepcopy(model)
    torch.manual_seed(3)
    found = learner.step(images[None], labels[None])
    torch.testing.assert_close(found[0], value.detach(), rtol=1e-12, atol=1e-12)
    wanted = {name: value.grad for name, value in expected.named_parameters() if value.grad is not None}
    assert_same(taken_off(before, model), wanted)
    for name, buffer in expected.named_buffers():
        assert torch.equal(dict(model.named_buffers())[name], buffer), name
    assert torch.equal(torch.get_rng_state(), state), "a step draws as often as one pass does"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    source = torch.Generator().manual_seed(0)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        return torch.randn(count, 1, 1, INPUTS, generator=source), torch.arange(count) % CLASSES

    return from_arrays("toy", drawn(2 * CLASSES), drawn(CLASSES), validation=drawn(CLASSES))


def trained(dataset: Dataset, dtype: torch.dtype, **fields: Any) -> dict[str, Tensor]:
    """Weights after 20 steps of a rate that follows a cosine."""
    asked = recipe(**{"schedule": "cosine", "weight_decay": 0.01, **fields})
    model = nn.Sequential(nn.Flatten(), *network().children()).to(dtype)
    learner = Learner([model], [configured("batch-ce")], [0.5], asked, top="3" if parted(asked) else None)
    for step, rows in enumerate(BatchOrder(len(dataset.train), BATCH, 0).window(0, asked.steps)):
        learner.set_rates((1 + step) / asked.steps)
        learner.step(dataset.train.images(rows)[None].to(dtype), dataset.train.labels[rows][None])
    return learner.state_dicts()[0]


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
@pytest.mark.parametrize(
    ("fields", "step"),
    [
        ({}, "chunked"),
        ({}, "in-place"),
        ({"momentum": 0.9}, "chunked"),
        ({"optimiser": "adamw"}, "chunked"),
        ({"optimiser": "rmsprop"}, "chunked"),
    ],
)
def test_twenty_steps_over_chunks_are_twenty_dense_ones(
    dataset: Dataset, dtype: torch.dtype, exact: float, fields: dict[str, Any], step: str
) -> None:
    """Weight decay and schedule included; in place, those of SGD without momentum."""
    assert_same(trained(dataset, dtype, top_layer_step=step, **fields), trained(dataset, dtype, **fields), exact)


def test_in_place_the_optimiser_keeps_nothing_of_the_top_layer(dataset: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), *network().children()).float()
    asked = recipe(top_layer_step="in-place", optimiser="adamw")
    learner = Learner([model], [configured("ce")], [0.1], asked, top="3")
    EagerSteps(learner, Minibatches(dataset.train, asked, [0]), 0).run(2)
    kept = {id(parameter) for group in learner.optimiser.param_groups for parameter in group["params"]}
    assert kept == {id(parameter) for parameter in model[1].parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_top_layer_alone_steps_in_place(dataset: Dataset, optimiser: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(INPUTS, CLASSES))
    before = copy.deepcopy(model)
    asked = recipe(top_layer_step="in-place", optimiser=optimiser, accumulation=2, weight_decay=0.1)
    learner = Learner([model], [configured("binary-ce")], [0.1], asked, top="1")
    steps = EagerSteps(learner, Minibatches(dataset.train, asked, [0]), 0)
    assert steps.run(3).isfinite().all()
    assert not torch.equal(model[1].weight, before[1].weight)
    learner.optimiser.load_state_dict(learner.optimiser.state_dict())


def test_the_rate_of_a_layer_in_place_follows_the_schedule(dataset: Dataset) -> None:
    asked = recipe(top_layer_step="in-place", schedule="cosine")
    model = nn.Sequential(nn.Flatten(), *network().children()).float()
    learner = Learner([model], [configured("ce")], [0.1], asked, top="3")
    EagerSteps(learner, Minibatches(dataset.train, asked, [0]), 10).run(1)
    assert isinstance(learner.top_step, InPlaceStep)
    assert learner.top_step.rate == pytest.approx(0.05)


class DropsOnTheWay(nn.Module):
    """Its own forward decides by its own mode, and it stands on the way to the top layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(INPUTS, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(F.dropout(images, 0.5, self.training))
        return out


def test_the_mode_reaches_what_lies_on_the_way_to_the_top_layer() -> None:
    learner = Learner(
        [nn.Sequential(DropsOnTheWay())], [configured("ce")], [0.1], recipe(top_layer_step="chunked"), top="0.fc"
    )
    images = torch.ones(2, INPUTS)
    learner.train(False)
    assert torch.equal(learner.features(images), images)
    learner.train()
    assert not torch.equal(learner.features(images), images)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_smaller_types_descend_over_chunks(dataset: Dataset, dtype: str) -> None:
    asked = recipe(top_layer_step="chunked", dtype=dtype, accumulation=2)
    model = nn.Sequential(nn.Flatten(), *network().children()).float()
    before = copy.deepcopy(model)
    learner = Learner([model], [configured("batch-ce")], [0.1], asked, top="3")
    assert EagerSteps(learner, Minibatches(dataset.train, asked, [0]), 0).run(20).isfinite().all()
    assert all(taken.abs().sum() > 0 for taken in taken_off(before, model).values())


def test_what_cannot_step_in_parts_is_refused() -> None:
    chunked = recipe(top_layer_step="chunked")
    with pytest.raises(ValueError, match="top layer is named"):
        Learner([network()], [configured("ce")], [0.1], chunked)
    with pytest.raises(ValueError, match="a loss of bench"):
        Learner([network()], [losses.cross_entropy], [0.1], chunked, top="2")
    with pytest.raises(ValueError, match="float16"):
        Learner(
            [network()], [configured("ce")], [0.1], recipe(top_layer_step="in-place", dtype="float16"), top="2"
        )  # fmt: skip


def test_steps_in_parts_are_not_captured(dataset: Dataset) -> None:
    assert can_be_captured(recipe(device="cuda:0"), dataset.train)
    for fields in ({"top_layer_step": "chunked"}, {"accumulation": 2}, {"ranks": 2}):
        assert not can_be_captured(recipe(device="cuda:0", **fields), dataset.train)


@pytest.mark.gpu
@pytest.mark.parametrize("step", STEPS)
def test_a_gpu_steps_in_parts_as_a_cpu_does(dataset: Dataset, step: str) -> None:
    found = trained(dataset, torch.float64, top_layer_step=step, accumulation=2)
    asked = recipe(schedule="cosine", weight_decay=0.01, top_layer_step=step, accumulation=2, device="cuda:0")
    model = nn.Sequential(nn.Flatten(), *network().children())
    loss = losses.configured("batch-ce", classes=CLASSES)
    learner = Learner([model], [loss], [0.5], asked, top="3")
    for number, rows in enumerate(BatchOrder(len(dataset.train), BATCH, 0).window(0, asked.steps)):
        learner.set_rates((1 + number) / asked.steps)
        images, labels = dataset.train.images(rows)[None].double(), dataset.train.labels[rows][None]
        learner.step(images.cuda(), labels.cuda())
    assert_same({name: value.cpu() for name, value in learner.state_dicts()[0].items()}, found, 1e-10)
