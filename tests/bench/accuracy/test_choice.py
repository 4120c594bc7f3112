from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bench.accuracy.choice import choose

Make = Callable[..., Any]


def test_the_highest_validation_accuracy_is_chosen(make_member: Make, make_training: Make) -> None:
    low = make_training(make_member(learning_rate=1.0), accuracy=0.8, loss=0.01)
    high = make_training(make_member(learning_rate=0.1), accuracy=0.9, loss=5.0)
    assert choose([low, high]) is choose([high, low]) is high


def test_among_equals_the_lower_validation_loss_then_the_smaller_rate(make_member: Make, make_training: Make) -> None:
    large = make_training(make_member(learning_rate=1.0), loss=0.30)
    middle = make_training(make_member(learning_rate=0.1), loss=0.29)
    small = make_training(make_member(learning_rate=0.01), loss=0.29)
    assert choose([large, middle]) is middle
    assert choose([large, middle, small]) is choose([small, middle, large]) is small


def test_a_validation_loss_that_is_not_finite_loses_a_tie(make_member: Make, make_training: Make) -> None:
    infinite = make_training(make_member(learning_rate=0.01), loss=None)
    finite = make_training(make_member(learning_rate=0.1), loss=1e30)
    assert choose([infinite, finite]) is finite
    assert choose([infinite]) is infinite


def test_what_diverged_or_failed_never_wins(make_member: Make, make_training: Make) -> None:
    diverged = make_training(make_member(learning_rate=1.0), accuracy=1.0, loss=0.0, status="diverged")
    failed = make_training(make_member(learning_rate=0.1), accuracy=1.0, loss=0.0, status="failed")
    poor = make_training(make_member(learning_rate=0.01), accuracy=0.0, loss=9.0)
    assert choose([diverged, failed, poor]) is poor
    assert choose([diverged, failed]) is None
    assert choose([]) is None


@given(st.lists(st.tuples(st.sampled_from([0.5, 0.9]), st.sampled_from([0.1, 0.2]), st.booleans()), max_size=6))
def test_whatever_the_order_the_choice_is_the_same_and_the_best(
    make_member: Make, make_training: Make, drawn: list[tuple[float, float, bool]]
) -> None:
    trainings = [
        make_training(make_member(learning_rate=10.0**-power), accuracy, loss, "ok" if ok else "diverged")
        for power, (accuracy, loss, ok) in enumerate(drawn)
    ]
    chosen = choose(trainings)
    assert choose(reversed(trainings)) is chosen
    finished = [training for training in trainings if training.status == "ok"]
    assert (chosen is None) == (not finished)
    if chosen is not None:
        assert chosen.validation_accuracy == max(training.validation_accuracy for training in finished)
