"""Exit codes, the same for every command, and errors as one line."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from bench.errors import UsageError

DONE = 0
WORSE = 1  # of `compare` alone
USAGE = 2
INCOMPLETE = 3
INTERRUPTED = 130

P = ParamSpec("P")


def exits(command: Callable[P, int]) -> Callable[P, None]:
    """Make a command that returns its exit code end with it.

    A UsageError becomes one line on standard error and exit code 2, an interrupt exit code 130.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            code = USAGE
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            code = INTERRUPTED
        except BrokenPipeError:  # whoever read our output has enough of it (`| head`)
            sys.stderr.close()
            code = DONE
        if code:
            raise typer.Exit(code)

    return wrapped
