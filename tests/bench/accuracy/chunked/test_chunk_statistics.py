"""Row statistics of chunks, put together, and their derivatives, against torch on whole rows."""

import itertools
import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from bench.accuracy.chunked.statistics import (
    ClassTerms,
    Statistic,
    combined,
    into_derivative,
    largest,
    neutral,
    of_chunk,
)

OF_ALL = tuple(name for name in get_args(Statistic) if name != "largest_false")
WITH_DERIVATIVE = tuple(name for name in OF_ALL if name != "mean")


def whole_row(name: Statistic, z: Tensor, weights: Tensor, shifts: Tensor) -> Tensor:
    """By definition, of all classes at once."""
    return {
        "lse": z.exp().sum(1).log(),
        "lse_doubled": (2 * z).exp().sum(1).log(),
        "lse_doubled_logsigmoid": z.sigmoid().square().sum(1).log(),
        "softplus": (weights * torch.log1p((z - shifts).exp())).sum(1),
        "mean": z.mean(1),
    }[name]


def random_terms(k: int) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    return torch.rand(k, generator=source, dtype=torch.float64) + 0.1, torch.randn(
        k, generator=source, dtype=torch.float64
    )


@pytest.mark.parametrize("name", OF_ALL)
@settings(max_examples=30, deadline=None)
@given(
    z=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12),
    cuts=st.sets(st.integers(1, 11), max_size=3),
)
def test_parts_of_a_row_make_its_statistic(name: Statistic, z: list[float], cuts: set[int]) -> None:
    row = torch.tensor([z], dtype=torch.float64)
    weights, shifts = random_terms(len(z))
    terms = ClassTerms(weights, shifts, len(z))
    at = [0, *sorted(cut for cut in cuts if cut < len(z)), len(z)]
    columns = [slice(start, stop) for start, stop in itertools.pairwise(at)]
    parts = [torch.full((1,), neutral(name), dtype=torch.float64)]
    parts += [of_chunk(name, row[:, part], terms.of(part)) for part in columns]
    expected = whole_row(name, row, weights, shifts)
    torch.testing.assert_close(combined(name, torch.stack(parts)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", WITH_DERIVATIVE)
def test_derivatives_are_those_of_autograd(name: Statistic, weighted: bool) -> None:
    z = 3 * torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    terms = ClassTerms(*(random_terms(7) if weighted else (None, None)), 7)
    leaf = z.clone().requires_grad_()
    value = of_chunk(name, leaf, terms)
    slope = torch.tensor([2.0, -0.5, 0.0], dtype=torch.float64)
    (expected,) = torch.autograd.grad(value, leaf, slope)
    found = into_derivative(name, z, value.detach(), slope, terms)
    assert found.data_ptr() == z.data_ptr()  # in place
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_far_out_they_stay_finite_and_exact() -> None:
    z = torch.tensor([[-1e4, -1e4 + 1]], dtype=torch.float64)
    terms = ClassTerms(None, None, 2)
    value = of_chunk("lse_doubled_logsigmoid", z, terms)
    assert float(value) == pytest.approx(-2e4 + math.log(1 + math.e**2))
    # squared sigmoids are 0 there in any float; their shares of the sum are 1 : e^2
    slopes = into_derivative("lse_doubled_logsigmoid", z.clone(), value, torch.ones(1, dtype=torch.float64), terms)
    assert (slopes / 2).tolist()[0] == pytest.approx([1 / (1 + math.e**2), math.e**2 / (1 + math.e**2)], rel=1e-9)
    large = of_chunk("softplus", torch.tensor([[22.0]], dtype=torch.float64), ClassTerms(None, None, 1))
    assert float(large) - 22 == pytest.approx(math.log1p(math.exp(-22)), rel=1e-4)
    assert float(F.softplus(torch.tensor(22.0, dtype=torch.float64))) == 22


def test_the_largest_with_its_place_and_its_ties() -> None:
    masked = torch.tensor([[1.0, 3, -math.inf, 3], [-math.inf, -2, -5, -6]])
    values, columns, ties = largest(masked)
    assert values.tolist() == [3, -2]
    assert masked[torch.arange(2), columns].tolist() == [3, -2]
    assert ties.tolist() == [2, 1]


def test_what_needs_a_mask_or_has_no_derivative_says_so() -> None:
    z, terms = torch.zeros(1, 2), ClassTerms(None, None, 2)
    with pytest.raises(ValueError, match="masked"):
        of_chunk("largest_false", z, terms)
    with pytest.raises(ValueError, match="a constant"):
        into_derivative("mean", z, z[:, 0], z[:, 0], terms)
