"""How often the largest logit is the true one."""

import numpy as np

from bench.accuracy.metrics.streams import Floats, Indices, Reals, Stream, arrays, as_labels, as_stream


def accuracy(logits: object, labels: object) -> float:
    """Share of examples whose largest logit is that of their class; among equal ones the lowest class counts.

    logits: array, tensor or Stream of shape (n, k), whose blocks may be of rows or of columns. labels: (n,) integers.
    One pass; memory O(n + block). Raises ValueError for labels that do not fit, and for a NaN.
    """
    stream = as_stream(logits)
    checked = as_labels(labels, *stream.shape)
    _, classes = largest(stream)
    return float(np.count_nonzero(classes == checked) / len(checked))


def largest(stream: Stream, first_class: int = 0) -> tuple[Floats, Indices]:
    """Each example's largest logit, and the lowest class that has it: (n,), (n,).

    first_class: the number of the stream's first class, for a stream of some classes of a layer. One pass; memory
    O(n + block). Raises ValueError for a NaN.
    """
    peak = np.full(stream.shape[0], -np.inf)
    peak_class = np.full(stream.shape[0], first_class + stream.shape[1])
    for rows, columns, values in arrays(stream):
        where = _first_largest(values)
        found = np.take_along_axis(values, where[:, None], axis=1)[:, 0].astype(np.float64)
        classes = first_class + columns.start + where
        if np.isnan(found).any():
            low, high = first_class + columns.start, first_class + columns.stop - 1
            raise ValueError(f"a logit of classes {low} .. {high} is NaN: none is largest")
        wins = (found > peak[rows]) | ((found == peak[rows]) & (classes < peak_class[rows]))
        peak[rows][wins], peak_class[rows][wins] = found[wins], classes[wins]
    return peak, peak_class


def _first_largest(values: Reals) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """(rows,) column of each row's largest value, the first of equal ones, and of a NaN where there is one."""
    found: np.ndarray[tuple[int], np.dtype[np.intp]] = values.argmax(axis=1)
    return found
