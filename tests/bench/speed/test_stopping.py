from collections.abc import Iterator

import numpy as np
import pytest

from bench.run import Sample
from bench.speed.stopping import CHECK_EVERY, MINIMUM_ROUNDS, Stopping, due, enough, within

PRECISE = (2.0, 1.99, 2.01)
ROUGH = (2.0, 1.9, 2.1)


@pytest.mark.parametrize(("percent", "answer"), [(12.4, False), (12.5, True), (12.6, True)])
def test_within_is_half_the_width_over_the_estimate(percent: float, answer: bool):
    assert within(4.0, 3.25, 4.25, percent) is answer


@pytest.mark.parametrize(
    ("intervals", "rounds", "until", "reason"),
    [
        ([PRECISE, PRECISE], 30, 2.0, "until"),
        ([PRECISE, ROUGH], 30, 2.0, None),
        ([PRECISE, None], 30, 2.0, None),
        ([PRECISE], 29, 2.0, None),
        ([PRECISE], 5, 2.0, None),
        ([PRECISE], 31, 2.0, None),
        ([PRECISE], 35, 2.0, "until"),
        ([ROUGH], 100, 2.0, "minibatches"),
        ([ROUGH], 101, 2.0, "minibatches"),
        ([PRECISE], 35, None, None),
        ([PRECISE], 100, None, "minibatches"),
        ([], 50, 2.0, None),
        ([], 100, 2.0, "minibatches"),
    ],
)
def test_enough(
    intervals: list[tuple[float, float, float] | None], rounds: int, until: float | None, reason: str | None
):
    assert enough(intervals, rounds, until, maximum=100) == reason


def test_a_maximum_below_the_minimum_still_ends_it():
    assert enough([PRECISE], 3, 2.0, maximum=3) == "minibatches"


def test_looks_are_five_rounds_apart():
    looks = [rounds for rounds in range(51) if due(rounds)]
    assert looks == [30, 35, 40, 45, 50]
    assert looks[0] == MINIMUM_ROUNDS
    assert looks[1] - looks[0] == CHECK_EVERY


def invented_rounds(noise: float, counts: tuple[int, ...] = (1, 1024), rounds: int = 100) -> Iterator[list[Sample]]:
    generator = np.random.default_rng(0)
    slots = [(1, False), (1, True), *((count, False) for count in counts if count > 1)]
    for number in range(rounds):
        yield [
            Sample(
                setting=0,
                process=0,
                phase="timed",
                round=number,
                round_size=len(slots),
                position=position,
                classes=classes,
                control=control,
                wall_s=float(np.exp(noise * generator.standard_normal())),
            )
            for position, (classes, control) in enumerate(slots)
        ]


def rounds_until_enough(stopping: Stopping, rounds: Iterator[list[Sample]]) -> int | None:
    return next((number for number, one in enumerate(rounds, start=1) if stopping.enough_after(one)), None)


def test_a_quiet_machine_stops_at_the_first_look_and_a_noisy_one_later_or_never():
    assert rounds_until_enough(Stopping(2.0), invented_rounds(noise=0.001)) == 30
    later = rounds_until_enough(Stopping(2.0), invented_rounds(noise=0.05))
    assert later is not None
    assert 30 < later < 100
    assert later % CHECK_EVERY == 0
    assert rounds_until_enough(Stopping(2.0), invented_rounds(noise=0.5)) is None


def test_without_until_nothing_stops_it():
    assert rounds_until_enough(Stopping(None), invented_rounds(noise=0.0001)) is None


def test_the_single_logit_alone_has_no_speedup_to_wait_for():
    assert rounds_until_enough(Stopping(2.0), invented_rounds(noise=0.001, counts=(1,))) is None


def test_a_count_that_failed_on_the_way_is_not_waited_for():
    with_both = list(invented_rounds(noise=0.001, counts=(1, 16, 1024)))
    rounds = [one if number < 3 else [s for s in one if s.classes < 1024] for number, one in enumerate(with_both)]
    assert rounds_until_enough(Stopping(2.0), iter(rounds)) == 30
