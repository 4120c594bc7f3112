"""How a command ends that left a run: its reports written, or why not, and the exit code its status means."""

import sys
from collections.abc import Callable
from pathlib import Path

from bench.cli.exits import DONE, INCOMPLETE, INTERRUPTED
from bench.folder import RunStatus
from reports.pipes import while_read


def written(write: Callable[[], list[Path]], folder: Path, what: str = "tables and figures") -> list[Path]:
    """The paths of the reports that `write` leaves in `folder`; a disk that refuses is a warning: the run is kept."""
    try:
        return write()
    except OSError as error:
        with while_read(sys.stderr):
            print(
                f"warning: {what} are not written: {error}; make room, then: python -m reports {folder}",
                file=sys.stderr,
            )
        return []


def exit_code(status: RunStatus, *, undecided: bool = False) -> int:
    """The exit code of a command whose run ended so; a complete one can leave undecided what was asked."""
    code = {"complete": DONE, "interrupted": INTERRUPTED}.get(status, INCOMPLETE)
    return INCOMPLETE if undecided and code == DONE else code
