"""Influence and separation over shards of classes, in threads: what one process finds, on every rank."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from bench.accuracy.metrics import (
    Gather,
    LayerLogits,
    Score,
    influence,
    separation,
    sharded_influence,
    sharded_separation,
)

CLASSES, EXAMPLES, PATIENCE_S = 23, 60, 30

CUTS = [(0, 23), (0, 12, 23), (0, 7, 8, 23)]


def on_ranks(size: int, work: Callable[[int, Gather], Any]) -> list[Any]:
    """What each of several threads returns or raises."""
    barrier = threading.Barrier(size, timeout=PATIENCE_S)
    objects: list[Any] = [None] * size

    def of_rank(rank: int) -> Any:
        def gather(own: object) -> list[Any]:
            objects[rank] = own
            barrier.wait()
            found = list(objects)
            barrier.wait()
            return found

        try:
            return work(rank, gather)
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(of_rank, range(size)))


class Layer:
    """Features, rows and labels; of the classes some have no example. whole: of whole numbers, exact in any order."""

    def __init__(self, *, whole: bool) -> None:
        random = np.random.default_rng(1)
        self.labels = random.integers(0, CLASSES - 4, EXAMPLES)
        self.weight = random.standard_normal((CLASSES, 6))
        self.features = random.standard_normal((EXAMPLES, 6)) + self.weight[self.labels]
        if whole:
            self.weight, self.features = np.round(2 * self.weight), np.round(self.features)

    def part(self, cut: tuple[int, ...], rank: int) -> LayerLogits:
        first, end = list(pairwise(cut))[rank]
        return LayerLogits(self.features, self.weight[first:end], first_class=first, chunk=5)

    @property
    def logits(self) -> np.ndarray:
        return self.features @ self.weight.T


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("score", ["single", "all"])
def test_influence_of_one_process(cut: tuple[int, ...], score: Score) -> None:
    layer = Layer(whole=False)
    expected = influence(layer.logits, layer.labels, score=score)
    found = on_ranks(
        len(cut) - 1, lambda rank, gather: sharded_influence(layer.part(cut, rank), layer.labels, score, gather)
    )
    for each in found:
        np.testing.assert_allclose(each, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
        np.testing.assert_array_equal(each, found[0])
        assert each.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_separation_of_one_process_to_the_last_bit_but_for_partitions(cut: tuple[int, ...]) -> None:
    layer = Layer(whole=True)
    expected = separation(layer.logits, layer.labels)
    assert not expected.holds, "or the pairs would not be counted"
    for found in on_ranks(
        len(cut) - 1, lambda rank, gather: sharded_separation(layer.part(cut, rank), layer.labels, gather)
    ):
        assert found.model_dump(exclude={"log_partition_mean", "log_partition_std"}) == expected.model_dump(
            exclude={"log_partition_mean", "log_partition_std"}
        )
        for name in ("log_partition_mean", "log_partition_std"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)


def test_what_one_process_refuses_is_refused_by_all() -> None:
    layer = Layer(whole=False)
    layer.weight[20, 0] = np.inf  # of the last rank
    measures: tuple[Callable[..., Any], ...] = (
        lambda part, gather: sharded_influence(part, layer.labels, "single", gather),
        lambda part, gather: sharded_separation(part, layer.labels, gather),
    )
    for measured in measures:
        for found in on_ranks(2, lambda rank, gather, m=measured: m(layer.part(CUTS[1], rank), gather)):  # type: ignore[misc]
            assert isinstance(found, ValueError)
            assert "NaN or infinite" in str(found)
            assert "rank 1 of 2" in str(found)


def test_probabilities_are_refused_though_each_rank_has_a_part_of_each_row() -> None:
    odds = np.exp(Layer(whole=False).logits)
    probabilities = odds / odds.sum(1, keepdims=True)
    labels = Layer(whole=False).labels

    def part(rank: int) -> LayerLogits:
        columns = slice(*CUTS[1][rank : rank + 2])
        return LayerLogits(probabilities, np.eye(CLASSES)[columns], first_class=columns.start)

    for found in on_ranks(2, lambda rank, gather: sharded_influence(part(rank), labels, "single", gather)):
        assert isinstance(found, ValueError)
        assert "these are probabilities" in str(found)


def test_gaps_between_shards_are_refused() -> None:
    layer = Layer(whole=False)

    def part(rank: int) -> LayerLogits:
        return layer.part((0, 9), 0) if rank == 0 else layer.part((10, 23), 0)

    for found in on_ranks(2, lambda rank, gather: sharded_separation(part(rank), layer.labels, gather)):
        assert isinstance(found, ValueError)
        assert "classes 9 .. 9 are in no shard" in str(found)
