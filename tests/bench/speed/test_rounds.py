from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bench.speed.rounds import PlannedPass, Slot, interleaved, sequential, slots_of

CLASSES = st.lists(st.integers(2, 1000), unique=True, max_size=6).map(lambda counts: [1, *counts])


def test_slots_are_the_sequential_order_with_the_control_last() -> None:
    assert slots_of([1, 1024, 16]) == (Slot(1), Slot(16), Slot(1024), Slot(1, control=True))


@given(CLASSES, st.integers(0, 5), st.integers(0, 3), st.integers(0, 50), st.integers(1, 3))
def test_a_round_visits_every_slot_once_a_block_at_a_time(classes, seed, process, round, block) -> None:
    planned = interleaved(slots_of(classes), seed=seed, process=process, round=round, block=block)
    assert Counter(one.slot for one in planned) == dict.fromkeys(slots_of(classes), block)
    assert {one.round for one in planned} == {round}
    visits = [planned[start : start + block] for start in range(0, len(planned), block)]
    for visit in visits:
        assert len({one.slot for one in visit}) == 1
        assert [one.kept_out for one in visit] == [block > 1, *[False] * (block - 1)]


def test_the_order_is_the_same_for_the_same_seed_process_and_round_and_for_no_other() -> None:
    slots = slots_of([1, 2, 3, 4, 5, 6])
    order = interleaved(slots, seed=0, process=0, round=0)
    assert order == interleaved(slots, seed=0, process=0, round=0)
    others = [
        interleaved(slots, seed=1, process=0, round=0),
        interleaved(slots, seed=0, process=1, round=0),
        interleaved(slots, seed=0, process=0, round=1),
    ]
    assert all([one.slot for one in other] != [one.slot for one in order] for other in others)


def test_every_slot_comes_about_equally_often_at_every_place() -> None:
    slots = slots_of([1, 2, 3])
    firsts = Counter(interleaved(slots, seed=0, process=0, round=number)[0].slot for number in range(4000))
    # 1,000 expected, standard deviation sqrt(4000 * 1/4 * 3/4) = 27
    assert all(abs(firsts[slot] - 1000) < 5 * 27 for slot in slots)


def test_the_sequential_order_is_the_papers() -> None:
    planned = list(sequential(slots_of([1, 8]), range(3, 5)))
    assert planned == [
        PlannedPass(Slot(1), 3),
        PlannedPass(Slot(1), 4),
        PlannedPass(Slot(8), 3),
        PlannedPass(Slot(8), 4),
        PlannedPass(Slot(1, control=True), 3),
        PlannedPass(Slot(1, control=True), 4),
    ]
