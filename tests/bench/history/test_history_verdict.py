import itertools
import math

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy import stats

from bench.history.snapshot import Estimate
from bench.history.verdict import (
    FALSE_ALARMS,
    MARGIN,
    PROCESS_DEGREES,
    PROCESS_SPREAD,
    Change,
    Gate,
    across_processes,
    cause,
    change,
    combined,
    only_improved,
    percent,
    simultaneous,
    speedup_verdict,
    standings,
    time_verdict,
)

TIMES = ("SAME", "FASTER", "SLOWER", "AMBIGUOUS")
SPEEDUPS = ("SAME", "HIGHER", "LOWER", "AMBIGUOUS")
GATES: tuple[Gate, ...] = ("speedup", "single", "both")

VALUES = st.floats(1e-9, 1e9)
ERRORS = st.floats(1e-6, 0.5)
DEGREES = st.floats(1, 100)
RATIOS = st.floats(0.2, 5)


@st.composite
def estimates(draw: st.DrawFn) -> Estimate:
    return Estimate(value=draw(VALUES), error=draw(ERRORS), degrees=draw(DEGREES))


def test_a_change_by_hand():
    found = change(Estimate(value=2.0, error=0.03, degrees=4), Estimate(value=3.0, error=0.04, degrees=4))
    assert found.ratio == 1.5
    assert found.error == pytest.approx(0.05)  # 3, 4, 5
    assert found.degrees == pytest.approx(0.05**4 / (0.03**4 / 4 + 0.04**4 / 4))


def test_welch_is_scipys():
    base, new = [1.0, 1.3, 0.9, 1.1, 1.2], [1.6, 1.5, 2.0]
    sides = [
        Estimate(value=math.exp(sum(logs) / len(logs)), error=stats.sem(logs), degrees=len(logs) - 1)
        for logs in (base, new)
    ]
    found = change(*sides)
    truth = stats.ttest_ind(new, base, equal_var=False).confidence_interval(0.98)
    assert found.interval(0.98) == pytest.approx((math.exp(truth.low), math.exp(truth.high)))


@given(estimates(), estimates())
def test_turning_a_change_round_turns_its_interval_round(base: Estimate, new: Estimate):
    forward, backward = change(base, new), change(new, base)
    ends, others = forward.interval(0.9), backward.interval(0.9)
    assert ends is not None
    assert others is not None
    assert forward.ratio * backward.ratio == pytest.approx(1)
    for end, other in zip(ends, reversed(others), strict=True):
        if 1e-300 < end < 1e300:
            assert end * other == pytest.approx(1)


@given(st.lists(st.tuples(ERRORS, DEGREES), min_size=1, max_size=4))
def test_combined_degrees_lie_between_the_fewest_and_the_sum(parts: list[tuple[float, float]]):
    error, degrees = combined(parts)
    assert error == pytest.approx(math.hypot(*(one for one, _ in parts)))
    fewest, total = min(free for _, free in parts), sum(free for _, free in parts)
    assert fewest * (1 - 1e-9) <= degrees <= total * (1 + 1e-9)


def test_parts_without_error_change_nothing():
    assert combined([(0.0, 1), (0.02, 7)]) == pytest.approx((0.02, 7))
    assert combined([(0.0, 3), (0.0, 2)]) == (0.0, 2)


def test_an_unknown_error_decides_nothing():
    found = change(Estimate(value=1.0), Estimate(value=2.0, error=0.01, degrees=4))
    assert (found.ratio, found.interval(0.95), found.smallest(MARGIN, 1)) == (2.0, None, None)
    assert time_verdict(found, MARGIN, 1) == "AMBIGUOUS"
    assert speedup_verdict(found, MARGIN, 1) == "AMBIGUOUS"


@pytest.mark.parametrize(
    ("ratio", "error", "time", "speedup"),
    [
        (1.00, 0.005, "SAME", "SAME"),
        (1.015, 0.001, "SAME", "SAME"),  # a change there is, and it does not matter
        (1.02, 0.006, "AMBIGUOUS", "AMBIGUOUS"),  # some change, which may exceed the margin
        (1.05, 0.005, "SLOWER", "HIGHER"),
        (0.95, 0.005, "FASTER", "LOWER"),
        (1.05, 0.03, "AMBIGUOUS", "AMBIGUOUS"),
        (1.00, 0.03, "AMBIGUOUS", "AMBIGUOUS"),
    ],
)
def test_verdicts_by_hand(ratio: float, error: float, time: str, speedup: str):
    found = Change(ratio, error, degrees=8)
    assert time_verdict(found, MARGIN, tests=3) == time
    assert speedup_verdict(found, MARGIN, tests=3) == speedup


@given(RATIOS, ERRORS, DEGREES, st.floats(0.001, 0.5), st.integers(1, 50))
@example(1.031, 0.001, 8.0, 0.03, 1)
def test_a_verdict_is_symmetric_and_keeps_its_word(
    ratio: float, error: float, degrees: float, margin: float, tests: int
):
    found = Change(ratio, error, degrees)
    verdict = found.verdict(margin, tests)
    mirrored = Change(1 / ratio, error, degrees).verdict(margin, tests)
    low, high = found.interval(simultaneous(tests)) or (math.nan, math.nan)
    assume(all(abs(end - edge) > 1e-9 for end in (low, high, ratio) for edge in (1, 1 + margin, 1 / (1 + margin))))
    assert mirrored == (None if verdict is None else -verdict)
    if verdict in (1, -1):
        assert low > 1 or high < 1
        assert abs(math.log(ratio)) > math.log1p(margin)
    if verdict == 0:
        assert abs(math.log(ratio)) < math.log1p(margin)


@given(RATIOS, ERRORS, DEGREES, st.integers(1, 50))
def test_more_tests_never_make_a_change_easier_to_see(ratio: float, error: float, degrees: float, tests: int):
    found = Change(ratio, error, degrees)
    if found.verdict(MARGIN, tests) is None:
        assert found.verdict(MARGIN, tests + 1) is None
    smaller, larger = found.smallest(MARGIN, tests), found.smallest(MARGIN, tests + 1)
    if larger is not None:
        assert smaller is not None
        assert MARGIN < smaller <= larger


def test_all_intervals_together_miss_the_truth_on_one_side_as_often_as_allowed():
    assert simultaneous(1) == pytest.approx(1 - 2 * FALSE_ALARMS)
    assert (1 - simultaneous(10)) / 2 * 10 == pytest.approx(FALSE_ALARMS)


def test_the_smallest_change_is_found_four_times_out_of_five():
    error, degrees, tests = 0.01, 8.0, 3
    found = Change(1.0, error, degrees).smallest(MARGIN, tests)
    assert found is not None
    threshold = max(math.log1p(MARGIN), stats.t.isf(FALSE_ALARMS / tests, degrees) * error)
    seen = stats.t.sf((threshold - math.log1p(found)) / error, degrees)
    assert seen == pytest.approx(0.8)


def test_what_nothing_could_find_is_no_number():
    assert Change(1.0, 0.5, 1.0).smallest(MARGIN, 10) is None


def test_one_process_is_widened_by_what_it_cannot_show():
    estimate = Estimate(value=1.0, error=0.012, degrees=10)
    wider = across_processes(estimate, [30])
    assert wider.error == pytest.approx(math.hypot(0.012, PROCESS_SPREAD))
    assert across_processes(estimate, []) == wider  # another tool's one process


def test_torn_processes_are_widened_less_the_more_there_are():
    exact = Estimate(value=1.0, error=0.0, degrees=10)
    assert across_processes(exact, [9, 9, 9, 9]).error == pytest.approx(PROCESS_SPREAD / 2)
    assert across_processes(exact, [9, 1]).error == pytest.approx(PROCESS_SPREAD * math.sqrt(82) / 10)


def test_whole_processes_show_their_own_spread_unless_they_lie_too_close_together():
    wide, narrow = (Estimate(value=1.0, error=error, degrees=4) for error in (0.01, 0.0001))
    assert across_processes(wide, [30] * 5) == wide
    usual = across_processes(narrow, [30] * 5)
    assert (usual.error, usual.degrees) == (pytest.approx(PROCESS_SPREAD / math.sqrt(5)), PROCESS_DEGREES)


def test_nothing_is_added_to_an_unknown_error():
    assert across_processes(Estimate(value=1.0), [30]) == Estimate(value=1.0)


@given(ERRORS, DEGREES, st.lists(st.integers(1, 100), max_size=8))
def test_the_error_across_processes_is_never_smaller(error: float, degrees: float, rounds: list[int]):
    found = across_processes(Estimate(value=1.0, error=error, degrees=degrees), rounds)
    assert found.error is not None
    assert found.error >= error


def is_red(single: str | None, every: str | None, speedup: str | None, gate: Gate) -> bool:
    return "worse" in standings(single, every, speedup, gate)


@pytest.mark.parametrize(
    ("verdicts", "speedup", "single", "both"),
    [
        (("SLOWER", "SAME", "LOWER"), True, True, True),
        (("SLOWER", "SLOWER", "SAME"), False, True, True),  # everything slower by the same factor
        (("SLOWER", "SLOWER", "HIGHER"), False, True, True),
        (("SLOWER", "FASTER", "LOWER"), True, True, True),
        (("SAME", "FASTER", "LOWER"), False, False, False),  # better never fails
        (("FASTER", "FASTER", "LOWER"), False, False, False),
        (("AMBIGUOUS", "FASTER", "LOWER"), False, False, False),
        (("SAME", "AMBIGUOUS", "LOWER"), False, False, False),
        (("SAME", "SAME", "LOWER"), True, False, True),  # each within the margin, together beyond it
        (("AMBIGUOUS", "AMBIGUOUS", "LOWER"), True, False, True),  # drift: only the ratio is sure
        (("AMBIGUOUS", "SAME", "LOWER"), True, False, True),
        (("SAME", "SAME", "SAME"), False, False, False),
        (("FASTER", "SAME", "HIGHER"), False, False, False),
        (("AMBIGUOUS", "AMBIGUOUS", "AMBIGUOUS"), False, False, False),
        ((None, "SLOWER", None), True, True, True),  # another tool's one time
        ((None, "FASTER", None), False, False, False),
        ((None, None, None), False, False, False),
    ],
)
def test_what_turns_each_gate_red(
    verdicts: tuple[str | None, str | None, str | None], speedup: bool, single: bool, both: bool
):
    assert [is_red(*verdicts, gate) for gate in GATES] == [speedup, single, both]


@pytest.mark.parametrize(
    ("verdicts", "gate", "expected"),
    [
        (("AMBIGUOUS", "FASTER", "LOWER"), "speedup", ("undecided",)),  # one logit may have become slower
        (("AMBIGUOUS", "FASTER", "LOWER"), "both", ("undecided", "undecided")),
        (("SAME", "AMBIGUOUS", "AMBIGUOUS"), "both", ("not worse", "undecided")),
        (("SAME", "SAME", "LOWER"), "both", ("not worse", "worse")),
        (("SAME", "FASTER", "LOWER"), "speedup", ("not worse",)),
        (("AMBIGUOUS", "AMBIGUOUS", "HIGHER"), "speedup", ("not worse",)),
        ((None, "AMBIGUOUS", None), "single", ("undecided",)),
        ((None, None, None), "both", ()),
    ],
)
def test_what_verdicts_come_to(
    verdicts: tuple[str | None, str | None, str | None], gate: Gate, expected: tuple[str, ...]
):
    assert standings(*verdicts, gate) == expected


@pytest.mark.parametrize(("single", "every", "speedup"), list(itertools.product(TIMES, TIMES, SPEEDUPS)))
def test_better_never_fails_and_gates_agree(single: str, every: str, speedup: str):
    red = {gate: is_red(single, every, speedup, gate) for gate in GATES}
    assert red["both"] == (red["single"] or red["speedup"])
    if single != "SLOWER" and (speedup != "LOWER" or only_improved(single, every)):
        assert not any(red.values())
    if single == "FASTER":
        assert not any(red.values())


@pytest.mark.parametrize(
    ("single", "every", "verdicts", "words"),
    [
        (1.3, 1.0, ("SLOWER", "SAME", "LOWER"), "one logit is slower (+30 %), all logits are not: less worth it"),
        (
            1.0,
            0.8,
            ("SAME", "FASTER", "LOWER"),
            "all logits became faster (-20 %): the speedup fell, nothing got slower",
        ),
        (
            1.1,
            1.1,
            ("SLOWER", "SLOWER", "SAME"),
            "both are slower (+10 %) by the same factor: the machine or the backbone",
        ),
        (1.0, 1.0, ("SAME", "SAME", "SAME"), "no change"),
        (
            1.02,
            0.9,
            ("AMBIGUOUS", "AMBIGUOUS", "LOWER"),
            "one logit may have changed (+2.0 %), all logits may have changed (-10 %): less worth it",
        ),
        (
            1.2,
            1.4,
            ("SLOWER", "SLOWER", "HIGHER"),
            "one logit is slower (+20 %), all logits are slower (+40 %): the speedup rose",
        ),
        (
            0.8,
            0.6,
            ("FASTER", "FASTER", "LOWER"),
            "one logit is faster (-20 %), all logits are faster (-40 %): the speedup fell, nothing got slower",
        ),
        (0.8, 1.0, ("FASTER", "SAME", "HIGHER"), "one logit is faster (-20 %), all logits are the same: more worth it"),
    ],
)
def test_causes_by_hand(single: float, every: float, verdicts: tuple[str, str, str], words: str):
    assert cause(Change(single, 0.01, 8), Change(every, 0.01, 8), verdicts) == words


@pytest.mark.parametrize(("single", "every", "speedup"), list(itertools.product(TIMES, TIMES, SPEEDUPS)))
def test_every_cause_says_something_and_what_is_worse_says_so(single: str, every: str, speedup: str):
    text = cause(Change(1.1, 0.01, 8), Change(0.9, 0.01, 8), (single, every, speedup))
    assert text
    assert "none" not in text.lower()
    if is_red(single, every, speedup, "speedup"):
        assert "less worth it" in text
    if speedup == "LOWER" and only_improved(single, every) is not False:
        assert "less worth it" not in text
    if single in ("SLOWER", "AMBIGUOUS"):
        assert "nothing got slower" not in text


def test_another_tools_time_has_a_cause_and_figures_without_verdict_have_none():
    assert cause(None, Change(1.2, 0.01, 8), (None, "SLOWER", None)) == "is slower (+20 %)"
    assert cause(Change(1.2, 0.01, 8), Change(1.2, 0.01, 8), (None, None, None)) == ""


def test_percents():
    assert [percent(ratio) for ratio in (1.3, 0.985, 1.0, 0.99999, 2.5, 1.0996)] == [
        "+30 %",
        "-1.5 %",
        "0.0 %",
        "0.0 %",
        "+150 %",
        "+10 %",
    ]
