"""Output whose reader may leave before its end, as `head -1` does."""

import contextlib
import io
import os
from collections.abc import Iterator
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
