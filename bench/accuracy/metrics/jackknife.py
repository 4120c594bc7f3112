"""Each test example's pull on a mean AUPRC: its empirical influence function, divided by the number of examples.

With weights w on the examples, class j's average precision is

    AP_j(w) = sum over its positives i of w_i pi_i / W_j        W_j = sum of w_i over its positives
    pi_i = TP_i / (TP_i + FP_i)                                 TP_i, FP_i = weight of its positives, of all others,
                                                                with a score at or above that of i

Its derivative with respect to one weight, at equal weights of 1 (N_i = TP_i + FP_i, P_j positives):

    of a positive m     (pi_m - AP_j + sum over positives i with v_i <= v_m of FP_i / N_i^2) / P_j
    of any other m                   - sum over positives i with v_i <= v_m of TP_i / N_i^2  / P_j

AP_j is the same whatever all weights are multiplied by, so these derivatives sum to 0 over the examples: keeping the
sum of the weights costs no further term. See docs/measures.md.
"""

import numpy as np

from bench.accuracy.metrics.measures import Counts, asks_for_all, count, mean_by_class
from bench.accuracy.metrics.reading import Placed, Reading, Score, Thresholds, read
from bench.accuracy.metrics.streams import Floats


def influence(logits: object, labels: object, *, score: Score = "single") -> Floats:
    """Influence of each example on 1 - AUPRC, the mean over the classes that have positives; (n,), summing to 0.

    It is the derivative with respect to the example's weight when all weights are 1. The sum of its squares is the
    infinitesimal-jackknife variance of the measure (Efron, The jackknife, the bootstrap and other resampling plans,
    1982, Ch. 6), and the sum of the squares of a difference of two influences that of the paired difference.
    Which classes count is held fixed. Arguments and errors as for `bench.accuracy.metrics.measure`; three passes.
    """
    reading = read(logits, labels, partition=asks_for_all(score))
    return -pull_of(reading) / len(reading.thresholds.present)


def pull_of(reading: Reading) -> Floats:
    """(n,) derivative of the sum of the AUPRC of a reading's classes with respect to each example's weight.

    Of examples of other classes too (label -1), which are negatives of these. Two passes.
    """
    thresholds = reading.thresholds
    counts = count(reading)
    pull = np.zeros(reading.examples)
    pull[thresholds.examples] = _of_positives(thresholds, counts)
    slope = counts.true / np.square(counts.true + counts.false, dtype=np.float64)
    lost = _running_mean(thresholds, slope)
    for rows, losses in reading.placed(lambda placed: _of_negatives(lost, placed)):
        pull[rows] -= losses
    return pull


def _of_positives(thresholds: Thresholds, counts: Counts) -> Floats:
    """(n,) derivative of its own class's AP with respect to each threshold's example."""
    sizes = np.repeat(thresholds.sizes, thresholds.sizes)
    average = np.repeat(mean_by_class(thresholds, counts.precision), thresholds.sizes)
    gained = _running_mean(thresholds, counts.false / np.square(counts.true + counts.false, dtype=np.float64))
    return np.asarray((counts.precision - average) / sizes + gained[counts.last])


def _of_negatives(lost: Floats, placed: Placed) -> tuple[slice, Floats]:
    """What the rows of a panel lose the classes of the panel they do not belong to, summed over those."""
    length = placed.rows.stop - placed.rows.start
    rows = np.flatnonzero(placed.reached) % length
    losses: Floats = np.bincount(rows, weights=lost[placed.own].take(placed.positions), minlength=length).astype(
        np.float64, copy=False
    )
    return placed.rows, losses


def _running_mean(thresholds: Thresholds, values: Floats) -> Floats:
    """Sum of a class's values up to each threshold, over the number of the class's positives."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    before = np.repeat(sums[thresholds.starts[:-1]], thresholds.sizes)
    return np.asarray((sums[1:] - before) / np.repeat(thresholds.sizes, thresholds.sizes))
