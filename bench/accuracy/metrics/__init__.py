"""How well scores tell classes apart: exact, ties included, from logits in memory or streamed.

    from bench.accuracy.metrics import measure

    measure(logits, labels).auprc                  # of the single logit (SLC), mean over the classes
    measure(logits, labels, score="all").auprc     # of the log-odds from all logits

Logits are raw: never probabilities, never softmaxed. They are an array or a tensor of shape (examples, classes), or a
Stream, which is read two or three times and never held: memory grows with the examples and with the classes, not with
their product. Definitions and derivations: docs/measures.md.
"""

from bench.accuracy.metrics.hits import accuracy
from bench.accuracy.metrics.jackknife import influence
from bench.accuracy.metrics.layer import LayerLogits
from bench.accuracy.metrics.measures import ByClass, Measures, measure
from bench.accuracy.metrics.pairs import separation
from bench.accuracy.metrics.partition import log_odds
from bench.accuracy.metrics.reading import Score
from bench.accuracy.metrics.sharding import Gather, over_ranks, sharded_influence, sharded_measure, sharded_separation
from bench.accuracy.metrics.streams import Block, ColumnChunks, RowChunks, Stream

__all__ = [
    "Block",
    "ByClass",
    "ColumnChunks",
    "Gather",
    "LayerLogits",
    "Measures",
    "RowChunks",
    "Score",
    "Stream",
    "accuracy",
    "influence",
    "log_odds",
    "measure",
    "over_ranks",
    "separation",
    "sharded_influence",
    "sharded_measure",
    "sharded_separation",
]
