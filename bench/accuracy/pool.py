"""The parent's side of a grid's workers: give orders, take events in, and sleep in between.

    parent                                worker (bench.accuracy.worker), one of several
      |--- start, one JSON line ------------->|  loads the data
      |--- order, one JSON line ------------->|
      |<-- Stepped, twice a second -----------|  trains
      |<-- Ended, one a training -------------|
      |<-- Done, or Failed -------------------|
      |--- order ---------------------------->|
      ...                                    ...

A worker that dies costs its order alone. If the parent dies, the kernel ends the workers.
"""

import contextlib
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO

from bench.accuracy.orders import EVENT, Done, Event, Failed, Order, Start

#: Read from a worker at once; an evaluation of many classes is some hundred kilobytes long.
_READ_BYTES = 2**16


#: What a worker runs; it finds this package as its parent did.
COMMAND = (sys.executable, "-m", "bench.accuracy.worker")


class _Worker:
    """One worker process, and the order it is carrying out."""

    def __init__(self, start: Start) -> None:
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt at the terminal reaches the parent alone, which then ends the worker
            env={**os.environ, "OMP_NUM_THREADS": str(start.recipe.threads)},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self.stdout: IO[bytes] = self._process.stdout
        self._partial = b""
        self.order: Order | None = None
        self._tell(start.model_dump_json())

    def give(self, order: Order) -> None:
        self.order = order
        self._tell(order.model_dump_json())

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died: reading from it will say so
            self._stdin.write(line.encode() + b"\n")
            self._stdin.flush()

    def read(self) -> tuple[list[Event], bool]:
        """Events that came in since the last time, and whether the worker is still there."""
        content = os.read(self.stdout.fileno(), _READ_BYTES)
        *lines, self._partial = (self._partial + content).split(b"\n")
        return [EVENT.validate_json(line) for line in lines], bool(content)

    def end(self) -> int:
        """End the process; its exit code."""
        self._process.kill()
        self.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        return self._process.wait()

    def how_it_died(self) -> str:
        code = self._process.wait()
        if code == -9:
            return "its worker was killed (signal 9); the kernel does that to a process when memory runs out"
        if code < 0:
            return f"its worker was ended by signal {-code}"
        return f"its worker ended with exit code {code}; its message, if it left one, is above"


def carry_out(
    start: Start, workers: int, next_order: Callable[[], Order | None], take: Callable[[Order, Event], None]
) -> None:
    """Have up to `workers` processes carry out orders until `next_order` has none and all have ended.

    `next_order` is asked again after every order that ended. Whatever `take` raises (also a keyboard interrupt) ends
    the workers first.
    """
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        idle: list[_Worker] = []
        busy: set[_Worker] = set()
        stack.callback(lambda: [worker.end() for worker in (*idle, *busy)])
        while True:
            for worker in _with_orders(start, workers, idle, busy, next_order):
                if worker.stdout.fileno() not in selector.get_map():
                    selector.register(worker.stdout, selectors.EVENT_READ, worker)
            if not busy:
                return
            for key, _ in selector.select():
                worker = key.data
                events, alive = worker.read()
                for event in events:
                    _take(worker, event, take, idle, busy)
                if not alive:
                    selector.unregister(worker.stdout)
                    _bury(worker, take, idle, busy)


def _with_orders(
    start: Start, workers: int, idle: list[_Worker], busy: set[_Worker], next_order: Callable[[], Order | None]
) -> Iterator[_Worker]:
    """Give orders to idle workers, and to new ones while there may be more; those that got one."""
    while len(busy) < workers and (order := next_order()) is not None:
        worker = idle.pop() if idle else _Worker(start)
        busy.add(worker)
        worker.give(order)
        yield worker


def _take(
    worker: _Worker,
    event: Event,
    take: Callable[[Order, Event], None],
    idle: list[_Worker],
    busy: set[_Worker],
) -> None:
    assert worker.order is not None, "only a worker with an order has something to say"
    order = worker.order
    if isinstance(event, Done | Failed):
        worker.order = None
        busy.discard(worker)
        idle.append(worker)
    take(order, event)


def _bury(worker: _Worker, take: Callable[[Order, Event], None], idle: list[_Worker], busy: set[_Worker]) -> None:
    reason = worker.how_it_died()
    worker.end()
    busy.discard(worker)
    if worker in idle:
        idle.remove(worker)
    if worker.order is not None:
        take(worker.order, Failed(reason=reason, cause="work"))
