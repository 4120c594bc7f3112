"""Validation by ranks: one process's loss and accuracy, each example once."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.accuracy import losses, validation
from bench.accuracy.data import Split
from bench.accuracy.ranks import ALONE, shares
from bench.accuracy.settings import Recipe
from bench.accuracy.steps import Learner
from bench.accuracy.validation import validate

CLASSES, BATCH = 11, 4


class Doubles(Split):
    """Images in float64; counts how often each is asked for."""

    def __init__(self, examples: int) -> None:
        source = torch.Generator().manual_seed(examples)
        self.labels = torch.randint(CLASSES, (examples,), generator=source)
        self.input_shape = (5,)
        self._images = torch.randn(examples, 5, dtype=torch.float64, generator=source)
        self.asked = torch.zeros(examples, dtype=torch.int64)

    def images(self, indices: Any, *, seed: int | None = None) -> Tensor:
        self.asked[indices] += 1
        return self._images[indices]

    def on(self, device: Any) -> Any:
        return self


def _network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES)).double()


#: Made once: ranks that are threads share torch's random state.
NETWORK = _network()

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "batch-ce": ("batch-ce", {}),
    "batch-max-margin": ("batch-max-margin", {}),
    "shifted": ("nce", {"estimate": "exact", "q": "class frequencies", "t": 5.0}),
    "sampled": ("nce", {"estimate": "sampled", "t": 3.0}),
    "negatives": ("negative-sampling", {"t": 3.0}),
    "shared": ("importance-sampling", {"t": 3.0, "negatives": "shared", "correction": "none"}),
}

WAYS = {
    "dense": {"top_layer_step": "dense"},
    "chunked": {"top_layer_step": "chunked"},
    "split": {"top_layer_step": "in-place", "shard_top_layer": True},
}


def of_rank_in(network: nn.Sequential, recipe: Recipe, ranks: Any) -> nn.Sequential:
    """A copy that has this rank's rows alone where the top layer is split."""
    made = copy.deepcopy(network)
    if recipe.shard_top_layer:
        rows = shares(CLASSES, ranks.size)[ranks.rank]
        made[-1].weight, made[-1].bias = (nn.Parameter(each.detach()[rows]) for each in made[-1].parameters())
    return made


def found_by(ranks: Any, name: str, fields: dict[str, Any], examples: int) -> tuple[float, float, Tensor]:
    key, hyperparameters = CASES[name]
    loss = losses.configured(
        key,
        classes=CLASSES,
        class_frequencies=[float(1 + j % 3) for j in range(CLASSES)],
        generator=torch.Generator().manual_seed(3),
        **hyperparameters,
    )
    recipe = Recipe(network="mlp", steps=1, batch_size=BATCH, **fields)
    top = None if recipe.top_layer_step == "dense" else "3"
    learner = Learner(
        [of_rank_in(NETWORK, recipe, ranks)], [loss], [0.1], recipe, top=top, ranks=ranks, classes=CLASSES
    )
    split = Doubles(examples)
    ((value, accuracy),) = validate(learner, split, 1, CLASSES)
    assert learner.module.training
    return value, accuracy, split.asked


@pytest.mark.parametrize("rows", [1, 8, 1024])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_ranks_find_what_one_process_finds(
    as_threads: Callable[..., list[Any]], name: str, way: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 5 minibatches and 1 example more; and of fewer minibatches, and examples, than ranks."""
    monkeypatch.setattr(validation, "_ROWS_OVER_CHUNKS", rows)
    monkeypatch.setitem(validation._INPUT_NUMBERS, "cpu", 5 * rows)
    fields = WAYS[way]
    for examples in (21, 2):
        one = {**fields, "shard_top_layer": False}
        value, accuracy, _ = found_by(ALONE, name, one, examples)
        for size in (2, 3):
            found = as_threads(size, lambda ranks: found_by(ranks, name, fields, examples))  # noqa: B023
            assert not [each for each in found if isinstance(each, Exception)], found
            assert len({each[:2] for each in found}) == 1, "the same bits on all ranks"
            assert found[0][0] == pytest.approx(value, rel=1e-12)
            assert found[0][1] == accuracy
            if way != "split" or (rows == 1024 and examples >= size):  # of too few, all make features of all
                assert torch.equal(sum(each[2] for each in found), torch.ones(examples, dtype=torch.int64))
