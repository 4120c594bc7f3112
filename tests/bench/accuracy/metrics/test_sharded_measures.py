"""Shards of classes, in threads and in processes: together what one process finds, and every rank the same errors."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.accuracy.metrics import LayerLogits, Measures, Score, measure, sharded_measure
from bench.accuracy.metrics.partition import RowPartition
from bench.accuracy.metrics.sharding import Extent, Gather, whole_of

#: Long enough for any work here; a rank that waits longer waits for one that will never come.
PATIENCE_S = 30

MEASURES = ("auprc", "auprc_trapezoid", "precision_at_90", "precision_at_99")


class Ranks:
    """Several ranks as threads, and what gathers for them."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=PATIENCE_S)
        self._objects: list[Any] = [None] * size

    def gather_of(self, rank: int) -> Gather:
        def gather(own: object) -> list[Any]:
            self._objects[rank] = own
            self._barrier.wait()
            found = list(self._objects)
            self._barrier.wait()
            return found

        return gather

    def run(self, work: Callable[[int, Gather], Measures]) -> list[Measures | Exception]:
        """What each rank returns or raises."""

        def of_rank(rank: int) -> Measures | Exception:
            try:
                return work(rank, self.gather_of(rank))
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(self._objects)) as threads:
            return list(threads.map(of_rank, range(len(self._objects))))


class Rows:
    """A shard whose blocks are rows, as of a model whose top layer is split."""

    def __init__(self, logits: NDArray[Any], first_class: int) -> None:
        self.logits, self.first_class, self.shape = logits, first_class, logits.shape

    def blocks(self) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
        for start in range(0, len(self.logits), 13):
            yield slice(start, min(start + 13, len(self.logits))), slice(None), self.logits[start : start + 13]


class Example:
    """A layer of 37 classes, some of them nobody's; normal numbers."""

    classes = 37

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.labels = random.integers(0, self.classes, 80)
        self.weight = random.standard_normal((self.classes, 8))
        self.bias = random.standard_normal(self.classes)
        self.features = random.standard_normal((80, 8)) + 0.5 * self.weight[self.labels]

    def layer(self, part: slice = slice(0, classes)) -> LayerLogits:
        return LayerLogits(self.features, self.weight[part], self.bias[part], first_class=part.start, chunk=5)

    def rows(self, part: slice) -> Rows:
        return Rows(self.features @ self.weight[part].T + self.bias[part], part.start)


def cuts(*borders: int) -> list[slice]:
    return [slice(start, end) for start, end in pairwise(borders)]


def assert_equal(found: Measures, expected: Measures, tolerance: float) -> None:
    for name in MEASURES:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=tolerance)
        np.testing.assert_allclose(
            getattr(found.by_class, name), getattr(expected.by_class, name), rtol=0, atol=tolerance
        )
    for name in ("classes_without_positives", "examples", "classes", "queried"):
        assert getattr(found, name) == getattr(expected, name)


SHARDS = [cuts(0, 37), cuts(0, 19, 37), cuts(0, 13, 14, 37), cuts(0, 13, 37)[::-1]]


@pytest.mark.parametrize("parts", SHARDS, ids=str)
@pytest.mark.parametrize("kind", ["layer", "rows"])
@pytest.mark.parametrize("queried", [None, [3, 36, 12, 30]])
@pytest.mark.parametrize("score", ["single", "all"])
def test_shards_find_what_the_whole_does(
    parts: list[slice], kind: str, queried: list[int] | None, score: Score
) -> None:
    example = Example()
    expected = measure(example.layer(), example.labels, score=score, classes=queried)
    assert queried or expected.classes_without_positives, "a shard's class may be nobody's"
    make = example.layer if kind == "layer" else example.rows
    for found in Ranks(len(parts)).run(
        lambda rank, gather: sharded_measure(make(parts[rank]), example.labels, score, gather, classes=queried)
    ):
        assert isinstance(found, Measures), found
        assert_equal(found, expected, 1e-12)


def test_single_logits_agree_to_the_last_bit() -> None:
    """Of the same logits: as whole numbers, since a product may round otherwise for another number of classes."""
    example = Example()
    for part in ("features", "weight", "bias"):
        setattr(example, part, np.round(getattr(example, part)))
    expected = measure(example.layer(), example.labels)
    for found in Ranks(3).run(
        lambda rank, gather: sharded_measure(example.layer(SHARDS[2][rank]), example.labels, "single", gather)
    ):
        assert isinstance(found, Measures)
        assert_equal(found, expected, 0)
        assert found.record() == expected.record()


def test_a_shard_without_any_positive() -> None:
    example = Example()
    example.labels %= 20
    for score, kind in (("single", example.layer), ("all", example.layer), ("single", example.rows)):
        for found in Ranks(2).run(
            lambda rank, gather, score=score, kind=kind: sharded_measure(  # type: ignore[misc]
                kind(cuts(0, 20, 37)[rank]), example.labels, score, gather
            )
        ):
            assert isinstance(found, Measures), found
            assert_equal(found, measure(example.layer(), example.labels, score=score), 1e-12)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.floats(-50, 50) | st.integers(-1, 1).map(float), min_size=7, max_size=7), min_size=1, max_size=5
    ),
    st.sets(st.integers(1, 6)),
)
def test_partitions_of_parts_are_those_of_the_whole(rows: list[list[float]], borders: set[int]) -> None:
    logits = np.array(rows)
    whole, parts = RowPartition.empty(len(logits)), []
    whole.add(slice(0, len(logits)), slice(0, 7), logits)
    for part in cuts(0, *sorted(borders), 7):
        own = RowPartition.empty(len(logits))
        own.add(slice(0, len(logits)), slice(0, part.stop - part.start), logits[:, part])
        parts.append(own.renumbered(np.arange(part.start, part.stop)))
    found = RowPartition.merged(parts)
    np.testing.assert_array_equal(found.peak, whole.peak)
    np.testing.assert_array_equal(found.peak_class, whole.peak_class)
    np.testing.assert_allclose(found.rest, whole.rest, rtol=1e-12, atol=1e-12)


class TestRefusals:
    def raised(self, ranks: int, work: Callable[[int, Gather], Measures]) -> list[str]:
        found = Ranks(ranks).run(work)
        assert all(isinstance(error, ValueError) for error in found), found
        return [str(error) for error in found]

    @pytest.mark.parametrize("score", ["single", "all"])
    def test_a_logit_that_is_not_finite_stops_every_rank(self, score: Score) -> None:
        example = Example()
        example.weight[31, 2] = np.nan
        messages = self.raised(
            2, lambda rank, gather: sharded_measure(example.layer(SHARDS[1][rank]), example.labels, score, gather)
        )
        assert messages[0] == messages[1]
        assert messages[0].startswith("rank 1 of 2: 80 of ")
        assert messages[0].endswith("the first is of example 0 and class 31")

    def test_what_a_device_raises_stops_every_rank_too(self) -> None:
        example = Example()

        class Broken(LayerLogits):
            def _product(self, columns: slice, logits: torch.Tensor) -> None:
                raise torch.OutOfMemoryError("no memory for the chunk")

        def work(rank: int, gather: Gather) -> Measures:
            layer = example.layer(SHARDS[1][rank])
            if rank == 0:
                layer.__class__ = Broken
            return sharded_measure(layer, example.labels, "single", gather)

        found = Ranks(2).run(work)
        assert [type(error) for error in found] == [RuntimeError, RuntimeError]
        assert {str(error) for error in found} == {"rank 0 of 2: no memory for the chunk"}

    def test_probabilities_of_which_each_shard_sees_a_part(self) -> None:
        probabilities = np.random.default_rng(0).dirichlet(np.ones(6), 10)
        labels = np.arange(10) % 6
        for score in ("single", "all"):
            messages = self.raised(
                2,
                lambda rank, gather, score=score: sharded_measure(  # type: ignore[misc]
                    LayerLogits(np.eye(10), probabilities.T[3 * rank : 3 * rank + 3].copy(), first_class=3 * rank),
                    labels,
                    score,
                    gather,
                ),
            )
            assert all("these are probabilities" in message for message in messages)

    def test_ranks_that_ask_different_questions(self) -> None:
        example = Example()
        others = {
            "labels": lambda rank: (np.roll(example.labels, rank), "single", None),
            "score": lambda rank: (example.labels, "all" if rank else "single", None),
            "classes": lambda rank: (example.labels, "single", [1, 2 + rank]),
        }
        for other in others.values():

            def work(rank: int, gather: Gather, other: Any = other) -> Measures:
                labels, score, classes = other(rank)
                return sharded_measure(example.layer(SHARDS[1][rank]), labels, score, gather, classes=classes)

            assert all("they must ask the same question" in message for message in self.raised(2, work))

    def test_labels_that_do_not_fit(self) -> None:
        example = Example()
        labels = example.labels + 1
        messages = self.raised(
            2, lambda rank, gather: sharded_measure(example.layer(SHARDS[1][rank]), labels, "single", gather)
        )
        assert all("lie outside 0 .. 36" in message for message in messages)
        messages = self.raised(
            2, lambda rank, gather: sharded_measure(example.layer(SHARDS[1][rank]), labels[rank:], "single", gather)
        )
        assert all("rank 1 of 2: labels of shape (79,)" in message for message in messages)

    @pytest.mark.parametrize(
        ("extents", "message"),
        [
            ([(0, 3, 9), (4, 2, 9)], r"classes 3 \.\. 3 are in no shard"),
            ([(2, 3, 9)], r"classes 0 \.\. 1 are in no shard"),
            ([(3, 3, 9), (0, 5, 9)], r"classes 3 \.\. 4 are in two shards"),
            ([(0, 3, 9), (0, 3, 9)], r"classes 0 \.\. 2 are in two shards"),
            ([(0, 3, 9), (3, 3, 8)], "ranks have 9, 8 examples"),
        ],
    )
    def test_shards_that_do_not_make_a_layer(self, extents: list[tuple[int, int, int]], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            whole_of([Extent(*extent, labels=0) for extent in extents])


#: One rank: it joins, and measures in the groups of the first 1, 2 and 3 ranks that it belongs to.
RANK = """
import json, sys
import numpy as np, torch, torch.distributed as dist
from bench.accuracy.metrics import LayerLogits, over_ranks, sharded_measure
rank, size, meeting, arrays = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], np.load(sys.argv[4])
dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=size)
classes, found = len(arrays["weight"]), {}
for ranks in range(1, size + 1):
    group = dist.new_group(list(range(ranks)))
    if rank < ranks:
        first, end = (part * (classes // ranks) + min(part, classes % ranks) for part in (rank, rank + 1))
        weight, bias = arrays["weight"][first:end], arrays["bias"][first:end]
        layer = LayerLogits(arrays["features"], weight, bias, first_class=first)
        for score in ("single", "all"):
            measures = sharded_measure(layer, arrays["labels"], score, over_ranks(group))
            found[f"{ranks} {score}"] = json.loads(measures.record().model_dump_json())
dist.destroy_process_group()
print(json.dumps(found))
"""


def test_one_two_and_three_processes_find_the_same(tmp_path: Path) -> None:
    """37 classes on gloo ranks: 37; 19 and 18; 13, 12 and 12."""
    example, size = Example(), 3
    np.savez(
        tmp_path / "arrays.npz",
        features=example.features,
        weight=example.weight,
        bias=example.bias,
        labels=example.labels,
    )
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(size), str(tmp_path / "meeting"), str(tmp_path / "arrays.npz")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        ends = [rank.communicate(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * size, [error for _, error in ends]
    expected = {score: measure(example.layer(), example.labels, score=score).record() for score in ("single", "all")}  # type: ignore[arg-type]
    seen = 0
    for output, _ in ends:
        for name, record in json.loads(output.splitlines()[-1]).items():
            of_one = expected[name.split()[1]].model_dump(mode="json")
            for key in ("auprc", "auprc_trapezoid", "precision_at_90", "precision_at_99"):
                assert record[key] == pytest.approx(of_one[key], abs=1e-12)
            for key, values in of_one["by_class"].items():
                theirs = np.array(record["by_class"][key], float)
                np.testing.assert_allclose(theirs, np.array(values, float), rtol=0, atol=1e-12)
            assert record["classes_without_positives"] == of_one["classes_without_positives"]
            seen += 1
    assert seen == 2 * (1 + 2 + 3)
