"""A trained model meets the data, as in bench.accuracy.evaluation, with the classes of its top layer spread over ranks.

    rank r: features of its share of the examples, each example once   --gathered-->   all features, on every rank
            the logits of its own classes, a chunk of them at a time   --counted-->    parts that add up exactly

The record is that of one process, to the rounding of its sums; nothing is padded, nothing measured twice. A rank holds
n x d features, its own rows of the layer, and one chunk of logits.
"""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bench.accuracy.data import Dataset, Split
from bench.accuracy.evaluation import (
    Limits,
    counts_of,
    drawn,
    features_of,
    limits_of,
    most_frequent,
    room_for_features,
)
from bench.accuracy.metrics import sharded_influence, sharded_separation
from bench.accuracy.ranks.measuring import OwnClasses, own_classes
from bench.accuracy.ranks.process_group import Ranks, on_all, on_each, shares
from bench.accuracy.records import Evaluation, Histogram
from bench.accuracy.run import Influence
from bench.accuracy.settings import Member


@dataclass(frozen=True, eq=False)
class OwnLayer:
    """A network on this rank: what makes the features, and its rows of the top layer, (k_local, d) and (k_local,)."""

    backbone: nn.Module
    weight: Tensor
    bias: Tensor | None
    first_class: int

    def on(self, device: torch.device) -> "OwnLayer":
        """The same on a device, in evaluation mode."""
        bias = None if self.bias is None else self.bias.detach().to(device)
        return OwnLayer(
            self.backbone.to(device).eval(), self.weight.detach().to(device), bias, first_class=self.first_class
        )


def features_fit(dataset: Dataset, width: int, device: torch.device, ranks: Ranks) -> bool:
    """Whether every rank may hold the features of all examples of a split: in half of its share of the free memory.

    Ranks on one machine's memory are taken to be all of them: rather too few features are held than too many.
    """
    examples = max(len(dataset.train), len(dataset.test))
    sharing = ranks.size if device.type == "cpu" else 1
    return all(ranks.gather_objects(room_for_features(examples, width, device, sharing)))


def evaluate_over_ranks(
    member: Member, layer: OwnLayer, dataset: Dataset, device: torch.device, ranks: Ranks
) -> tuple[Evaluation, Influence]:
    """Test a chosen model: what bench.accuracy.evaluation.evaluate finds, the same on all ranks but for `seconds`.

    Called by all ranks with the same member and data. Raises as `evaluate` does, on all ranks where it does on one.
    """
    start = time.monotonic()
    layer = layer.on(device)
    shown = most_frequent(dataset.test.labels.numpy())
    test = _own(layer, dataset.test.on(device), device, ranks)
    single = test.measure("single").record()  # first: it refuses logits that are not finite
    of_class, pooled = _histograms(test, shown, ranks)
    every = test.measure("all").record()
    influence = Influence(
        *(sharded_influence(test.logits, test.labels, score, ranks.gather_objects) for score in ("single", "all"))
    )
    accuracy = test.accuracy()
    separation_test = sharded_separation(test.logits, test.labels, ranks.gather_objects)
    del test  # its features go before those of the training split come
    train = _own(layer, dataset.train.on(device), device, ranks)
    evaluation = Evaluation(
        member=member,
        accuracy=accuracy,
        single=single,
        all=every,
        separation_train=sharded_separation(train.logits, train.labels, ranks.gather_objects),
        separation_test=separation_test,
        shown_class=shown,
        histogram_of_class=of_class,
        histogram_pooled=pooled,
        seconds=time.monotonic() - start,
    )
    return evaluation, influence


def _own(layer: OwnLayer, split: Split, device: torch.device, ranks: Ranks) -> OwnClasses:
    """Features of this rank's share of a split, put together with those of the others."""
    share = shares(len(split), ranks.size)[ranks.rank]
    width = layer.weight.shape[1]
    features = on_each(ranks, lambda: features_of(layer.backbone, split, width, device, share))
    labels = split.labels[share].to(device)
    return own_classes(features, labels, layer.weight, layer.bias, layer.first_class, ranks)


def _histograms(own: OwnClasses, shown: int, ranks: Ranks) -> tuple[Histogram, Histogram]:
    """Fig. 2's distributions: limits and counts of each rank's classes, put together between the two passes."""
    first, classes = own.logits.first_class, own.logits.shape[1]
    labels = _within(own.labels, first, classes)
    parts = on_all(ranks, lambda: limits_of(own.logits, labels, shown - first))
    limits: Limits = _widest([part[0] for part in parts]), _widest([part[1] for part in parts])
    counts = on_all(ranks, lambda: counts_of(own.logits, labels, shown - first, limits))
    return drawn(limits, np.sum(counts, axis=0))


def _within(labels: npt.NDArray[np.int64], first: int, classes: int) -> npt.NDArray[np.int64]:
    """Labels with the numbers that this rank's classes have among themselves; -1 for classes of others."""
    own = labels - first
    return np.where((own >= 0) & (own < classes), own, -1)


def _widest(limits: list[tuple[float, float]]) -> tuple[float, float]:
    return min(low for low, _ in limits), max(high for _, high in limits)
