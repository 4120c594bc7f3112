"""The score made of all logits: against literal sums in exact arithmetic, where a softmax saturates."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.accuracy.metrics import ColumnChunks, RowChunks, log_odds, measure
from bench.accuracy.metrics.partition import RowPartition

Array = NDArray[np.float64]

logits_of_a_row = st.lists(st.floats(-30, 30) | st.integers(-2, 2).map(float), min_size=2, max_size=6)


def literal_log_odds(row: list[float], number: int) -> float:
    """z_j - log sum over l != j of exp(z_l): the sum is formed without the one logit and rounded once."""
    others = [value for place, value in enumerate(row) if place != number]
    peak = max(others)
    total = sum(Fraction(math.exp(value - peak)) for value in others)
    return row[number] - peak - math.log(total)


@settings(max_examples=100, deadline=None)
@given(st.lists(logits_of_a_row, min_size=1, max_size=4), st.integers(1, 3))
def test_log_odds_as_the_sum_without_the_one_logit(rows: list[list[float]], size: int) -> None:
    for row in rows:
        logits = np.array([row])
        expected = [literal_log_odds(row, number) for number in range(len(row))]
        chunked = ColumnChunks(lambda columns, logits=logits: logits[:, columns], (1, len(row)), size)  # type: ignore[misc]
        for found in (log_odds(logits), log_odds(chunked)):
            np.testing.assert_allclose(found[0], expected, rtol=1e-13, atol=1e-13)


def test_where_one_logit_dominates_nothing_cancels() -> None:
    row = [800.0, 1.0, 0.0, -5.0]
    expected = 800 - math.log(math.e + 1 + math.exp(-5))
    found = log_odds([row])
    assert found[0, 0] == pytest.approx(expected, rel=1e-15)
    assert found[0, 1] == pytest.approx(1 - 800, rel=1e-15)
    assert log_odds([[1e4, -1e4]]).tolist() == [[2e4, -2e4]]


def test_classes_that_a_softmax_would_tie_are_told_apart() -> None:
    """Softmax in float32 says 1.0 to both rows, and 1.0 in float64; log-softmax says -0.0."""
    logits = np.array([[40.0, 0], [41.0, 0]], np.float32)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    assert (probabilities[:, 0] == 1).all()
    assert np.diff(log_odds(logits)[:, 0]) == [1.0]


def test_equal_rows_have_equal_scores_whatever_their_labels() -> None:
    random = np.random.default_rng(0)
    row = random.standard_normal(9)
    found = measure(np.tile(row, (9, 1)), np.arange(9), score="all")
    assert found.by_class.auprc == pytest.approx(np.full(9, 1 / 9), abs=1e-15), "all tie: precision is the base rate"


def test_with_two_classes_the_log_odds_are_the_difference() -> None:
    logits = np.random.default_rng(0).standard_normal((50, 2))
    difference = logits[:, 0] - logits[:, 1]
    np.testing.assert_allclose(log_odds(logits), np.stack([difference, -difference], axis=1), rtol=1e-14)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_log_partitions_however_the_logits_are_cut(seed: int, height: int, width: int, classes: int) -> None:
    logits = 20 * np.random.default_rng(seed).standard_normal((30, classes))
    partition = RowPartition.empty(30)
    for top in range(0, 30, height):
        for left in range(0, classes, width):
            rows, columns = slice(top, min(top + height, 30)), slice(left, min(left + width, classes))
            partition.add(rows, columns, logits[rows, columns])
    expected = [math.log(math.fsum(np.exp(row))) for row in logits]
    np.testing.assert_allclose(partition.log_partition, expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(partition.peak_class, logits.argmax(axis=1))


def test_float32_logits_are_weighed_in_float64() -> None:
    logits = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    np.testing.assert_array_equal(log_odds(logits), log_odds(logits.astype(np.float64)))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_stream_of_either_kind_as_the_whole(size: int) -> None:
    random = np.random.default_rng(0)
    logits, labels = 3 * random.standard_normal((200, 5)), random.integers(0, 5, 200)
    whole: Any = measure(logits, labels, score="all")
    for stream in (
        RowChunks(lambda rows: logits[rows], (200, 5), 40 * size),
        ColumnChunks(lambda columns: logits[:, columns], (200, 5), size),
    ):
        assert measure(stream, labels, score="all").auprc == pytest.approx(whole.auprc, abs=1e-12)
