"""What a run of `python -m bench single` leaves on disk.

results/2026-11-23T09-15-02-single-alexnet/
    run.json         what was measured, on what, the memory in use, and how it ended
    samples.jsonl    one line a switch of class or a timed forward
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from bench.folder import FolderWriter, Notice, Record, RunManifest, read_lines, read_manifest
from bench.machine.fingerprint import Machine
from bench.speed.settings import Dtype

SCHEMA_VERSION = 1
SAMPLES = "samples.jsonl"

#: What a torn last line means here, where a run cannot be gone on with.
_TORN = {
    "matters": "the writer was killed while it appended; every sample before it is kept",
    "remedy": "run the command again: python -m bench single has no --resume",
}

#: How a class is switched to (its row on disk; in the page cache; kept on the device), or what a forward computes.
What = Literal["cold", "warm", "kept", "one", "all"]

#: What is in memory when it is read.
State = Literal["backbone", "one", "all"]


class DeploymentSetting(Record):
    """Everything that identifies the measurement."""

    arch: str = Field(description="name of the network, as given to archs.registry")
    input_shape: tuple[PositiveInt, ...] = Field(description="shape of one example, without the batch axis")
    device: str = Field(description="cpu or cuda:N")
    dtype: Dtype = "float32"
    batch_size: PositiveInt = 32
    threads: PositiveInt = Field(description="intra-op threads of torch")
    classes: PositiveInt = Field(description="classes of the whole top layer")
    seed: int = 0
    switches: PositiveInt = Field(description="switches of each kind")
    minibatches: PositiveInt = Field(description="timed forwards of each kind")


class Sample(Record):
    """One switch of class, or one forward of a minibatch."""

    what: What
    number: int = Field(ge=0, description="of its kind, in order")
    phase: Literal["warmup", "timed"] = "timed"
    index: int | None = Field(None, description="class that was switched to; none for a forward")
    wall_s: float = Field(ge=0, description="synchronised wall clock; of a forward for the whole minibatch")
    pages: int | None = Field(None, description="memory pages that the row lies on (cold switches)")
    cached_pages: int | None = Field(
        None, description="of those, in the page cache just before; above 0 it was not cold. None if it cannot be told"
    )
    major_faults: int | None = Field(None, description="waits of the process for the disk (switches)")


class Memory(Record):
    """Memory in use with the backbone alone, with one row of the top layer, or with all of them."""

    state: State
    resident_bytes: int = Field(description="resident memory of the process")
    mapped_bytes: int = Field(description="of that, pages of files, which the kernel takes back when it needs them")
    device_bytes: int | None = Field(None, description="what torch's allocator has handed out (CUDA only)")


class DeploymentManifest(RunManifest):
    """run.json: what was measured, on what, and how it ended."""

    schema_version: Literal[1] = 1
    kind: Literal["single"] = "single"
    command: tuple[str, ...] = Field((), description="the command line that made the run")
    setting: DeploymentSetting
    features: PositiveInt = Field(description="of the backbone, for one image")
    row_bytes: int = Field(description="computed: one class's row and bias")
    layer_bytes: int = Field(description="computed: all rows and biases")
    backbone_bytes: int = Field(description="computed: parameters of the backbone")
    machine: Machine
    versions: dict[str, str] = Field(description="package -> version, of what can change a timing")
    commit: str | None = Field(None, description="of the working tree slc-bench was started from, if it is one")
    memory: tuple[Memory, ...] = ()
    all_refused: str = Field("", description="why all logits were not measured; empty if they were")


@dataclass(frozen=True)
class Deployment:
    """A run in memory, samples in the order they were taken."""

    manifest: DeploymentManifest
    samples: tuple[Sample, ...]
    path: Path | None = None
    notices: tuple[Notice, ...] = ()
    """what was noticed while reading, beside the manifest's own"""


class DeploymentWriter(FolderWriter[DeploymentManifest]):
    """The one writer of such a run."""

    FILES: ClassVar[tuple[str, ...]] = (SAMPLES,)

    def append(self, samples: Iterable[Sample]) -> None:
        """Append one line a sample in a single write; on failure nothing of it stays behind."""
        self.append_to(SAMPLES, samples)


def load(path: Path) -> Deployment:
    """Read a run from its folder.

    Raises UsageError, naming file and line, for anything unreadable but a torn last line, which is dropped with a
    notice.
    """
    manifest = read_manifest(path, DeploymentManifest, newest=SCHEMA_VERSION)
    samples, notices = read_lines(path / SAMPLES, Sample, "sample")
    return Deployment(manifest, tuple(samples), path, tuple(each.model_copy(update=_TORN) for each in notices))
