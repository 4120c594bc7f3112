"""The first pass, which every measure begins with; and false scores, panel by panel, which the later ones are made of.

Each example is a positive of exactly one class, so all classes together have only n thresholds: the scores of the
true logits. The first pass gathers those; a later one counts every false score against its own class's thresholds.

    first pass      z[i, y_i] -> Thresholds        what is no raw logit is refused
    later passes    block -> panels of some classes -> false scores that reach their class's lowest threshold

A true logit that is computed anew can differ in its last bit (another batch, another product): the later passes leave
the true entries out, and the true scores are those of the first pass alone.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import torch

from bench.accuracy.metrics.partition import RowPartition, refuse_a_single_class
from bench.accuracy.metrics.search import bisect, place
from bench.accuracy.metrics.streams import (
    Floats,
    Indices,
    Integers,
    Reals,
    Stream,
    arrays,
    as_labels,
    as_stream,
    by_class,
    chunks,
)

Score = Literal["single", "all"]
Result = TypeVar("Result")

#: Logits in a panel. It stays in the cache from its transposition to its counts.
PANEL = 2**17

#: Scores a class, on average, from which they are searched class by class; below, all of a panel at once.
BY_CLASS = 32

#: Rows whose probabilities sum to 1 within this are refused: bfloat16 rounds each of them by up to 2**-9 of itself, so
#: that a row of them is off by no more, and float16 by an eighth of it.
SUM_TOLERANCE = 2**-8


@dataclass(frozen=True, eq=False)
class Thresholds:
    """The true scores, class by class, ascending within a class.

    scores: (n,). examples: (n,) whose they are. starts: (k + 1,); those of class j are scores[starts[j]:starts[j + 1]].
    """

    scores: Reals
    examples: Indices
    starts: Indices

    @classmethod
    def of(cls, true_scores: Floats, labels: Integers, classes: int) -> "Thresholds":
        """Sort the (n,) true scores by their labels and themselves."""
        order = np.lexsort((true_scores, labels))
        sizes = np.bincount(labels, minlength=classes)
        return cls(true_scores[order], order, np.concatenate([[0], np.cumsum(sizes)]))

    @property
    def sizes(self) -> Indices:
        """(k,) positives of each class."""
        return np.diff(self.starts)

    @property
    def present(self) -> Indices:
        """Classes with positives, ascending."""
        return np.flatnonzero(self.sizes)

    @cached_property
    def lowest(self) -> Reals:
        """(k,) each class's lowest threshold; infinite where it has none, so that nothing reaches it."""
        lowest = np.full(len(self.starts) - 1, np.inf, self.scores.dtype)
        lowest[self.present] = self.scores[self.starts[self.present]]
        return lowest

    @cached_property
    def in_float32(self) -> "Thresholds | None":
        """The same at half the width, to compare float32 with; none if a score would be another number."""
        scores = self.scores.astype(np.float32)
        return Thresholds(scores, self.examples, self.starts) if np.array_equal(scores, self.scores) else None

    def like(self, scores: Reals) -> "Thresholds":
        """The same, in the type of some scores if that changes no number."""
        return self.in_float32 or self if scores.dtype == np.float32 else self


@dataclass(frozen=True, eq=False)
class Placed:
    """The false scores of a panel that reach their class's lowest threshold.

    own: the thresholds of the panel's classes, in Thresholds.scores. reached: (classes, rows) which scores they are.
    positions: (s,) in `own`, of the last threshold at or below each, class by class. tied: those of the scores that
    equal it.
    """

    rows: slice
    own: slice
    reached: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
    positions: Indices
    tied: Indices


@dataclass(frozen=True, eq=False)
class Reading:
    """What the first pass leaves: checked labels, the true scores, and what a row's log-odds need.

    partition: none for the single logit. true_logits: (n,), raw.
    """

    stream: Stream
    labels: Integers
    true_logits: Floats
    partition: RowPartition | None

    @property
    def examples(self) -> int:
        """Rows of the logits."""
        return self.stream.shape[0]

    @property
    def classes(self) -> int:
        """Columns of the logits."""
        return self.stream.shape[1]

    @cached_property
    def thresholds(self) -> Thresholds:
        """The true scores: log-odds where there is a partition, else the true logits themselves."""
        scores = self.true_logits
        if self.partition is not None:
            scores = self.partition.log_odds(self.labels, np.arange(self.examples), scores)
        return Thresholds.of(scores, self.labels, self.classes)

    def placed(self, work: Callable[[Placed], Result]) -> Iterator[Result]:
        """Read the stream again and do some work on every panel of false scores, in torch's number of threads."""
        thresholds = self.thresholds

        def place(panel: "Panel") -> Result:
            return work(_place(thresholds, panel, panel.false_scores(self.labels, self.partition)))

        return over_panels(self.stream, place)


@dataclass(frozen=True, eq=False)
class Panel:
    """Some classes of a block: values of shape (rows, columns), as they were read."""

    rows: slice
    columns: slice
    values: Reals

    def false_scores(self, labels: Integers, partition: RowPartition | None) -> Reals:
        """Scores of shape (columns, rows), contiguous, -inf in place of the true ones; log-odds given a partition."""
        scores: Reals
        if partition is None:
            scores = by_class(self.values, self.values.dtype)
        else:
            logits = by_class(self.values, np.dtype(np.float64))
            scores = partition.log_odds_by_class(self.columns, self.rows, logits)
        own = labels[self.rows]
        (here,) = np.nonzero((own >= self.columns.start) & (own < self.columns.stop))
        scores[own[here] - self.columns.start, here] = -np.inf
        return scores


def read(logits: object, labels: object, *, partition: bool) -> Reading:
    """Pass over the logits once.

    logits: array, tensor or Stream of shape (n, k). labels: (n,) integers. partition: whether log-odds or
    log-partitions will be asked for. Raises ValueError for whatever is no set of raw logits with a label each.
    """
    stream = as_stream(logits)
    examples, classes = stream.shape
    checked = as_labels(labels, examples, classes)
    if partition:
        refuse_a_single_class(classes)
    found = RowPartition.empty(examples) if partition else None
    true_logits = np.full(examples, np.nan)
    audit = _Audit(np.zeros(examples))
    for rows, columns, values in arrays(stream):
        own = checked[rows]
        (here,) = np.nonzero((own >= columns.start) & (own < columns.stop))
        true_logits[rows.start + here] = values[here, own[here] - columns.start]
        if audit.add(rows, values) and found is not None:
            found.add(rows, columns, values)
    audit.refuse(examples * classes, classes)
    return Reading(stream, checked, true_logits, found)


def over_panels(stream: Stream, work: Callable[[Panel], Result]) -> Iterator[Result]:
    """Read a stream and do some work on each of its panels, in torch's number of threads."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for block in arrays(stream):
            yield from threads.map(work, _panels(*block))


@dataclass
class _Audit:
    """Looks for what no raw logits hold. row_sums: (n,), of what was read."""

    row_sums: Floats
    not_finite: int = 0
    within_one: bool = True

    def add(self, rows: slice, values: Reals) -> bool:
        """Look at a block; false if it is not all finite."""
        low, high = values.min(), values.max()
        finite = bool(np.isfinite(low) and np.isfinite(high))
        if not finite:
            self.not_finite += values.size - int(np.count_nonzero(np.isfinite(values)))
        self.within_one = self.within_one and bool(low >= 0 and high <= 1)
        if self.within_one:
            self.row_sums[rows] += values.sum(axis=1, dtype=np.float64)
        return finite

    def refuse(self, logits: int, classes: int) -> None:
        if self.not_finite:
            raise ValueError(f"{self.not_finite} of {logits} logits are NaN or infinite")
        if classes > 1 and self.within_one and np.all(np.abs(self.row_sums - 1) <= SUM_TOLERANCE):
            raise ValueError(
                "these are probabilities: every row lies within [0, 1] and sums to 1. A softmax makes each score "
                "depend on all logits, so nothing can be said of a single one; pass the raw logits"
            )


def _panels(rows: slice, columns: slice, values: Reals) -> list[Panel]:
    span = max(1, PANEL // len(values))
    return [
        Panel(rows, slice(columns.start + part.start, columns.start + part.stop), values[:, part])
        for part in chunks(values.shape[1], span)
    ]


def _place(thresholds: Thresholds, panel: Panel, scores: Reals) -> Placed:
    thresholds = thresholds.like(scores)
    scores = scores.astype(thresholds.scores.dtype, copy=False)
    reached = scores >= thresholds.lowest[panel.columns, None]
    values = scores.ravel().compress(reached.ravel())  # several times as fast as scores[reached]
    counts = np.count_nonzero(reached, axis=1)
    starts = thresholds.starts[panel.columns.start : panel.columns.stop + 1]
    own = slice(int(starts[0]), int(starts[-1]))
    search = _search_by_class if values.size >= BY_CLASS * len(scores) else _search_at_once
    positions, tied = search(thresholds.scores[own], starts - starts[0], values, counts)
    return Placed(panel.rows, own, reached, positions, positions.take(tied))


def _search_by_class(held: Reals, starts: Indices, values: Reals, counts: Indices) -> tuple[Indices, Indices]:
    """Place the values of class c, counts[c] of them, among held[starts[c]:starts[c + 1]]; and which are tied."""
    positions = np.empty(values.size, np.intp)
    tied = [np.empty(0, np.intp)]
    end = 0
    for number in np.flatnonzero(counts).tolist():
        begin, end = end, end + int(counts[number])
        first = int(starts[number])
        at_or_below, equal = place(held[first : starts[number + 1]], values[begin:end])
        np.add(at_or_below, first - 1, out=positions[begin:end])
        tied.append(equal + begin)
    return positions, np.concatenate(tied)


def _search_at_once(held: Reals, starts: Indices, values: Reals, counts: Indices) -> tuple[Indices, Indices]:
    """The same by one bisection over (class, score): NumPy orders complex numbers by real, then by imaginary part."""
    numbers = np.arange(len(counts))
    found, tied = bisect(_pairs(np.repeat(numbers, np.diff(starts)), held), _pairs(np.repeat(numbers, counts), values))
    return found - 1, tied


def _pairs(classes: Indices, scores: Reals) -> "np.ndarray[tuple[int], np.dtype[np.complex128]]":
    pairs = np.empty(len(classes), np.complex128)
    pairs.real = classes
    pairs.imag = scores
    return pairs
