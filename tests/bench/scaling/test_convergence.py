import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.accuracy.parity import Measured
from bench.scaling.convergence import compare_queries, convergence, of_queries, settled, unknown
from bench.scaling.run import QueryErrors


def of(*errors: float) -> Measured:
    return of_queries(np.array(errors, dtype=np.float64))


def alike(error: float, queries: int = 50) -> Measured:
    """Queries without spread: the interval is the ratio itself."""
    return of(*[error] * queries)


def queries(single: np.ndarray, every: np.ndarray) -> QueryErrors:
    return QueryErrors(np.arange(len(single)), single, every)


def test_influence_of_queries_is_that_of_a_mean() -> None:
    """Errors 0.1, 0.2, 0.6: mean 0.3, and its variance is that of the mean of three."""
    found = of(0.1, 0.2, 0.6)
    assert found.error == pytest.approx(0.3)
    assert found.influence == pytest.approx([-0.2 / 3, -0.1 / 3, 0.3 / 3])
    of_mean = np.var([0.1, 0.2, 0.6], ddof=1) / 3
    assert np.sum(found.influence**2) * 3 / 2 == pytest.approx(of_mean)


@pytest.mark.parametrize(
    ("ratio", "converged"),
    [(0.5, False), (0.909, False), (0.9092, True), (1.0, True), (1.0999, True), (1.1001, False), (3.0, False)],
)
def test_without_chance_the_margin_decides(ratio, converged) -> None:
    found = settled(alike(0.02 * ratio), alike(0.02))
    assert found.converged is converged
    assert found.ratio == pytest.approx(ratio)


def test_an_interval_worked_by_hand() -> None:
    """Four queries, 0.1 each; at half of the steps 0.13, 0.11, 0.13, 0.11: pulls of +-1/48 on the logarithm of 1.2."""
    half_width = stats.t.ppf(0.975, 3) * math.sqrt(4 * (1 / 48) ** 2 * 4 / 3)
    low, high = 1.2 * math.exp(-half_width), 1.2 * math.exp(half_width)
    assert low > 1, "shown to be larger"
    found = settled(of(0.13, 0.11, 0.13, 0.11), alike(0.1, 4))
    assert found.converged is False
    assert found.reason == f"half of the steps have 1.20 times the error (95 % interval {low:.2f} to {high:.2f})"


def test_few_queries_leave_it_open_on_both_sides_of_the_margin() -> None:
    above = settled(of(0.3, 0.01, 0.01, 0.2), of(0.1, 0.1, 0.1, 0.1))
    assert above.ratio is not None
    assert above.ratio > 1.1
    below = settled(of(0.2, 0.05, 0.05, 0.1), of(0.1, 0.1, 0.1, 0.1))
    assert below.ratio is not None
    assert below.ratio <= 1.1
    assert (above.converged, below.converged) == (None, None)
    assert above.reason.endswith("too few queries to tell")


@pytest.mark.parametrize(("half", "full"), [(0.0, 0.0), (0.01, 0.0), (0.0, 0.01)])
def test_without_an_error_nothing_is_told(half, full) -> None:
    found = settled(alike(half), alike(full))
    assert found.converged is None
    assert found.ratio is None
    assert "have no ratio" in found.reason


def test_one_query_tells_nothing() -> None:
    found = settled(of(0.2), of(0.1))
    assert found.converged is None
    assert found.reason == "one query says nothing of others"


def test_an_error_that_rises_with_the_steps_has_not_converged_and_says_so() -> None:
    found = settled(alike(0.01), alike(0.02))
    assert (found.converged, found.rises) == (False, True)
    assert found.reason.endswith("more steps made it worse")
    falls = settled(alike(0.02), alike(0.01))
    assert (falls.converged, falls.rises) == (False, False)


def test_that_more_steps_made_it_worse_has_to_be_shown() -> None:
    found = settled(of(0.03, 0.11, 0.12, 0.08), of(0.1, 0.1, 0.1, 0.1))
    assert found.ratio is not None
    assert found.ratio < 1 / 1.1
    assert (found.converged, found.rises) == (None, False)
    assert found.reason.endswith("too few queries to tell")


@given(st.lists(st.floats(0.01, 0.4), min_size=4, max_size=12), st.randoms(use_true_random=False))
def test_half_and_all_of_the_steps_can_be_exchanged(errors, random) -> None:
    """The rule is one of logarithms: a change by so much is judged alike in both directions."""
    half = of_queries(np.array(errors) * np.array([random.uniform(0.7, 1.4) for _ in errors]))
    full = of_queries(np.array(errors))
    assert settled(half, full).converged is settled(full, half).converged


def test_both_scores_count() -> None:
    steady, slow = np.full(20, 0.1), np.full(20, 0.2)
    nothing = np.zeros(20)
    assert convergence(queries(steady, steady), queries(steady, steady)).converged is True
    assert convergence(queries(slow, steady), queries(steady, steady)).converged is False
    assert convergence(queries(steady, slow), queries(steady, steady)).converged is False
    assert convergence(queries(steady, nothing), queries(steady, nothing)).converged is None
    assert convergence(queries(slow, nothing), queries(steady, nothing)).converged is False
    both = convergence(queries(slow, steady), queries(steady, steady))
    assert both.reason.startswith("one logit: half of the steps have 2.00 times the error")
    assert "all logits: half of the steps have 1.00 times" in both.reason


def test_what_is_missing_is_said_once() -> None:
    assert unknown("no model").converged is None
    assert unknown("no model").reason == "no model"


def test_models_of_other_queries_are_refused() -> None:
    with pytest.raises(ValueError, match=r"models met \[2, 3\] queries"):
        compare_queries([of(0.1, 0.2)], [of(0.1, 0.2, 0.3)])


@pytest.mark.parametrize(("asked", "seeds"), [(10, 3), (100, 2), (1000, 3)])
def test_seeds_that_meet_the_same_queries_have_an_interval_that_holds_the_truth(asked: int, seeds: int) -> None:
    """Errors with a part of the query (shared by all), of the seed, and of both: 277 of 300 intervals at least.

    Fewer than 277 of 300 would come by chance once in 59 such tests if exactly 95 % held it; they are somewhat wider.
    """
    draws = np.random.default_rng(asked)

    def models(error: float, hardness: np.ndarray) -> list[Measured]:
        own = draws.lognormal(-(0.03**2) / 2, 0.03, seeds)
        return [of_queries(error * each * hardness * draws.lognormal(-0.02, 0.2, asked)) for each in own]

    held = 0
    for _ in range(300):
        hardness = draws.gamma(1, 0.02, asked)
        found = compare_queries(models(1.2, hardness), models(1.0, hardness))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.2 <= found.high
    assert held >= 277


@given(st.lists(st.floats(1e-6, 0.4), min_size=2, max_size=20), st.floats(0.2, 2.0))
def test_errors_that_all_change_alike_are_judged_by_their_ratio(errors, ratio) -> None:
    """The difference of logarithms is the same of every query, so that no chance is left."""
    full = np.array(errors)
    found = settled(of_queries(ratio * full), of_queries(full))
    if min(abs(ratio - 1.1), abs(ratio - 1 / 1.1)) > 1e-6:
        assert found.converged is (1 / 1.1 < ratio < 1.1)
