import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.paper import claims
from bench.paper.claims import Detail, Holds, Interval, all_of, at_least, at_most, equal_to_one, share_of

intervals = st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)).map(
    lambda ends: Interval(sum(ends) / 2, min(ends), max(ends))
)
verdicts = st.lists(st.sampled_from(("yes", "no", "undecided", "not measured")), max_size=20)


@pytest.mark.parametrize(
    ("low", "high", "least", "most"),
    [
        (10.0, 12.0, "yes", "undecided"),  # touches 10 from above
        (10.1, 12.0, "yes", "no"),
        (9.9, 10.1, "undecided", "undecided"),
        (8.0, 9.9, "no", "yes"),
        (8.0, 10.0, "undecided", "yes"),
    ],
)
def test_a_threshold_is_decided_by_the_ends(low: float, high: float, least: Holds, most: Holds) -> None:
    found = Interval((low + high) / 2, low, high)
    assert (at_least(found, 10.0), at_most(found, 10.0)) == (least, most)


def test_an_estimate_without_an_interval_decides_nothing() -> None:
    assert at_least(Interval(1e9), 10.0) == at_most(Interval(-1e9), 10.0) == "undecided"
    assert equal_to_one(Interval(1.0), 0.02) == "undecided"


@given(intervals, st.floats(0.01, 100))
def test_yes_to_both_directions_only_at_the_threshold_itself(found: Interval, threshold: float) -> None:
    both = {at_least(found, threshold), at_most(found, threshold)}
    if both == {"yes"}:
        assert found.low == found.high == threshold
    assert both != {"no"}


@pytest.mark.parametrize(
    ("low", "high", "holds"),
    [
        (0.99, 1.01, "yes"),
        (1 / 1.02, 1.02, "yes"),
        (0.97, 1.0, "undecided"),
        (1.03, 1.05, "no"),
        (0.90, 0.95, "no"),
        (0.5, 2.0, "undecided"),
    ],
)
def test_a_ratio_of_one_is_shown_by_an_interval_within_the_margin(low: float, high: float, holds: Holds) -> None:
    assert equal_to_one(Interval(1.0, low, high), 0.02) == holds


@given(verdicts)
def test_one_no_is_enough_against_a_claim_about_all(found: list[Holds]) -> None:
    expected = "not measured"
    if any(verdict != "not measured" for verdict in found):
        expected = "no" if "no" in found else "yes" if all(verdict == "yes" for verdict in found) else "undecided"
    assert all_of(found) == expected


@given(verdicts)
def test_a_share_is_undecided_exactly_while_what_is_not_known_can_turn_it(found: list[Holds]) -> None:
    worst = sum(verdict == "yes" for verdict in found)
    best = sum(verdict != "no" for verdict in found)
    if all(verdict == "not measured" for verdict in found):
        assert share_of(found, 2 / 3) == "not measured"
        return
    enough = {3 * worst >= 2 * len(found), 3 * best >= 2 * len(found)}
    assert share_of(found, 2 / 3) == ("undecided" if len(enough) == 2 else "yes" if True in enough else "no")


def _detail(subject: str, holds: Holds) -> Detail:
    return Detail(subject, "", holds)


def test_ten_of_fifteen_cells_are_almost_all_as_in_the_paper() -> None:
    details = [_detail("", "yes")] * 10 + [_detail("", "no")] * 5
    assert claims.improvement(details).holds == "yes"
    assert claims.improvement([*details[:9], *[_detail("", "no")] * 6]).holds == "no"


def test_one_data_set_of_five_does_not_decide_what_holds_in_almost_all_cases() -> None:
    details = [_detail("mnist", "yes")] * 3 + [_detail("", "not measured")] * 12
    assert claims.improvement(details).holds == "undecided"


def test_the_tenfold_speedup_is_decided_on_the_first_network_alone() -> None:
    assert claims.tenfold([_detail("inception_v3", "yes"), _detail("vgg16", "no")]).holds == "yes"
    assert claims.tenfold([_detail("inception_v3", "not measured"), _detail("alexnet", "yes")]).holds == "not measured"
    assert claims.tenfold([]).holds == "not measured"


@pytest.mark.parametrize("claim", [claims.independent, claims.no_degradation, claims.little_speedup])
def test_the_others_are_about_every_case(claim) -> None:
    assert claim([_detail("a", "yes"), _detail("b", "not measured")]).holds == "undecided"
    assert claim([_detail("a", "yes"), _detail("b", "yes")]).holds == "yes"
    assert claim([_detail("a", "no"), _detail("b", "not measured")]).holds == "no"
    assert claim([_detail("a", "yes"), _detail("b", "no")]).holds == "no"
    assert claim([_detail("a", "yes"), _detail("b", "undecided")]).holds == "undecided"
    assert claim([]).holds == "not measured"
