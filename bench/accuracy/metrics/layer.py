"""The logits of a linear layer, computed some classes at a time whenever they are read, never all at once.

               examples n
            +--------------+
    chunk   |  W[c] X.T    |   -> counted, then written over by the next chunk
            +--------------+
            |     ...      |

A chunk holds every example, so that a class's true logits come with its false ones: the single logit is measured by one
product. Log-odds take a second, of the classes that have positives, since a row's partition must be known first.
"""

from collections.abc import Callable, Iterator
from copy import copy
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.accuracy.metrics.streams import CHUNK, Block, Indices, Values, chunks

Features = Tensor | NDArray[Any] | Callable[[slice], Values]

#: Features that are read from disk or widened together: 16 MB of them at d = 512 in float32.
ROWS = 8192

#: No fewer classes a chunk, however many the examples: with 64 the product already takes 1.5 times as long a logit.
FEWEST_CLASSES = 128


class LayerLogits:
    """A stream of the logits X W.T + b of n examples and k classes, without the n x k.

    features: (n, d) tensor or array, a memory map too; or a function from a slice of examples to theirs, with
    `examples` to say how many there are. It is called anew for every chunk of classes, so it should read, not compute.
    weight: (k, d), bias: (k,) or none; tensors or arrays, memory maps too, on any device. device: where the product is
    taken, that of a weight that is a tensor if not said. first_class: for a shard of a larger layer, the number that
    its first row has there; the stream's own columns begin at 0 nevertheless. chunk: classes computed together.

    The product is taken and summed in float32, or float64 if anything is: narrower types (bfloat16) are widened first,
    which changes no number, so that logits are not rounded to their type. On CUDA torch's setting for float32 products
    (TF32) applies. Beyond weight and features it holds one chunk, whose values are written over when the next is asked
    for.
    Raises ValueError for shapes that do not fit together.
    """

    whole_columns: ClassVar[Literal[True]] = True

    def __init__(
        self,
        features: Features,
        weight: Tensor | NDArray[Any],
        bias: Tensor | NDArray[Any] | None = None,
        device: torch.device | str | None = None,
        first_class: int = 0,
        *,
        examples: int | None = None,
        chunk: int | None = None,
    ) -> None:
        self.first_class = first_class
        self.device = torch.device(device or (weight.device if isinstance(weight, Tensor) else "cpu"))
        self._features, self._weight, self._bias = features, weight, bias
        self.shape = (_examples(features, examples), len(weight))
        self.dtype = _product_type(self._some_features(slice(0, 1)), weight, bias)
        self.chunk = chunk or max(FEWEST_CLASSES, CHUNK // max(1, self.shape[0]))
        self._numbers: Indices | None = None

    def of_classes(self, numbers: Indices) -> "LayerLogits":
        """Some of the classes, ascending, from the same weight and features."""
        chosen = copy(self)
        chosen.first_class = 0
        chosen._numbers = numbers if self._numbers is None else self._numbers[numbers]
        chosen.shape = (self.shape[0], len(numbers))
        return chosen

    @torch.no_grad()
    def surely_finite(self) -> NDArray[np.bool_]:
        """(k,) true where |w| |x| + |b| is a number for the longest x: by Cauchy and Schwarz no logit can overflow."""
        largest = torch.finfo(self.dtype).max / 2  # room for the rounding of sums
        sure = np.empty(self.shape[1], np.bool_)
        for columns in chunks(self.shape[1], self.chunk):
            weight, bias = self._some_classes(columns)
            bound = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float64) * self._longest
            sure[columns] = (bound + (0 if bias is None else bias.abs()) < largest).cpu().numpy()
        return sure

    def blocks(self) -> Iterator[tuple[slice, slice, Values]]:
        """Chunks of classes, with all examples each."""
        examples, classes = self.shape
        buffer = torch.empty((min(self.chunk, classes), examples), dtype=self.dtype, device=self.device)
        for columns in chunks(classes, self.chunk):
            logits = buffer[: columns.stop - columns.start]
            self._product(columns, logits)
            yield Block(slice(0, examples), columns, logits.T)

    @torch.no_grad()
    def _product(self, columns: slice, logits: Tensor) -> None:
        """Logits of some classes, into (classes, n)."""
        weight, bias = self._some_classes(columns)
        for rows in chunks(len(logits.T), self._rows):
            torch.mm(weight, self._some_features(rows).to(self.device, self.dtype).T, out=logits[:, rows])
        if bias is not None:
            logits += bias[:, None]

    def _some_classes(self, columns: slice) -> tuple[Tensor, Tensor | None]:
        numbers: Indices | slice = columns if self._numbers is None else self._numbers[columns]
        weight, bias = (None if rows is None else self._placed(rows, numbers) for rows in (self._weight, self._bias))
        assert weight is not None
        return weight, bias

    def _placed(self, rows: Tensor | NDArray[Any], numbers: Indices | slice) -> Tensor:
        if isinstance(rows, Tensor) and not isinstance(numbers, slice):
            return rows.detach()[torch.from_numpy(numbers).to(rows.device)].to(self.device, self.dtype)
        return _tensor(rows[numbers]).to(self.device, self.dtype)

    def _some_features(self, rows: slice) -> Tensor:
        features = self._features
        found = _tensor(features(rows) if callable(features) else features[rows])
        expected = (rows.stop - rows.start, self._weight.shape[-1])
        if found.shape != expected:
            raise ValueError(
                f"features of examples {rows.start} .. {rows.stop - 1} have shape {tuple(found.shape)}; "
                f"the layer needs {expected}"
            )
        return found

    @cached_property
    def _longest(self) -> float:
        """Largest norm of an example's features; NaN if one is."""
        norms = [
            torch.linalg.vector_norm(self._some_features(rows), dim=1, dtype=torch.float64).max()
            for rows in chunks(self.shape[0], ROWS)
        ]
        return float(torch.stack(norms).max())

    @property
    def _rows(self) -> int:
        """Examples multiplied together: all, where that takes no copy of their features."""
        features = self._features
        as_it_is = isinstance(features, Tensor) and features.dtype == self.dtype and features.device == self.device
        return max(1, self.shape[0]) if as_it_is else ROWS


def _examples(features: Features, examples: int | None) -> int:
    if callable(features):
        if examples is None:
            raise ValueError("features come from a function: say how many examples there are (examples=)")
        return examples
    if examples not in (None, len(features)):
        raise ValueError(f"features of {len(features)} examples, not {examples}")
    return len(features)


def _product_type(features: Tensor, weight: Tensor | NDArray[Any], bias: Tensor | NDArray[Any] | None) -> torch.dtype:
    """float32, or float64 if anything is. Raises ValueError for shapes that do not fit, and for integers."""
    if weight.ndim != 2:
        raise ValueError(f"a weight of shape {tuple(weight.shape)}: it must be (classes, features)")
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise ValueError(f"a bias of shape {tuple(bias.shape)} does not fit a weight of shape {tuple(weight.shape)}")
    found = torch.float32
    for part in (features, weight[:1], bias):
        if part is not None:
            dtype = _tensor(part[:1]).dtype
            if not dtype.is_floating_point:
                raise ValueError(f"a layer with values of type {dtype}: features, weight and bias are floating-point")
            found = torch.promote_types(found, dtype)
    return found


def _tensor(values: Values) -> Tensor:
    """The same values; copied only where torch could write to what must not be written to."""
    if isinstance(values, Tensor):
        return values.detach()
    return torch.from_numpy(values if values.flags.writeable else values.copy())
