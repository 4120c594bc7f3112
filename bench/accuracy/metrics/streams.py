"""Logits that are read block by block, as often as a measure needs them.

rows in chunks       columns in chunks         any rectangles
+-----------+        +---+---+---+---+         +-------+---+
|     1     |        |   |   |   |   |         |   1   | 2 |
+-----------+        | 1 | 2 | 3 | 4 |         +---+---+---+
|     2     |        |   |   |   |   |         | 3 |   4   |
+-----------+        +---+---+---+---+         +---+-------+
a model's minibatches   many-class layers      together every logit, once
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Indices = NDArray[np.intp]
Reals = NDArray[np.floating[Any]]
Values = Reals | Tensor

F = TypeVar("F", bound=np.floating[Any])

#: Logits in a chunk where a stream is not told its size: 64 MB of float32.
CHUNK = 2**24

#: Rows that are transposed together: 0.6 ns a logit, against 3.4 ns with 16,000.
ROWS_TRANSPOSED = 512


class Block(NamedTuple):
    """A rectangle of the logits: values of shape (rows, columns), in any floating type, on any device."""

    rows: slice
    columns: slice
    values: Values


@runtime_checkable
class Stream(Protocol):
    """Logits that can be read more than once. An array's blocks may come in any order and have any size.

    A stream may write over a block's values once the next block is asked for: copy what is to be kept.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Examples n and classes k."""

    def blocks(self) -> Iterator[tuple[slice, slice, Values]]:
        """Read anew: (rows, columns, values), together every logit once."""


@runtime_checkable
class WholeColumns(Stream, Protocol):
    """A stream each of whose blocks holds all examples, so that a class's true and false logits come together."""

    whole_columns: ClassVar[Literal[True]]


@runtime_checkable
class Selectable(WholeColumns, Protocol):
    """Whole columns, any of which can be read without the others."""

    def of_classes(self, numbers: Indices) -> WholeColumns:
        """Only these classes, ascending; a class's number in the new stream is its place among them."""

    def surely_finite(self) -> NDArray[np.bool_]:
        """(k,) true where every logit of a class is known to be finite without being computed."""


@dataclass(frozen=True)
class SomeColumns:
    """Some classes of a stream, ascending. All of it is read."""

    stream: Stream
    numbers: Indices

    @property
    def shape(self) -> tuple[int, int]:
        """Examples, and how many classes are kept."""
        return self.stream.shape[0], len(self.numbers)

    def blocks(self) -> Iterator[tuple[slice, slice, Values]]:
        """The columns of each block that are kept."""
        for rows, columns, values in self.stream.blocks():
            columns = slice(*columns.indices(self.stream.shape[1])[:2])
            kept = slice(*self.numbers.searchsorted((columns.start, columns.stop)).tolist())
            if kept.start < kept.stop:
                yield Block(rows, kept, values[:, self.numbers[kept] - columns.start])


@dataclass(frozen=True)
class RowChunks:
    """Logits that a function gives for some examples at a time, as a model does.

    read: slice of examples -> logits (examples of the slice, k). size: examples in a chunk.
    """

    read: Callable[[slice], Values]
    shape: tuple[int, int]
    size: int | None = None

    def blocks(self) -> Iterator[tuple[slice, slice, Values]]:
        """Chunks of rows, top to bottom."""
        examples, classes = self.shape
        for rows in chunks(examples, self.size or max(1, CHUNK // max(1, classes))):
            yield Block(rows, slice(0, classes), self.read(rows))


@dataclass(frozen=True)
class ColumnChunks:
    """Logits that a function gives for some classes at a time, as a part of a very large top layer does.

    read: slice of classes -> logits (n, classes of the slice). size: classes in a chunk.
    """

    read: Callable[[slice], Values]
    shape: tuple[int, int]
    size: int | None = None
    whole_columns: ClassVar[Literal[True]] = True

    def blocks(self) -> Iterator[tuple[slice, slice, Values]]:
        """Chunks of columns, left to right."""
        examples, classes = self.shape
        for columns in chunks(classes, self.size or max(1, CHUNK // max(1, examples))):
            yield Block(slice(0, examples), columns, self.read(columns))


def as_stream(logits: object) -> Stream:
    """A stream as it is; an array or tensor of shape (n, k) in chunks of rows.

    Raises ValueError if it has another shape, no example or no class.
    """
    stream = logits if isinstance(logits, Stream) else _in_memory(logits)
    if min(stream.shape) < 1:
        raise ValueError(f"logits of shape {tuple(stream.shape)}: there is nothing to measure")
    return stream


def arrays(stream: Stream) -> Iterator[tuple[slice, slice, Reals]]:
    """Read a stream: every block with plain slices and values in float32 or float64, on the CPU.

    Raises ValueError if a block's values do not fill its rectangle, or the blocks leave out or repeat logits.
    """
    examples, classes = stream.shape
    seen = 0
    for number, (rows, columns, values) in enumerate(stream.blocks()):
        rows, columns = slice(*rows.indices(examples)[:2]), slice(*columns.indices(classes)[:2])
        found = _floating(values)
        expected = (rows.stop - rows.start, columns.stop - columns.start)
        if found.shape != expected:
            raise ValueError(f"block {number} of the logits has shape {found.shape}, and its slices span {expected}")
        seen += found.size
        yield rows, columns, found
    if seen != examples * classes:
        raise ValueError(f"the stream gave {seen} logits, not {examples} x {classes} = {examples * classes}")


def as_labels(labels: object, examples: int, classes: int) -> Integers:
    """Labels as an int64 array of shape (n,).

    Raises ValueError if they have another shape, are no integers or lie outside 0 .. classes - 1.
    """
    found = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if found.shape != (examples,):
        raise ValueError(f"labels of shape {found.shape}: logits of {examples} examples need ({examples},)")
    if not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"labels of type {found.dtype}: a label is the number of its class, an integer")
    outside = np.flatnonzero((found < 0) | (found >= classes))
    if outside.size:
        raise ValueError(
            f"{outside.size} of {examples} labels lie outside 0 .. {classes - 1}; "
            f"the first is {found[outside[0]]}, of example {outside[0]}"
        )
    return found.astype(np.int64)


def as_classes(classes: object, of: int) -> Indices | None:
    """Numbers of the classes that are asked about, ascending; none for all.

    Raises ValueError if there are none, or they are no integers, repeat, or lie outside 0 .. of - 1.
    """
    if classes is None:
        return None
    found = classes.detach().cpu().numpy() if isinstance(classes, Tensor) else np.asarray(classes)
    if found.ndim != 1 or not found.size or not np.issubdtype(found.dtype, np.integer):
        raise ValueError("classes to measure: they are the numbers of one class or several")
    numbers = np.unique(found).astype(np.intp)
    if len(numbers) < len(found):
        raise ValueError(f"{len(found) - len(numbers)} of the {len(found)} classes to measure are named twice")
    if numbers[0] < 0 or numbers[-1] >= of:
        raise ValueError(f"classes to measure are {numbers[0]} .. {numbers[-1]}; the logits have 0 .. {of - 1}")
    return numbers


def of_classes(stream: Stream, numbers: Indices) -> Stream:
    """Some classes of a stream, ascending; the others are not even computed where the stream knows how."""
    return stream.of_classes(numbers) if isinstance(stream, Selectable) else SomeColumns(stream, numbers)


def chunks(length: int, size: int) -> Iterator[slice]:
    """Cut 0 .. length into slices of this size; the last may be shorter."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def by_class(values: Reals, dtype: np.dtype[F]) -> NDArray[F]:
    """A copy of shape (columns, rows), contiguous. Some rows at a time: a whole tall block would leave the cache."""
    if values.strides[0] == values.itemsize:
        return np.array(values.T, dtype, order="C")
    transposed = np.empty(values.shape[::-1], dtype)
    for part in chunks(len(values), ROWS_TRANSPOSED):
        transposed[:, part] = values[part].T
    return transposed


def _in_memory(logits: object) -> Stream:
    matrix: Values = logits.detach() if isinstance(logits, Tensor) else np.asarray(logits)
    if matrix.ndim != 2:
        raise ValueError(f"logits of shape {tuple(matrix.shape)}: they must be (examples, classes)")
    return RowChunks(lambda rows: matrix[rows], (matrix.shape[0], matrix.shape[1]))


def _floating(values: Values) -> Reals:
    """Values as a NumPy array in which every number is what it was: half precision widens, integers become float64."""
    if isinstance(values, Tensor):
        half = values.dtype in (torch.float16, torch.bfloat16)
        values = (values.detach().float() if half else values.detach()).cpu().numpy()
    found = np.asarray(values)
    if found.dtype in (np.float32, np.float64):
        return found
    if found.dtype == np.float16:
        return found.astype(np.float32)
    if np.issubdtype(found.dtype, np.integer):
        return found.astype(np.float64)
    raise ValueError(f"logits of type {found.dtype}: they must be real numbers of at most 64 bits")
