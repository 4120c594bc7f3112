"""Exit codes, the same for every command, and errors as one line."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from bench.errors import UsageError
from reports.pipes import while_read

DONE = 0
WORSE = 1  # of `compare` alone
USAGE = 2
INCOMPLETE = 3
INTERRUPTED = 130

P = ParamSpec("P")


def exits(command: Callable[P, int]) -> Callable[P, None]:
    """Make a command that returns its exit code end with it.

    A UsageError becomes one line on standard error and exit code 2, an interrupt exit code 130. A reader that has
    enough of the output (`| head`) is no error. The command's docstring is its help.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        code = DONE
        try:
            with while_read(sys.stdout, sys.stderr):
                code = command(*args, **kwargs)
                print(end="", flush=True)  # so that a reader who is gone is noticed here
        except UsageError as error:
            code = USAGE
            _tell(f"error: {error}")
        except KeyboardInterrupt:
            code = INTERRUPTED
            _tell("interrupted")
        if code:
            raise typer.Exit(code)

    wrapped.__doc__ = _flowing(command.__doc__ or "")
    return wrapped


def _flowing(text: str) -> str:
    """Paragraphs of one line each: typer would keep the line breaks of the code in a help of another width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def _tell(line: str) -> None:
    with while_read(sys.stderr):
        print(line, file=sys.stderr)
