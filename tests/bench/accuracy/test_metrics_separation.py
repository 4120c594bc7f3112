from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp

from bench.accuracy.metrics import ColumnChunks, pairs, reading, separation

Array = NDArray[Any]


def true_and_false(logits: Array, labels: Array) -> tuple[Array, Array]:
    is_true = np.zeros(logits.shape, bool)
    is_true[np.arange(len(labels)), labels] = True
    return logits[is_true], logits[~is_true]


def literal_share(logits: Array, labels: Array) -> float:
    """Every pair of a true and a false logit, one by one (Definition 1 is strict: a tie is not in order)."""
    true, false = true_and_false(logits, labels)
    return float((true[:, None] > false[None, :]).mean())


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Array, Array]:
    examples, classes = draw(st.integers(1, 20)), draw(st.integers(2, 5))
    size = examples * classes
    spacing = draw(st.sampled_from([1.0, 0.1, 1e-7, 1e4]))
    numbers = draw(st.lists(st.integers(-5, draw(st.sampled_from([-3, 5, 1000]))), min_size=size, max_size=size))
    logits = 7 + spacing * np.array(numbers, np.float64).reshape(examples, classes)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=examples, max_size=examples))
    logits *= draw(st.sampled_from([1, -1]))
    return logits.astype(draw(st.sampled_from([np.float32, np.float64]))), np.array(labels)


@settings(max_examples=100, deadline=None)
@given(labelled(), st.integers(1, 5), st.sampled_from([1, 8, 2**16]), st.sampled_from([1, 7, 2**19]))
def test_every_number_as_its_definition(given: tuple[Array, Array], size: int, bins: int, panel: int) -> None:
    logits, labels = given
    stream = ColumnChunks(lambda columns: logits[:, columns], (logits.shape[0], logits.shape[1]), size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "BINS", bins)
        patch.setattr(reading, "PANEL", panel)
        found, exact = separation(stream, labels), separation(logits, labels, exact=True)
    true, false = true_and_false(logits, labels)
    share = literal_share(logits, labels)
    assert exact.ordered_low == exact.ordered_high == pytest.approx(share, abs=1e-15)
    assert found.ordered_low - 1e-15 <= share <= found.ordered_high + 1e-15
    log_partition = logsumexp(logits.astype(np.float64), axis=1)
    for numbers in (found, exact):
        assert (numbers.lowest_true, numbers.highest_false) == (true.min(), false.max())
        assert numbers.holds == (true.min() > false.max())
        # Both are known to the rounding of the numbers they are made of.
        rounding = 1e-14 * float(np.abs(logits).max())
        assert numbers.log_partition_mean == pytest.approx(log_partition.mean(), rel=0, abs=rounding)
        assert numbers.log_partition_std == pytest.approx(log_partition.std(), rel=0, abs=rounding)


def test_the_papers_counter_example_by_hand() -> None:
    """z(x1) = (2a, a), z(x2) = (-2a, -a), a = 3: true 6 and -3, false 3 and -6; one pair of four is not in order."""
    found = separation(np.array([[6.0, 3], [-6, -3]]), [0, 1], exact=True)
    assert (found.lowest_true, found.highest_false, found.holds) == (-3, 3, False)
    assert found.ordered_low == found.ordered_high == 0.75


def test_a_tie_does_not_hold() -> None:
    found = separation(np.array([[2.0, 1], [2, 3]]), [0, 1], exact=True)
    assert (found.lowest_true, found.highest_false, found.holds) == (2, 2, False)
    assert found.ordered_high == 0.75


def test_separated_logits_hold_whichever_way_they_are_counted() -> None:
    labels = np.arange(40) % 4
    logits = 5 * np.eye(4)[labels] + np.random.default_rng(0).uniform(size=(40, 4))
    for exact in (False, True):
        found = separation(logits, labels, exact=exact)
        assert found.holds
        assert found.ordered_low == found.ordered_high == 1.0


def test_bounds_are_close_for_logits_that_are_spread_out() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.standard_normal((3000, 20)).astype(np.float32), random.integers(0, 20, 3000)
    logits[np.arange(3000), labels] += 2
    found, exact = separation(logits, labels), separation(logits, labels, exact=True)
    assert 0 < found.ordered_high - found.ordered_low < 1e-4
    assert found.ordered_low < exact.ordered_low < found.ordered_high


def test_a_single_class_has_no_false_logit() -> None:
    with pytest.raises(ValueError, match="there is a single class"):
        separation(np.ones((4, 1)), np.zeros(4, int))


def test_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="these are probabilities"):
        separation(np.full((4, 2), 0.5), np.zeros(4, int))


def test_it_can_be_written_and_read_back() -> None:
    found = separation(np.array([[6.0, 3], [-6, -3]]), [0, 1])
    assert type(found).model_validate_json(found.model_dump_json()) == found
