"""How far the logits keep the Principle of Logit Separation: every true logit above every false one (Definition 1).

Of all n * n(k - 1) pairs of a true and a false logit, of one example or of two, the share in order is the area under
the ROC curve of all logits together, a tie counted as not in order. It is counted exactly, or between bounds from a
histogram: pairs in different bins are certain, pairs in the same bin are not.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from bench.accuracy.metrics.partition import RowPartition
from bench.accuracy.metrics.reading import Panel, Reading, over_panels, read
from bench.accuracy.metrics.search import Grid, Search
from bench.accuracy.metrics.streams import Floats, Integers, Reals
from bench.accuracy.records import Separation

#: Bins from the lowest to the highest true logit. Only pairs within one bin are uncertain: of logits that are spread
#: out, about one in so many.
BINS = 2**16


def separation(logits: object, labels: object, *, exact: bool = False) -> Separation:
    """Lowest true and highest false logit, the share of pairs in order, and the spread of the log-partitions.

    logits: array, tensor or Stream of shape (n, k), raw. labels: (n,) integers. exact: count the pairs one by one, so
    that the two bounds are one number, at several times the cost. The standard deviation is the population's.
    Two passes; memory O(n + k + block). Raises ValueError as `bench.accuracy.metrics.measure` does, and for a single
    class.
    """
    reading = read(logits, labels, partition=True)
    assert reading.partition is not None
    return separated(reading.true_logits, reading.partition, false_logits(reading, exact=exact), reading.classes)


def separated(true_logits: Floats, partition: RowPartition, found: "FalseLogits", classes: int) -> Separation:
    """From (n,) true logits, the rows' partitions, and what was found of the false logits of all classes."""
    examples = len(true_logits)
    pairs = examples * examples * (classes - 1)
    lowest_true = float(true_logits.min())
    log_partition = partition.log_partition
    return Separation(
        holds=lowest_true > found.highest,
        lowest_true=lowest_true,
        highest_false=found.highest,
        ordered_low=(pairs - found.disordered_high) / pairs,
        ordered_high=(pairs - found.disordered_low) / pairs,
        log_partition_mean=float(log_partition.mean()),
        log_partition_std=float(log_partition.std()),
    )


@dataclass(frozen=True)
class FalseLogits:
    """What some false logits say: the highest, and bounds on their pairs with true ones at or below."""

    highest: float
    disordered_low: int
    disordered_high: int

    @classmethod
    def of(cls, parts: "Iterable[FalseLogits]") -> Self:
        """Of all parts together."""
        every = list(parts)
        return cls(
            max(part.highest for part in every),
            sum(part.disordered_low for part in every),
            sum(part.disordered_high for part in every),
        )


class _Exactly:
    """Counts, for false logits, the true ones at or below them."""

    def __init__(self, true_logits: Reals) -> None:
        self._search = Search(true_logits)

    def __call__(self, logits: Reals) -> tuple[int, int]:
        pairs = int(self._search(logits).sum())
        return pairs, pairs


class _Binned:
    """Bounds the same by a histogram of the true logits."""

    def __init__(self, true_logits: Reals) -> None:
        self._grid = Grid(true_logits, BINS)
        held = np.bincount(self._grid.cell(true_logits), minlength=BINS + 2)
        self._through = np.cumsum(held)
        self._before: Integers = self._through - held

    def __call__(self, logits: Reals) -> tuple[int, int]:
        counts = np.bincount(self._grid.cell(logits), minlength=BINS + 2)
        return int(counts @ self._before), int(counts @ self._through)


def false_logits(reading: Reading, *, exact: bool) -> FalseLogits:
    """Pass over the logits again, against the true logits of all examples, of other classes than a reading's too.

    The true ones are taken as float32 too where that changes no number, to read at half cost.
    """
    ascending: dict[DTypeLike, Reals] = {np.dtype(np.float64): np.sort(reading.true_logits)}
    single = ascending[np.dtype(np.float64)].astype(np.float32)
    if np.array_equal(single, ascending[np.dtype(np.float64)]):
        ascending[np.dtype(np.float32)] = single
    counters = {dtype: _counter(logits, exact) for dtype, logits in ascending.items()}
    lowest = float(reading.true_logits.min())

    def look(panel: Panel) -> FalseLogits:
        logits = panel.false_scores(reading.labels, None)
        if logits.dtype not in counters:
            logits = logits.astype(np.float64)
        low, high = counters[logits.dtype](logits[logits >= lowest])
        return FalseLogits(float(logits.max()), low, high)

    return FalseLogits.of(over_panels(reading.stream, look))


def _counter(true_logits: Reals, exact: bool) -> _Exactly | _Binned:
    """Bins need a spread; where true logits have none, the exact count costs nothing."""
    return _Exactly(true_logits) if exact or not Grid(true_logits, BINS).usable else _Binned(true_logits)
