"""What takes long is told beforehand, on standard error whatever is printed."""

import sys
from collections.abc import Callable

from reports.pipes import while_read


def telling(*, quiet: bool) -> Callable[[str], None]:
    """Prints a line of progress while anybody reads it; nothing if `quiet`."""

    def say(line: str) -> None:
        if not quiet:
            with while_read(sys.stderr):
                print(line, file=sys.stderr, flush=True)

    return say
