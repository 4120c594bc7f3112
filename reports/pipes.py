"""Output whose reader may leave before its end, as `head -1` does."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from typing import TextIO


@contextlib.contextmanager
def while_read(*streams: TextIO) -> Iterator[None]:
    """Leave the block, without an error, where nobody is left to read what it writes; the streams then lead nowhere."""
    try:
        yield
    except BrokenPipeError:
        for stream in streams:
            lead_nowhere(stream)


def lead_nowhere(stream: TextIO) -> None:
    """Throw away what is still to be written to a stream whose reader is gone.

    Otherwise the interpreter would try once more when it flushes at its end, complain, and end with exit code 120.
    """
    with contextlib.suppress(io.UnsupportedOperation):  # a stream in memory has no descriptor to lead elsewhere
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


class WhileRead:
    """Calls what shows something on a stream until its reader is gone (`| head -1`), and nothing from then on."""

    def __init__(self, stream: TextIO) -> None:
        """`stream` is where it is shown."""
        self._stream = stream
        self._is_read = True

    def __call__(self, show: Callable[[], None]) -> None:
        """Show it, if anybody is left to read it."""
        if not self._is_read:
            return
        try:
            show()
        except BrokenPipeError:
            self._is_read = False
            lead_nowhere(self._stream)
