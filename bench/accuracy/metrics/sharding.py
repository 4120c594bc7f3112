"""Measures of a layer whose classes are spread over ranks: each rank counts its own, and the parts add up exactly.

    rank 0    classes 0 .. 123575        all examples    ->  Partial  \
    rank 1    classes 123576 .. 247151   all examples    ->  Partial   > merged
    rank 2    classes 247152 .. 370726   all examples    ->  Partial  /

A measure of one class needs that class's column and no other, so each is measured by the one rank that holds it, on
every example once: nothing is padded, and nothing is averaged over ranks. Log-odds need each row's partition as well,
whose parts are merged first. A rank that fails says so in what it gathers, and every rank raises the same error.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from bench.accuracy.metrics.jackknife import pull_of
from bench.accuracy.metrics.measures import ByClass, Measures, asks_for_all, of_reading, of_whole_columns
from bench.accuracy.metrics.pairs import FalseLogits, false_logits, separated
from bench.accuracy.metrics.partition import RowPartition, refuse_a_single_class, renumbered
from bench.accuracy.metrics.reading import Audit, Reading, Score, first_pass
from bench.accuracy.metrics.streams import (
    Floats,
    Indices,
    Integers,
    Stream,
    WholeColumns,
    as_classes,
    as_labels,
    as_stream,
)
from bench.accuracy.records import Separation

Result = TypeVar("Result")


class Gather(Protocol):
    """Gives every rank's object to every rank, in one order on all of them; called equally often by all."""

    def __call__(self, own: object, /) -> list[Any]:
        """One object a rank."""


class Shard(Stream, Protocol):
    """A stream of some neighbouring classes of a layer, numbered from 0 in its own blocks."""

    first_class: int


@dataclass(frozen=True, eq=False)
class Partial:
    """What one shard adds to the measures: its classes', and what tells probabilities from logits.

    by_class: (classes of the shard,) each. sizes: (classes of the shard,) their positives.
    """

    first_class: int
    by_class: ByClass
    sizes: Indices
    audit: Audit


@dataclass(frozen=True)
class Extent:
    """Which classes a shard holds, and which examples it measures them on. labels: a checksum, with what is asked."""

    first_class: int
    classes: int
    examples: int
    labels: int


@dataclass(frozen=True)
class _Failed:
    """A rank's error, in place of its part. of_input: whether it was a ValueError."""

    message: str
    of_input: bool


def merged(parts: Sequence[Partial], examples: int, queried: Indices | None = None) -> Measures:
    """Measures of all classes from those of each shard, which together hold every class once, in any order.

    Raises ValueError if all rows are probabilities, or no class that was asked about has positives.
    """
    in_order = sorted(parts, key=lambda part: part.first_class)
    sizes = np.concatenate([part.sizes for part in in_order])
    Audit.merged([part.audit for part in in_order]).refuse_probabilities(len(sizes))
    return Measures.of(ByClass.joined([part.by_class for part in in_order]), sizes, examples, queried)


def sharded_measure(stream: Shard, labels: object, score: Score, gather: Gather, *, classes: object = None) -> Measures:
    """`measure` of a layer of which each rank holds some classes; the same on every rank.

    stream: this rank's classes over all n examples, as a LayerLogits with its first_class. labels: (n,) integers, with
    the whole layer's numbers, the same on every rank. gather: `over_ranks()`, or any other way. From the same logits
    one process finds the same, for single logits to the last bit, for log-odds to rounding: partitions are summed in
    parts.
    Raises ValueError on all ranks where `measure` does on one, and where the ranks' classes leave a gap or overlap,
    or their examples differ.
    """
    whole = asks_for_all(score)
    extents = _gathered(gather, lambda: _extent(stream, labels, classes, score))
    total = whole_of(extents)
    # From here on every rank has the same labels, so what refuses them is raised by all.
    checked = as_labels(labels, stream.shape[0], total)
    asked = as_classes(classes, total)
    if whole:
        refuse_a_single_class(total)
    own = _Own(stream, checked, asked, total)
    if whole or not isinstance(stream, WholeColumns):
        partitions = _gathered(gather, lambda: own.first_pass(whole))
        partition = RowPartition.merged(_in_order(partitions, extents)) if whole else None
        parts = _gathered(gather, lambda: own.second_pass(partition))
    else:
        parts = _gathered(gather, own.only_pass)
    return merged(parts, len(checked), asked)


def sharded_influence(stream: Shard, labels: object, score: Score, gather: Gather) -> Floats:
    """`influence` of a layer of which each rank holds some classes; (n,), the same on every rank.

    Arguments and errors as for `sharded_measure`. Each example's pull on the classes of a rank is counted there, and
    the pulls are summed in the order of classes: to rounding what one process finds.
    """
    question = _asked_alike(stream, labels, score, gather)
    partition, _ = question.read(whole=asks_for_all(score))
    parts = _gathered(gather, lambda: question.own.pull(partition))
    present = len(np.unique(question.labels))
    return np.asarray(-np.sum(question.in_order(parts), axis=0) / present)


def sharded_separation(stream: Shard, labels: object, gather: Gather) -> Separation:
    """`separation` of a layer of which each rank holds some classes; the same on every rank.

    Arguments and errors as for `sharded_measure`. The true logits of all examples go around, and pairs are counted by
    the rank that holds the false one: from the same logits exactly what one process finds, but for the rounding of the
    log-partitions.
    """
    question = _asked_alike(stream, labels, "all", gather)
    partition, true_logits = question.read(whole=True)
    assert partition is not None
    parts = _gathered(gather, lambda: question.own.false_logits(true_logits))
    return separated(true_logits, partition, FalseLogits.of(parts), question.total)


@dataclass(frozen=True, eq=False)
class _Question:
    """What every rank measures: checked labels (n,), this rank's classes, and how many there are in all."""

    labels: Integers
    own: "_Own"
    total: int
    extents: Sequence[Extent]
    gather: Gather

    def read(self, *, whole: bool) -> tuple[RowPartition | None, Floats]:
        """First pass: the rows' partitions over all classes, if asked for, and all true logits, (n,).

        Raises ValueError on all ranks for probabilities, and for logits that are not finite.
        """
        found = _gathered(self.gather, lambda: self.own.first_reading(whole))
        Audit.merged([audit for _, _, audit in found]).refuse_probabilities(self.total)
        partition = RowPartition.merged(_in_order([part for part, _, _ in found], self.extents)) if whole else None
        true_logits = np.full(len(self.labels), np.nan)
        for _, own, _ in found:
            held = ~np.isnan(own)
            true_logits[held] = own[held]
        return partition, true_logits

    def in_order(self, parts: Sequence[Result]) -> list[Result]:
        """What each rank found, in the order of its classes."""
        return [parts[rank] for rank in _order(self.extents)]


def _asked_alike(stream: Shard, labels: object, score: Score, gather: Gather) -> _Question:
    """Raises ValueError on all ranks unless their classes make up a layer and their labels are the same."""
    extents = _gathered(gather, lambda: _extent(stream, labels, None, score))
    total = whole_of(extents)
    checked = as_labels(labels, stream.shape[0], total)
    if asks_for_all(score):
        refuse_a_single_class(total)
    return _Question(checked, _Own(stream, checked, None, total), total, extents, gather)


def whole_of(extents: Sequence[Extent]) -> int:
    """How many classes the shards hold together.

    Raises ValueError if some class is in none or in two of them, or their examples differ.
    """
    end, misplaced = covered((extent.first_class, extent.classes) for extent in extents)
    if misplaced is not None:
        raise ValueError(f"{misplaced}: each is to be measured once")
    if len({extent.examples for extent in extents}) > 1:
        counts = ", ".join(str(extent.examples) for extent in extents)
        raise ValueError(f"ranks have {counts} examples: each must measure its classes on all of them")
    if len({extent.labels for extent in extents}) > 1:
        raise ValueError("ranks have different labels, scores or classes to measure: they must ask the same question")
    return end


def covered(shards: Iterable[tuple[int, int]]) -> tuple[int, str | None]:
    """How many classes shards of (first class, classes) hold, in any order; and which are in none or in two, if any."""
    end = 0
    for first, count in sorted(shards):
        if first != end:
            held = "in no shard" if first > end else "in two shards"
            low, high = sorted((first, end))
            return end, f"classes {low} .. {high - 1} are {held}"
        end += count
    return end, None


class _Own:
    """This rank's share of a measure. Labels and classes come with the whole layer's numbers."""

    def __init__(self, stream: Shard, labels: Integers, asked: Indices | None, total: int) -> None:
        self._stream, self._first, self._classes = stream, stream.first_class, stream.shape[1]
        self._places = np.full(total, -1)
        self._places[self._first : self._first + self._classes] = np.arange(self._classes)
        self._labels = renumbered(labels, self._places)
        places = None if asked is None else self._places[asked]
        self._asked = None if places is None else places[places >= 0]

    def first_pass(self, whole: bool) -> RowPartition | None:
        """True logits, kept; and the partitions of all rows over the own classes, with the layer's numbers."""
        names = self._first + np.arange(self._classes)
        self._reading, self._audit = first_pass(self._stream, self._labels, partition=whole, names=names)
        found = self._reading.partition
        return None if found is None else found.renumbered(names)

    def first_reading(self, whole: bool) -> tuple[RowPartition | None, Floats, Audit]:
        """The same with the true logits, (n,), NaN where another rank has them, and what was seen of the logits."""
        partition = self.first_pass(whole)
        return partition, self._reading.true_logits, self._audit

    def pull(self, partition: RowPartition | None) -> Floats:
        """Each example's pull on the AUPRC of the own classes, (n,), given the partitions over all classes."""
        own = None if partition is None else partition.renumbered(self._places)
        return pull_of(Reading(self._stream, self._labels, self._reading.true_logits, own))

    def false_logits(self, true_logits: Floats) -> FalseLogits:
        """What the own classes' false logits say, given the true logits of all examples, (n,)."""
        return false_logits(Reading(self._stream, self._labels, true_logits, None), exact=False)

    def second_pass(self, partition: RowPartition | None) -> Partial:
        """Counts, given the partitions over all classes."""
        own = None if partition is None else partition.renumbered(self._places)
        reading = Reading(self._stream, self._labels, self._reading.true_logits, own)
        return self._partial(of_reading(reading, self._asked), self._audit)

    def only_pass(self) -> Partial:
        """Single logits of whole columns at once."""
        assert isinstance(self._stream, WholeColumns)
        audit = Audit.of(len(self._labels))
        by_class = of_whole_columns(self._stream, self._labels, audit, self._asked, self._first)
        return self._partial(by_class, audit)

    def _partial(self, by_class: ByClass, audit: Audit) -> Partial:
        sizes = np.bincount(self._labels[self._labels >= 0], minlength=self._classes)
        return Partial(self._first, by_class, sizes, audit)


def _extent(stream: Shard, labels: object, classes: object, score: str) -> Extent:
    examples, number = as_stream(stream).shape
    found = as_labels(labels, examples, np.iinfo(np.int64).max)
    asked = as_classes(classes, np.iinfo(np.int64).max)
    question = zlib.crc32(repr((score, None if asked is None else asked.tolist())).encode())
    return Extent(stream.first_class, number, examples, zlib.crc32(found.tobytes(), question))


def _gathered(gather: Gather, work: Callable[[], Result]) -> list[Result]:
    """Everyone's result, in the order of ranks. Raises on all ranks, and for the same reason, if work failed on one."""
    error: Exception | None = None
    own: Result | _Failed
    try:
        own = work()
    except Exception as raised:  # also what a device raises: the other ranks wait for this one
        error = raised
        own = _Failed(str(raised), isinstance(raised, ValueError))
    parts: list[Result | _Failed] = gather(own)
    for rank, part in enumerate(parts):
        if isinstance(part, _Failed):
            message = f"rank {rank} of {len(parts)}: {part.message}"
            raise (ValueError(message) if part.of_input else RuntimeError(message)) from error
    return [part for part in parts if not isinstance(part, _Failed)]


def _in_order(partitions: "list[RowPartition | None]", extents: Sequence[Extent]) -> list[RowPartition]:
    """By their classes, so that of equal peaks the lowest class is kept, as one process keeps it."""
    return [part for rank in _order(extents) if (part := partitions[rank]) is not None]


def _order(extents: Sequence[Extent]) -> list[int]:
    """Ranks in the order of their classes."""
    return sorted(range(len(extents)), key=lambda rank: extents[rank].first_class)


def over_ranks(group: Any = None) -> Gather:
    """`gather` by torch.distributed.all_gather_object, over a process group that is initialised."""
    import torch.distributed

    def gather(own: object) -> list[Any]:
        parts: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(parts, own, group=group)
        return parts

    return gather
