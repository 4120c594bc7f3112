"""A run on disk: one folder with a manifest (run.json) and append-only samples (samples.jsonl).

    results/2026-11-23T09-15-02-resnet50/
        run.json         what was measured, on what, and how it ended: replaced as a whole, never half-written
        samples.jsonl    one line a pass, appended between rounds, synced at most once a second
        table3.csv ...   drawn from the two above, and can be drawn again

Only one process writes a run. A kill can tear the last line of samples.jsonl, which readers drop and say so;
anything else unreadable is an error that names the line.
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
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import UsageError
from bench.machine.fingerprint import Machine
from bench.speed.settings import Protocol, Setting

#: Raised when the meaning of a field changes; older versions are read, newer ones refused.
SCHEMA_VERSION = 1

#: A power cut loses at most this much of what was measured.
SYNC_INTERVAL_S = 1.0

#: Characters of a run's name in its folder's; file systems end at 255, terminals and patience earlier.
LONGEST_NAME = 80

Status = Literal["ok", "out-of-memory", "unsupported", "failed"]
RunStatus = Literal["running", "complete", "incomplete", "interrupted"]
Phase = Literal["first", "warmup", "timed"]
Mark = Literal["contention", "throttling"]
StopReason = Literal["minibatches", "until", "no points left"]


class _Record(BaseModel):
    """What is read back from disk is checked: unknown or missing fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Sample(_Record):
    """One pass: one timed forward of one minibatch. Times are seconds for the whole minibatch."""

    setting: int = Field(ge=0, description="index into the manifest's settings")
    process: int = Field(ge=0, description="which process of the run, counted from 0")
    phase: Phase = Field(description="first call of a count in a process, warm-up round, or timed round")
    round: int = Field(ge=0, description="round within the phase; passes of one round use the same minibatch")
    round_size: int = Field(ge=1, description="passes written together; fewer on disk means a torn round")
    position: int = Field(ge=0, description="place of the pass among those")
    classes: int = Field(ge=1, description="class count")
    control: bool = Field(False, description="the second, independent slot of the single logit (A')")
    kept_out: bool = Field(False, description="first pass of a visit of several: not used by the estimates")
    predecessor: int | None = Field(None, description="class count of the pass before; none before the first")
    wall_s: float = Field(gt=0, description="synchronised wall clock")
    device_s: float | None = Field(None, description="device events around the same pass (CUDA only)")
    cpu_s: float | None = Field(None, description="CPU time of the process, all threads (CPU only)")
    switches: int | None = Field(None, description="involuntary context switches of the process (CPU only)")
    faults: int | None = Field(None, description="page faults of the process (CPU only)")
    clock_mhz: int | None = Field(None, description="SM clock, read between rounds (CUDA only)")
    temperature_c: int | None = Field(None, description="GPU temperature, read between rounds (CUDA only)")
    clock_reasons: int | None = Field(None, description="NVML's bit mask of reasons for lower clocks (CUDA only)")
    marks: tuple[Mark, ...] = Field((), description="why to doubt this sample; a marked sample is never dropped")


class Point(_Record):
    """What one process found out about one class count of one setting, before and while timing it."""

    setting: int = Field(ge=0)
    process: int = Field(ge=0)
    classes: int = Field(ge=1)
    status: Status = "ok"
    reason: str = Field("", description="why the status is not ok; empty otherwise")
    operations: int = Field(description="floating-point operations of the top layer for one minibatch")
    bytes: int = Field(description="bytes the top layer reads and writes for one minibatch")
    added_s: float | None = Field(None, description="predicted seconds a minibatch beyond one class")
    peak_memory_bytes: int | None = Field(
        None,
        description="what a deployment at this count needs: one minibatch, no rows of larger counts",
    )
    graphs: int | None = Field(None, description="graphs torch.compile made for this count; none if not compiled")
    preparation_s: float | None = Field(
        None, description="seconds to compile or capture before the first call; none if eager"
    )


class Process(_Record):
    """One process's work on one setting."""

    setting: int = Field(ge=0)
    process: int = Field(ge=0)
    pid: int
    started: str = Field(description="UTC, ISO 8601")
    ended: str | None = Field(None, description="UTC, ISO 8601; none if it was cut off")
    first_round: int = Field(0, description="timed rounds are numbered from here; above 0 after a resume")
    pool: int = Field(description="minibatches in the pool of inputs")
    warmup_rounds: int = 0
    steady: bool | None = Field(None, description="neighbouring windows of 3 rounds agreed; none if too few to tell")
    stop_reason: StopReason | None = Field(None, description="why the timed rounds ended; none if cut off")
    parallelism: float | None = Field(None, description="most CPU seconds per wall second seen in a pass (CPU only)")
    throttled_by: tuple[str, ...] = Field((), description="reasons for lower clocks that NVML counted while timing")
    operations_per_s: float | None = Field(None, description="calibrated rate of the prediction")
    bytes_per_s: float | None = Field(None, description="calibrated rate of the prediction")
    inside_passes: float | None = Field(
        None, description="share of the time between the first and the last timed round"
    )
    inside_passes_with_warmup: float | None = Field(None, description="the same, from the first warm-up round on")


class Notice(_Record):
    """A warning: a type, and what happened, why it matters, what to do."""

    kind: str
    happened: str
    matters: str
    remedy: str


class Manifest(_Record):
    """run.json: what was measured, on what, and how it ended."""

    schema_version: Literal[1] = 1
    name: str
    created: str = Field(description="UTC, ISO 8601")
    status: RunStatus = "running"
    command: tuple[str, ...] = Field((), description="the command line, or the API call, that made the run")
    settings: tuple[Setting, ...]
    protocol: Protocol
    machine: Machine
    versions: dict[str, str] = Field(description="package -> version, of what can change a timing")
    commit: str | None = Field(None, description="of the working tree slc-bench was started from, if it is one")
    points: tuple[Point, ...] = ()
    processes: tuple[Process, ...] = ()
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run in memory: a manifest and its samples, in the order they were taken.

    `notices` holds what was noticed while reading (a torn last line), beside the manifest's own.
    """

    manifest: Manifest
    samples: Sequence[Sample]
    path: Path | None = None
    notices: tuple[Notice, ...] = ()


def now() -> str:
    """The time as UTC in ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def complete_rounds(samples: Iterable[Sample]) -> list[Sample]:
    """Leave out the passes of rounds that were cut off: fewer on disk than were written together."""
    samples = list(samples)
    seen = Counter(_round_of(sample) for sample in samples)
    return [sample for sample in samples if seen[_round_of(sample)] >= sample.round_size]


def _round_of(sample: Sample) -> tuple[int, int, str, int]:
    return sample.setting, sample.process, sample.phase, sample.round


class RunNotWritten(Exception):
    """The disk refused (full, gone, read-only): the run in memory knows more than the one on disk."""


class RunWriter:
    """The one writer of a run's folder.

    Holds a lock on the folder for as long as it lives, so that two processes never write the same run.
    Writing raises RunNotWritten when the disk refuses; what was on disk before stays readable.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = _lock(path)
        self._samples = open(path / "samples.jsonl", "ab", buffering=0)  # noqa: SIM115 - closed by close()
        self._synced = time.monotonic()

    @classmethod
    def create(cls, parent: Path, manifest: Manifest) -> "RunWriter":
        """Make a new folder `<parent>/<time>-<name>/`; a folder that exists is never used again.

        Raises UsageError if the folder cannot be made or written.
        """
        stamp = manifest.created.removesuffix("+00:00").replace(":", "-")
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", manifest.name)[:LONGEST_NAME].strip("-.") or "run"
        path = None
        try:
            path = _make_folder(parent, f"{stamp}-{name}")
            write_atomically(path / "run.json", _json(manifest))
            return cls(path, manifest)
        except OSError as error:
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)  # made here a moment ago, and nothing is in it yet
            raise UsageError(
                f"cannot write a run under {str(parent)!r}: {_why(error)}; name another folder with --output"
            ) from None

    @classmethod
    def reopen(cls, path: Path) -> tuple["RunWriter", Run]:
        """Read a run in order to go on writing it: under the lock, so that nobody can be changing it meanwhile.

        Nothing is altered yet; `drop_torn_line` comes before the first append. Raises UsageError as `load_run`
        does, and if another process is writing the run.
        """
        writer = cls(path, load_run(path).manifest)  # what cannot be read is refused before a lock is put into it
        try:
            run = load_run(path)
        except UsageError:
            writer.close()
            raise
        writer.manifest = run.manifest
        return writer, run

    def drop_torn_line(self) -> None:
        """Cut off what follows the last whole line of the samples. Raises OSError."""
        self._samples.truncate(_end_of_last_line(self.path / "samples.jsonl"))

    def append(self, samples: Iterable[Sample]) -> None:
        """Append one line a sample in a single write; on failure nothing of it stays behind."""
        lines = "".join(sample.model_dump_json(exclude_defaults=True) + "\n" for sample in samples).encode()
        end = self._samples.seek(0, io.SEEK_END)
        try:
            written = 0
            while written < len(lines):
                written += self._samples.write(lines[written:])
            if time.monotonic() - self._synced >= SYNC_INTERVAL_S:
                os.fsync(self._samples.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._samples.truncate(end)
            raise RunNotWritten(f"cannot write {self.path / 'samples.jsonl'}: {_why(error)}") from error

    def replace(self, manifest: Manifest) -> None:
        """Replace run.json as a whole: written beside it, synced, renamed over it."""
        try:
            write_atomically(self.path / "run.json", _json(manifest))
        except OSError as error:
            raise RunNotWritten(f"cannot write {self.path / 'run.json'}: {_why(error)}") from error
        self.manifest = manifest

    def close(self) -> None:
        """Sync and let go of the folder."""
        with contextlib.suppress(OSError):
            os.fsync(self._samples.fileno())
        self._samples.close()
        os.close(self._lock)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader finds the old content or the new, and never half of it. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _json(manifest: Manifest) -> str:
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


def load_run(path: Path) -> Run:
    """Read a run from its folder.

    Raises UsageError, naming file and line, for a folder that is no run, a schema version this program does
    not know, or anything unreadable but a torn last line, which is dropped with a notice.
    """
    manifest = _load_manifest(path)
    samples, notices = _load_samples(path / "samples.jsonl")
    for sample in samples:
        if sample.setting >= len(manifest.settings):
            raise UsageError(f"{path / 'samples.jsonl'}: a sample names setting {sample.setting}, run.json has fewer")
    return Run(manifest, complete_rounds(samples), path, tuple(notices))


def _load_manifest(path: Path) -> Manifest:
    file = path / "run.json"
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} is not a run: cannot read {file.name} ({error})") from None
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{file}: not JSON ({error})") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        advice = "a newer slc-bench can read it" if newer else "it was not written by slc-bench, or altered since"
        raise UsageError(f"{file}: schema version {version!r}, where 1 to {SCHEMA_VERSION} can be read; {advice}")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{file}: {_first_problem(error)}") from None


def _load_samples(file: Path) -> tuple[list[Sample], list[Notice]]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the samples: {error}") from None
    *lines, tail = content.split(b"\n")
    samples = []
    for number, line in enumerate(lines, start=1):
        try:
            samples.append(Sample.model_validate_json(line))
        except ValidationError as error:
            raise UsageError(
                f"{file}, line {number}: not a sample ({_first_problem(error)}); "
                "the file was altered after it was written: restore it, or start a new run"
            ) from None
    return samples, [_torn_line(file, len(lines) + 1)] if tail else []


def _torn_line(file: Path, number: int) -> Notice:
    return Notice(
        kind="torn-line",
        happened=f"{file.name}: line {number}, the last, was cut off in the middle and is dropped",
        matters="the writer was killed while it appended; every finished round before it is kept",
        remedy="nothing needs doing; --resume measures what is missing again",
    )


def _end_of_last_line(file: Path) -> int:
    return file.read_bytes().rfind(b"\n") + 1


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
