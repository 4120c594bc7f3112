"""The parent's side of a measuring process: start it, take its events one by one, and sleep in between.

    parent                               child (bench.speed.worker)
      |--- work order, one JSON line -------->|
      |                                       | passes
      |<-- event, one JSON line --------------|
      | writes, draws                         | waits
      |--- go on (an empty line) ------------>|
      |                                       | passes
      ...                                    ...
      |<-- end of file -----------------------|

The child waits while the parent writes, so nothing of the parent runs during a pass. If the parent dies, the
child finds its input closed and ends.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable

from bench.speed.events import EVENT, Event, ProcessState
from bench.speed.tasks import WorkOrder


class ProcessDied(Exception):
    """A measuring process ended before its work was done."""


def measure_in_fresh_process(order: WorkOrder, emit: Callable[[Event], None]) -> None:
    """Have a new process do a work order; `emit` is called with each of its events while it waits.

    Raises ProcessDied, with the signal or the exit code, if it ends early; whatever is raised here (also a
    keyboard interrupt) ends the process first.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.speed.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # an interrupt at the terminal reaches the parent alone, which then ends the child
    )
    assert child.stdin is not None
    assert child.stdout is not None
    done = 0
    try:
        child.stdin.write(order.model_dump_json() + "\n")
        child.stdin.flush()
        for line in child.stdout:
            if not line.endswith("\n"):
                break  # it died while it wrote this
            event = EVENT.validate_json(line)
            done += isinstance(event, ProcessState) and event.process.stop_reason is not None
            emit(event)
            child.stdin.write("\n")
            child.stdin.flush()
    except BrokenPipeError:
        pass  # it died while it was being answered: the exit code below tells
    finally:
        if sys.exc_info()[0] is not None:
            child.kill()
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        code = child.wait()
    if code or done < len(order.assignments):
        raise ProcessDied(_how_it_ended(code))


def _how_it_ended(code: int) -> str:
    if code == -9:
        return "was killed (signal 9); the kernel does that to a process when memory runs out"
    if code < 0:
        return f"was ended by signal {-code}"
    return f"ended with exit code {code} before its work was done; its message, if it left one, is above"
