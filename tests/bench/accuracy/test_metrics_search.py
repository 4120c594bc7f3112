from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.accuracy.metrics import search
from bench.accuracy.metrics.search import Grid, Search, bisect, place

Array = NDArray[Any]


@st.composite
def sought(draw: st.DrawFn) -> tuple[Array, Array]:
    """Thresholds, ascending, with ties and outliers; and values at, between, just beside and far above them."""
    width = draw(st.sampled_from([32, 64]))
    bound = 2.0**100
    numbers = st.floats(-bound, bound, width=width, allow_subnormal=True) | st.integers(-3, 3).map(float)
    thresholds = np.sort(np.array(draw(st.lists(numbers, min_size=1, max_size=20)), f"float{width}"))
    infinity = thresholds.dtype.type(np.inf)
    others = np.array(draw(st.lists(numbers, max_size=20)), thresholds.dtype)
    beside = [np.nextafter(thresholds, infinity), np.nextafter(thresholds, -infinity)]
    values = np.concatenate([thresholds, *beside, others])
    return thresholds, values[values >= thresholds[0]]


@settings(max_examples=200, deadline=None)
@given(sought())
def test_a_search_finds_what_a_bisection_finds(given: tuple[Array, Array]) -> None:
    thresholds, values = given
    expected = np.searchsorted(thresholds, values, side="right")
    tied = np.flatnonzero(np.isin(values, thresholds))
    np.testing.assert_array_equal(Search(thresholds)(values), expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FEW", 0)
        for way in (bisect, place):
            found, equal = way(thresholds, values)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(equal, tied)


@settings(max_examples=100, deadline=None)
@given(sought(), st.sampled_from([1, 16, 2**16]))
def test_a_higher_cell_holds_higher_values(given: tuple[Array, Array], cells: int) -> None:
    thresholds, values = given
    grid = Grid(thresholds, cells)
    if not grid.usable:
        return
    found = grid.cell(np.sort(values))
    assert (np.diff(found) >= 0).all()
    assert found.min() >= 0
    assert found.max() <= cells + 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thresholds_spread_evenly_leave_few_values_to_bisect(dtype: Any) -> None:
    random = np.random.default_rng(0)
    thresholds = np.sort(random.uniform(size=100)).astype(dtype)
    grid = Grid(thresholds, search.CELLS * len(thresholds))
    values = random.uniform(thresholds[0], thresholds[-1], 10_000).astype(dtype)
    assert np.isin(grid.cell(values), grid.cell(thresholds)).mean() < 1.5 / search.CELLS


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thresholds_without_a_usable_spread_are_bisected(dtype: Any) -> None:
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    for thresholds in (np.array([3, 3, 3], dtype), np.array([0, tiny], dtype), np.array([-huge, huge], dtype)):
        values = np.array([thresholds[0], thresholds[-1], huge], dtype)
        assert not Grid(thresholds, 16).usable
        np.testing.assert_array_equal(Search(thresholds)(values), np.searchsorted(thresholds, values, side="right"))


def test_more_thresholds_than_cells() -> None:
    random = np.random.default_rng(0)
    thresholds = np.sort(random.standard_normal(5000)).astype(np.float32)
    values = np.abs(random.standard_normal(20_000)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "MOST_CELLS", 100)
        found = Search(thresholds)(values)
    np.testing.assert_array_equal(found, np.searchsorted(thresholds, values, side="right"))
