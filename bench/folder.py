"""A run's folder: run.json, replaced as a whole, and append-only files of one JSON object a line.

Only one process writes a run. A kill can tear the last line of a file, which readers drop and say so; anything else
unreadable is an error that names file and line.
"""

import contextlib
import datetime
import fcntl
import io
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Generic, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archs.whole_files import replacing
from bench.errors import UsageError

#: A power cut loses at most this much of what was measured.
SYNC_INTERVAL_S = 1.0

#: Characters of a run's name in its folder's; file systems end at 255, terminals and patience earlier.
LONGEST_NAME = 80

#: The kind of a run that does not name it: sweeps came first.
UNNAMED_KIND = "speed"

#: Kind of a run -> the command that makes it and goes on with it.
COMMANDS = {
    "speed": "python -m bench",
    "accuracy": "python -m bench accuracy",
    "paper": "python -m bench paper",
    "single": "python -m bench single",
    "scaling": "python -m bench scaling",
}

RunStatus = Literal["running", "complete", "incomplete", "interrupted"]


class Record(BaseModel):
    """What is read back from disk is checked: unknown or missing fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Notice(Record):
    """A warning: a type, and what happened, why it matters, what to do."""

    kind: str
    happened: str
    matters: str
    remedy: str


def not_written(reason: str, matters: str) -> Notice:
    """The disk refused in the middle of a run; `matters`: what ended, and what is not done for it."""
    return Notice(
        kind="not-written",
        happened=reason,
        matters=matters,
        remedy="make room on the disk, then go on with --resume",
    )


class RunManifest(Record):
    """What the run.json of every kind of run holds."""

    schema_version: int = 1
    name: str
    created: str = Field(description="UTC, ISO 8601")
    status: RunStatus = "running"
    notices: tuple[Notice, ...] = ()


M = TypeVar("M", bound=RunManifest)
M_co = TypeVar("M_co", bound=RunManifest, covariant=True)


class Loaded(Protocol[M_co]):
    """A run in memory, of any kind."""

    @property
    def manifest(self) -> M_co:
        """What its run.json holds."""


L = TypeVar("L", bound=Loaded[Any])
R = TypeVar("R", bound=Record)


def now() -> str:
    """The time as UTC in ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class RunNotWritten(Exception):
    """The disk refused (full, gone, read-only): the run in memory knows more than the one on disk."""


class FolderWriter(Generic[M]):
    """The one writer of a run's folder; a subclass names its append-only files.

    Holds a lock on the folder for as long as it lives, so that two processes never write the same run.
    Writing raises RunNotWritten when the disk refuses; what was on disk before stays readable.
    """

    FILES: ClassVar[tuple[str, ...]]
    #: Files that only some runs have: made when the first line of one is appended.
    OPTIONAL_FILES: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, manifest: M) -> None:
        self.path = path
        self.manifest = manifest
        self._lock: int | None = _lock(path)
        self._files: dict[str, BinaryIO] = {}
        self._synced = time.monotonic()
        try:
            for name in (*self.FILES, *(name for name in self.OPTIONAL_FILES if (path / name).exists())):
                self._open(name)
        except OSError:
            self.close()
            raise

    @classmethod
    def create(cls, parent: Path, manifest: M) -> Self:
        """Make a new folder `<parent>/<time>-<name>/`; a folder that exists is never used again.

        Raises UsageError if the folder cannot be made or written.
        """
        stamp = manifest.created.removesuffix("+00:00").replace(":", "-")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", manifest.name)[:LONGEST_NAME].strip("-.") or "run"
        path = writer = None
        try:
            path = _make_folder(parent, f"{stamp}-{name}")
            writer = cls(path, manifest)
            write_atomically(path / "run.json", _json(manifest))  # last: where it is, the other files are too
            return writer
        except OSError as error:
            if writer is not None:
                writer.close()
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)  # made here a moment ago, and nothing is in it yet
            raise UsageError(
                f"cannot write a run under {str(parent)!r}: {_why(error)}; name another folder with --output"
            ) from None

    @classmethod
    def reopened(cls, path: Path, load: Callable[[Path], L]) -> tuple[Self, L]:
        """Read a run in order to go on writing it: under the lock, so that nobody can be changing it meanwhile.

        Nothing is altered yet; `drop_torn_line` comes before the first append. Raises UsageError as `load` does, and
        if the folder cannot be written or another process is writing the run.
        """
        try:
            writer = cls(path, load(path).manifest)  # what cannot be read is refused before a lock is put into it
        except OSError as error:
            raise UsageError(f"{path} cannot be continued: {error}; make it writable") from None
        with writer.going_on():
            run = load(path)
        writer.manifest = run.manifest
        return writer, run

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Let go of the folder if it turns out that the run cannot be continued; UsageError if the disk refuses."""
        try:
            yield
        except (OSError, RunNotWritten) as error:
            self.close()
            raise UsageError(f"{self.path} cannot be continued: {error}; make room, or make it writable") from None
        except BaseException:
            self.close()
            raise

    def drop_torn_line(self) -> None:
        """Cut off what follows the last whole line of each file. Raises OSError."""
        for name, file in self._files.items():
            file.truncate((self.path / name).read_bytes().rfind(b"\n") + 1)

    def append_to(self, name: str, records: Iterable[Record]) -> None:
        """Append one line a record in a single write; on failure nothing of it stays behind."""
        lines = "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records).encode()
        try:
            file = self._files[name] if name in self._files else self._open(name)
        except OSError as error:
            raise RunNotWritten(f"cannot write {self.path / name}: {_why(error)}") from error
        end = file.seek(0, io.SEEK_END)
        try:
            written = 0
            while written < len(lines):
                written += file.write(lines[written:])
            if time.monotonic() - self._synced >= SYNC_INTERVAL_S:
                os.fsync(file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise RunNotWritten(f"cannot write {self.path / name}: {_why(error)}") from error

    def _open(self, name: str) -> BinaryIO:
        if self._lock is None:
            raise ValueError(f"{self.path} is closed")  # without its lock another process may be writing it
        self._files[name] = file = open(self.path / name, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        return file

    def replace(self, manifest: M) -> None:
        """Replace run.json as a whole: written beside it, synced, renamed over it."""
        try:
            write_atomically(self.path / "run.json", _json(manifest))
        except OSError as error:
            raise RunNotWritten(f"cannot write {self.path / 'run.json'}: {_why(error)}") from error
        self.manifest = manifest

    def close(self) -> None:
        """Sync and let go of the folder; a second time does nothing."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
            file.close()
        self._files = {}
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader finds the old content or the new, and never half of it. Raises OSError."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def _json(manifest: RunManifest) -> str:
    return manifest.model_dump_json(indent=1) + "\n"


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _make_folder(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for attempt in itertools.count(1):
        path = parent / (name if attempt == 1 else f"{name}-{attempt}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()  # the file system decides which of two runs gets a name
            return path
    raise AssertionError("unreachable")


def _lock(path: Path) -> int:
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"another process is writing the run {str(path)!r}; wait for it or start a new run") from None
    return descriptor


def read_manifest(path: Path, form: type[M], *, newest: int) -> M:
    """Read run.json of a folder as `form`, whose schema versions end at `newest`.

    Raises UsageError, naming the file, for a folder that is no run, a run of another kind, an unknown schema version,
    or other content.
    """
    content = read_content(path)
    _refuse_another_kind(path, content, form)
    version = content.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= newest:
        newer = isinstance(version, int) and version > newest
        advice = "a newer slc-bench can read it" if newer else "it was not written by slc-bench, or altered since"
        raise UsageError(f"{path / 'run.json'}: schema version {version!r}, where 1 to {newest} can be read; {advice}")
    try:
        return form.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path / 'run.json'}: {first_problem(error)}") from None


def _refuse_another_kind(path: Path, content: dict[str, Any], form: type[RunManifest]) -> None:
    kind = kind_in(content)
    wanted = form.model_fields["kind"].default if "kind" in form.model_fields else UNNAMED_KIND
    if kind != wanted:
        command = COMMANDS.get(kind) if isinstance(kind, str) else None
        hint = f"; its command is {command}" if command else ""
        raise UsageError(f"{path / 'run.json'}: a run of kind {kind!r}, where one of kind {wanted!r} is needed{hint}")


def kind_in(content: dict[str, Any]) -> Any:
    """What a run.json says its run measured."""
    return content.get("kind", UNNAMED_KIND)


def read_content(path: Path) -> dict[str, Any]:
    """What run.json of a folder holds, unchecked. Raises UsageError if it is not a JSON object."""
    file = path / "run.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} is not a run: cannot read {file.name} ({error})") from None
    except (ValueError, RecursionError) as error:  # beside what is no JSON, an integer of thousands of digits
        raise UsageError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file}: not a JSON object")
    return content


def read_lines(file: Path, form: type[R], what: str) -> tuple[list[R], list[Notice]]:
    """Read the records of an append-only file; `what` is a record's name in a message.

    Raises UsageError, naming the line, for anything unreadable but a torn last line, which is dropped with a notice.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the {what}s: {error}") from None
    *lines, tail = content.split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(form.model_validate_json(line))
        except ValidationError as error:
            raise UsageError(
                f"{file}, line {number}: not a {what} ({first_problem(error)}); "
                "the file was altered after it was written: restore it, or start a new run"
            ) from None
    return records, [_torn_line(file, len(lines) + 1)] if tail else []


def _torn_line(file: Path, number: int) -> Notice:
    return Notice(
        kind="torn-line",
        happened=f"{file.name}: line {number}, the last, was cut off in the middle and is dropped",
        matters="the writer was killed while it appended; every finished round before it is kept",
        remedy="nothing needs doing; --resume measures what is missing again",
    )


def first_problem(error: ValidationError) -> str:
    """The first thing that a record lacks or has too much, and where."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
