"""The parent's side, against workers that are a few lines of Python: no torch, no training."""

import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.accuracy import pool
from bench.accuracy.orders import Done, Event, Failed, Order, Start, ToTest
from bench.accuracy.settings import Recipe, Source

Make = Callable[..., Any]

#: What every stand-in for a worker begins with: `start`, and `say` for one event.
OPENING = """
import json, os, signal, sys
start = json.loads(sys.stdin.readline())
def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n")
    sys.stdout.flush()
"""


@pytest.fixture
def carry_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_member: Make) -> Callable[..., list[tuple]]:
    """Orders of seeds 0, 1 ... through workers that run a script; (seed, event) as they came, and who was at work."""

    def run(
        script: str, orders: int, workers: int = 1, take: Callable[[Order, Event], None] = lambda order, event: None
    ) -> list[tuple[int, Event]]:
        monkeypatch.setattr(pool, "COMMAND", (sys.executable, "-S", "-c", OPENING + textwrap.dedent(script)))
        start = Start(
            parent=os.getpid(),
            source=Source(name="digits"),
            recipe=Recipe(network="mlp", steps=1, threads=3),
            losses=(),
            folder=tmp_path,
        )
        waiting: list[Order] = [ToTest(member=make_member(seed=seed)) for seed in range(orders)]
        taken: list[tuple[int, Event]] = []

        def note(order: Order, event: Event) -> None:
            assert isinstance(order, ToTest)
            taken.append((order.member.seed, event))
            take(order, event)

        pool.carry_out(start, workers, lambda: waiting.pop(0) if waiting else None, note)
        assert not waiting
        assert not _workers()
        return taken

    return run


#: Children that this process had before: other tests' fork servers outlive them.
_BEFORE: set[int] = set()


@pytest.fixture(autouse=True)
def _children_before() -> None:
    _BEFORE.clear()
    _BEFORE.update(each.pid for each in psutil.Process().children())


def _workers() -> list[psutil.Process]:
    children = [each for each in psutil.Process().children() if each.pid not in _BEFORE]
    return [each for each in children if each.status() != psutil.STATUS_ZOMBIE]


def test_one_worker_does_order_after_order(carry_out: Callable[..., Any]) -> None:
    script = """
        for line in sys.stdin:
            assert json.loads(line)["kind"] == "test"
            say(kind="done")
    """
    assert carry_out(script, 3) == [(0, Done()), (1, Done()), (2, Done())]


def test_no_orders_need_no_worker(carry_out: Callable[..., Any]) -> None:
    assert carry_out("sys.exit('nobody should have started me')", 0) == []


def test_workers_are_no_more_than_asked_for_and_know_their_threads(
    carry_out: Callable[..., Any], tmp_path: Path
) -> None:
    script = """
        open(f"{start['folder']}/{os.getpid()}-{os.environ['OMP_NUM_THREADS']}", "w").close()
        for line in sys.stdin:
            say(kind="done")
    """
    taken = carry_out(script, 8, workers=2)
    assert sorted(seed for seed, _ in taken) == list(range(8))
    names = os.listdir(tmp_path)
    assert len(names) == 2
    assert {name.split("-")[1] for name in names} == {"3"}


def test_an_event_that_comes_in_pieces_is_one_event(carry_out: Callable[..., Any]) -> None:
    script = """
        for line in sys.stdin:
            for part in ('{"kind":"fai', 'led","reason":"' + 200000 * "x" + '","cause":"work"}' + chr(10) + '{"ki'):
                sys.stdout.write(part)
                sys.stdout.flush()
            # A line that was begun and never ended is not an event.
            sys.exit(0)
    """
    (seed, event), = carry_out(script, 1)  # fmt: skip
    assert (seed, event) == (0, Failed(reason=200_000 * "x", cause="work"))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed (signal 9); the kernel does that"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "ended by signal 15"),
        ("sys.exit(7)", "exit code 7"),
        ("sys.exit(0)", "exit code 0"),
    ],
)
def test_a_worker_that_dies_costs_its_order_alone(carry_out: Callable[..., Any], end: str, words: str) -> None:
    script = f"""
        for line in sys.stdin:
            if json.loads(line)["member"]["seed"] == 1:
                {end}
            say(kind="done")
    """
    taken = dict(carry_out(script, 4, workers=2))
    lost = taken.pop(1)
    assert isinstance(lost, Failed)
    assert words in lost.reason
    assert lost.cause == "work"
    assert taken == {0: Done(), 2: Done(), 3: Done()}


def test_workers_that_cannot_even_start_fail_every_order(carry_out: Callable[..., Any]) -> None:
    taken = carry_out("sys.exit(1)", 3, workers=2)
    assert sorted(seed for seed, _ in taken) == [0, 1, 2]
    assert {type(event) for _, event in taken} == {Failed}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_the_parent_raises_ends_the_workers(carry_out: Callable[..., Any], error: type[BaseException]) -> None:
    script = """
        for line in sys.stdin:
            if json.loads(line)["member"]["seed"]:
                signal.pause()
            say(kind="done")
    """

    def refuse(order: Order, event: Event) -> None:
        assert len(_workers()) == 2
        raise error

    with pytest.raises(error):
        carry_out(script, 3, workers=2, take=refuse)
    assert not _workers()


def test_a_worker_does_not_hear_an_interrupt_at_the_terminal(carry_out: Callable[..., Any]) -> None:
    """An interrupt goes to the parent's group of processes."""
    script = f"""
        assert os.getpgid(0) != {os.getpgid(0)}, "the same group"
        for line in sys.stdin:
            say(kind="done")
    """
    assert carry_out(script, 1) == [(0, Done())]
