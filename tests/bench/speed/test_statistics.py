import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.speed import statistics
from bench.speed.statistics import (
    Ratio,
    block_length,
    bootstrap_ratios,
    carry_over,
    ratios,
    replicates,
    speedup,
    speedup_of_means,
    steady,
    summary,
    warmup_limit,
)

SEEDS = st.integers(0, 2**32 - 1)


def noisy(seed: int, rounds: int = 40, slots: int = 3) -> np.ndarray:
    """Seconds, shape (rounds, slots): drift that a round shares, and noise of every pass."""
    generator = np.random.default_rng(seed)
    drift = np.exp(0.1 * generator.standard_normal((rounds, 1)))
    return drift * np.exp(0.03 * generator.standard_normal((rounds, slots)))


def only(found: list[Ratio | None]) -> Ratio:
    (ratio,) = found
    assert ratio is not None
    return ratio


def test_speedup_is_the_ratio_of_medians_by_hand():
    assert speedup(np.array([2.0, 9.0, 4.0]), np.array([[1.0, 2.0], [2.0, 3.0], [100.0, 2.0]])) == 2.0
    assert speedup_of_means(np.array([2.0, 9.0, 4.0]), np.array([1.0, 3.0, 5.0])) == pytest.approx(5 / 3)


def test_missing_times_are_left_out():
    assert speedup(np.array([np.nan, 6.0, np.nan]), np.array([[3.0, np.nan], [np.nan, np.nan], [3.0, 3.0]])) == 2.0


def test_no_times_at_all_is_an_error():
    with pytest.raises(ValueError, match="no times"):
        speedup(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match="no times"):
        summary(np.empty((0, 2)))


def test_summary_by_hand():
    found = summary(np.arange(1.0, 102.0))
    assert (found.mean, found.median, found.p5, found.p95, found.p99) == (51.0, 51.0, 6.0, 96.0, 100.0)


@given(SEEDS, st.floats(1e-6, 1e6))
@settings(max_examples=25, deadline=None)
def test_the_unit_of_time_does_not_matter(seed: int, factor: float):
    times = noisy(seed)
    one = only(ratios([times[:, 2]], times[:, :2], resamples=100))
    other = only(ratios([factor * times[:, 2]], factor * times[:, :2], resamples=100))
    assert other.estimate == pytest.approx(one.estimate, rel=1e-12)
    assert other.interval() == pytest.approx(one.interval(), rel=1e-9)


@given(SEEDS, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rounds_does_not_change_the_estimate(seed: int, random):
    times = noisy(seed)
    order = list(range(len(times)))
    random.shuffle(order)
    shuffled = times[order]
    assert speedup(shuffled[:, 2], shuffled[:, :2]) == speedup(times[:, 2], times[:, :2])


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_swapping_the_slots_inverts_the_control(seed: int):
    times = noisy(seed)
    forth = only(ratios([times[:, 1]], times[:, 0], resamples=100))
    back = only(ratios([times[:, 0]], times[:, 1], resamples=100))
    assert back.estimate == pytest.approx(1 / forth.estimate, rel=1e-12)
    low, high = forth.interval()
    assert back.interval() == pytest.approx((1 / high, 1 / low), rel=1e-9)


@given(SEEDS, st.integers(2, 60))
@settings(max_examples=25, deadline=None)
def test_the_bootstrap_interval_holds_its_estimate(seed: int, rounds: int):
    times = noisy(seed, rounds)
    ratio = only(bootstrap_ratios([times[:, 2]], times[:, :2], resamples=50))
    low, high = ratio.interval()
    assert low <= ratio.estimate <= high
    wide_low, wide_high = ratio.interval(0.99)
    assert wide_low <= low
    assert high <= wide_high


def test_equal_series_give_one_without_doubt():
    times = noisy(3)[:, 0]
    assert only(ratios([times], times)).interval() == (1.0, 1.0)
    assert only(ratios([3 * times], times)).interval() == pytest.approx((3.0, 3.0), rel=1e-12)


def test_what_a_round_shares_cancels():
    """Drift of 30 % that hits all passes of a round alike leaves the interval as narrow as their own noise allows."""
    generator = np.random.default_rng(1)
    own = np.exp(0.002 * generator.standard_normal((100, 3)))
    drift = np.exp(np.linspace(0, 0.3, 100))[:, None]
    together = only(ratios([(drift * own)[:, 2]], (drift * own)[:, :2]))
    apart = only(ratios([(drift * own)[:, 2]], (drift[generator.permutation(100)] * own)[:, :2]))
    assert together.error < 0.005 < 0.01 < apart.error


def test_error_of_independent_noise_agrees_with_theory():
    """Variance of a median of n normal values is pi/2 * sigma^2/n; the two medians are independent here."""
    sigma, rounds = 0.05, 400
    errors = []
    for seed in range(20):
        logs = sigma * np.random.default_rng(seed).standard_normal((rounds, 3))
        ratio = only(bootstrap_ratios([np.exp(logs[:, 2])], np.exp(logs[:, :2]), resamples=400))
        errors.append(ratio.error)
    theory = sigma * math.sqrt(math.pi / 2 * (1 / rounds + 1 / (2 * rounds)))
    assert np.mean(errors) == pytest.approx(theory, rel=0.1)


def test_resampling_is_repeatable_and_follows_its_seed():
    times = noisy(5)
    first, again, other = (
        only(ratios([times[:, 2]], times[:, :2], resamples=200, seed=seed)).error for seed in (0, 0, 1)
    )
    assert first == again != other


def test_counts_do_not_influence_each_other():
    times = noisy(6, slots=5)
    together = ratios([times[:, 2], times[:, 3], times[:, 4]], times[:, :2], resamples=100)
    apart = [only(ratios([times[:, column]], times[:, :2], resamples=100)) for column in (2, 3, 4)]
    assert together == apart


def test_memory_is_bounded_without_changing_the_error_much(monkeypatch: pytest.MonkeyPatch):
    times = noisy(7)
    whole = only(ratios([times[:, 2]], times[:, :2])).error
    monkeypatch.setattr(statistics, "_CHUNK", 1000)
    assert only(ratios([times[:, 2]], times[:, :2])).error == pytest.approx(whole, rel=0.1)


def test_a_count_that_is_missing_in_later_rounds_has_fewer_degrees_of_freedom():
    times = noisy(8, rounds=100)
    times[40:, 2] = np.nan
    ratio = only(ratios([times[:, 2]], times[:, :2]))
    assert ratio.degrees == 3  # four blocks of ten rounds
    assert ratio.estimate == speedup(times[:40, 2], times[:, :2])


@pytest.mark.parametrize("rounds", [0, 1])
def test_one_round_is_no_evidence_of_spread(rounds: int):
    assert ratios([np.ones(rounds)], np.ones((rounds, 2))) == [None]


def test_without_resamples_there_is_no_interval():
    assert ratios([noisy(1)[:, 2]], noisy(1)[:, :2], resamples=0) == [None]


def test_no_counts_no_ratios():
    assert ratios([], np.ones((30, 2))) == []


def test_interval_over_processes_is_the_textbook_t_interval():
    logs = [0.10, 0.12, 0.17]
    processes = np.repeat([0, 1, 2], 10)
    times = np.exp(np.repeat(logs, 10))
    ratio = only(ratios([times], np.ones((30, 2)), processes))
    reach = 4.302653 * np.std(logs, ddof=1) / math.sqrt(3)  # t quantile for 2 degrees of freedom, from tables
    assert ratio.interval() == pytest.approx((math.exp(0.12 - reach), math.exp(0.12 + reach)), rel=1e-6)
    assert ratio.estimate == pytest.approx(math.exp(0.12))


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6), st.integers(0, 100))
def test_a_speedup_lies_within_its_own_interval_however_much_processes_differ(levels, seed):
    """The mean of the processes' ratios can be far from the ratio over all samples, which the interval is around."""
    generator = np.random.default_rng(seed)
    base = np.exp(generator.normal(0, 0.02, (10 * len(levels), 2)))
    times = np.exp(np.repeat(levels, 10) + generator.normal(0, 0.02, 10 * len(levels)))
    ratio = only(ratios([times], base, np.repeat(np.arange(len(levels)), 10)))
    low, high = ratio.interval()
    assert low <= ratio.estimate <= high


def test_a_process_of_nine_rounds_is_no_replicate():
    times, processes = noisy(9, rounds=39), np.repeat([0, 1], [30, 9])
    assert replicates(times[:, 2], times[:, :2], processes) == 1
    ratio = only(ratios([times[:, 2]], times[:, :2], processes))
    assert ratio == only(bootstrap_ratios([times[:, 2]], times[:, :2], processes))
    assert ratio.degrees == 30 / 5 - 1 + 9 / 3 - 1


def test_blocks_stay_within_a_process():
    """Two processes whose levels differ: were blocks to cross, resamples would mix them in other proportions."""
    groups = [np.arange(0, 30), np.arange(30, 39)]
    (drawn,) = statistics._draws(groups, 200, seed=0, at_once=200)
    assert drawn.shape == (200, 39)
    assert drawn[:, :30].max() < 30 <= drawn[:, 30:].min()


def test_resamples_are_made_of_blocks_of_neighbours():
    (drawn,) = statistics._draws([np.arange(100)], 50, seed=0, at_once=50)
    within = np.diff(drawn.reshape(50, 10, 10), axis=2) % 100
    assert np.all(within == 1)


@pytest.mark.parametrize(("rounds", "length"), [(1, 1), (3, 1), (12, 3), (30, 5), (100, 10), (1000, 31)])
def test_blocks_are_as_long_as_they_are_many(rounds: int, length: int):
    assert block_length(rounds) == length


def test_smoothed_median_by_hand():
    middle = statistics._middle(np.array([[5.0, 1.0, 3.0, np.nan], [1.0, 2.0, 4.0, 9.0], [np.nan] * 4]))
    assert middle[:2].tolist() == [3.0, 3.0]
    assert np.isnan(middle[2])
    assert statistics._middle(np.arange(100.0)[None] ** 3)[0] == pytest.approx(np.mean(np.arange(43.0, 57.0) ** 3))


def test_carry_over_is_found_and_its_absence_too():
    generator = np.random.default_rng(2)
    times = np.exp(0.01 * generator.standard_normal((200, 2)))
    predecessors = np.where(generator.random((200, 2)) < 0.5, 1024.0, 1.0)
    predecessors[0, 0] = np.nan
    without = carry_over(times, predecessors, 1)
    assert without is not None
    assert not without.excludes_one(0.99)
    found = carry_over(times * np.where(predecessors == 1024, 1.02, 1.0), predecessors, 1)
    assert found is not None
    assert found.estimate == pytest.approx(1.02, abs=0.004)
    assert found.excludes_one(0.99)


def test_carry_over_needs_ten_passes_on_both_sides():
    times = noisy(4, rounds=40, slots=1)
    predecessors = np.ones((40, 1))
    predecessors[:36:4] = 1024
    assert carry_over(times, predecessors, 16) is None
    predecessors[::4] = 1024
    assert carry_over(times, predecessors, 16) is not None
    assert carry_over(times, predecessors, 1024) is None


def test_interval_quantile_is_students():
    ratio = Ratio(2.0, 0.1, 9.0)
    low, high = ratio.interval(0.95)
    assert math.log(high / 2) == pytest.approx(0.1 * 2.262157, rel=1e-6)
    assert low * high == pytest.approx(4.0)
    assert stats.t.cdf(math.log(high / 2) / 0.1, 9) == pytest.approx(0.975)


@pytest.mark.parametrize(
    ("seconds", "answer"),
    [
        ([], None),
        ([1.0] * 5, None),
        ([1.0] * 6, True),
        ([9.0, 1.1, 1.0, 1.0, 1.0, 1.1], False),
        ([9.0, 1.0, 1.0, 1.0, 1.0, 9.0], True),
        ([9.0, 9.0, 9.0, 1.0, 1.0, 1.0, 1.02, 1.02, 1.02], True),
        ([1.0, 1.0, 1.0, 1.04, 1.04, 1.04], False),
        ([1.0, 1.0, 1.0, 0.96, 0.96, 0.96], False),
    ],
)
def test_steady(seconds: list[float], answer: bool | None):
    assert steady(seconds) is answer


@pytest.mark.parametrize(("rounds", "limit"), [(1, 1), (9, 1), (30, 3), (100, 10), (109, 10)])
def test_warm_up_takes_at_most_a_tenth(rounds: int, limit: int):
    assert warmup_limit(rounds) == limit


def test_seven_counts_of_a_hundred_rounds_take_well_under_a_third_of_a_second():
    times = noisy(1, rounds=100, slots=9)
    series = [times[:, column] for column in range(2, 9)]
    best = math.inf
    for _ in range(3):
        began = time.process_time()
        ratios(series, times[:, :2], resamples=2000)
        best = min(best, time.process_time() - began)
    assert best < 0.3
