"""Orders that all ranks carry out together: each once, with one ending, whoever fails."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bench.accuracy.orders import Done, Evaluated, Event, Failed, Order, ToTrain
from bench.accuracy.ranks import RankFailed, RankLost
from bench.accuracy.ranks.orders import follow, lead, told_of
from bench.accuracy.settings import Member
from bench.folder import RunNotWritten

PATIENCE_S = 30

ORDERS: list[Order] = [ToTrain(members=(Member(loss="ce", learning_rate=0.1, seed=seed),)) for seed in range(3)]


class Ranks:
    """One of several ranks that are threads. One that leaves breaks what the others wait at, as a connection does."""

    def __init__(self, rank: int, meeting: threading.Barrier, again: threading.Barrier, objects: list[Any]) -> None:
        self.rank, self.size = rank, len(objects)
        self._meeting, self._again, self._objects = meeting, again, objects

    def gather_objects(self, own: object) -> list[Any]:
        try:
            self._objects[self.rank] = own
            self._meeting.wait()
            found = list(self._objects)
            self._meeting.wait()
        except threading.BrokenBarrierError:
            if self._again.broken:
                raise RankLost("rank 1 is gone") from None
            raise RankFailed("rank 1: it left") from None
        return found

    def broadcast(self, value: Any) -> Any:
        return self.gather_objects(value)[0]

    def barrier(self) -> None:
        self.gather_objects(None)

    def leave(self, reason: str) -> None:
        self._meeting.abort()

    def meet_again(self) -> None:
        try:
            self._again.wait()
            if self.rank == 0:
                self._meeting.reset()
            self._again.wait()
        except threading.BrokenBarrierError:
            raise RankLost("rank 1 is gone") from None

    def end(self) -> None:
        self._again.abort()
        self._meeting.abort()


class Workplace:
    """Carries out orders by saying so; the order of seed 1 ends as `fault` does, on some ranks, amidst a message."""

    def __init__(self, ranks: Any, fault: Callable[[], Event] | None = None, on: tuple[int, ...] = ()) -> None:
        self.ranks, self.fault, self.on = ranks, fault, on
        self.done: list[Any] = []

    def carry_out(self, order: Any, emit: Callable[[Event], None]) -> None:
        self.done.append(order)
        if self.fault and order == ORDERS[1] and self.ranks.rank in self.on:
            emit(self.fault())
            return
        self.ranks.barrier()
        emit(Done())


def run(size: int, of_rank: Callable[[Any], Any]) -> list[Any]:
    meeting, again = (threading.Barrier(size, timeout=PATIENCE_S) for _ in range(2))
    objects: list[Any] = [None] * size

    def work(rank: int) -> Any:
        try:
            return of_rank(Ranks(rank, meeting, again, objects))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(work, range(size)))


def grid(size: int, fault: Callable[[], Event] | None = None, on: tuple[int, ...] = ()) -> list[Any]:
    """What each rank's workplace did; of rank 0 also what was taken."""

    def of_rank(ranks: Any) -> Any:
        workplace = Workplace(ranks, fault, on)
        if ranks.rank:
            follow(workplace, ranks)
            return workplace.done
        left, taken = iter(ORDERS), []
        lead(workplace, lambda: next(left, None), lambda order, event: taken.append((order, event)), ranks)
        return workplace.done, taken

    return run(size, of_rank)


def test_all_carry_out_each_order_and_rank_0_keeps_its_events() -> None:
    (done, taken), *others = grid(3)
    assert done == ORDERS
    assert others == [ORDERS, ORDERS]
    assert taken == [(order, Done()) for order in ORDERS]


@pytest.mark.parametrize("on", [(0,), (1,), (0, 1, 2)], ids=str)
def test_what_fails_on_one_rank_fails_for_all_and_the_grid_goes_on(on: tuple[int, ...]) -> None:
    (done, taken), *others = grid(3, lambda: Failed(reason="no room", cause="work"), on)
    for each in (done, *others):
        assert each in (ORDERS, [ORDERS[0], ORDERS[2]]), "or it learnt of the failure before it began"
    (first, second, third) = taken
    assert (first, third) == ((ORDERS[0], Done()), (ORDERS[2], Done()))
    order, ending = second
    assert (order, ending.kind, ending.cause) == (ORDERS[1], "failed", "work")
    named = {f"rank {rank}: no room" for rank in on}
    assert ending.reason in (named | {"no room"} if len(on) == 3 else named)


@pytest.mark.parametrize("where", ["amidst an order", "at its end"])
def test_what_cannot_be_kept_ends_the_grid_on_all(where: str) -> None:
    """A disk that refuses while the others are at work, or once they have done it."""

    class Watched(Workplace):
        def carry_out(self, order: Any, emit: Callable[[Event], None]) -> None:
            if where == "amidst an order":
                emit(Evaluated.model_construct())
            super().carry_out(order, emit)

    def refuse(order: Any, event: Event) -> None:
        raise RunNotWritten("no space")

    def of_rank(ranks: Any) -> Any:
        if ranks.rank:
            workplace = Workplace(ranks)
            follow(workplace, ranks)
            return workplace.done
        left = iter(ORDERS)
        lead(Watched(ranks), lambda: next(left, None), refuse, ranks)
        return None

    first, second = run(2, of_rank)
    assert isinstance(first, RunNotWritten)
    assert second == ORDERS[:1], "it was told that there is no more"


def test_a_mistake_on_another_rank_is_not_hidden() -> None:
    def mistaken() -> Event:
        raise TypeError("a mistake")

    def of_rank(ranks: Any) -> Any:
        workplace = Workplace(ranks, mistaken, (1,))
        if ranks.rank:
            try:
                follow(workplace, ranks)
            except TypeError:
                ranks.end()  # as its process does
                raise
            return None
        left = iter(ORDERS)
        taken: list[Event] = []
        with pytest.raises(RankLost):
            lead(workplace, lambda: next(left, None), lambda order, event: taken.append(event), ranks)
        return taken

    first, second = run(2, of_rank)
    assert isinstance(second, TypeError)
    assert first[0] == Done()
    assert first[1:] in ([], [Failed(reason="rank 1: TypeError: a mistake", cause="work")]), "it may end first"


def test_the_reason_that_is_told() -> None:
    failed, other = Failed(reason="a", cause="work"), Failed(reason="b", cause="usage")
    assert told_of([failed, failed]) == failed
    assert told_of([None, other, failed]) == Failed(reason="rank 1: b", cause="usage")
