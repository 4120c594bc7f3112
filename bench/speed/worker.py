"""The child's side of a measuring process (the parent's: bench.speed.replicates)."""

import os
import sys

from bench.child import private_standard_output
from bench.speed.events import Event
from bench.speed.measure import measure
from bench.speed.plan import network_of
from bench.speed.tasks import WorkOrder


def main() -> None:
    """Do the work order on standard input; one event a line on standard output, each answered before going on."""
    events = private_standard_output()
    order = WorkOrder.model_validate_json(sys.stdin.readline())

    def emit(event: Event) -> None:
        try:
            events.write(event.model_dump_json(exclude_defaults=False) + "\n")
            events.flush()
        except BrokenPipeError:
            os._exit(0)  # nobody is left to write what would be measured; an orderly exit would write once more
        if not sys.stdin.readline():
            os._exit(0)

    for assignment in order.assignments:
        measure(assignment, order.protocol, network_of(assignment.setting), emit)


if __name__ == "__main__":
    main()
