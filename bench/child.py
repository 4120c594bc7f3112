"""What a process that works for another one does first."""

import ctypes
import os
import signal
import sys
from typing import TextIO

#: prctl's option, from linux/prctl.h.
_PR_SET_PDEATHSIG = 1


def private_standard_output() -> TextIO:
    """The pipe to the parent; whatever else prints goes to standard error from now on."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events


def die_with(parent: int) -> None:
    """Have the kernel kill this process once `parent`, which started it, has died (on Linux; elsewhere nothing).

    A worker that outlived its parent would go on writing into a run that somebody may be resuming.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(0)
