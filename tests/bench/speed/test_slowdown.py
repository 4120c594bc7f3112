import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.speed.slowdown import slowdown


def test_a_slowdown_is_the_median_over_the_least() -> None:
    assert slowdown(np.array([[1.0, 1.2], [5.0, np.nan]])) == pytest.approx(1.2)


def test_of_hundreds_of_passes_the_luckiest_do_not_count() -> None:
    times = np.full(200, 1.2)
    times[:3], times[3:20] = 0.1, 1.0
    assert slowdown(times) == pytest.approx(1.2)


def test_equal_passes_are_not_slowed() -> None:
    assert slowdown(np.array([3.0, 3.0])) == 1.0


@given(arrays(float, st.integers(1, 40), elements=st.floats(1e-3, 10)), st.floats(0.1, 10))
def test_a_slowdown_is_at_least_one_and_has_no_unit(times: np.ndarray, unit: float) -> None:
    found = slowdown(times)
    assert found >= 1
    assert slowdown(unit * times) == pytest.approx(found)


def test_a_slowdown_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a time"):
        slowdown(np.array([np.nan]))
