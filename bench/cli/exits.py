"""Exit codes, the same for every command, and errors as one line."""

import errno
import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

import typer

from bench.errors import UsageError
from bench.exit_codes import DONE as DONE
from bench.exit_codes import FAULT as FAULT
from bench.exit_codes import INCOMPLETE as INCOMPLETE
from bench.exit_codes import INTERRUPTED as INTERRUPTED
from bench.exit_codes import USAGE as USAGE
from bench.exit_codes import WORSE as WORSE
from bench.text import on_one_line
from reports.pipes import lead_nowhere, while_read

#: Set to anything, it has the traceback of an unexpected error printed; `python -X dev` does too.
TRACEBACK = "SLC_BENCH_TRACEBACK"

#: How a system refuses to write; without a file's name in the error it is standard output that was written to.
_REFUSED_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

P = ParamSpec("P")


def exits(command: Callable[P, int]) -> Callable[P, None]:
    """Make a command that returns its exit code end with it.

    An error becomes one line on standard error: a UsageError or a refusal of the system with exit code 2, any other
    with 70; an interrupt ends with 130. A reader that has enough of the output (`| head`) is no error. The command's
    docstring is its help.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        code = DONE
        try:
            with while_read(sys.stdout, sys.stderr):
                code = command(*args, **kwargs)
                print(end="", flush=True)  # so that a reader who is gone, or a full disk, is noticed here
        except KeyboardInterrupt:
            code = INTERRUPTED
            _tell("interrupted")
        except Exception as error:
            code, line = _ending(error)
            _tell(f"error: {on_one_line(line)}")
        if code:
            raise typer.Exit(code)

    wrapped.__doc__ = _flowing(command.__doc__ or "")
    return wrapped


def _ending(error: Exception) -> tuple[int, str]:
    """The exit code of a command that ended so, and what to say of it."""
    if isinstance(error, UsageError):
        return USAGE, str(error)
    if os.environ.get(TRACEBACK) or sys.flags.dev_mode:
        _tell("".join(traceback.format_exception(error)).rstrip())
    if not isinstance(error, OSError):
        fault = "this is a fault of slc-bench or of its installation, and there is no result"
        return FAULT, f"{type(error).__name__}: {error}: {fault}; {TRACEBACK}=1 shows where it is"
    if error.filename is None and error.errno in _REFUSED_WRITES:
        lead_nowhere(sys.stdout)  # for what is left in its buffer
        return USAGE, f"cannot write to standard output: {error.strerror}; make room, or send it elsewhere"
    return USAGE, f"{error}; {TRACEBACK}=1 shows where"


def _flowing(text: str) -> str:
    """Paragraphs of one line each: typer would keep the line breaks of the code in a help of another width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def _tell(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # nobody reads it, or its disk is full: the exit code is left to tell
        lead_nowhere(sys.stderr)
