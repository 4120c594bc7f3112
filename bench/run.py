"""A speed run on disk: one folder with a manifest (run.json) and append-only samples (samples.jsonl).

results/2026-11-23T09-15-02-resnet50/
    run.json         what was measured, on what, and how it ended: replaced as a whole, never half-written
    samples.jsonl    one line a pass, appended between rounds, synced at most once a second
    energy.jsonl     one line a window of energy, where --energy was asked for (bench.speed.energy)
    table3.csv ...   drawn from those above, and can be drawn again
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from bench.errors import UsageError
from bench.folder import FolderWriter, Notice, Record, RunManifest, read_lines, read_manifest
from bench.machine.fingerprint import Machine
from bench.speed.energy import FILE as ENERGY_FILE
from bench.speed.energy import Window, load_windows
from bench.speed.settings import Protocol, Setting

#: Raised when the meaning of a field changes; older versions are read, newer ones refused.
SCHEMA_VERSION = 1

Status = Literal["ok", "out-of-memory", "unsupported", "failed"]
Phase = Literal["first", "warmup", "timed"]
Mark = Literal["contention", "throttling"]
StopReason = Literal["minibatches", "until", "no points left"]


class Sample(Record):
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


class Point(Record):
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


class Process(Record):
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
    fresh_bytes_per_s: float | None = Field(
        None, description="the same, of memory that the system hands out, beyond writing it; none if it costs nothing"
    )
    inside_passes: float | None = Field(
        None, description="share of the time between the first and the last timed round"
    )
    inside_passes_with_warmup: float | None = Field(None, description="the same, from the first warm-up round on")


class Manifest(RunManifest):
    """run.json: what was measured, on what, and how it ended."""

    schema_version: Literal[1] = 1
    command: tuple[str, ...] = Field((), description="the command line, or the API call, that made the run")
    settings: tuple[Setting, ...]
    protocol: Protocol
    machine: Machine
    versions: dict[str, str] = Field(description="package -> version, of what can change a timing")
    commit: str | None = Field(None, description="slc-bench's own, if it is run from its working tree")
    tree_commit: str | None = Field(
        None, description="of the git working tree that the run was started in; +dirty: with uncommitted changes"
    )
    points: tuple[Point, ...] = ()
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run in memory: a manifest and its samples, in the order they were taken.

    `notices` holds what was noticed while reading (a torn last line), beside the manifest's own; `windows` what was
    measured of energy, if that was asked for.
    """

    manifest: Manifest
    samples: Sequence[Sample]
    path: Path | None = None
    notices: tuple[Notice, ...] = ()
    windows: Sequence[Window] = ()


def complete_rounds(samples: Iterable[Sample]) -> list[Sample]:
    """Leave out the passes of rounds that were cut off: fewer on disk than were written together."""
    samples = list(samples)
    seen = Counter(_round_of(sample) for sample in samples)
    return [sample for sample in samples if seen[_round_of(sample)] >= sample.round_size]


def _round_of(sample: Sample) -> tuple[int, int, str, int]:
    return sample.setting, sample.process, sample.phase, sample.round


class RunWriter(FolderWriter[Manifest]):
    """The one writer of a speed run."""

    FILES: ClassVar[tuple[str, ...]] = ("samples.jsonl",)
    OPTIONAL_FILES: ClassVar[tuple[str, ...]] = (ENERGY_FILE,)

    @classmethod
    def reopen(cls, path: Path) -> tuple["RunWriter", Run]:
        """Read a run in order to go on writing it. Raises UsageError as `reopened` does."""
        return cls.reopened(path, load_run)

    def append(self, samples: Iterable[Sample]) -> None:
        """Append one line a sample in a single write; on failure nothing of it stays behind."""
        self.append_to("samples.jsonl", samples)

    def append_window(self, window: Window) -> None:
        """Append one window of energy; the first one makes the file."""
        self.append_to(ENERGY_FILE, [window])


def load_run(path: Path) -> Run:
    """Read a run from its folder.

    Raises UsageError, naming file and line, for a folder that is no run, a schema version this program does
    not know, or anything unreadable but a torn last line, which is dropped with a notice.
    """
    manifest = read_manifest(path, Manifest, newest=SCHEMA_VERSION)
    samples, notices = read_lines(path / "samples.jsonl", Sample, "sample")
    for sample in samples:
        if sample.setting >= len(manifest.settings):
            raise UsageError(f"{path / 'samples.jsonl'}: a sample names setting {sample.setting}, run.json has fewer")
    windows, torn = load_windows(path)
    for window in windows:
        if window.setting >= len(manifest.settings):
            raise UsageError(f"{path / ENERGY_FILE}: a window names setting {window.setting}, run.json has fewer")
    return Run(manifest, complete_rounds(samples), path, (*notices, *torn), windows)
