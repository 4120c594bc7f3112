"""A trained model meets the data: its logits, the paper's measures of them, and the distributions of Fig. 2."""

import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bench.accuracy import metrics
from bench.accuracy.data import Dataset, Split
from bench.accuracy.records import Evaluation, Histogram
from bench.accuracy.run import Influence
from bench.accuracy.settings import Member

#: Bins of Fig. 2's distributions.
BINS = 80

#: Logits up to this size are held in memory; beyond it the model runs once more for each pass over them.
HELD_BYTES = 2**30

#: Examples of one forward; enough to keep a device busy, few enough to fit beside a model.
CHUNK = 512


class Logits(Protocol):
    """Logits that can be read several times, in blocks of rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """Examples, classes."""

    def blocks(self) -> Iterator[tuple[slice, slice, npt.NDArray[np.float32]]]:
        """Rows, columns and their values; each call reads from the beginning."""


class ModelLogits:
    """The logits of a model in evaluation mode over a split: computed block by block, each time they are read."""

    def __init__(self, model: nn.Module, split: Split, classes: int, device: torch.device) -> None:
        self._model = model
        self._split = split
        self._device = device
        self.shape = (len(split), classes)

    def blocks(self) -> Iterator[tuple[slice, slice, npt.NDArray[np.float32]]]:
        """Blocks of rows; logits in float32 on the CPU, whatever the model computes in."""
        examples, classes = self.shape
        for start in range(0, examples, CHUNK):
            rows = slice(start, min(start + CHUNK, examples))
            with torch.inference_mode():
                images = self._split.images(torch.arange(rows.start, rows.stop)).to(self._device)
                logits = self._model(images).float().cpu()
            yield rows, slice(0, classes), logits.numpy()


class HeldLogits:
    """The same in memory."""

    def __init__(self, logits: Logits) -> None:
        self.shape = logits.shape
        self._values = np.empty(self.shape, dtype=np.float32)
        for rows, columns, values in logits.blocks():
            self._values[rows, columns] = values

    def blocks(self) -> Iterator[tuple[slice, slice, npt.NDArray[np.float32]]]:
        """One block with everything."""
        yield slice(0, self.shape[0]), slice(0, self.shape[1]), self._values


def logits_of(model: nn.Module, split: Split, classes: int, device: torch.device) -> Logits:
    """The logits of a model over a split, held in memory where they fit there easily."""
    logits = ModelLogits(model, split, classes, device)
    return HeldLogits(logits) if 4 * len(split) * classes <= HELD_BYTES else logits


def evaluate(member: Member, model: nn.Module, dataset: Dataset, device: torch.device) -> tuple[Evaluation, Influence]:
    """Test a chosen model: the single logit, all logits, separation on train and test, and Fig. 2's distributions.

    The one place where test data are looked at. Raises ValueError as bench.accuracy.metrics does (a logit that is
    not finite).
    """
    start = time.monotonic()
    classes = dataset.facts.classes
    labels = dataset.test.labels.numpy()
    shown = most_frequent(labels)
    test = logits_of(model, dataset.test.on(device), classes, device)
    train = logits_of(model, dataset.train.on(device), classes, device)
    single = metrics.measure(test, labels, score="single").record()  # first: it refuses logits that are not finite
    of_class, pooled = histograms(test, labels, shown)
    evaluation = Evaluation(
        member=member,
        accuracy=accuracy(test, labels),
        single=single,
        all=metrics.measure(test, labels, score="all").record(),
        separation_train=metrics.separation(train, dataset.train.labels.numpy()),
        separation_test=metrics.separation(test, labels),
        shown_class=shown,
        histogram_of_class=of_class,
        histogram_pooled=pooled,
        seconds=time.monotonic() - start,
    )
    influence = Influence(metrics.influence(test, labels, score="single"), metrics.influence(test, labels, score="all"))
    return evaluation, influence


def accuracy(logits: Logits, labels: npt.NDArray[np.int64]) -> float:
    """Share of examples whose largest logit is the true one."""
    hits = sum(int(np.count_nonzero(values.argmax(axis=1) == labels[rows])) for rows, _, values in logits.blocks())
    return hits / len(labels)


def most_frequent(labels: npt.NDArray[np.int64]) -> int:
    """The class with the most examples, the first of several: the one Fig. 2 shows."""
    return int(np.bincount(labels).argmax())


def histograms(
    logits: Logits, labels: npt.NDArray[np.int64], shown: int, bins: int = BINS
) -> tuple[Histogram, Histogram]:
    """True and false logits of one class, and of all classes, each in equal bins from the lowest to the highest.

    Two passes, in the memory of some rows. Every logit is finite.
    """
    ranges = [(np.inf, -np.inf), (np.inf, -np.inf)]
    for _, values in _some_rows(logits):
        for index, part in enumerate((values[:, shown], values)):
            low, high = ranges[index]
            ranges[index] = min(low, float(part.min())), max(high, float(part.max()))
    counts = np.zeros((2, 2, bins), dtype=np.int64)
    for rows, values in _some_rows(logits):
        is_true = np.zeros(values.shape, dtype=bool)
        is_true[np.arange(len(values)), labels[rows]] = True
        for index, (part, mask) in enumerate(((values[:, shown], is_true[:, shown]), (values, is_true))):
            for side, chosen in enumerate((part[mask], part[~mask])):
                counts[index, side] += np.histogram(chosen, bins, ranges[index])[0]
    of_class, pooled = (_histogram(ranges[index], counts[index], bins) for index in range(2))
    return of_class, pooled


def _histogram(limits: tuple[float, float], counts: npt.NDArray[np.int64], bins: int) -> Histogram:
    edges = np.histogram_bin_edges(np.empty(0), bins, limits)
    return Histogram(edges=tuple(edges.tolist()), true=tuple(counts[0].tolist()), false=tuple(counts[1].tolist()))


def _some_rows(logits: Logits) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Rows of the logits, few enough for copies of them; blocks of rows are as wide as there are classes."""
    for rows, _, values in logits.blocks():
        for start in range(0, len(values), CHUNK):
            part = values[start : start + CHUNK]
            yield slice(rows.start + start, rows.start + start + len(part)), part
