"""The orders of a grid, each carried out by all ranks: rank 0 takes them, tells the others, and alone keeps what comes.

    rank 0    next order --broadcast-->   carry out   --all have ended-->   keep its events    ...   none: the end
    others                                carry out   --all have ended-->                      ...

What fails on one rank fails on all: it leaves, which ends what the others wait for; then all meet again, tell each
other why, and the next order comes. A rank that does not come again ends the grid (RankLost).
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Protocol

from bench.accuracy.orders import Done, Event, Failed, Order
from bench.accuracy.ranks.process_group import RankFailed, RankLost, Ranks


class Workplace(Protocol):
    """Where one rank carries out orders: a bench.accuracy.worker.Workplace."""

    def carry_out(self, order: Order, emit: Callable[[Event], None]) -> None:
        """Carry out one order; the last of its events is Done or Failed."""


def lead(
    workplace: Workplace, next_order: Callable[[], Order | None], take: Callable[[Order, Event], None], ranks: Ranks
) -> None:
    """Rank 0's part: order after order until none is left, each told to the ranks that `follow`.

    Raises what `take` raises, once the others know that the grid is at its end; RankLost if one is gone.
    """
    try:
        while (order := next_order()) is not None:
            _together(workplace, order, functools.partial(take, order), ranks)
    except RankLost:
        raise
    except Exception:
        with contextlib.suppress(RankLost):  # what was raised is the reason
            ranks.broadcast(None)
        raise
    ranks.broadcast(None)


def follow(workplace: Workplace, ranks: Ranks) -> None:
    """The part of every other rank. Raises RankLost if one is gone."""
    while True:
        try:
            order = ranks.broadcast(None)
        except RankFailed:  # on a rank that had the order before this one
            _told_by_all(None, ranks)
            continue
        if order is None:
            return
        _together(workplace, order, lambda event: None, ranks)


def _together(workplace: Workplace, order: Order, emit: Callable[[Event], None], ranks: Ranks) -> None:
    """One order, which the others have and rank 0 tells; the same ending on all ranks."""
    ending: Done | Failed | None = None
    raised: Exception | None = None

    def passed_on(event: Event) -> None:
        nonlocal ending
        if isinstance(event, (Done, Failed)):
            ending = event
        else:
            emit(event)

    try:
        if ranks.rank == 0:
            ranks.broadcast(order)
        workplace.carry_out(order, passed_on)
        if isinstance(ending, Done):
            ranks.barrier()  # a rank that fails after this one has ended is noticed here
    except RankLost:
        raise
    except RankFailed:
        ending = None
    except Exception as error:  # of whoever keeps the events, or a mistake in this program: the others must not wait
        raised = error
        ending = Failed(reason=f"{type(error).__name__}: {error}", cause="work")
    if not isinstance(ending, Done):
        ending = _told_by_all(ending, ranks)
    if raised is not None:
        raise raised
    emit(ending)


def _told_by_all(own: Failed | None, ranks: Ranks) -> Failed:
    """Why an order failed, once all ranks have met again; `own` is this rank's reason, none if it failed elsewhere."""
    if own is not None:
        ranks.leave(own.reason)
    ranks.meet_again()
    return told_of(ranks.gather_objects(own))


def told_of(endings: "list[Failed | None]") -> Failed:
    """Why an order failed, from each rank's own reason; none where another's failure ended it.

    A reason that is not that of all ranks has the number of the first that gave it.
    """
    rank, first = next((rank, failed) for rank, failed in enumerate(endings) if failed is not None)
    if all(failed == first for failed in endings):
        return first
    return first.model_copy(update={"reason": f"rank {rank}: {first.reason}"})
