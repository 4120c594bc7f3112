import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.speed import energy_rows
from bench.speed.energy import Window
from bench.speed.energy_rows import Error, Interval, combine, mean, reach, reading_error, rows, verdict

IDLE_W = 50.0


def window(classes=None, cycle=0, joules=500.0, *, offset_s=0.0, images=1000, **fields):
    kind = "idle" if classes is None else "work"
    values = {"setting": 0, "process": 0, "started": "2026-01-02T03:04:05+00:00", "seconds": 5.0}
    values |= {"period_s": 1e-9, "resolution_j": 1e-9, "others": 0}
    values |= {"cycle": cycle, "kind": kind, "classes": classes, "joules": joules, "offset_s": offset_s}
    return Window(**{**values, "images": images if classes else 0, **fields})


def run_of(single=(1000.0,) * 6, large=(2000.0,) * 6, idle=(5 * IDLE_W,) * 7, **fields):
    """Cycles of a rest, one logit and 1,024 classes, 7 s apart; joules of each window."""
    windows = []
    for cycle, (one, many) in enumerate(zip(single, large, strict=True)):
        windows += [
            window(None, cycle, idle[cycle], offset_s=21.0 * cycle, **fields),
            window(1, cycle, one, offset_s=21.0 * cycle + 7, **fields),
            window(1024, cycle, many, offset_s=21.0 * cycle + 14, **fields),
        ]
    return [*windows, window(None, len(single), idle[-1], offset_s=21.0 * len(single), **fields)]


# -- errors -----------------------------------------------------------------------------------------------------------


def test_the_interval_of_three_windows_by_hand():
    """Mean 2, s = 1, t(0.975, 2) = 4.3027, so +-4.3027 / sqrt(3)."""
    found = mean([1.0, 2.0, 3.0], [0.0] * 3)
    assert found.value == 2
    assert (found.low, found.high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)


def test_what_is_known_without_doubt_gets_the_normal_quantile():
    assert reach([Error(3.0), Error(4.0)]) == pytest.approx(1.959964 * 5)
    assert reach([]) == 0


def test_degrees_of_freedom_of_two_errors_are_those_of_welch_and_satterthwaite():
    assert combine([Error(2.0, 5), Error(2.0, 5)]).degrees == pytest.approx(10)
    assert combine([Error(2.0, 5), Error(0.0, 1)]).degrees == pytest.approx(5)
    assert combine([Error(2.0, 5), Error(1.0)]).degrees == pytest.approx(5 * (25 / 16))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.integers(1, 50)), min_size=1, max_size=6))
def test_errors_together_are_no_smaller_than_each_and_no_freer_than_all(parts):
    errors = [Error(size, degrees) for size, degrees in parts]
    total = combine(errors)
    assert total.size >= max(error.size for error in errors) * (1 - 1e-12)
    assert min(error.degrees for error in errors) * (1 - 1e-9) <= total.degrees
    assert total.degrees <= sum(error.degrees for error in errors) * (1 + 1e-9)


def test_the_reading_of_one_window():
    """100 W over a period of 0.1 s is 10 J, half of it 5 J; a resolution of 12 * sqrt(6) J is 12 J."""
    found = window(1, joules=500.0, period_s=0.1, resolution_j=12 * math.sqrt(6))
    assert reading_error(found) == pytest.approx(13)


def test_one_window_has_no_interval():
    assert mean([7.0], [1.0]) == Interval(value=7.0)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_joules_an_image_gross_and_net():
    single, large = rows(run_of())
    assert (single.setting, single.classes, large.classes) == (0, 1, 1024)
    assert (single.windows, single.lost_windows, single.marked_windows) == (6, 0, 0)
    assert single.seconds == pytest.approx(0.005)
    assert single.power_w == pytest.approx(200)
    assert single.idle_w == pytest.approx(IDLE_W)
    assert single.gross_j.value == pytest.approx(1.0)
    assert single.net_j.value == pytest.approx(0.75)
    assert large.ratio.value == pytest.approx(2.0)
    assert large.net_ratio.value == pytest.approx(1.75 / 0.75)
    assert (single.verdict, large.verdict) == (None, "less")
    assert single.ratio is single.net_ratio is None


def test_windows_that_differ_widen_the_interval():
    narrow = rows(run_of(single=[999, 1001] * 3))[0].gross_j
    wide = rows(run_of(single=[900, 1100] * 3))[0].gross_j
    assert wide.high - wide.low == pytest.approx(100 * (narrow.high - narrow.low), rel=1e-6)


def test_the_period_of_the_counter_is_in_the_interval_even_of_equal_windows():
    """1000 J in 5 s is 200 W; 0.1 s of it 20 J; 20 / 2 / sqrt(6) J, for each of 1000 images."""
    gross = rows(run_of(period_s=0.1))[0].gross_j
    assert gross.high - gross.value == pytest.approx(1.959964 * 10 / math.sqrt(6) / 1000, rel=1e-6)


def test_the_rests_are_in_the_error_of_net_and_not_of_gross():
    quiet, restless = rows(run_of())[0], rows(run_of(idle=(200, 300, 200, 300, 200, 300, 200)))[0]
    assert restless.gross_j == quiet.gross_j
    assert restless.net_j.high - restless.net_j.low > 10 * (quiet.net_j.high - quiet.net_j.low) + 0.01


def test_power_at_rest_is_taken_between_the_rests_around_a_window():
    """Rests at 40 W and 61 W, 21 s apart: 47 W after a third of the way."""
    windows = [
        window(None, 0, 200.0, offset_s=0.0),
        window(1, 0, 1000.0, offset_s=7.0),
        window(None, 1, 305.0, offset_s=21.0),
    ]
    assert rows(windows)[0].net_j.value == pytest.approx((1000 - 5 * 47) / 1000)


def test_each_process_has_its_own_rests_and_pairs():
    second = [each.model_copy(update={"process": 1, "joules": each.joules * 1.1}) for each in run_of()]
    single, large = rows(run_of() + second)
    assert single.windows == 12
    assert single.net_j.value == pytest.approx(0.75 * 1.05)
    assert large.ratio.value == pytest.approx(2.0)
    assert large.ratio.high - large.ratio.low < 1e-6


def test_settings_are_kept_apart():
    other = [each.model_copy(update={"setting": 4, "joules": each.joules * 3}) for each in run_of()]
    found = rows(other + run_of())
    assert [(row.setting, row.classes) for row in found] == [(0, 1), (0, 1024), (4, 1), (4, 1024)]
    assert found[2].gross_j.value == pytest.approx(3.0)


def test_what_is_net_below_nothing_has_no_ratio():
    _, large = rows(run_of(single=[200.0] * 6))
    assert large.net_ratio is None
    assert large.ratio.value == pytest.approx(10)
    assert rows(run_of(single=[200.0] * 6))[0].net_j.value < 0


def test_without_a_rest_there_is_gross_alone():
    single, large = rows([each for each in run_of() if each.kind == "work"])
    assert single.net_j is single.idle_w is large.net_ratio is None
    assert single.gross_j.value == pytest.approx(1.0)
    assert large.verdict == "less"


def test_a_count_without_a_known_window_has_no_numbers():
    lost = [
        each.model_copy(update={"joules": None, "marks": ("counter-stood-still",)}) if each.classes == 1024 else each
        for each in run_of()
    ]
    single, large = rows(lost)
    assert single.gross_j is not None
    assert (large.windows, large.lost_windows, large.gross_j, large.ratio) == (0, 6, None, None)
    assert large.verdict == "too few windows"


def test_a_lost_window_takes_its_cycle_out_of_the_ratio():
    windows = run_of()
    windows[1] = windows[1].model_copy(update={"joules": None})
    assert rows(windows)[1].verdict == "less"
    windows[5] = windows[5].model_copy(update={"joules": None})
    assert rows(windows)[1].verdict == "too few windows"
    assert rows(windows)[1].windows == 5


def test_nothing_measured_is_no_row():
    assert rows([]) == []
    assert rows([window(None)]) == []


@pytest.mark.parametrize("place", [0, 1, 2, 18])
def test_a_window_shared_with_others_takes_the_verdict_away_and_nothing_else(place):
    windows = run_of()
    windows[place] = windows[place].model_copy(update={"marks": ("other-process",), "others": 1})
    row = rows(windows)[1]
    assert row.marked_windows == 1
    assert row.verdict == "disturbed"
    assert row.ratio == rows(run_of())[1].ratio


def test_a_window_of_another_count_disturbs_only_that_count():
    windows = [*run_of(), window(64, 0, 1500.0, marks=("other-process",))]
    assert [(row.classes, row.marked_windows) for row in rows(windows)] == [(1, 0), (64, 1), (1024, 0)]


@pytest.mark.parametrize(
    ("low", "high", "cycles", "disturbed", "expected"),
    [
        (1.01, 1.2, 5, 0, "less"),
        (0.8, 0.99, 5, 0, "more"),
        (0.99, 1.2, 5, 0, "no difference shown"),
        (1.01, 1.2, 4, 0, "too few windows"),
        (None, None, 5, 0, "too few windows"),
        (1.01, 1.2, 5, 1, "disturbed"),
        (1.01, 1.2, 4, 1, "disturbed"),
    ],
)
def test_verdict(low, high, cycles, disturbed, expected):
    assert verdict(Interval(value=1.0, low=low, high=high), cycles, disturbed) == expected


def test_verdict_of_no_ratio():
    assert verdict(None, 0, 0) == "too few windows"


@settings(deadline=None, max_examples=30)
@given(st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_units_of_energy_and_number_of_images_cancel_in_ratios(unit, share):
    windows = run_of(single=[990, 1000, 1010, 1020, 1000, 995], large=[2000, 2050, 1980, 2010, 2020, 2000])
    other = [
        each.model_copy(update={"joules": each.joules * unit, "images": round(each.images * 100 * share)})
        for each in windows
    ]
    expected, found = rows(windows)[1], rows(other)[1]
    for name in ("ratio", "net_ratio"):
        one, two = getattr(expected, name), getattr(found, name)
        assert (one.value, one.low, one.high) == pytest.approx((two.value, two.low, two.high), rel=1e-9)


# -- notices ----------------------------------------------------------------------------------------------------------


def test_clean_windows_have_no_notice():
    assert energy_rows.notices(run_of()) == []


def test_what_is_doubtful_is_said_once_with_its_number():
    windows = run_of()
    windows[0] = windows[0].model_copy(update={"marks": ("busy-at-rest",), "utilisation": 20})
    windows[1] = windows[1].model_copy(update={"joules": None, "marks": ("counter-went-back",)})
    windows[2] = windows[2].model_copy(update={"others": None})
    found = energy_rows.notices(windows)
    assert [notice.kind for notice in found] == ["energy-disturbed", "energy-counter", "energy-unseen"]
    assert all("1 of 19 windows" in notice.happened for notice in found[:2])
    assert "in 1 of 19 windows" in found[2].happened


def test_no_energy_says_why():
    assert "shared by MIG" in energy_rows.no_energy("this GPU is shared by MIG").happened
