"""Loss and accuracy on the validation split, for the curves and the choice of learning rate."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from bench.accuracy import losses
from bench.accuracy.chunked import ChunkedLoss, Form, RowStatistics, SampledLoss, form_of, row_statistics
from bench.accuracy.data import Split
from bench.accuracy.metrics.streams import CHUNK
from bench.accuracy.ranks import ShardedTopLayer, shares
from bench.accuracy.ranks.top_steps import GlobalChunkedStep, GlobalSampledStep, ShardedStep
from bench.accuracy.steps import Learner
from bench.accuracy.top_steps import ChunkedStep, InPlaceStep

#: What steps by chunks of classes of a layer that is here.
WholeLayerStep = ChunkedStep | InPlaceStep | GlobalChunkedStep | GlobalSampledStep

#: Numbers of input in one forward, by device: enough for its cost to be that of the products; on a CPU few enough for
#: its caches, on a GPU few enough that the CNN's first activations, 170 times as many, take 6 GB and not more.
_INPUT_NUMBERS = {"cpu": 2**20, "cuda": 2**23}

#: Examples whose logits are gone through together, chunk by chunk of classes: what is kept of each chunk is some 40
#: bytes an example, 14 MB at 370,727 classes.
_ROWS_OVER_CHUNKS = 1024


def validate(learner: Learner, split: Split, members: int, classes: int = 0) -> list[tuple[float, float]]:
    """Each member's (loss, accuracy) on the split, in evaluation mode; the learner is left in training mode.

    The loss is the training's own, in minibatches of its size in the split's order, since batch losses depend on it:
    the mean over minibatches weighted by their examples, the last of which may be short. Accuracy is the share of
    examples whose largest logit is the true one; among equal ones that of the lowest class counts. A loss that is not
    finite is returned as it is.

    classes: how many logits an example has, so that not too many are held at once; where the top layer goes over chunks
    of classes there are never more than a chunk of them.

    Of several ranks each has its share of the minibatches, whole ones, and the sums over all are the same on each rank;
    where the top layer is split over ranks, each has its share of the examples of every forward.
    """
    if isinstance(learner.top_step, ShardedStep):
        return [_validate_split(learner, learner.top_step, split)]
    if isinstance(learner.top_step, WholeLayerStep):
        return [_validate_over_chunks(learner, learner.top_step, split)]
    batch_size = learner.recipe.batch_size
    labels = split.labels.to(learner.device)
    found = torch.zeros(members, dtype=torch.float64, device=learner.device)
    hits = torch.zeros(members, dtype=torch.int64, device=learner.device)
    size = min(_input_chunk(learner, split, members), _chunk(batch_size, members * classes, CHUNK))
    chunks = _own_chunks(learner, split, size)
    with _evaluating(learner), torch.no_grad():
        for rows, images in zip(chunks, split.prefetch((rows, None) for rows in chunks), strict=True):
            own = labels[rows[0] : rows[-1] + 1].expand(members, -1)
            logits = learner.logits(images.to(learner.device).expand(members, *images.shape))
            hits += (logits.argmax(2) == own).sum(1)
            for z, y in zip(*(torch.split(whole, batch_size, dim=1) for whole in (logits, own)), strict=True):
                found += learner.losses(z, y).double() * y.shape[1]
    means = (learner.ranks.all_reduce(found) / len(split)).tolist()
    return list(zip(means, (learner.ranks.all_reduce(hits).double() / len(split)).tolist(), strict=True))


def _validate_over_chunks(learner: Learner, step: WholeLayerStep, split: Split) -> tuple[float, float]:
    """Features of some minibatches at a time, and of their logits a chunk of classes at a time."""
    batch_size = learner.recipe.batch_size
    labels = split.labels.to(learner.device)
    judge = _Judge(WholeLayer(step.layer, step.loss), step.loss, batch_size)
    size = min(_input_chunk(learner, split, 1), _chunk(batch_size, 1, _ROWS_OVER_CHUNKS))
    chunks = _own_chunks(learner, split, size)
    found = torch.zeros((), dtype=torch.float64, device=learner.device)
    hits = torch.zeros((), dtype=torch.int64, device=learner.device)
    with _evaluating(learner), torch.no_grad():
        for rows, images in zip(chunks, split.prefetch((rows, None) for rows in chunks), strict=True):
            own = labels[rows[0] : rows[-1] + 1]
            loss_sum, right = judge(learner.features(images.to(learner.device)), own)
            found += loss_sum
            hits += right
    found, hits = learner.ranks.all_reduce(found), learner.ranks.all_reduce(hits)
    return float(found) / len(split), int(hits) / len(split)


def _validate_split(learner: Learner, step: ShardedStep, split: Split) -> tuple[float, float]:
    """As over chunks; each rank makes the features of its share of the examples, and all have them together."""
    ranks, batch_size = learner.ranks, learner.recipe.batch_size
    labels = split.labels.to(learner.device)
    judge = _Judge(SplitLayer(step.layer), step.loss, batch_size)
    size = min(_input_chunk(learner, split, 1) * ranks.size, _chunk(batch_size, 1, _ROWS_OVER_CHUNKS))
    chunks = torch.split(torch.arange(len(split)), size)
    parts = [_parts_of_chunk(len(rows), ranks.size) for rows in chunks]
    own = [rows[part[ranks.rank]] for rows, part in zip(chunks, parts, strict=True)]
    loss_sum = torch.zeros((), dtype=torch.float64, device=learner.device)
    hits = torch.zeros((), dtype=torch.int64, device=learner.device)
    images_of = split.prefetch((rows, None) for rows in own)
    with _evaluating(learner), torch.no_grad():
        for rows, part, images in zip(chunks, parts, images_of, strict=True):
            features = learner.features(images.to(learner.device))
            if part[0] != part[-1]:
                features = torch.cat(ranks.all_gather(features, [each.stop - each.start for each in part]))
            of_chunk, right = judge(features, labels[rows[0] : rows[-1] + 1])
            loss_sum += of_chunk
            hits += right
    return float(loss_sum) / len(split), int(hits) / len(split)


def _parts_of_chunk(examples: int, size: int) -> list[slice]:
    """Which examples each rank makes features of: a share each, or all where there are fewer examples than ranks."""
    return shares(examples, size) if examples >= size else [slice(0, examples)] * size


def _own_chunks(learner: Learner, split: Split, size: int) -> tuple[Tensor, ...]:
    """This rank's share of the minibatches, in forwards of `size` examples; noise of those before it is drawn."""
    batch_size = learner.recipe.batch_size
    own = shares(-(-len(split) // batch_size), learner.ranks.size)[learner.ranks.rank]
    if learner.noise is not None:
        for _ in range(own.start):
            learner.noise.draw(batch_size)
    rows = torch.arange(len(split))[own.start * batch_size : own.stop * batch_size]
    return torch.split(rows, size) if len(rows) else ()


class _Layer(Protocol):
    """A top layer, whole or split over ranks, before examples that all have: features (n, d), labels (n,)."""

    @property
    def classes(self) -> int:
        """All of them."""

    def statistics(self, features: Tensor, labels: Tensor, form: Form) -> RowStatistics:
        """Over all classes."""

    def sampled(self, features: Tensor, labels: Tensor) -> Tensor:
        """A minibatch's loss that draws classes: a scalar."""


@dataclass(frozen=True, eq=False)
class WholeLayer:
    """A layer that is here."""

    layer: nn.Linear
    loss: ChunkedLoss | SampledLoss

    @property
    def classes(self) -> int:
        """All of them."""
        return self.layer.out_features

    def statistics(self, features: Tensor, labels: Tensor, form: Form) -> RowStatistics:
        """Over chunks of classes."""
        return row_statistics(features, self.layer.weight, self.layer.bias, labels, form)

    def sampled(self, features: Tensor, labels: Tensor) -> Tensor:
        """From the rows drawn."""
        return self.loss(features, self.layer.weight, self.layer.bias, labels)


@dataclass(frozen=True, eq=False)
class SplitLayer:
    """A layer of which each rank has some rows; all ranks ask together."""

    layer: ShardedTopLayer

    @property
    def classes(self) -> int:
        """All of them."""
        return self.layer.form.classes

    def statistics(self, features: Tensor, labels: Tensor, form: Form) -> RowStatistics:
        """Of the own rows, put together."""
        return self.layer.statistics(features, labels, form)

    def sampled(self, features: Tensor, labels: Tensor) -> Tensor:
        """From the rows drawn, each from the rank that has it."""
        return self.layer.loss_of(features, labels)


class _Judge:
    """Sum of the losses of examples, and how many are classified rightly, over chunks of classes."""

    def __init__(self, layer: _Layer, loss: ChunkedLoss | SampledLoss, batch_size: int) -> None:
        self._layer = layer
        self._loss = loss
        self._batch_size = batch_size
        form = loss.form if isinstance(loss, ChunkedLoss) else None
        # True and largest false logit can be compared only as they are, not less a shift of each class.
        self._together = form is not None and form.class_shifts is None
        self._of_accuracy = _with_largest_false(form if form is not None and self._together else self._margin_form())

    def __call__(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """features (n, d), labels (n,), in whole minibatches but for the last -> two scalars."""
        rows = self._layer.statistics(features, labels, self._of_accuracy)
        total = self._loss_sum(features, labels, rows if self._together else None)
        return total, _right(rows, labels).sum()

    def _loss_sum(self, features: Tensor, labels: Tensor, rows: RowStatistics | None) -> Tensor:
        layer, total = self._layer, features.new_zeros((), dtype=torch.float64)
        if rows is None and isinstance(self._loss, ChunkedLoss):
            rows = layer.statistics(features, labels, self._loss.form)
        for start in range(0, len(labels), self._batch_size):
            part = slice(start, min(start + self._batch_size, len(labels)))
            if isinstance(self._loss, SampledLoss):
                value = layer.sampled(features[part], labels[part])
            else:
                assert rows is not None
                own = rows.of(part)
                value = self._loss.form.value(own.true, own.statistics)
            total += value.double() * (part.stop - part.start)
        return total

    def _margin_form(self) -> Form:
        """Of a loss of true and largest false logits, for these alone."""
        classes = self._layer.classes
        return form_of(losses.configured("max-margin", classes=classes), classes)


def _with_largest_false(form: Form) -> Form:
    if "largest_false" in form.statistics:
        return form
    return dataclasses.replace(form, statistics=(*form.statistics, "largest_false"))


def _right(rows: RowStatistics, labels: Tensor) -> Tensor:
    """Whether each true logit is the largest, the lowest class counting among equal ones: (n,)."""
    assert rows.largest is not None
    false = rows.statistics["largest_false"]
    return (rows.true > false) | ((rows.true == false) & (labels < rows.largest))


@contextmanager
def _evaluating(learner: Learner) -> Iterator[None]:
    learner.train(False)
    try:
        yield
    finally:
        learner.train()


def _input_chunk(learner: Learner, split: Split, members: int) -> int:
    numbers = math.prod(split.input_shape) * members
    return _chunk(learner.recipe.batch_size, numbers, _INPUT_NUMBERS[learner.device.type])


def _chunk(batch_size: int, numbers: int, most: int) -> int:
    """Examples of one forward: as many whole minibatches of examples of so many numbers as fit, at least one."""
    return max(1, most // (max(1, numbers) * batch_size)) * batch_size
