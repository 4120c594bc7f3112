"""A trained model meets the data: its logits, the paper's measures of them, and the distributions of Fig. 2.

What is read again and again, by size: logits n x k in memory; else features n x d in memory, and the top layer's
product over chunks of classes; else the model itself over chunks of examples.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from archs.swapping import without_top
from bench.accuracy import metrics
from bench.accuracy.data import Dataset, Split
from bench.accuracy.metrics import LayerLogits
from bench.accuracy.metrics.streams import CHUNK as MOST_LOGITS
from bench.accuracy.metrics.streams import Reals, Values, arrays, chunks
from bench.accuracy.records import Evaluation, Histogram, Separation
from bench.accuracy.run import Influence
from bench.accuracy.settings import Member
from bench.machine.memory import free_bytes

#: Bins of Fig. 2's distributions.
BINS = 80

#: Logits up to this size are held in memory.
HELD_BYTES = 2**30

#: Of the memory that is free, what features may take at most.
FEATURES_SHARE = 0.5

#: Examples of one forward; enough to keep a device busy, few enough to fit beside a model.
CHUNK = 512


class Logits(Protocol):
    """Logits that can be read several times, in blocks of rows or of columns."""

    @property
    def shape(self) -> tuple[int, int]:
        """Examples, classes."""

    def blocks(self) -> Iterator[tuple[slice, slice, Values]]:
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
        for rows in chunks(examples, max(1, min(CHUNK, MOST_LOGITS // classes))):
            yield rows, slice(0, classes), _outputs(self._model, self._split, rows, self._device).cpu().numpy()


class HeldLogits:
    """The same in memory."""

    def __init__(self, logits: Logits) -> None:
        self.shape = logits.shape
        self._values = np.empty(self.shape, dtype=np.float32)
        for rows, columns, values in arrays(logits):
            self._values[rows, columns] = values

    def blocks(self) -> Iterator[tuple[slice, slice, npt.NDArray[np.float32]]]:
        """One block with everything."""
        yield slice(0, self.shape[0]), slice(0, self.shape[1]), self._values


def logits_of(
    model: nn.Module,
    split: Split,
    classes: int,
    device: torch.device,
    top: Callable[[], str | None] = lambda: None,
) -> Logits:
    """The logits of a model over a split, held in memory where they fit there easily.

    `top` gives the path of the model's linear top layer, if it has one: beyond that size, the features that it takes
    are held, in half of the free memory at most, and logits are computed from them a chunk of classes at a time.
    Otherwise the model runs once more for each pass over them.
    """
    if 4 * len(split) * classes <= HELD_BYTES:
        return HeldLogits(ModelLogits(model, split, classes, device))
    path = top()
    layer = None if path is None else model.get_submodule(path)
    if path is None or not isinstance(layer, nn.Linear):
        return ModelLogits(model, split, classes, device)
    if not room_for_features(len(split), layer.in_features, device):
        return ModelLogits(model, split, classes, device)
    features = features_of(without_top(model, path).eval(), split, layer.in_features, device)
    return LayerLogits(features, layer.weight, layer.bias)


def room_for_features(examples: int, width: int, device: torch.device, sharing: int = 1) -> bool:
    """Whether features (examples, width) may be held on a device: in half of what is free, shared by so many."""
    return 4 * examples * width <= FEATURES_SHARE * free_bytes(str(device)) / sharing


def features_of(
    backbone: nn.Module, split: Split, width: int, device: torch.device, share: slice | None = None
) -> Tensor:
    """What the top layer takes of each example of a split, or a share, in order: (n, width) float32 on the device."""
    first, end = (0, len(split)) if share is None else (share.start, share.stop)
    features = torch.empty((end - first, width), device=device)
    for rows in chunks(end - first, CHUNK):
        features[rows] = _outputs(backbone, split, slice(first + rows.start, first + rows.stop), device)
    return features


def _outputs(model: nn.Module, split: Split, rows: slice, device: torch.device) -> Tensor:
    """What a network returns for some examples, in float32."""
    with torch.inference_mode():
        outputs: Tensor = model(split.images(torch.arange(rows.start, rows.stop)).to(device)).float()
    return outputs


def evaluate(
    member: Member,
    model: nn.Module,
    dataset: Dataset,
    device: torch.device,
    top: Callable[[], str | None] = lambda: None,
) -> tuple[Evaluation, Influence]:
    """Test a chosen model: the single logit, all logits, separation on train and test, and Fig. 2's distributions.

    The one place where test data are looked at. `top` is that of `logits_of`. Raises ValueError as
    bench.accuracy.metrics does (a logit that is not finite).
    """
    start = time.monotonic()
    classes = dataset.facts.classes
    labels = dataset.test.labels.numpy()
    shown = most_frequent(labels)
    test = logits_of(model, dataset.test.on(device), classes, device, top)
    single = metrics.measure(test, labels, score="single").record()  # first: it refuses logits that are not finite
    of_class, pooled = histograms(test, labels, shown)
    evaluation = Evaluation(
        member=member,
        accuracy=metrics.accuracy(test, labels),
        single=single,
        all=metrics.measure(test, labels, score="all").record(),
        separation_train=_separation_of_training(model, dataset, device, top),
        separation_test=metrics.separation(test, labels),
        shown_class=shown,
        histogram_of_class=of_class,
        histogram_pooled=pooled,
        seconds=time.monotonic() - start,
    )
    influence = Influence(metrics.influence(test, labels, score="single"), metrics.influence(test, labels, score="all"))
    return evaluation, influence


def _separation_of_training(
    model: nn.Module, dataset: Dataset, device: torch.device, top: Callable[[], str | None]
) -> Separation:
    """Its logits, or features, are let go of before those of others are asked for."""
    logits = logits_of(model, dataset.train.on(device), dataset.facts.classes, device, top)
    return metrics.separation(logits, dataset.train.labels.numpy())


def most_frequent(labels: npt.NDArray[np.int64]) -> int:
    """The class with the most examples, the first of several: the one Fig. 2 shows."""
    return int(np.bincount(labels).argmax())


def histograms(
    logits: Logits, labels: npt.NDArray[np.int64], shown: int, bins: int = BINS
) -> tuple[Histogram, Histogram]:
    """True and false logits of one class, and of all classes, each in equal bins from the lowest to the highest.

    Two passes, over blocks of rows or of columns, in the memory of some of their rows. Every logit is finite.
    """
    limits = limits_of(logits, labels, shown)
    of_class, pooled = drawn(limits, counts_of(logits, labels, shown, limits, bins))
    return of_class, pooled


#: Lowest and highest logit: of the class that is shown, and of all classes.
Limits = tuple[tuple[float, float], tuple[float, float]]


def limits_of(logits: Logits, labels: npt.NDArray[np.int64], shown: int) -> Limits:
    """First pass of `histograms`; infinite for no logits. labels: (n,), -1 for a class that is not among them."""
    ranges = [(np.inf, -np.inf), (np.inf, -np.inf)]
    for part in _parts(logits, labels, shown):
        for index, values in enumerate((part.shown, part.all)):
            if values.size:
                low, high = ranges[index]
                ranges[index] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges[0], ranges[1]


def counts_of(
    logits: Logits, labels: npt.NDArray[np.int64], shown: int, limits: Limits, bins: int = BINS
) -> npt.NDArray[np.int64]:
    """Second pass: (2, 2, bins) of the class that is shown and of all, true and false. labels: as in `limits_of`."""
    counts = np.zeros((2, 2, bins), dtype=np.int64)
    for part in _parts(logits, labels, shown):
        sides = ((part.shown, part.shown_true), (part.all, part.all_true))
        for index, (values, true) in enumerate(sides):
            every, own = (np.histogram(each, bins, limits[index])[0] for each in (values, true))
            counts[index] += own, every - own
    return counts


def drawn(limits: Limits, counts: npt.NDArray[np.int64]) -> tuple[Histogram, Histogram]:
    """From limits and (2, 2, bins) counts to the two histograms."""
    of_class, pooled = (_histogram(limits[index], counts[index], counts.shape[2]) for index in range(2))
    return of_class, pooled


def _histogram(limits: tuple[float, float], counts: npt.NDArray[np.int64], bins: int) -> Histogram:
    edges = np.histogram_bin_edges(np.empty(0), bins, limits)
    return Histogram(edges=tuple(edges.tolist()), true=tuple(counts[0].tolist()), false=tuple(counts[1].tolist()))


class _Part(NamedTuple):
    """Some logits, and which of them are true: of the class that is shown, and of all classes."""

    shown: Reals
    shown_true: Reals
    all: Reals
    all_true: Reals


def _parts(logits: Logits, labels: npt.NDArray[np.int64], shown: int) -> Iterator[_Part]:
    """The logits block by block, few enough rows at a time for what counts them."""
    for rows, columns, block in arrays(logits):
        at = slice(shown - columns.start, shown - columns.start + 1) if columns.start <= shown else slice(0)
        for part in chunks(len(block), max(1, MOST_LOGITS // block.shape[1])):
            values, own = block[part], labels[rows][part]
            (here,) = np.nonzero((own >= columns.start) & (own < columns.stop))
            true = values[here, own[here] - columns.start]
            yield _Part(values[:, at], true[own[here] == shown], values, true)
