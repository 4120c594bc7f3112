"""From labelled images to a data set: checks, the validation split, the normalisation, the facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.accuracy.data.normalisation import fitted
from bench.accuracy.data.splits import Dataset, MemorySplit
from bench.accuracy.data.stratification import fingerprint, stratified
from bench.accuracy.records import DatasetFacts
from bench.errors import UsageError

#: Of the training split, held out to choose the learning rate. The paper does not say how much it held out.
VALIDATION_SHARE = 0.1

Array: TypeAlias = "Tensor | NDArray[Any]"


@dataclass(frozen=True)
class Labelled:
    """Images and labels as they were read: (n, c, h, w) uint8 or floating, and (n,) int64."""

    pixels: Tensor
    labels: Tensor

    def at(self, indices: NDArray[np.int64]) -> "Labelled":
        """The examples with these indices."""
        chosen = torch.from_numpy(indices)
        return Labelled(self.pixels[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Published:
    """A data set as published; what it has no validation split for is held out of the training split."""

    train: Labelled
    test: Labelled
    class_names: tuple[str, ...]
    checksums: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    validation: Labelled | None = None
    validation_share: float = VALIDATION_SHARE


@dataclass(frozen=True)
class HeldOut:
    """A validation split: which training examples are kept and which are held out, and the line that records it."""

    kept: NDArray[np.int64]
    held_out: NDArray[np.int64]
    note: str


def from_arrays(
    name: str,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    *,
    validation: tuple[Array, Array] | None = None,
    class_names: Sequence[str] | None = None,
    split_seed: int = 0,
) -> Dataset:
    """A data set from (images, labels) in hand, numpy or torch.

    Images are (n, c, h, w), or (n, h, w) for one channel, uint8 or floating and finite; labels are integers from 0,
    (n,). Without `class_names` the classes are numbered up to the largest training label. Without `validation`, 10 %
    of every class of the training images are held out. Raises UsageError for anything else.
    """
    parts = {"training": train, "test": test, **({"validation": validation} if validation is not None else {})}
    labelled = {part: _labelled(f"{name}, {part} data", *arrays) for part, arrays in parts.items()}
    if class_names is None:
        class_names = [str(label) for label in range(int(labelled["training"].labels.max()) + 1)]
    published = Published(
        labelled["training"], labelled["test"], tuple(class_names), validation=labelled.get("validation")
    )
    return assemble(name, published, split_seed=split_seed)


def assemble(name: str, published: Published, *, split_seed: int) -> Dataset:
    """Check a published data set, hold out its validation split and normalise by what is left to train on.

    Raises UsageError for labels out of range, values that are not finite, one class, or nothing to hold out.
    """
    classes = len(published.class_names)
    check_classes(name, classes)
    for part, data in (("training", published.train), ("test", published.test), ("validation", published.validation)):
        if data is not None:
            _check(f"{name}, {part} data", data, classes, published.train.pixels.shape[1:])
    kept, held_out, notes = _with_validation(name, published, split_seed)
    normalisation = fitted(kept.pixels)
    train, validation, test = (
        MemorySplit(data.pixels, data.labels, normalisation) for data in (kept, held_out, published.test)
    )
    facts = DatasetFacts(
        name=name,
        classes=classes,
        input_shape=train.input_shape,
        train=len(train),
        validation=len(validation),
        test=len(test),
        split_seed=split_seed,
        checksums=dict(published.checksums),
        notes=(*published.notes, *notes, normalisation.described("of the examples trained on")),
    )
    return Dataset(name, facts, published.class_names, train, validation, test)


def hold_out(name: str, labels: Tensor, share: float, split_seed: int) -> HeldOut:
    """The stratified validation split of training labels (n,); UsageError if there is nothing to hold out."""
    kept, held_out = stratified(labels.numpy(), share, split_seed)
    if not len(held_out):
        raise UsageError(f"{name}: no class has two training examples, so none can be held out for validation")
    note = (
        f"validation: {share:.4g} of each class of the training split, at least one, seed {split_seed}; "
        f"{fingerprint(held_out)} are the first digits of the SHA-256 of its indices"
    )
    return HeldOut(kept, held_out, note)


def check_classes(name: str, classes: int) -> None:
    """Raise UsageError unless there is something to tell apart."""
    if classes < 2:
        found = "1 class" if classes == 1 else f"{classes} classes"
        raise UsageError(f"{name} has {found}; telling one from the others needs two or more")


def check_labels(name: str, labels: Tensor, classes: int) -> None:
    """Raise UsageError, with the first offender, unless every label (n,) is from 0 to `classes` - 1."""
    wrong = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(wrong):
        at = int(wrong[0])
        raise UsageError(
            f"{name}: label {int(labels[at])} of example {at} is out of range, 0 to {classes - 1} are its classes"
        )


def _with_validation(name: str, published: Published, seed: int) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    if published.validation is not None:
        return published.train, published.validation, ("validation: as published",)
    split = hold_out(name, published.train.labels, published.validation_share, seed)
    return published.train.at(split.kept), published.train.at(split.held_out), (split.note,)


def _labelled(name: str, images: Array, labels: Array) -> Labelled:
    """Arrays in hand as tensors of the right types and dimensions, or UsageError."""
    try:
        pixels, targets = torch.as_tensor(images).cpu(), torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name}: no array of numbers: {error}") from error
    if pixels.dim() == 3:
        pixels = pixels[:, None]
    if pixels.dim() != 4 or not pixels.numel():
        raise UsageError(
            f"{name}: images have shape {tuple(pixels.shape)}, expected (n, channels, height, width), none of them 0"
        )
    if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
        raise UsageError(f"{name}: images are {_type(pixels)}, expected uint8 (0 to 255) or a floating type")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise UsageError(f"{name}: labels are {_type(targets)}, expected integers")
    labelled = Labelled(pixels, targets.to(torch.int64))
    _check_counts(name, labelled)
    return labelled


def _check_counts(name: str, data: Labelled) -> None:
    if data.labels.shape != data.pixels.shape[:1]:
        raise UsageError(f"{name}: {len(data.pixels)} images, but labels of shape {tuple(data.labels.shape)}")
    if not len(data.labels):
        raise UsageError(f"{name}: there is not one example")


def _check(name: str, data: Labelled, classes: int, shape: torch.Size) -> None:
    _check_counts(name, data)
    if data.pixels.shape[1:] != shape:
        raise UsageError(
            f"{name}: images have shape {tuple(data.pixels.shape[1:])}, those to train on have {tuple(shape)}"
        )
    check_labels(name, data.labels, classes)
    if data.pixels.is_floating_point():
        _check_finite(name, data.pixels)


def _check_finite(name: str, pixels: Tensor) -> None:
    finite = pixels.isfinite().flatten(1).all(1)
    if not finite.all():
        at = int((~finite).nonzero()[0])
        raise UsageError(f"{name}: image {at} holds values that are not finite (NaN or infinity)")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
