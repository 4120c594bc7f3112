"""The paper's measures (Sect. 6.1) of one score, for each class and as means over the classes.

Scores v of class j, P_j of n examples being positives; a test at threshold T says yes to v >= T:

    precision(T)    true positives / all who were said yes to
    AUPRC           mean over the positives of precision(their score): average precision
    Precision@r     precision(T_j), T_j the ceil(r P_j)-th largest score among the positives
    trapezoid       the area under straight lines between the points of the precision-recall curve, which begins at
                    recall 0 and precision 1 and goes no further than the first point of full recall

The second pass counts, for each threshold, the false scores above it and at it; all else is arithmetic on n numbers.
Of single logits in whole columns there is no second pass: each block holds its classes' thresholds and false scores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from bench.accuracy.metrics.partition import refuse_a_single_class, renumbered
from bench.accuracy.metrics.reading import (
    Audit,
    Reading,
    Score,
    Thresholds,
    block_by_block,
    first_pass,
)
from bench.accuracy.metrics.streams import (
    Floats,
    Indices,
    Integers,
    Selectable,
    WholeColumns,
    as_classes,
    as_labels,
    as_stream,
)
from bench.accuracy.records import ClassMeasures, ScoreMeasures


@dataclass(frozen=True, eq=False)
class ByClass:
    """Measures of each class, (k,) each; NaN where a class has no positives."""

    auprc: Floats
    auprc_trapezoid: Floats
    precision_at_90: Floats
    precision_at_99: Floats

    @classmethod
    def unknown(cls, classes: int) -> Self:
        """NaN for each of so many classes."""
        return cls(*(np.full(classes, np.nan) for _ in fields(cls)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Of the classes of all parts, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def put(self, places: Indices | slice, found: Self) -> None:
        """Write what was found of some classes."""
        for field in fields(self):
            getattr(self, field.name)[places] = getattr(found, field.name)

    def of_classes(self, numbers: Indices) -> Self:
        """Of some classes alone."""
        return type(self)(*(getattr(self, field.name)[numbers] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class Measures:
    """Means over the classes that have positives, and what they are means of.

    auprc: average precision. precision_at_90, precision_at_99: precision at the threshold that 90 and 99 % of a class's
    positives reach; all of them, where a class has fewer than 10 and 100.
    queried: numbers of the classes that were asked about, ascending, if not all: by_class is in their order, and means
    are over them. classes: how many there are, asked about or not.
    """

    auprc: float
    auprc_trapezoid: float
    precision_at_90: float
    precision_at_99: float
    by_class: ByClass
    classes_without_positives: tuple[int, ...]
    examples: int
    classes: int
    queried: tuple[int, ...] | None = None

    @classmethod
    def of(cls, by_class: ByClass, sizes: Indices, examples: int, queried: Indices | None = None) -> Self:
        """From the measures of all k classes and their numbers of positives, (k,).

        Raises ValueError if no class that was asked about has positives.
        """
        asked = np.arange(len(sizes)) if queried is None else queried
        found = by_class.of_classes(asked)
        (present,) = np.nonzero(sizes[asked])
        if not present.size:
            raise ValueError(f"none of the {len(asked)} classes to measure has an example")
        return cls(
            auprc=float(found.auprc[present].mean()),
            auprc_trapezoid=float(found.auprc_trapezoid[present].mean()),
            precision_at_90=float(found.precision_at_90[present].mean()),
            precision_at_99=float(found.precision_at_99[present].mean()),
            by_class=found,
            classes_without_positives=tuple(asked[sizes[asked] == 0].tolist()),
            examples=examples,
            classes=len(sizes),
            queried=None if queried is None else tuple(queried.tolist()),
        )

    def record(self) -> ScoreMeasures:
        """As it is written to a run: none stands for NaN.

        Raises ValueError where only some classes were measured: the record has no room for which.
        """
        if self.queried is not None:
            raise ValueError(f"measures of {len(self.queried)} of {self.classes} classes are no record of all")
        return ScoreMeasures(
            auprc=self.auprc,
            auprc_trapezoid=self.auprc_trapezoid,
            precision_at_90=self.precision_at_90,
            precision_at_99=self.precision_at_99,
            classes_without_positives=self.classes_without_positives,
            by_class=ClassMeasures(
                auprc=_none_for_nan(self.by_class.auprc),
                precision_at_90=_none_for_nan(self.by_class.precision_at_90),
                precision_at_99=_none_for_nan(self.by_class.precision_at_99),
            ),
        )


@dataclass(frozen=True, eq=False)
class Counts:
    """For each threshold, in the order of Thresholds, who is said yes to there: (n,) each.

    true, true_above: positives at or above it, and above it. false, false_above: negatives the same.
    last: position of the last threshold of the same class and score.
    """

    true: Indices
    true_above: Indices
    false: Indices
    false_above: Indices
    last: Indices

    @property
    def precision(self) -> Floats:
        """(n,) share of true ones among all at or above."""
        return np.asarray(self.true / (self.true + self.false))


def measure(logits: object, labels: object, *, score: Score = "single", classes: object = None) -> Measures:
    """Measure how well one score tells each class from all others.

    logits: array, tensor or Stream of shape (n, k), raw. labels: (n,) integers. score: "single" for the class's own
    logit, "all" for its log-odds from all logits, z_j - log sum over l != j of exp(z_l), which is what a softmax ranks
    by and does not saturate. classes: numbers of the classes to measure, if not all; every example of another class is
    a negative of theirs, and log-odds are against all k classes as ever. Two passes, or one over single logits in whole
    columns; a stream that is Selectable computes again no class that nothing is asked about. Memory O(n + k + block).
    Raises ValueError for probabilities, NaN, infinities, labels that do not fit, a single class with score="all", and
    classes that are none.
    """
    stream, whole = as_stream(logits), asks_for_all(score)
    if getattr(stream, "first_class", 0):
        raise ValueError("these are the logits of a shard of classes: measure it by sharded_measure")
    examples, number = stream.shape
    checked = as_labels(labels, examples, number)
    asked = as_classes(classes, number)
    if whole:
        refuse_a_single_class(number)
    sizes = np.bincount(checked, minlength=number)
    if whole or not isinstance(stream, WholeColumns):
        reading, audit = first_pass(stream, checked, partition=whole)
        audit.refuse_probabilities(number)
        by_class = of_reading(reading, asked)
    else:
        audit = Audit.of(examples)
        by_class = of_whole_columns(stream, checked, audit, asked)
        audit.refuse_probabilities(number)
    return Measures.of(by_class, sizes, examples, asked)


def of_reading(reading: Reading, asked: Indices | None = None) -> ByClass:
    """Measures of each class of a stream whose first pass is done, (k,) each; NaN for one that is not asked about."""
    if asked is None and not isinstance(reading.stream, Selectable) and (reading.labels >= 0).all():
        return _by_class(reading)
    by_class = ByClass.unknown(reading.classes)
    numbers = _worth_reading(reading.labels, asked)
    if numbers.size:
        by_class.put(numbers, _by_class(reading.among(numbers)))
    return by_class


def of_whole_columns(
    stream: WholeColumns, labels: Integers, audit: Audit, asked: Indices | None = None, first_class: int = 0
) -> ByClass:
    """The same of single logits by one pass. labels: (n,), -1 for a class that is not in the stream.

    audit has then seen all there is to tell probabilities by; first_class is added to what errors call a class.
    Raises ValueError if a logit is not finite, also one of a class that is not asked about.
    """
    classes = stream.shape[1]
    by_class = ByClass.unknown(classes)
    numbers = np.arange(classes)
    if isinstance(stream, Selectable):
        numbers = np.union1d(_worth_reading(labels, asked), np.flatnonzero(~stream.surely_finite()))
    for columns, reading in _blocks_of(stream, numbers, labels, audit, first_class):
        if (reading.labels >= 0).any():
            by_class.put(numbers[columns], _by_class(reading))
    if audit.within_one:
        rest = np.setdiff1d(np.arange(classes), numbers)
        for _ in _blocks_of(stream, rest, labels, audit, first_class):
            pass
    return by_class


def asks_for_all(score: str) -> bool:
    """Whether a score is made of all logits. Raises ValueError for one that is not known."""
    if score not in ("single", "all"):
        raise ValueError(f"score {score!r}: it is 'single' (the class's own logit) or 'all' (log-odds from all logits)")
    return score == "all"


def count(reading: Reading) -> Counts:
    """Pass over the logits again and count the false scores at and above every threshold."""
    thresholds = reading.thresholds
    last_at_or_below, tied = np.zeros((2, len(thresholds.scores)), np.int64)
    for tally in reading.tallied():
        last_at_or_below[tally.own] += tally.last
        tied[tally.own] += tally.tied
    return _counts(thresholds, last_at_or_below, tied)


def mean_by_class(thresholds: Thresholds, values: Floats) -> Floats:
    """(n,) values at the thresholds -> (k,) means; NaN for a class without positives."""
    means = np.full(len(thresholds.sizes), np.nan)
    present = thresholds.present
    means[present] = np.add.reduceat(values, thresholds.starts[present]) / thresholds.sizes[present]
    return means


def _worth_reading(labels: Integers, asked: Indices | None) -> Indices:
    """Classes whose false scores are needed: where there are no positives there is nothing to count them against."""
    present = np.unique(labels[labels >= 0])
    return present if asked is None else np.intersect1d(present, asked)


def _blocks_of(
    stream: WholeColumns, numbers: Indices, labels: Integers, audit: Audit, first_class: int
) -> Iterator[tuple[slice, Reading]]:
    """Read some classes of whole columns, or all, block by block; a block's columns are places in `numbers`."""
    if not numbers.size:
        return
    if len(numbers) == stream.shape[1]:
        yield from block_by_block(stream, labels, audit, numbers + first_class)
    elif isinstance(stream, Selectable):
        places = np.full(stream.shape[1], -1)
        places[numbers] = np.arange(len(numbers))
        yield from block_by_block(stream.of_classes(numbers), renumbered(labels, places), audit, numbers + first_class)


def _counts(thresholds: Thresholds, last_at_or_below: Indices, tied: Indices) -> Counts:
    """From how many false scores have each threshold as their last at or below, to who lies at or above each."""
    class_end = np.repeat(thresholds.starts[1:], thresholds.sizes)
    first, last = _runs(thresholds)
    before = np.concatenate([[0], np.cumsum(last_at_or_below)])
    false = before[class_end] - before[first]
    return Counts(
        true=class_end - first,
        true_above=class_end - last - 1,
        false=false,
        false_above=false - tied[last],
        last=last,
    )


def _runs(thresholds: Thresholds) -> tuple[Indices, Indices]:
    """Positions of the first and last of the equal thresholds that each one belongs to."""
    scores = thresholds.scores
    begins = np.ones(len(scores), np.bool_)
    begins[1:] = scores[1:] != scores[:-1]
    begins[thresholds.starts[thresholds.present]] = True
    firsts = np.flatnonzero(begins)
    lengths = np.diff(np.concatenate([firsts, [len(scores)]]))
    return np.repeat(firsts, lengths), np.repeat(firsts + lengths - 1, lengths)


def _by_class(reading: Reading) -> ByClass:
    """Count, and measure every class of a reading; at least one has positives."""
    thresholds, counts = reading.thresholds, count(reading)
    precision = counts.precision
    return ByClass(
        auprc=mean_by_class(thresholds, precision),
        auprc_trapezoid=mean_by_class(thresholds, (_precision_before(counts) + precision) / 2),
        precision_at_90=_at_recall(thresholds, precision, 90),
        precision_at_99=_at_recall(thresholds, precision, 99),
    )


def _precision_before(counts: Counts) -> Floats:
    """Precision just before the threshold sinks to each score: that of those above it; 1 where there is nobody."""
    above = counts.true_above + counts.false_above
    return np.asarray(np.where(above == 0, 1.0, counts.true_above / np.maximum(above, 1)))


def _at_recall(thresholds: Thresholds, precision: Floats, percent: int) -> Floats:
    """Precision at the ceil(percent / 100 * P)-th largest true score; in integers, so that nothing is rounded."""
    found = np.full(len(thresholds.sizes), np.nan)
    present = thresholds.present
    needed = -(-percent * thresholds.sizes[present] // 100)
    found[present] = precision[thresholds.starts[present + 1] - needed]
    return found


def _none_for_nan(values: Floats) -> tuple[float | None, ...]:
    return tuple(_optional(values.tolist()))


def _optional(values: list[float]) -> Iterator[float | None]:
    return (None if value != value else value for value in values)
