"""Measures of a layer over ranks: each measures its own classes on all examples, each example once.

Whether the classes are split (ShardedTopLayer) or every rank holds them all, a rank measures some of the classes
(bench.accuracy.metrics.sharding), so nothing is padded, measured twice, or averaged. The features of all examples, n x
d, are held by each rank meanwhile; n x k nowhere.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.accuracy.metrics import LayerLogits, Measures, Score, sharded_measure
from bench.accuracy.metrics.hits import largest
from bench.accuracy.ranks.process_group import Ranks, on_all, shares


@dataclass(frozen=True, eq=False)
class OwnClasses:
    """Some classes' logits of all examples: features (n, d), labels (n,) of the whole layer, own rows of the layer."""

    logits: LayerLogits
    labels: NDArray[np.int64]
    ranks: Ranks

    def measure(self, score: Score, *, classes: object = None) -> Measures:
        """The paper's measures, the same on all ranks and equal to one process's; see bench.accuracy.metrics.measure.

        Raises ValueError on all ranks where `measure` does on one.
        """
        return sharded_measure(self.logits, self.labels, score, self.ranks.gather_objects, classes=classes)

    def accuracy(self) -> float:
        """Share of examples whose largest logit is that of their class; among equal ones the lowest class counts."""
        parts = on_all(self.ranks, lambda: largest(self.logits, self.logits.first_class))
        peaks = np.stack([peak for peak, _ in parts])
        # equal peaks: the lowest class of all ranks
        classes = np.where(peaks == peaks.max(0), np.stack([places for _, places in parts]), np.iinfo(np.int64).max)
        return float(np.count_nonzero(classes.min(0) == self.labels) / len(self.labels))


def own_classes(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, first_class: int, ranks: Ranks
) -> OwnClasses:
    """From this rank's examples, features (n_r, d) and labels (n_r,), and its rows of the layer, (k_local, d).

    Rank r has the examples shares(n, ranks.size)[r], so that gathered they are in their order.
    """
    lengths = [int(length) for length in ranks.gather_objects(len(labels))]
    everyone = torch.cat(ranks.all_gather(features.detach(), lengths))
    all_labels = torch.cat(ranks.all_gather(labels.long(), lengths))
    return OwnClasses(LayerLogits(everyone, weight, bias, first_class=first_class), all_labels.cpu().numpy(), ranks)


def own_part_of(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, ranks: Ranks) -> OwnClasses:
    """The same where every rank holds the whole layer, (k, d): it measures its share of the classes."""
    own = shares(len(weight), ranks.size)[ranks.rank]
    return own_classes(features, labels, weight[own], None if bias is None else bias[own], own.start, ranks)
