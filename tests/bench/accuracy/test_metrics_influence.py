"""The derivative of 1 - AUPRC by an example's weight: against differences, and against the bootstrap."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.accuracy.metrics import ColumnChunks, influence, log_odds, measure

Floats = NDArray[np.float64]
Array = NDArray[Any]


def weighted_error(scores: Floats, labels: Array, weights: Floats) -> float:
    """1 - macro AP of weighted examples, word for word: every positive's precision, by its weight."""
    by_class = []
    for column in np.unique(labels):
        values, positive = scores[:, column], labels == column
        total = 0.0
        for example in np.flatnonzero(positive):
            yes = values >= values[example]
            total += weights[example] * weights[yes & positive].sum() / weights[yes].sum()
        by_class.append(total / weights[positive].sum())
    return 1 - float(np.mean(by_class))


def by_differences(scores: Floats, labels: Array, step: float = 1e-5) -> Floats:
    """Central differences: error of the order of step**2 and of 1e-16 / step."""
    found = np.empty(len(labels))
    for example in range(len(labels)):
        up, down = np.ones((2, len(labels)))
        up[example] += step
        down[example] -= step
        found[example] = (weighted_error(scores, labels, up) - weighted_error(scores, labels, down)) / (2 * step)
    return found


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Floats, Array]:
    examples, classes = draw(st.integers(2, 15)), draw(st.integers(2, 4))
    size = examples * classes
    numbers = draw(st.lists(st.integers(0, draw(st.sampled_from([2, 5, 1000]))), min_size=size, max_size=size))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=examples, max_size=examples))
    return 2 + np.array(numbers, np.float64).reshape(examples, classes) / 4, np.array(labels)


@settings(max_examples=100, deadline=None)
@given(labelled(), st.sampled_from(["single", "all"]), st.integers(1, 4))
def test_as_finite_differences_ties_included(given: tuple[Floats, Array], score: Any, size: int) -> None:
    logits, labels = given
    scores = logits if score == "single" else log_odds(logits)
    expected = by_differences(scores, labels)
    stream = ColumnChunks(lambda columns: logits[:, columns], (logits.shape[0], logits.shape[1]), size)
    np.testing.assert_allclose(influence(logits, labels, score=score), expected, rtol=0, atol=1e-8)
    np.testing.assert_allclose(influence(stream, labels, score="single"), by_differences(logits, labels), atol=1e-8)
    np.testing.assert_allclose(expected.sum(), 0, atol=1e-8)


def test_equal_weights_give_the_measure_itself() -> None:
    """The function that is differentiated here is the one that is measured."""
    random = np.random.default_rng(0)
    logits, labels = random.integers(0, 9, (60, 3)) + 2.0, random.integers(0, 3, 60)
    assert weighted_error(logits, labels, np.ones(60)) == pytest.approx(1 - measure(logits, labels).auprc, abs=1e-14)
    assert weighted_error(logits, labels, np.full(60, 1 / 60)) == pytest.approx(1 - measure(logits, labels).auprc)


def test_by_hand() -> None:
    """Column 0 = 3, 2, 1, the middle one false: precisions 1 and 2/3, AP 5/6. Column 1 puts its own one first.

    Of the false one: 2/9 / 2 of AP_0 is lost, over 2 classes. Of the last: (2/3 - 5/6 + 1/9) / 2; of the first:
    (1 - 5/6 + 1/9) / 2, as it stands above the last too.
    """
    found = influence(np.array([[3.0, 0], [2, 9], [1, 0]]), [0, 1, 0])
    np.testing.assert_allclose(found, -np.array([5 / 36, -4 / 36, -1 / 36]) / 2, atol=1e-16)


def test_perfect_separation_has_only_false_ones_that_cannot_hurt() -> None:
    labels = np.arange(30) % 3
    assert (influence(5 * np.eye(3)[labels], labels) == 0).all()


def test_it_sums_to_nothing() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((5000, 30)).astype(np.float32), random.integers(0, 30, 5000)
    assert influence(logits, labels, score="single").sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("score", ["single", "all"])
def test_its_sum_of_squares_is_the_bootstraps_variance(score: Any) -> None:
    """2,000 examples, unequal classes; 400 resamples know a standard error to 3.5 %."""
    random = np.random.default_rng(0)
    labels = random.choice(5, 2000, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    logits = random.standard_normal((2000, 5)) + 2.5 * np.eye(5)[labels] + random.standard_normal((2000, 1))
    pulls = influence(logits, labels, score=score)
    resamples = []
    for _ in range(400):
        drawn = random.integers(0, 2000, 2000)
        resamples.append(1 - measure(logits[drawn], labels[drawn], score=score).auprc)
    assert np.sqrt(np.square(pulls).sum()) == pytest.approx(np.std(resamples, ddof=1), rel=0.15)


def test_paired_differences_of_two_scores_of_the_same_examples() -> None:
    """What decides between one logit and all of them: the influences of the same example cancel."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 5, 2000)
    logits = random.standard_normal((2000, 5)) + 2.5 * np.eye(5)[labels] + 0.3 * random.standard_normal((2000, 1))
    difference = influence(logits, labels, score="single") - influence(logits, labels, score="all")
    resamples = []
    for _ in range(400):
        drawn = random.integers(0, 2000, 2000)
        single, every = (measure(logits[drawn], labels[drawn], score=score).auprc for score in ("single", "all"))
        resamples.append(every - single)
    assert np.sqrt(np.square(difference).sum()) == pytest.approx(np.std(resamples, ddof=1), rel=0.15)


def test_what_a_measure_refuses_an_influence_refuses() -> None:
    with pytest.raises(ValueError, match="these are probabilities"):
        influence(np.full((4, 2), 0.5), np.zeros(4, int), score="single")
    with pytest.raises(ValueError, match="score 'both'"):
        influence(np.ones((4, 2)), np.zeros(4, int), score="both")  # type: ignore[arg-type]
