import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.paper.budget import Candidate, Demand, fill, largest_size, parse_budget, seconds_of, spread
from bench.paper.parts import PAPER, AccuracyPart, Size, SpeedPart, full_size, least_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", 5400),
        ("2h", 7200),
        ("1h30m", 5400),
        ("3600s", 3600),
        ("2d", 172_800),
        ("1d2h3m4s", 93_784),
        ("0.5h", 1800),
        (" 2H ", 7200),
        ("none", None),
    ],
)
def test_a_budget_is_read_as_seconds(text: str, seconds: float | None) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "0s", "-1h", "2h1d", "1.2.3h", "2 hours", "1h2h", "nan", "infs"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        parse_budget(text)


def test_the_paper_has_five_networks_and_five_data_sets() -> None:
    assert [part.key for part in PAPER] == [
        "speed-alexnet",
        "speed-vgg16",
        "speed-inception_v3",
        "speed-resnet50",
        "speed-resnet101",
        "accuracy-mnist",
        "accuracy-svhn",
        "accuracy-cifar10",
        "accuracy-cifar100",
        "accuracy-imagenet",
    ]
    assert {part.full for part in PAPER} == {100, 100_000, 6_000_000}
    assert {part.least for part in PAPER} == {10, 1_000}


SPEED = SpeedPart(arch="resnet50")
GRID = AccuracyPart(dataset="mnist")


def test_seconds_are_those_of_every_rate() -> None:
    demand = Demand(fixed_s=10, rate_s=3, unit_s=0.5)
    assert seconds_of(demand, Size(amount=100)) == 10 + 3 + 50
    assert seconds_of(demand, Size(amount=100, learning_rates=(1.0, 0.1))) == 10 + 2 * (3 + 50)


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        (1e9, Size(amount=100_000, learning_rates=(1.0, 0.1, 0.01, 0.001))),
        (10 + 4 * 101_000, Size(amount=100_000, learning_rates=(1.0, 0.1, 0.01, 0.001))),
        (10 + 4 * 51_000, Size(amount=50_000, learning_rates=(1.0, 0.1, 0.01, 0.001))),
        (10 + 4 * 2_000, Size(amount=1_000, learning_rates=(1.0, 0.1, 0.01, 0.001))),
        (10 + 4 * 2_000 - 2, Size(amount=2_999, learning_rates=(0.1, 0.01))),
        (10 + 2 * 2_000, Size(amount=1_000, learning_rates=(0.1, 0.01))),
        (10 + 2 * 2_000 - 2, None),
        (0, None),
        (-5, None),
    ],
)
def test_steps_shrink_before_rates_and_nothing_falls_below_the_least(seconds: float, size: Size | None) -> None:
    assert largest_size(Candidate(GRID, Demand(fixed_s=10, rate_s=1_000, unit_s=1)), seconds) == size


def test_minibatches_shrink_to_ten() -> None:
    candidate = Candidate(SPEED, Demand(fixed_s=20, unit_s=3))
    assert largest_size(candidate, 20 + 300) == Size(amount=100)
    assert largest_size(candidate, 20 + 61) == Size(amount=20)
    assert largest_size(candidate, 20 + 30) == Size(amount=10)
    assert largest_size(candidate, 20 + 29) is None


def _speed(name: str, unit_s: float, fixed_s: float = 0.0) -> Candidate:
    return Candidate(SpeedPart(arch=name), Demand(fixed_s=fixed_s, unit_s=unit_s))


def test_the_dearest_is_left_out_first() -> None:
    parts = [_speed("dear", 100), _speed("cheap", 1), _speed("middling", 10)]
    assert set(fill(parts, 10 + 100 + 999)) == {"speed-cheap", "speed-middling"}
    assert set(fill(parts, 10 + 100 + 1000)) == {"speed-cheap", "speed-middling", "speed-dear"}
    assert set(fill(parts, 9)) == set()


def test_a_cheap_part_is_done_in_full_and_leaves_the_rest_to_the_others() -> None:
    sizes = fill([_speed("cheap", 1), _speed("a", 10), _speed("b", 10)], 100 + 2 * 500)
    assert {key: size.amount for key, size in sizes.items()} == {"speed-cheap": 100, "speed-a": 50, "speed-b": 50}


def test_what_one_half_cannot_use_goes_to_the_other() -> None:
    speed = _speed("a", 1)  # 100 s in full
    grid = Candidate(GRID, Demand(fixed_s=0, unit_s=0.01))  # 4,000 s in full
    sizes = spread([speed, grid], speed_s=1_100, accuracy_s=1_000)
    assert sizes["speed-a"].amount == 100
    assert sizes["accuracy-mnist"].amount == 50_000  # 2,000 s for four rates
    sizes = spread([speed, Candidate(GRID, Demand(fixed_s=0, unit_s=1e-5))], speed_s=50, accuracy_s=50)
    assert (sizes["speed-a"].amount, sizes["accuracy-mnist"].amount) == (96, 100_000)


def test_a_half_that_is_overdrawn_is_paid_by_the_other() -> None:
    grid = Candidate(GRID, Demand(fixed_s=0, unit_s=0.01))
    assert spread([grid], speed_s=-500, accuracy_s=1_300)["accuracy-mnist"].amount == 20_000
    assert spread([grid], speed_s=-500, accuracy_s=510) == {}
    assert spread([grid], speed_s=-500, accuracy_s=-500) == {}


seconds = st.floats(0, 1e6)
demands = st.builds(Demand, fixed_s=st.floats(0, 1e3), rate_s=st.floats(0, 1e3), unit_s=st.floats(1e-4, 1e3))
paper_demands = st.lists(demands, min_size=len(PAPER), max_size=len(PAPER))


@given(paper_demands, seconds, seconds)
def test_sizes_fit_the_time_and_lie_between_the_least_and_the_papers(
    found: list[Demand], speed_s: float, accuracy_s: float
) -> None:
    candidates = [Candidate(part, demand) for part, demand in zip(PAPER, found, strict=True)]
    sizes = spread(candidates, speed_s=speed_s, accuracy_s=accuracy_s)
    used = sum(seconds_of(each.demand, sizes[each.part.key]) for each in candidates if each.part.key in sizes)
    assert used <= (speed_s + accuracy_s) * (1 + 1e-6)
    for part in PAPER:
        if part.key in sizes:
            assert part.least <= sizes[part.key].amount <= part.full
            assert sizes[part.key].learning_rates in part.grids


@given(paper_demands, seconds, seconds, st.floats(0, 1e6))
def test_more_time_leaves_nothing_out_that_was_done(
    found: list[Demand], speed_s: float, accuracy_s: float, more_s: float
) -> None:
    candidates = [Candidate(part, demand) for part, demand in zip(PAPER, found, strict=True)]
    before = spread(candidates, speed_s=speed_s, accuracy_s=accuracy_s)
    after = spread(candidates, speed_s=speed_s + more_s, accuracy_s=accuracy_s + more_s)
    assert before.keys() <= after.keys()


@given(paper_demands)
def test_enough_time_is_the_papers_size(found: list[Demand]) -> None:
    candidates = [Candidate(part, demand) for part, demand in zip(PAPER, found, strict=True)]
    halves = {
        kind: 1.001 * sum(each.most_s for each in candidates if each.part.kind == kind)
        for kind in ("speed", "accuracy")
    }
    sizes = spread(candidates, speed_s=halves["speed"], accuracy_s=halves["accuracy"])
    assert sizes == {part.key: full_size(part) for part in PAPER}


@given(demands)
def test_the_least_is_never_more_than_the_whole(demand: Demand) -> None:
    for part in PAPER:
        assert seconds_of(demand, least_size(part)) <= seconds_of(demand, full_size(part))
