"""A model that ranks evaluate together: the record and the influences of one process."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archs.swapping import without_top
from bench.accuracy import evaluation
from bench.accuracy.data import Dataset, from_arrays
from bench.accuracy.evaluation import evaluate
from bench.accuracy.ranks import shares
from bench.accuracy.ranks.evaluation import OwnLayer, evaluate_over_ranks, features_fit
from bench.accuracy.settings import Member

AsThreads = Callable[..., list[Any]]

CLASSES, FEATURES = 7, 5
CPU = torch.device("cpu")
MEMBER = Member(loss="ce", learning_rate=0.1, seed=0)

#: Partitions are summed in parts, and these are made of them.
ROUNDED = {"seconds", "all", "separation_train", "separation_test"}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """53 and 41 examples, which 2 and 3 ranks do not share evenly; class 6 has none to test."""
    random = np.random.default_rng(0)

    def split(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % classes
        return random.integers(0, 4, (count, 1, 2, 3)).astype(np.float32), labels

    return from_arrays("small", split(200, CLASSES), split(41, CLASSES - 1))


class Rounded(nn.Module):
    """Pixels are normalised: whole numbers again."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (2 * images).flatten(1).round()


def network(*, whole: bool) -> nn.Sequential:
    """whole: with weights of whole numbers, and so logits that no order of sums changes."""
    torch.manual_seed(3)
    made = nn.Sequential(Rounded(), nn.Linear(6, FEATURES), nn.ReLU(), nn.Linear(FEATURES, CLASSES))
    if whole:
        for parameter in made.parameters():
            nn.init.normal_(parameter, 0, 2)
            parameter.data.round_()
    return made.eval()


def layer_of(made: nn.Sequential, ranks: Any) -> OwnLayer:
    top = made[3]
    own = shares(CLASSES, ranks.size)[ranks.rank]
    return OwnLayer(without_top(made, "3"), top.weight[own], top.bias[own], own.start)


def roughly(record: Any) -> Any:
    """A record for comparison within rounding."""
    return pytest.approx(record.model_dump(exclude={"by_class", "classes_without_positives"}), rel=1e-12)


@pytest.mark.parametrize("size", [2, 3])
def test_the_record_of_one_process(dataset: Dataset, as_threads: AsThreads, size: int) -> None:
    made = network(whole=True)
    expected, influence = evaluate(MEMBER, made, dataset, CPU)
    for found, own in as_threads(
        size, lambda ranks: evaluate_over_ranks(MEMBER, layer_of(made, ranks), dataset, CPU, ranks)
    ):
        assert found.model_dump(exclude=ROUNDED) == expected.model_dump(exclude=ROUNDED), "to the last bit"
        for name in ("all", "separation_train", "separation_test"):
            one, other = getattr(found, name), getattr(expected, name)
            assert one.model_dump(exclude={"by_class", "classes_without_positives"}) == roughly(other)
        assert found.all.by_class.auprc[:-1] == pytest.approx(expected.all.by_class.auprc[:-1], rel=1e-12)
        assert found.all.by_class.auprc[-1] is expected.all.by_class.auprc[-1] is None
        assert found.all.classes_without_positives == expected.all.classes_without_positives == (CLASSES - 1,)
        for score in ("single", "all"):
            np.testing.assert_allclose(getattr(own, score), getattr(influence, score), rtol=0, atol=1e-14)


def test_what_all_ranks_find_is_the_same(dataset: Dataset, as_threads: AsThreads) -> None:
    made = network(whole=False)
    (one, own_one), (other, own_other) = as_threads(
        2, lambda ranks: evaluate_over_ranks(MEMBER, layer_of(made, ranks), dataset, CPU, ranks)
    )
    assert one.model_copy(update={"seconds": other.seconds}) == other
    np.testing.assert_array_equal(own_one, own_other)


def test_a_logit_that_is_not_finite_is_refused_by_all(dataset: Dataset, as_threads: AsThreads) -> None:
    made = network(whole=True)
    nn.init.constant_(made[3].bias[CLASSES - 1 :], torch.nan)  # of the last rank's
    found = as_threads(2, lambda ranks: evaluate_over_ranks(MEMBER, layer_of(made, ranks), dataset, CPU, ranks))
    assert [type(each) for each in found] == [ValueError] * 2
    assert all("NaN or infinite" in str(each) for each in found)


def test_a_rank_that_cannot_make_its_features_is_named_by_all(dataset: Dataset, as_threads: AsThreads) -> None:
    made = network(whole=True)

    def of_rank(ranks: Any) -> Any:
        own = layer_of(made, ranks)
        if ranks.rank == 1:
            own = OwnLayer(nn.Linear(99, FEATURES), own.weight, own.bias, own.first_class)
        return evaluate_over_ranks(MEMBER, own, dataset, CPU, ranks)

    found = as_threads(2, of_rank)
    assert [type(each) for each in found] == [RuntimeError] * 2
    assert all(str(each).startswith("rank 1: ") for each in found)


def test_features_that_one_rank_has_no_room_for_are_held_by_none(
    dataset: Dataset, as_threads: AsThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * FEATURES * len(dataset.train)
    for free, fits in ((4 * needed, True), (4 * needed - 1, False)):
        monkeypatch.setattr(evaluation, "free_bytes", lambda device, free=free: free)
        assert as_threads(2, lambda ranks: features_fit(dataset, FEATURES, CPU, ranks)) == [fits] * 2
