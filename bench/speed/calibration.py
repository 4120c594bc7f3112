"""How long some calls take at their quickest, on a machine that others use too.

    | cached cached cached | streamed | copied | cached cached cached | streamed | copied | ...
      one visit              a visit    a visit  the next round

Probes take turns, so that each is spread over all the time that calibrating takes: a neighbour who is busy for half
of it then slows some visits of every probe, and the least reading of each is one of those that were left alone. One
probe after the other would let the neighbour choose which rate comes out low.

    CPU     | call |  | call |  | call |  ...                      one call between two clock readings
    CUDA    | call call call ... call  wait |  | call call ...     as many as take 5 ms: launching and waiting for
                                                                   one alone takes longer than its work
"""

import time
from collections.abc import Callable, Sequence

#: On CUDA a reading holds as many calls as take this long. Launching the first and waiting for the last take some
#: 20 us: 0.4 % of it, and several times what a probe's own work can take.
STRETCH_SECONDS = 5e-3

#: A visit repeats its reading for this long: short calls need many readings for one that nobody disturbed.
VISIT_SECONDS = 20e-3


def _nothing() -> None:
    """A device without a queue is done as soon as the call returns."""


class Probe:
    """One kind of call, the readings of it so far, and the least of them."""

    def __init__(
        self,
        step: Callable[[], object],
        wait: Callable[[], object] = _nothing,
        *,
        stretch_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take what is called; nothing is called yet.

        `wait` returns when all calls so far are done; `clock` tells the time in seconds. A reading is a stretch of
        calls and one wait, divided by the number of calls: one where `stretch_s` is 0, else so many (a power of two)
        that the stretch takes at least so many seconds.
        """
        self._step, self._wait, self._clock = step, wait, clock
        self._stretch_s = stretch_s
        self._calls = 0
        self._least: float | None = None

    def visit(self) -> float:
        """Read for VISIT_SECONDS, once at least; returns the seconds it took. The first visit warms up before."""
        start = self._clock()
        if not self._calls:
            self._warm_up()
        first = self._clock()
        while True:
            seconds = self._timed(self._calls) / self._calls
            self._least = seconds if self._least is None else min(self._least, seconds)
            if self._clock() - first >= VISIT_SECONDS:
                return self._clock() - start

    @property
    def least_s(self) -> float:
        """Least seconds of one call. Raises ValueError before the first visit."""
        if self._least is None:
            raise ValueError("a probe that was not visited has no reading")
        return self._least

    def _warm_up(self) -> None:
        self._timed(1)  # the first call chooses kernels and faults pages in
        self._calls = 1
        while self._stretch_s and self._timed(self._calls) < self._stretch_s:
            self._calls *= 2

    def _timed(self, calls: int) -> float:
        start = self._clock()
        for _ in range(calls):
            self._step()
        self._wait()
        return self._clock() - start


def take_turns(probes: Sequence[Probe], *, rounds: int, seconds: float) -> None:
    """Visit every probe in every round, until there were so many rounds or they have taken so many seconds together.

    There is at least one round.
    """
    taken = 0.0
    for _ in range(rounds):
        taken += sum(probe.visit() for probe in probes)
        if taken >= seconds:
            return
