"""What a query may be given, and the line that says why not."""

import numpy as np
import pytest
import torch
from torch import Tensor

from archs import arguments


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (417, ((417,), True)),
        ([417], ((417,), False)),
        (np.array([3, 17]), ((3, 17), False)),
        (torch.tensor(3), ((3,), True)),
        (range(2), ((0, 1), False)),
    ],
)
def test_one_class_or_several(given: object, asked: tuple[tuple[int, ...], bool]) -> None:
    assert arguments.asked_classes(given) == asked  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [True, 1.0, "1", None, [np.float32(1)], torch.tensor([True])])
def test_what_is_no_class(given: object) -> None:
    with pytest.raises(TypeError, match="a class is a whole number, not a"):
        arguments.asked_classes(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "classes"), [((4,), 1), ((4, 1), 1), ((4, 3), 3)])
def test_truth_values_take_the_shape_of_the_scores(shape: tuple[int, ...], classes: int) -> None:
    assert arguments.truth_values(torch.ones(shape, dtype=torch.bool), 4, classes).shape == (4, classes)


@pytest.mark.parametrize(("shape", "classes"), [((), 1), ((4,), 2), ((3,), 1), ((3, 4), 3), ((4, 1, 1), 1)])
def test_truth_values_of_another_shape(shape: tuple[int, ...], classes: int) -> None:
    with pytest.raises(ValueError, match=rf"do not fit 4 images and {classes} classes"):
        arguments.truth_values(torch.ones(shape, dtype=torch.bool), 4, classes)


@pytest.mark.parametrize("dtype", [None, torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_that_can_be_computed_in(dtype: torch.dtype | None) -> None:
    arguments.check_dtype(dtype)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (torch.tensor([[1.0], [torch.nan]]), "1 of 2 images, the first of them number 1"),
        (torch.tensor([[1.0, -torch.inf], [1.0, 1.0], [torch.nan, torch.inf]]), "2 of 3 images, .* number 0"),
    ],
)
def test_scores_that_are_not_finite(scores: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        arguments.check_finite(scores)
    arguments.check_finite(torch.zeros(2, 3))
