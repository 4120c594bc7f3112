"""The paper's measures (Sect. 6.1) of one score, for each class and as means over the classes.

Scores v of class j, P_j of n examples being positives; a test at threshold T says yes to v >= T:

    precision(T)    true positives / all who were said yes to
    AUPRC           mean over the positives of precision(their score): average precision
    Precision@r     precision(T_j), T_j the ceil(r P_j)-th largest score among the positives
    trapezoid       the area under straight lines between the points of the precision-recall curve, which begins at
                    recall 0 and precision 1 and goes no further than the first point of full recall

The second pass counts, for each threshold, the false scores above it and at it; all else is arithmetic on n numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.accuracy.metrics.reading import Placed, Reading, Score, Thresholds, read
from bench.accuracy.metrics.streams import Floats, Indices
from bench.accuracy.records import ClassMeasures, ScoreMeasures


@dataclass(frozen=True, eq=False)
class ByClass:
    """Measures of each class, (k,) each; NaN where a class has no positives."""

    auprc: Floats
    auprc_trapezoid: Floats
    precision_at_90: Floats
    precision_at_99: Floats


@dataclass(frozen=True, eq=False)
class Measures:
    """Means over the classes that have positives, and what they are means of.

    auprc: average precision. precision_at_90, precision_at_99: precision at the threshold that 90 and 99 % of a class's
    positives reach; all of them, where a class has fewer than 10 and 100.
    """

    auprc: float
    auprc_trapezoid: float
    precision_at_90: float
    precision_at_99: float
    by_class: ByClass
    classes_without_positives: tuple[int, ...]
    examples: int
    classes: int

    def record(self) -> ScoreMeasures:
        """As it is written to a run: none stands for NaN."""
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


def measure(logits: object, labels: object, *, score: Score = "single") -> Measures:
    """Measure how well one score tells each class from all others.

    logits: array, tensor or Stream of shape (n, k), raw. labels: (n,) integers. score: "single" for the class's own
    logit, "all" for its log-odds from all logits, z_j - log sum over l != j of exp(z_l), which is what a softmax ranks
    by and does not saturate. Two passes; memory O(n + k + block).
    Raises ValueError for probabilities, NaN, infinities, labels that do not fit, and a single class with score="all".
    """
    reading = read(logits, labels, partition=asks_for_all(score))
    thresholds = reading.thresholds
    by_class = _by_class(thresholds, count(reading))
    present = thresholds.present
    return Measures(
        auprc=float(by_class.auprc[present].mean()),
        auprc_trapezoid=float(by_class.auprc_trapezoid[present].mean()),
        precision_at_90=float(by_class.precision_at_90[present].mean()),
        precision_at_99=float(by_class.precision_at_99[present].mean()),
        by_class=by_class,
        classes_without_positives=tuple(np.flatnonzero(thresholds.sizes == 0).tolist()),
        examples=reading.examples,
        classes=reading.classes,
    )


def asks_for_all(score: str) -> bool:
    """Whether a score is made of all logits. Raises ValueError for one that is not known."""
    if score not in ("single", "all"):
        raise ValueError(f"score {score!r}: it is 'single' (the class's own logit) or 'all' (log-odds from all logits)")
    return score == "all"


def count(reading: Reading) -> Counts:
    """Pass over the logits again and count the false scores at and above every threshold."""
    thresholds = reading.thresholds
    at_or_after, tied = np.zeros((2, reading.examples), np.int64)
    for own, new, new_tied in reading.placed(_tally):
        at_or_after[own] += new
        tied[own] += new_tied
    return _counts(thresholds, at_or_after, tied)


def mean_by_class(thresholds: Thresholds, values: Floats) -> Floats:
    """(n,) values at the thresholds -> (k,) means; NaN for a class without positives."""
    means = np.full(len(thresholds.sizes), np.nan)
    present = thresholds.present
    means[present] = np.add.reduceat(values, thresholds.starts[present]) / thresholds.sizes[present]
    return means


def _tally(placed: Placed) -> tuple[slice, Indices, Indices]:
    """Of a panel: its classes' thresholds, and how many false scores have each as their last at or below, or equal."""
    length = placed.own.stop - placed.own.start
    return placed.own, np.bincount(placed.positions, minlength=length), np.bincount(placed.tied, minlength=length)


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


def _by_class(thresholds: Thresholds, counts: Counts) -> ByClass:
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
