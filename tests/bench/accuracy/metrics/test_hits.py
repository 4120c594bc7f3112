"""Accuracy, whatever the blocks are."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from bench.accuracy.metrics import ColumnChunks, RowChunks, accuracy


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 9), st.integers(0, 2**16))
def test_as_scikit_learn_of_the_largest_logit(examples: int, classes: int, size: int, seed: int) -> None:
    """Few different logits: among equal ones the lowest class counts, as in argmax."""
    random = np.random.default_rng(seed)
    logits = random.integers(-2, 2, (examples, classes)).astype(np.float32)
    labels = random.integers(0, classes, examples)
    expected = accuracy_score(labels, logits.argmax(axis=1))
    streams: list[Any] = [
        logits,
        RowChunks(lambda rows: logits[rows], logits.shape, size),
        ColumnChunks(lambda columns: logits[:, columns], logits.shape, size),
    ]
    for stream in streams:
        assert accuracy(stream, labels) == expected


def test_infinities_have_an_order_and_nan_has_none() -> None:
    assert accuracy([[-np.inf, -np.inf], [0, np.inf]], [0, 1]) == 1
    with pytest.raises(ValueError, match=r"classes 0 \.\. 1 is NaN"):
        accuracy([[0, np.nan], [0, 1]], [0, 1])
