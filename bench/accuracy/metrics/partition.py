"""All logits of a row in one number: the log-odds of a class, without cancellation.

The score of class j is z_j - log sum_{l != j} exp(z_l). As log p - log(1 - p) it is lost where p is near 1, which is
where it matters: the softmax saturates at 1 and ties. So a row keeps its largest logit and the log-sum of all
others apart, both relative to the largest, and no difference of nearly equal numbers is ever formed:

    j is the largest            -(log-sum of the others - largest)
    any other j, so p <= 1/2    log p - log1p(-p)
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from bench.accuracy.metrics.streams import Floats, Indices, Reals, arrays, as_stream, by_class, chunks

#: Logits that are looked at together: their float64 temporaries are 8 MB each.
STEP = 2**20


@dataclass(frozen=True, eq=False)
class RowPartition:
    """What each row's partition function is made of; grows block by block, in O(n).

    peak: (n,) largest logit. peak_class: (n,) its class, the first that was read among equals, or -1 where it is none
    of the classes that are asked about. rest: (n,)
    log sum over all other classes of exp(logit - peak), -inf while there are none.
    """

    peak: Floats
    peak_class: Indices
    rest: Floats

    @classmethod
    def empty(cls, examples: int) -> Self:
        """Before anything is read."""
        return cls(np.full(examples, -np.inf), np.zeros(examples, np.intp), np.full(examples, -np.inf))

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """Of all classes, from those of parts of them; classes numbered alike in all parts, parts in their order."""
        whole = cls.empty(len(parts[0].peak))
        for part in parts:
            whole._merge(slice(None), part.peak, part.peak_class, part.rest)
        return whole

    def renumbered(self, places: Indices) -> Self:
        """The same for whoever has other numbers for the classes; places: (k,), -1 for a class that is not theirs."""
        return replace(self, peak_class=renumbered(self.peak_class, places))

    def add(self, rows: slice, columns: slice, values: Reals) -> None:
        """Take in a block of logits of shape (rows, columns), in torch's number of threads."""

        def take_in(part: slice) -> None:
            inside = slice(rows.start + part.start, rows.start + part.stop)
            self._merge(inside, *_parts(columns.start, np.array(values[part], np.float64, order="C")))

        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for _ in threads.map(take_in, chunks(len(values), max(1, STEP // values.shape[1]))):
                pass

    @property
    def log_partition(self) -> Floats:
        """(n,) log of the sum of a row's exponentials."""
        return self.peak + np.logaddexp(0, self.rest)

    def log_odds(self, classes: Indices, rows: Indices, logits: Floats) -> Floats:
        """Scores of some logits, each of one class in one row; arrays of one shape."""
        return np.where(
            self.peak_class[rows] == classes,
            (logits - self.peak[rows]) - self.rest[rows],
            _off_peak(logits, self.peak[rows], self.rest[rows]),
        )

    def log_odds_by_class(self, columns: slice, rows: slice, logits: Reals) -> Floats:
        """Scores of a rectangle of logits with one row a class, shape (columns, rows)."""
        peak, rest = self.peak[rows], self.rest[rows]
        scores = _off_peak(logits, peak, rest)
        peak_class = self.peak_class[rows]
        (here,) = np.nonzero((peak_class >= columns.start) & (peak_class < columns.stop))
        classes = peak_class[here] - columns.start
        scores[classes, here] = (logits[classes, here] - peak[here]) - rest[here]
        return scores

    def _merge(self, rows: slice, peak: Floats, peak_class: Indices, rest: Floats) -> None:
        largest = np.maximum(self.peak[rows], peak)
        runner_up = np.minimum(self.peak[rows], peak)
        self.rest[rows] = np.logaddexp(
            np.logaddexp(self.rest[rows] + (self.peak[rows] - largest), rest + (peak - largest)), runner_up - largest
        )
        self.peak_class[rows] = np.where(peak > self.peak[rows], peak_class, self.peak_class[rows])
        self.peak[rows] = largest


def log_odds(logits: object) -> Floats:
    """Log-odds of every class from all logits: z_j - log sum over l != j of exp(z_l), in float64.

    logits: array, tensor or Stream of shape (n, k); the result has that shape, so it is for what fits into memory.
    Raises ValueError for a single class.
    """
    stream = as_stream(logits)
    examples, classes = stream.shape
    refuse_a_single_class(classes)
    partition = RowPartition.empty(examples)
    for rows, columns, values in arrays(stream):
        partition.add(rows, columns, values)
    scores = np.empty(stream.shape)
    for rows, columns, values in arrays(stream):
        scores[rows, columns] = partition.log_odds_by_class(columns, rows, by_class(values, np.dtype(np.float64))).T
    return scores


def renumbered(classes: Indices, places: Indices) -> Indices:
    """Classes under other numbers; places: (k,), the new number of each class or -1. A class of -1 stays -1."""
    return np.where(classes >= 0, places[classes], -1)


def refuse_a_single_class(classes: int) -> None:
    """Raise ValueError where there is no other class to compare with."""
    if classes < 2:
        raise ValueError("there is a single class: nothing to weigh its logit against")


def _off_peak(logits: Reals, peak: Floats, rest: Floats) -> Floats:
    log_p = logits - peak - np.logaddexp(0, rest)
    with np.errstate(divide="ignore", invalid="ignore"):  # at the peak itself, whose score the caller puts in
        return np.asarray(log_p - np.log1p(-np.exp(log_p)), np.float64)


def _parts(first_class: int, values: Floats) -> tuple[Floats, Indices, Floats]:
    """Peak, its class and the rest of some rows; the values are used up."""
    at = np.arange(len(values))
    where = values.argmax(axis=1)
    peak = values[at, where]
    values[at, where] = -np.inf
    return peak, first_class + where, _log_sum(values) - peak


def _log_sum(values: Floats) -> Floats:
    """Log-sum-exp of each row; -inf for a row of -inf."""
    peak = values.max(axis=1)
    shift = np.where(np.isneginf(peak), 0, peak)
    with np.errstate(divide="ignore"):
        return np.asarray(shift + np.log(np.exp(values - shift[:, None]).sum(axis=1)))
