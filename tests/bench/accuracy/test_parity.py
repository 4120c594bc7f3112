import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.accuracy.parity import Measured, compare, verdict_of

#: 97.5 % quantiles of Student's t, from printed tables.
T_1, T_3 = 12.706, 3.182


def measured(error: float, influence: Sequence[float] = (0.0,) * 4) -> Measured:
    return Measured(error, np.array(influence, dtype=np.float64))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.90, 1.10, "parity"),
        (1.05, 1.10, "parity"),
        (0.20, 0.30, "parity"),
        (0.90, 1.1000001, "undecided"),
        (1.00, 1.2, "undecided"),
        (1.0000001, 1.2, "worse"),
        (3.0, 4.0, "worse"),
    ],
)
def test_the_verdict_at_its_ends(low: float, high: float, verdict: str) -> None:
    assert verdict_of(low, high) == verdict


def test_one_seed_worked_by_hand() -> None:
    """Pulls of 0.05 on the logarithm: variance 4 x 0.05^2 x 4/3, three degrees of freedom."""
    found = compare([measured(0.02, [1e-3, -1e-3, 1e-3, -1e-3])], [measured(0.01)])
    half_width = T_3 * math.sqrt(4 * 0.05**2 * 4 / 3)
    assert found.ratio == pytest.approx(2)
    assert found.low == pytest.approx(2 * math.exp(-half_width), rel=1e-3)
    assert found.high == pytest.approx(2 * math.exp(half_width), rel=1e-3)
    assert found.verdict == "worse"
    assert "2.00 times the error (95 % interval 1.38 to 2.89): shown to be larger" in found.reason
    assert found.seeds == 1


def test_two_seeds_worked_by_hand() -> None:
    """Relative deviations of +-1/3 from the means: variance 2/9 over two seeds, one degree of freedom."""
    found = compare([measured(0.02), measured(0.04)], [measured(0.01), measured(0.01)])
    half_width = T_1 * math.sqrt(2 / 9 / 2)
    assert found.ratio == pytest.approx(3)
    assert found.low == pytest.approx(3 * math.exp(-half_width), rel=1e-3)
    assert found.high == pytest.approx(3 * math.exp(half_width), rel=1e-3)
    assert found.verdict == "undecided"
    assert "neither shown to be within 10 % nor to be larger" in found.reason
    assert found.seeds == 2


def test_the_margins_of_examples_and_seeds_add_up_in_squares() -> None:
    pulls = [1e-3, -1e-3, 1e-3, -1e-3]
    found = compare([measured(0.02, pulls), measured(0.04, pulls)], [measured(0.01), measured(0.01)])
    of_examples = T_3 * math.sqrt(4 * (2e-3 / 0.06) ** 2 * 4 / 3)
    of_seeds = T_1 * math.sqrt(2 / 9 / 2)
    assert found.high == pytest.approx(3 * math.exp(math.hypot(of_examples, of_seeds)), rel=1e-3)


def test_a_few_examples_that_make_all_of_the_error_leave_few_degrees_of_freedom() -> None:
    """Pulls of +-0.1 on the logarithm by 2 of 400 examples: kurtosis 200, 800 / 199 = 4.02 degrees of freedom."""
    pulls = [1e-3, -1e-3, *[0.0] * 398]
    found = compare([measured(0.01, pulls)], [measured(0.01, [0.0] * 400)])
    t_4 = 2.776  # from a printed table
    assert found.high == pytest.approx(math.exp(t_4 * math.sqrt(2 * 0.1**2 * 400 / 399)), rel=2e-3)


def test_the_interval_covers_where_few_examples_make_the_error() -> None:
    """Of 359 examples one in fifty costs something, some much more than others, against an error that is known.

    With n - 1 degrees of freedom 91 % are covered.
    """
    rng = np.random.default_rng(0)
    examples, repetitions, covered = 359, 1000, 0
    known = [Measured(0.02, np.zeros(examples))]
    for _ in range(repetitions):
        cost = (rng.random(examples) < 0.02) * rng.exponential(1.0, examples)
        found = compare([Measured(cost.mean(), (cost - cost.mean()) / examples)], known)
        covered += found.low is not None and found.high is not None and found.low <= 1 <= found.high
    assert 0.94 <= covered / repetitions <= 0.985


def test_what_makes_both_large_together_cancels() -> None:
    seeds = [measured(0.02, [3e-3, -1e-3, -1e-3, -1e-3]), measured(0.05, [4e-3, -4e-3, 1e-3, -1e-3])]
    found = compare(seeds, seeds)
    assert (found.verdict, found.ratio, found.low, found.high) == ("parity", 1.0, 1.0, 1.0)


def test_parity_that_is_measurably_above_says_so() -> None:
    found = compare([measured(0.0105)] * 2, [measured(0.0100)] * 2)
    assert found.verdict == "parity"
    assert found.reason.endswith("no more than 10 % above, though measurably above")


@pytest.mark.parametrize("none", [0.0, 1e-16, -2e-16])
def test_without_errors_there_is_no_ratio(none: float) -> None:
    for ours, theirs, words in (
        (none, none, "neither makes an error"),
        (0.01, none, "all logits make no error"),
        (none, 0.01, "the single logit makes no error"),
    ):
        found = compare([measured(ours)], [measured(theirs)])
        assert found.verdict == "undecided"
        assert (found.ratio, found.low, found.high) == (None, None, None)
        assert words in found.reason


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (1, 0), (0, 1), (2, 1)])
def test_one_measured_a_seed_of_each_is_needed(ours: int, theirs: int) -> None:
    with pytest.raises(ValueError, match="one a seed of each"):
        compare([measured(0.1)] * ours, [measured(0.1)] * theirs)


errors = st.lists(st.tuples(st.floats(1e-4, 0.5), st.floats(1e-4, 0.5)), min_size=1, max_size=4)


@given(errors, st.floats(0.1, 10))
def test_exchanging_the_sides_inverts_and_a_common_factor_cancels(pairs: list[tuple[float, float]], by: float) -> None:
    rng = np.random.default_rng(len(pairs))
    ours, theirs = ([measured(pair[side], rng.normal(0, 1e-5, 20)) for pair in pairs] for side in (0, 1))
    one, other = compare(ours, theirs), compare(theirs, ours)
    assert one.ratio is not None
    assert other.ratio is not None
    assert one.ratio * other.ratio == pytest.approx(1)
    assert one.low is not None
    assert one.high is not None
    assert other.low is not None
    assert one.low <= one.ratio <= one.high
    assert other.low == pytest.approx(1 / one.high)
    scaled = compare(
        [Measured(by * each.error, by * each.influence) for each in ours],
        [Measured(by * each.error, by * each.influence) for each in theirs],
    )
    assert (scaled.ratio, scaled.low, scaled.high) == pytest.approx((one.ratio, one.low, one.high))


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(seeds: int) -> None:
    """Errors that vary with the test examples (shared in part by the two scores) and with the seed.

    With one seed the trainings do not vary here either, since that interval leaves them out.
    """
    rng = np.random.default_rng(0)
    examples, repetitions, ours, theirs = 100, 1000, 0.02, 0.012
    spread = 0.05 if seeds > 1 else 0.0
    covered = 0
    for _ in range(repetitions):
        common = rng.normal(0, 0.4, examples)
        own, their_own = rng.normal(0, 0.3, (2, examples))
        pulls = [(own + common) / examples, (their_own + common) / examples]
        centred = [pull - pull.mean() for pull in pulls]
        sides = [
            [
                Measured(error * (1 + pull.sum() + rng.normal(0, spread)), error * centre)
                for _ in range(seeds)
            ]
            for error, pull, centre in zip((ours, theirs), pulls, centred, strict=True)
        ]  # fmt: skip
        found = compare(*sides)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= ours / theirs <= found.high
    # Where both the examples and few seeds count, the margins of the two together are on the safe side.
    low, high = stats.binom.ppf([1e-4, 1 - 1e-4], repetitions, 0.95) / repetitions
    assert low <= covered / repetitions <= (high if seeds == 1 else 1)
