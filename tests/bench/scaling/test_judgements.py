import pytest

from bench.accuracy.parity import Parity
from bench.scaling.convergence import Convergence, Settled
from bench.scaling.judgements import Speed, judge_error, judge_speed

PARITY = Parity("parity", 1.0, 0.95, 1.05, "as good", 3)
WORSE = Parity("worse", 2.0, 1.9, 2.1, "shown to be larger", 3)
OPEN = Parity("undecided", 1.05, 0.9, 1.2, "neither", 3)


def settled_as(single: bool | None, every: bool | None) -> Convergence:
    return Convergence(Settled(single, 1.0, "s"), Settled(every, 1.0, "a"))


@pytest.mark.parametrize(
    ("parity", "own", "reference", "judged"),
    [
        (PARITY, (True, True), (True, True), "yes"),
        (WORSE, (True, True), (True, True), "no"),
        (OPEN, (True, True), (True, True), "undecided"),
        (None, (True, True), (True, True), "undecided"),
        # a model that has not converged proves neither
        (PARITY, (False, True), (True, True), "undecided"),
        (WORSE, (True, False), (True, True), "undecided"),
        (PARITY, (None, True), (True, True), "undecided"),
        # of cross-entropy only all logits are the reference
        (PARITY, (True, True), (False, True), "yes"),
        (PARITY, (True, True), (True, False), "undecided"),
        (WORSE, (True, True), (True, None), "undecided"),
    ],
)
def test_as_good(parity, own, reference, judged) -> None:
    found = judge_error(parity, settled_as(*own), settled_as(*reference))
    assert found.judgement == judged
    assert found.because
    assert bool(found.brief) is (judged != "yes")


@pytest.mark.parametrize(
    ("parity", "ratio", "judged"), [(WORSE, 0.8, "no"), (WORSE, 1.3, "undecided"), (PARITY, 0.8, "undecided")]
)
def test_worse_stands_where_more_steps_make_it_worse_still(parity, ratio, judged) -> None:
    """`ratio`: of the error at half of the steps to that at all of them, by one logit."""
    own = Convergence(Settled(False, ratio, "s"), Settled(True, 1.0, "a"))
    assert judge_error(parity, own, settled_as(True, True)).judgement == judged
    assert judge_error(parity, own, settled_as(True, False)).judgement == "undecided", "all logits of CE count too"


def test_what_is_not_counted_is_said() -> None:
    _, reason, brief = judge_error(WORSE, settled_as(False, True), settled_as(True, None))
    assert reason == (
        "shown to be larger; not counted, as the model has not converged and it cannot be told whether cross-entropy "
        "has converged"
    )
    assert brief == "not converged"


@pytest.mark.parametrize(
    ("speed", "judged", "words"),
    [
        (None, "undecided", "no speed was measured"),
        (Speed(None, None, None, "out-of-memory: 3 GB"), "undecided", "out-of-memory: 3 GB"),
        (Speed(1.2, None, None, ""), "undecided", "without an interval"),
        (Speed(1.2, 1.0001, 1.4, ""), "yes", "speedup 1.20 (95 % interval 1.00 to 1.40)"),
        (Speed(1.2, 1.0, 1.4, ""), "undecided", "not shown to be faster"),
        (Speed(0.9, 0.8, 1.0, ""), "no", "not faster"),
    ],
)
def test_faster(speed, judged, words) -> None:
    found = judge_speed(speed)
    assert found.judgement == judged
    assert words in found.because
    assert bool(found.brief) is (judged != "yes")
