"""The pipe between parent and measuring process, with a stand-in for the latter: a real one imports torch first."""

import os
import signal
import stat
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.run import Process
from bench.speed.events import Doing, Event, ProcessState
from bench.speed.replicates import ProcessDied, measure_in_fresh_process
from bench.speed.settings import Protocol, Setting
from bench.speed.tasks import Assignment, Task, WorkOrder


@pytest.fixture
def order(setting: Setting, make_point: Callable[..., Any]) -> WorkOrder:
    task = Task(setting=0, process=0, first_round=0)
    assignment = Assignment(task=task, setting=setting, backbone_bytes=0, points=(make_point(1),), features=8)
    return WorkOrder(protocol=Protocol(classes=(1,)), assignments=(assignment,))


@pytest.fixture
def worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_process: Callable[..., Process]
) -> Callable[..., None]:
    """Puts a script in the worker's place; `tell` sends a line and waits for the answer, DONE says it all ended."""

    def install(body: str) -> None:
        done = ProcessState(process=make_process(stop_reason="minibatches")).model_dump_json()
        script = tmp_path / "worker"
        script.write_text(
            f"#!{sys.executable} -S\n"
            + textwrap.dedent(
                f"""
                import os, signal, sys
                DONE = {done!r}
                DOING = '{{"event": "doing", "text": "timing"}}'
                def tell(line):
                    print(line, flush=True)
                    return sys.stdin.readline()
                order = sys.stdin.readline()
                """
            )
            + textwrap.dedent(body)
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(script))

    return install


def test_events_arrive_one_by_one_and_each_is_answered(worker: Callable[[str], None], order: WorkOrder) -> None:
    worker("assert tell(DOING) == chr(10)\nassert tell(DONE) == chr(10)")
    events: list[Event] = []
    measure_in_fresh_process(order, events.append)
    assert events[0] == Doing(text="timing")
    assert isinstance(events[1], ProcessState)


def test_the_worker_gets_the_whole_order(worker: Callable[[str], None], order: WorkOrder, tmp_path: Path) -> None:
    worker(f"open({str(tmp_path / 'order')!r}, 'w').write(order)\ntell(DONE)")
    measure_in_fresh_process(order, lambda event: None)
    assert WorkOrder.model_validate_json((tmp_path / "order").read_text()) == order


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("tell(DOING)\nos.kill(os.getpid(), signal.SIGKILL)", r"was killed \(signal 9\)"),
        ("tell(DOING)\nos.kill(os.getpid(), signal.SIGTERM)", "was ended by signal 15"),
        ("tell(DOING)\nsys.exit(7)", "ended with exit code 7"),
        ("tell(DOING)", "ended with exit code 0 before its work was done"),
        ("tell(DOING)\nprint(DONE[:40], end='', flush=True)\nos._exit(3)", "ended with exit code 3"),
        ("sys.stdin.close()\nprint(DOING, flush=True)\nsys.exit(5)", "ended with exit code 5"),
    ],
)
def test_a_worker_that_ends_early(worker: Callable[[str], None], order: WorkOrder, body: str, words: str) -> None:
    worker(body)
    events: list[Event] = []
    with pytest.raises(ProcessDied, match=words):
        measure_in_fresh_process(order, events.append)
    assert events == [Doing(text="timing")]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_what_the_receiver_raises_ends_the_worker(
    worker: Callable[[str], None], order: WorkOrder, tmp_path: Path, error: BaseException
) -> None:
    pid = tmp_path / "pid"
    worker(f"open({str(pid)!r}, 'w').write(str(os.getpid()))\ntell(DOING)\nsignal.pause()")

    def refuse(event: Event) -> None:
        raise error

    with pytest.raises(type(error)):
        measure_in_fresh_process(order, refuse)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), signal.SIGCONT)
