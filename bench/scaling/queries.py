"""The queries' measure: 1-AUPRC of one class's own positive and negative examples, query by query.

    query j     its 20 positives, and the first 10,000 of a shared pool that are not of class j
    precision   at the score of each positive: positives at or above it / all at or above it
    AUPRC       the mean of these 20 (average precision, ties included)

Queries are gone through some at a time; beyond the features of all examples (examples x d) little is held.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from archs.swapping import without_top
from bench.accuracy.data.mixture import Evidence
from bench.accuracy.data.synthetic import Queries, SyntheticDataset
from bench.accuracy.evaluation import features_of
from bench.accuracy.metrics import LayerLogits
from bench.accuracy.metrics.partition import RowPartition
from bench.accuracy.metrics.streams import arrays, by_class, chunks
from bench.scaling.records import QueryMeasure
from bench.scaling.run import QueryErrors

Floats = npt.NDArray[np.float64]

#: Scores of the pool that are looked at together, in float64: 16 MB, and a few temporaries of that size.
AT_ONCE = 2**21


class Scores(NamedTuple):
    """Scores of some examples for some classes, float64 of shape (classes, examples)."""

    single: Floats
    all: Floats


#: Rows of the queries' split, and places among the classes asked for -> their scores.
Score = Callable[[slice, slice], Scores]


def average_precision(positives: Floats, negatives: Floats) -> float:
    """Average precision of the scores of P positives (P,) and N negatives (N,), ties included.

    The mean over the positives of the precision at their own score, which equals scikit-learn's
    average_precision_score: examples that tie enter together. Raises ValueError for a score that is not a number, or
    no positive.
    """
    if not positives.size or np.isnan(positives).any() or np.isnan(negatives).any():
        raise ValueError("a query needs a positive example, and scores that are numbers")
    own, others = np.sort(positives), np.sort(negatives)
    true = own.size - np.searchsorted(own, own, side="left")
    false = others.size - np.searchsorted(others, own, side="left")
    return float((true / (true + false)).mean())


def of_model(model: nn.Module, top: str, queries: Queries, device: torch.device) -> QueryErrors:
    """By a trained network in evaluation mode, on the device; `top`: path of its linear top layer.

    single: the logit of the class asked for. all: its log-odds z_j - log sum over l != j of exp(z_l).
    Raises ValueError for a logit that is not finite.
    """
    layer = model.get_submodule(top)
    assert isinstance(layer, nn.Linear)
    split = queries.split.on(device)
    features = features_of(without_top(model, top).eval(), split, layer.in_features, device)
    partition = RowPartition.empty(len(features))
    for rows, columns, values in arrays(LayerLogits(features, layer.weight, layer.bias)):
        _refuse_not_finite(values)
        partition.add(rows, columns, values)
    asked = queries.classes.numpy()

    def score(rows: slice, chosen: slice) -> Scores:
        numbers = asked[chosen]
        places = np.full(layer.out_features, -1)
        places[numbers] = np.arange(len(numbers))
        own = RowPartition(partition.peak[rows], partition.peak_class[rows], partition.rest[rows]).renumbered(places)
        single = np.empty((len(numbers), rows.stop - rows.start))
        chunk = LayerLogits(features[rows], layer.weight, layer.bias).of_classes(numbers)
        for part, columns, values in arrays(chunk):
            single[columns, part] = by_class(values, np.dtype(np.float64))
        return Scores(single, own.log_odds_by_class(slice(0, len(numbers)), slice(0, single.shape[1]), single))

    return _errors(queries, score)


def of_optimum(dataset: SyntheticDataset, queries: Queries, device: torch.device) -> QueryErrors:
    """By the posterior log-odds, which rank a class's examples best; `single` and `all` are the same array."""
    mixture, split = dataset.mixture.on(device), queries.split.on(device)
    features = split.images(torch.arange(len(split)))
    evidence = mixture.evidence(features)

    def score(rows: slice, chosen: slice) -> Scores:
        own = Evidence(evidence.largest[rows], evidence.largest_class[rows], evidence.others[rows])
        odds = mixture.posterior_log_odds(features[rows], queries.classes[chosen].to(device), own)
        values = odds.t().contiguous().cpu().numpy()
        return Scores(values, values)

    found = _errors(queries, score)
    return QueryErrors(found.classes, found.single, found.single)


def measure_of(errors: Floats) -> QueryMeasure:
    """Mean over the queries (q,), and its standard error."""
    spread = float(errors.std(ddof=1)) / math.sqrt(len(errors)) if len(errors) > 1 else None
    return QueryMeasure(error=float(errors.mean()), standard_error=spread)


def _errors(queries: Queries, score: Score) -> QueryErrors:
    """1-AUPRC of every query, some queries at a time."""
    asked = len(queries.classes)
    pool = slice(queries.pool_start, len(queries.split))
    single, every = np.empty(asked), np.empty(asked)
    for chosen in chunks(asked, max(1, AT_ONCE // (pool.stop - pool.start))):
        own = score(slice(chosen.start * queries.positives, chosen.stop * queries.positives), chosen)
        others = score(pool, chosen)
        for place, query in enumerate(range(chosen.start, chosen.stop)):
            rows = slice(place * queries.positives, (place + 1) * queries.positives)
            negatives = (queries.negatives_of(query) - queries.pool_start).numpy()
            single[query] = 1 - average_precision(own.single[place, rows], others.single[place, negatives])
            every[query] = 1 - average_precision(own.all[place, rows], others.all[place, negatives])
    return QueryErrors(queries.classes.numpy().astype(np.int64), single, every)


def _refuse_not_finite(values: npt.NDArray[np.float32] | Floats) -> None:
    if not np.isfinite(values).all():
        raise ValueError("a logit of the queries' examples is not finite")
