"""Missing files: fetched by torchvision beside their place, and moved there once they are complete."""

import contextlib
import http.client
import io
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

from bench.accuracy.data.catalogue import Say
from bench.errors import UsageError

#: A server that says nothing for so long is given up.
TIMEOUT_S = 30.0

#: Progress is told at most so often.
TELL_EVERY_S = 1.0

#: What torchvision's downloads raise: no network, a server's refusal, a checksum that does not match, a full disk.
_FAILURES = (OSError, RuntimeError, http.client.HTTPException)


def obtain(name: str, data_dir: Path, fetch: Callable[[str], object], *, instead: str, say: Say) -> None:
    """Let `fetch` download a data set into a folder, then move what it left into `data_dir`.

    A download that breaks off leaves nothing behind. When it fails, one UsageError line gives the reason and what to
    put where (`instead`).
    """
    say(f"{name} is not in {data_dir}: downloading it")
    try:
        with temporary_folder(data_dir) as folder, _told(name, say), _patience():
            fetch(folder)
            settle(Path(folder), data_dir)
    except _FAILURES as error:
        reason = str(error).strip().replace("\n", " ") or type(error).__name__
        raise UsageError(f"{name} is not here and could not be downloaded ({reason}); {instead}") from error
    say(f"{name} is in {data_dir}")


@contextlib.contextmanager
def temporary_folder(data_dir: Path) -> Iterator[str]:
    """A folder on the same file system as `data_dir`, so that moving there is renaming; gone in the end."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".arriving-", dir=data_dir) as folder:
        yield folder


def settle(source: Path, target: Path) -> None:
    """Move every file under one folder to the same place under another, over what is there."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, place)


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """torchvision sets no timeout on its connections; without one a silent server holds the program forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _told(name: str, say: Say) -> Iterator[None]:
    """torchvision draws its progress on standard error: here it is told in lines, and nothing is printed."""
    lines = _Lines(f"downloading {name}: ", say)
    with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(lines):
        yield


class _Lines(io.TextIOBase):
    """A text stream that passes on what is written to it, at most one line in TELL_EVERY_S."""

    def __init__(self, prefix: str, say: Say) -> None:
        self._prefix, self._say = prefix, say
        self._streams = sys.stdout, sys.stderr
        self._told_at = -TELL_EVERY_S

    def write(self, text: str) -> int:
        line = re.split(r"[\r\n]", text.strip())[-1].strip()
        if line and monotonic() - self._told_at >= TELL_EVERY_S:
            self._told_at = monotonic()
            out, err = self._streams  # say may print: to the streams there were, not to this one
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                self._say(self._prefix + line)
        return len(text)
