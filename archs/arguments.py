"""What a query is given: class numbers, images, truth values, a dtype; refused in one line where they do not fit."""

import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from archs.backbone import dtype_name
from archs.rows_on_disk import DTYPES

#: One class, or several.
Classes = SupportsIndex | Sequence[SupportsIndex]


def asked_classes(classes: Classes) -> tuple[tuple[int, ...], bool]:
    """Class numbers, and whether one was asked for by itself. Their range is looked at where they are read.

    Raises TypeError for what is no whole number, ValueError for none at all.
    """
    if isinstance(classes, Tensor | np.ndarray):
        classes = classes.tolist()
    if isinstance(classes, Sequence):
        if not classes:
            raise ValueError("no class is asked for: name one or more")
        return tuple(whole_number("a class", each) for each in classes), False
    return (whole_number("a class", classes),), True


def whole_number(what: str, value: SupportsIndex) -> int:
    """The number; `what` it is says the TypeError for anything else."""
    if isinstance(value, bool):  # True would be class 1
        raise TypeError(f"{what} is a whole number, not a bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} is a whole number, not a {type(value).__name__}") from None


def truth_values(is_class: Tensor, images: int, classes: int) -> Tensor:
    """Truth values in the shape of the scores, (images, classes), from (images,) for one class or that shape.

    Raises TypeError for what is no tensor, ValueError for other shapes and for numbers.
    """
    check_is_tensor("truth values", is_class)
    shape = is_class.shape if is_class.ndim == 2 else (*is_class.shape, 1)
    if shape != (images, classes):
        raise ValueError(
            f"truth values of shape {tuple(is_class.shape)} do not fit {images} images and {classes} classes"
        )
    if is_class.dtype != torch.bool:
        raise ValueError(f"truth values of {dtype_name(is_class.dtype)}, where bool is needed: use is_class.bool()")
    return is_class.reshape(shape)


def check_is_tensor(what: str, value: object) -> None:
    """Raise TypeError for anything but a torch.Tensor; `what` it is stands in its message."""
    if isinstance(value, np.ndarray):
        raise TypeError(f"{what} are a numpy array, where a torch.Tensor is needed: use torch.from_numpy")
    if not isinstance(value, Tensor):
        raise TypeError(f"{what} are a {type(value).__name__}, where a torch.Tensor is needed")


def check_dtype(dtype: object) -> None:
    """Raise ValueError for anything but None or a dtype that a top layer can have."""
    if dtype is not None and dtype not in DTYPES.values():
        raise ValueError(f"dtype {dtype!r}: must be one of {', '.join(map(str, DTYPES.values()))}")


def check_images(images: Tensor, input_shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    """See that images, shape (n, *input_shape), fit a network of that name.

    Raises TypeError for what is no tensor, ValueError for other shapes and dtypes.
    """
    check_is_tensor("images", images)
    if images.ndim != len(input_shape) + 1 or images.shape[1:] != input_shape or not len(images):
        raise ValueError(
            f"images of shape {tuple(images.shape)} do not fit {name}, which takes (n, "
            f"{', '.join(map(str, input_shape))}) with n of 1 or more"
        )
    if images.dtype != dtype:
        raise ValueError(
            f"images of {dtype_name(images.dtype)} do not fit {name}, which computes in {dtype_name(dtype)}: "
            f"use images.to({dtype})"
        )


def check_scores(scores: Tensor, dtype: torch.dtype, name: str) -> None:
    """Raise TypeError for scores that are no tensor, ValueError for another dtype than the network's."""
    check_is_tensor("scores", scores)
    if scores.dtype != dtype:
        raise ValueError(f"scores of {dtype_name(scores.dtype)}, where {name} gives {dtype_name(dtype)}")


def check_finite(scores: Tensor) -> None:
    """Raise ValueError if a score, shape (images, classes), is not finite: no decision stands on it."""
    finite = scores.isfinite().all(1)
    if not finite.all():
        lost = (~finite).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{len(lost)} of {len(scores)} images, the first of them number {lost[0]}, have a score that is not "
            "finite, and no decision stands on that: leave them out, or compute in a wider dtype"
        )
