"""The first pass, which every measure begins with; and false scores, panel by panel, which the later ones are made of.

Each example is a positive of exactly one class, so all classes together have only n thresholds: the scores of the
true logits. The first pass gathers those; a later one counts every false score against its own class's thresholds.

    first pass      z[i, y_i] -> Thresholds        what is no raw logit is refused
    later passes    block -> panels of some classes -> false scores that reach their class's lowest threshold

A true logit that is computed anew can differ in its last bit (another batch, another product): the later passes leave
the true entries out, and the true scores are those of the first pass alone.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch

from bench.accuracy.metrics.partition import RowPartition, refuse_a_single_class, renumbered
from bench.accuracy.metrics.search import bisect, place
from bench.accuracy.metrics.streams import (
    Floats,
    Indices,
    Integers,
    Reals,
    RowChunks,
    Stream,
    WholeColumns,
    arrays,
    as_labels,
    as_stream,
    by_class,
    chunks,
    of_classes,
)

Mask = np.ndarray[tuple[int, int], np.dtype[np.bool_]]
Score = Literal["single", "all"]
Result = TypeVar("Result")

#: Logits in a panel. It stays in the cache from its transposition to its counts.
PANEL = 2**17

#: Scores a class, on average, from which they are searched class by class; below, all of a panel at once.
BY_CLASS = 32

#: Thresholds a class, up to which its scores are compared with each in turn: 0.25 ns a score and threshold, where a
#: search takes 10 ns a score whatever the thresholds.
COMPARED = 16

#: Rows whose probabilities sum to 1 within this are refused: bfloat16 rounds each of them by up to 2**-9 of itself, so
#: that a row of them is off by no more, and float16 by an eighth of it.
SUM_TOLERANCE = 2**-8


@dataclass(frozen=True, eq=False)
class Thresholds:
    """The true scores, class by class, ascending within a class.

    scores: (n,). examples: (n,) whose they are. starts: (k + 1,); those of class j are scores[starts[j]:starts[j + 1]].
    Where only some classes are read, n is the number of their examples.
    """

    scores: Reals
    examples: Indices
    starts: Indices

    @classmethod
    def of(cls, true_scores: Floats, labels: Integers, classes: int) -> "Thresholds":
        """Sort the (n,) true scores by their labels and themselves; without those whose label is -1."""
        (own,) = np.nonzero(labels >= 0)
        order = own[np.lexsort((true_scores[own], labels[own]))]
        sizes = np.bincount(labels[own], minlength=classes)
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
    reached: Mask
    positions: Indices
    tied: Indices


class Tally(NamedTuple):
    """The false scores of a panel, counted.

    own: the thresholds of the panel's classes, in Thresholds.scores. last: how many false scores have each as their
    last at or below. tied: how many equal it; of equal thresholds only the last one's number counts.
    """

    own: slice
    last: Indices
    tied: Indices


@dataclass(frozen=True, eq=False)
class Reading:
    """What the first pass leaves: checked labels, the true scores, and what a row's log-odds need.

    Classes have the stream's numbers, which may be part of a larger layer's. labels: (n,), -1 for an example of a class
    that the stream leaves out. true_logits: (n,), raw; NaN where the label is -1. partition: none for the single logit.
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
            (own,) = np.nonzero(self.labels >= 0)
            scores = np.full(self.examples, np.nan)
            scores[own] = self.partition.log_odds(self.labels[own], own, self.true_logits[own])
        return Thresholds.of(scores, self.labels, self.classes)

    def among(self, numbers: Indices) -> "Reading":
        """The same of some classes only, ascending; every example of another class is a negative of theirs."""
        places = np.full(self.classes, -1)
        places[numbers] = np.arange(len(numbers))
        partition = None if self.partition is None else self.partition.renumbered(places)
        return Reading(of_classes(self.stream, numbers), renumbered(self.labels, places), self.true_logits, partition)

    def tallied(self) -> "Iterator[Tally]":
        """Read the stream again and count the false scores of every panel, in torch's number of threads."""
        thresholds = self.thresholds

        def tally(panel: "Panel") -> Tally:
            return _tally(thresholds, panel, panel.false_scores(self.labels, self.partition))

        return over_panels(self.stream, tally)

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
    reading, audit = first_pass(stream, checked, partition=partition)
    audit.refuse_probabilities(classes)
    return reading


def first_pass(
    stream: Stream, labels: Integers, *, partition: bool, names: Indices | None = None
) -> "tuple[Reading, Audit]":
    """The same for checked labels, or of some of the classes, where a label may be -1: its class is not among them.

    names: (k,) what errors call the classes, if not by their place. Probabilities are not refused yet: with some of the
    classes there is no telling.
    """
    examples, classes = stream.shape
    found = RowPartition.empty(examples) if partition else None
    true_logits = np.full(examples, np.nan)
    audit = Audit.of(examples)
    for rows, columns, values in arrays(stream):
        own = labels[rows]
        (here,) = np.nonzero((own >= columns.start) & (own < columns.stop))
        true_logits[rows.start + here] = values[here, own[here] - columns.start]
        if audit.add(rows, columns, values) and found is not None:
            found.add(rows, columns, values)
    audit.refuse_not_finite(examples * classes, np.arange(classes) if names is None else names)
    return Reading(stream, labels, true_logits, found), audit


def block_by_block(
    stream: WholeColumns, labels: Integers, audit: "Audit", names: Indices
) -> Iterator[tuple[slice, Reading]]:
    """Read whole columns once: each block with its classes as a Reading of its own, valid until the next is asked for.

    labels: (n,), -1 where the class is not in the stream. names: (k,) what errors call the classes. Raises ValueError
    for a block that leaves out examples, and, naming its classes, for one that is not all finite.
    """
    for rows, columns, values in arrays(stream):
        if rows != slice(0, len(labels)):
            raise ValueError(
                f"a block of whole columns holds examples {rows.start} .. {rows.stop - 1} alone, of {len(labels)}"
            )
        own = np.where((labels >= columns.start) & (labels < columns.stop), labels - columns.start, -1)
        (here,) = np.nonzero(own >= 0)
        true_logits = np.full(len(labels), np.nan)
        true_logits[here] = values[here, own[here]]
        audit.add(rows, columns, values)
        audit.refuse_not_finite(values.size, names, columns)
        yield columns, Reading(RowChunks(values.__getitem__, values.shape, len(values)), own, true_logits, None)


def over_panels(stream: Stream, work: Callable[[Panel], Result]) -> Iterator[Result]:
    """Read a stream and do some work on each of its panels, in torch's number of threads."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for block in arrays(stream):
            yield from threads.map(work, _panels(*block))


@dataclass
class Audit:
    """Looks for what no raw logits hold. row_sums: (n,), of what was read while all of it lay within [0, 1].

    first: example and class of the first logit that is not finite.
    """

    row_sums: Floats
    not_finite: int = 0
    first: tuple[int, int] = (-1, -1)
    within_one: bool = True

    @classmethod
    def of(cls, examples: int) -> "Audit":
        """Before anything is read."""
        return cls(np.zeros(examples))

    @classmethod
    def merged(cls, parts: "Sequence[Audit]") -> "Audit":
        """Of all classes, from those of parts of them, in which everything was finite."""
        row_sums = np.sum([part.row_sums for part in parts], axis=0)
        return cls(row_sums, within_one=all(part.within_one for part in parts))

    def add(self, rows: slice, columns: slice, values: Reals) -> bool:
        """Look at a block; false if it is not all finite."""
        low, high = values.min(), values.max()
        finite = bool(np.isfinite(low) and np.isfinite(high))
        if not finite:
            bad = np.argwhere(~np.isfinite(values))
            if not self.not_finite:
                self.first = (rows.start + int(bad[0, 0]), columns.start + int(bad[0, 1]))
            self.not_finite += len(bad)
        self.within_one = self.within_one and bool(low >= 0 and high <= 1)
        if self.within_one:
            self.row_sums[rows] += values.sum(axis=1, dtype=np.float64)
        return finite

    def refuse_not_finite(self, logits: int, names: Indices, columns: slice | None = None) -> None:
        """Raise ValueError if some of so many logits are not finite.

        names: (k,) what the classes are called; columns: those that were read, if not all.
        """
        if not self.not_finite:
            return
        example, place = self.first
        read = "" if columns is None else f", those of classes {names[columns][0]} .. {names[columns][-1]},"
        raise ValueError(
            f"{self.not_finite} of {logits} logits{read} are NaN or infinite; "
            f"the first is of example {example} and class {names[place]}"
        )

    def refuse_probabilities(self, classes: int) -> None:
        """Raise ValueError if every row of all classes that there are lies within [0, 1] and sums to 1."""
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


@dataclass(frozen=True, eq=False)
class _Reaching:
    """The false scores of a panel that reach their class's lowest threshold, and the thresholds of its classes.

    reached: (classes, rows). values: (s,) class by class, counts[c] of class c. held: thresholds scores[own], those of
    class c from starts[c] to starts[c + 1].
    """

    own: slice
    held: Reals
    starts: Indices
    reached: Mask
    values: Reals
    counts: Indices

    @classmethod
    def of(cls, thresholds: Thresholds, panel: Panel, scores: Reals) -> "_Reaching":
        thresholds = thresholds.like(scores)
        scores = scores.astype(thresholds.scores.dtype, copy=False)
        reached = scores >= thresholds.lowest[panel.columns, None]
        values = scores.ravel().compress(reached.ravel())  # several times as fast as scores[reached]
        counts = np.array([np.count_nonzero(row) for row in reached])  # several times as fast as along an axis
        starts = thresholds.starts[panel.columns.start : panel.columns.stop + 1]
        own = slice(int(starts[0]), int(starts[-1]))
        return cls(own, thresholds.scores[own], starts - starts[0], reached, values, counts)

    @property
    def classes(self) -> int:
        return len(self.counts)

    @property
    def by_class(self) -> bool:
        """Whether there are so many that a call or several for each class pay."""
        return self.values.size >= BY_CLASS * self.classes

    def place(self) -> tuple[Indices, Indices]:
        """Position of the last threshold at or below each value; and which values are tied with it."""
        search = _search_by_class if self.by_class else _search_at_once
        return search(self.held, self.starts, self.values, self.counts)


def _place(thresholds: Thresholds, panel: Panel, scores: Reals) -> Placed:
    found = _Reaching.of(thresholds, panel, scores)
    positions, tied = found.place()
    return Placed(panel.rows, found.own, found.reached, positions, positions.take(tied))


def _tally(thresholds: Thresholds, panel: Panel, scores: Reals) -> Tally:
    found = _Reaching.of(thresholds, panel, scores)
    if found.by_class and len(found.held) <= COMPARED * found.classes:
        return Tally(found.own, *_compared(found))
    positions, tied = found.place()
    length = len(found.held)
    return Tally(
        found.own,
        np.bincount(positions, minlength=length),
        np.bincount(positions.take(tied), minlength=length),
    )


def _compared(found: _Reaching) -> tuple[Indices, Indices]:
    """What bincount makes of positions and ties, by comparing all values of a class with each of its thresholds."""
    at_or_above, tied = np.zeros((2, len(found.held) + 1), np.intp)
    next_class = np.zeros(len(found.held) + 1, np.bool_)
    next_class[found.starts] = True
    end = 0
    for number in np.flatnonzero(found.counts).tolist():
        begin, end = end, end + int(found.counts[number])
        values = found.values[begin:end]
        for position in range(int(found.starts[number]), int(found.starts[number + 1])):
            threshold = found.held[position]
            at_or_above[position] = np.count_nonzero(values >= threshold)
            tied[position] = at_or_above[position] - np.count_nonzero(values > threshold)
    above = np.where(next_class[1:], 0, at_or_above[1:])
    return at_or_above[:-1] - above, tied[:-1]


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
