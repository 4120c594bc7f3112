"""How often the largest logit is the true one."""

import numpy as np

from bench.accuracy.metrics.streams import Reals, arrays, as_labels, as_stream


def accuracy(logits: object, labels: object) -> float:
    """Share of examples whose largest logit is that of their class; among equal ones the lowest class counts.

    logits: array, tensor or Stream of shape (n, k), whose blocks may be of rows or of columns. labels: (n,) integers.
    One pass; memory O(n + block). Raises ValueError for labels that do not fit, and for a NaN.
    """
    stream = as_stream(logits)
    checked = as_labels(labels, *stream.shape)
    peak = np.full(stream.shape[0], -np.inf)
    peak_class = np.full(stream.shape[0], stream.shape[1])
    for rows, columns, values in arrays(stream):
        where = _first_largest(values)
        found = np.take_along_axis(values, where[:, None], axis=1)[:, 0].astype(np.float64)
        if np.isnan(found).any():
            raise ValueError(f"a logit of classes {columns.start} .. {columns.stop - 1} is NaN: none is largest")
        classes = columns.start + where
        wins = (found > peak[rows]) | ((found == peak[rows]) & (classes < peak_class[rows]))
        peak[rows][wins], peak_class[rows][wins] = found[wins], classes[wins]
    return float(np.count_nonzero(peak_class == checked) / len(checked))


def _first_largest(values: Reals) -> "np.ndarray[tuple[int], np.dtype[np.intp]]":
    """(rows,) column of each row's largest value, the first of equal ones, and of a NaN where there is one."""
    found: np.ndarray[tuple[int], np.dtype[np.intp]] = values.argmax(axis=1)
    return found
