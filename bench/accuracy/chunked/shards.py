"""A linear layer over some of the classes, read a chunk of classes at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bench.accuracy.chunked.forms import Form
from bench.accuracy.chunked.statistics import ClassTerms
from bench.accuracy.metrics.streams import CHUNK, chunks
from bench.errors import UsageError

#: On a CPU a chunk of weights, and one of logits, has this many numbers: 4 MB of float32, which stay in the caches from
#: the product that makes the logits to the update. Of 1/4 to 16 MB tried at m = 32, d = 512, 2 to 4 MB were fastest.
CPU_CHUNK = 2**20

#: On a GPU a chunk is as large as 64 MB of logits allow, but never more than this share of the classes.
GPU_SHARE = 1 / 8

#: A product of fewer classes than this is mostly overhead.
LEAST_CHUNK = 64

#: Columns on either side of a chunk's logits where the labels of other chunks fall; 16 keep rows aligned.
MARGIN = 16


def chunk_size(examples: int, features: int, classes: int, device: torch.device) -> int:
    """Classes in a chunk, where none is given."""
    if device.type == "cpu":
        return max(LEAST_CHUNK, CPU_CHUNK // max(examples, features))
    return max(LEAST_CHUNK, min(CHUNK // examples, math.ceil(GPU_SHARE * classes)))


class Chunk(NamedTuple):
    """Some classes and their logits; every tensor is overwritten by the next chunk.

    columns: of the shard. weight: (c, d) in the logits' type. logits: (m, c), a view into `padded`, (m, > c). place:
    (m, 1), the column of `padded` with the true logit, or one beside the logits where the true class is not here.
    """

    number: int
    columns: slice
    weight: Tensor
    logits: Tensor
    padded: Tensor
    place: Tensor


@dataclass(frozen=True, eq=False)
class Shard:
    """A linear layer over classes first_class .. first_class + k_local - 1, and a minibatch before it."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor
    form: Form
    first_class: int
    size: int
    terms: ClassTerms
    dtype: torch.dtype

    @property
    def classes(self) -> int:
        """k_local, which may be 0."""
        return len(self.weight)

    @property
    def local(self) -> Tensor:
        """Labels counted from the shard's first class; outside 0 .. k_local - 1 in another shard."""
        return self.labels - self.first_class

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks of classes with their logits, in buffers that are used again."""
        examples = len(self.features)
        padded = self.features.new_empty((examples, min(self.size, self.classes) + 2 * MARGIN))
        converted = None
        if self.weight.dtype != self.dtype:
            converted = self.features.new_empty((min(self.size, self.classes), self.weight.shape[1]))
        for number, columns in enumerate(chunks(self.classes, self.size)):
            width = columns.stop - columns.start
            weight = self.weight[columns] if converted is None else converted[:width].copy_(self.weight[columns])
            logits = padded[:, MARGIN : MARGIN + width]
            if self.bias is None:
                torch.mm(self.features, weight.t(), out=logits)
            else:
                torch.addmm(self.bias[columns].to(self.dtype), self.features, weight.t(), out=logits)
            yield Chunk(number, columns, weight, logits, padded, self.place(self.labels, columns))

    def place(self, classes: Tensor, columns: slice) -> Tensor:
        """Where a chunk's padded logits have each row's class, or a column beside them: (m,) -> (m, 1)."""
        start: int = columns.start
        width: int = columns.stop - start
        place: Tensor = classes[:, None] + (MARGIN - self.first_class - start)
        return place.clamp_(MARGIN - 1, MARGIN + width)


def shard_of(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    form: Form,
    first_class: int,
    chunk: int | None,
) -> Shard:
    """Checked, and in the types of the computation. Raises UsageError."""
    check_layer(features, weight, bias, labels, form.classes)
    _refuse_range(weight, form, first_class)
    if chunk is not None and chunk < 1:
        raise UsageError(f"chunks of {chunk} classes: give at least 1")
    dtype = computed_in(features, weight)
    own = slice(first_class, first_class + len(weight))
    weights, shifts = (
        None if values is None else values[own].to(features.device, dtype)
        for values in (form.class_weights, form.class_shifts)
    )
    return Shard(
        features=features.detach().to(dtype),
        weight=weight.detach(),
        bias=None if bias is None else bias.detach(),
        labels=labels.long(),
        form=form,
        first_class=first_class,
        size=chunk or chunk_size(len(features), features.shape[1], len(weight), features.device),
        terms=ClassTerms(weights, shifts, form.classes),
        dtype=dtype,
    )


def computed_in(features: Tensor, weight: Tensor) -> torch.dtype:
    """float64 if one of the two is, else float32."""
    return torch.float64 if torch.float64 in (features.dtype, weight.dtype) else torch.float32


def check_layer(features: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, classes: int) -> None:
    """Raise UsageError unless these are the features, layer and labels of a minibatch over `classes` classes.

    On a GPU labels are not read back: one out of range is then a device-side assertion of torch.
    """
    if features.dim() != 2 or weight.dim() != 2 or features.shape[1] != weight.shape[1]:
        raise UsageError(
            f"features of shape {tuple(features.shape)} and a weight of shape {tuple(weight.shape)}: "
            "give (m, d) and (k, d)"
        )
    if labels.shape != features.shape[:1]:
        raise UsageError(f"labels of shape {tuple(labels.shape)}: give one for each of {len(features)} examples")
    if not len(features):
        raise UsageError("a minibatch without examples has no loss: give at least 1")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise UsageError(f"a bias of shape {tuple(bias.shape)}: give one for each of {len(weight)} classes")
    floating = [each for each in (features, weight, bias) if each is not None]
    if not all(each.is_floating_point() for each in floating):
        types = ", ".join(str(each.dtype) for each in floating)
        raise UsageError(f"features and layer of {types}: give floating ones")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UsageError(f"labels of {labels.dtype}: a label is the number of its class, an integer")
    if any(each.device != features.device for each in (*floating, labels)):
        places = ", ".join(str(each.device) for each in (*floating, labels))
        raise UsageError(f"features, layer and labels are on {places}: put them on one device")
    refuse_outside("labels", labels, classes)


def refuse_outside(what: str, numbers: Tensor, classes: int) -> None:
    """Raise UsageError unless all numbers (n,) are classes; on a GPU torch asserts it on the device."""
    if numbers.device.type != "cpu":
        numbers.new_zeros(1).expand(classes).gather(0, numbers.long())
        return
    outside = ((numbers < 0) | (numbers >= classes)).nonzero()
    if len(outside):
        at = int(outside[0])
        raise UsageError(
            f"{len(outside)} of {len(numbers)} {what} lie outside 0 .. {classes - 1}; "
            f"the first is {int(numbers[at])}, number {at}"
        )


def _refuse_range(weight: Tensor, form: Form, first_class: int) -> None:
    if not 0 <= first_class <= form.classes - len(weight):
        raise UsageError(
            f"classes {first_class} .. {first_class + len(weight) - 1} of a loss over {form.classes} classes: "
            "a shard lies within them"
        )
