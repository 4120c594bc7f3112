"""The paper's run on disk: a folder with its own run.json, and one ordinary run a part.

results/2026-11-23T09-15-02-paper/
    run.json                             the budget, and what became of each part
    2026-11-23T09-15-40-alexnet/         a part: an ordinary run, which `python -m reports` takes
    2026-11-23T09-21-17-accuracy-mnist/
    table1.csv ... claims.md             drawn from all parts together, and can be drawn again
"""

import os
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from bench.errors import UsageError
from bench.folder import FolderWriter, Record, RunManifest, read_manifest
from bench.machine.fingerprint import Machine
from bench.paper.budget import Demand
from bench.paper.parts import AccuracyPart, Options, Part, Size, SpeedPart

SCHEMA_VERSION = 1

#: begun: it has a folder and is not at its end. incomplete: it ended, and some of it failed. unavailable: it cannot be
#: done here at all (data that are neither here nor to be downloaded). left-out: for want of time.
PartState = Literal["waiting", "begun", "done", "incomplete", "failed", "left-out", "unavailable"]


class Reused(Record):
    """A finished run that was taken as a part instead of measuring it again."""

    name: str = Field(description="the run's own; where it lay is not kept")
    created: str = Field(description="UTC, ISO 8601")
    commit: str | None = Field(None, description="of slc-bench's working tree when it was measured, if it is known")


class PartRecord(Record):
    """One part and what became of it."""

    part: Part
    state: PartState = "waiting"
    reason: str = Field("", description="why it was left out, failed or is incomplete; empty otherwise")
    demand: Demand | None = Field(None, description="what it was expected to take; none before that is known")
    size: Size | None = Field(None, description="how much of it is done; none if it is left out")
    seconds: NonNegativeFloat = Field(0.0, description="spent on it so far")
    folder: str | None = Field(None, description="its run, under the paper's folder; none before it began")
    reused: Reused | None = Field(None, description="the run it is a copy of; none if it was measured for this one")


class PaperManifest(RunManifest):
    """run.json of the paper's run."""

    kind: Literal["paper"] = "paper"
    schema_version: Literal[1] = 1
    command: tuple[str, ...] = ()
    options: Options
    budget_s: PositiveFloat | None = Field(description="seconds for all parts together; none for no limit")
    preparing_s: NonNegativeFloat = Field(0.0, description="spent on finding out what the parts would take")
    parts: tuple[PartRecord, ...]
    machine: Machine
    versions: dict[str, str]
    commit: str | None = Field(None, description="of the working tree slc-bench was started from, if it is one")


class PaperWriter(FolderWriter[PaperManifest]):
    """The one writer of the paper's run.json; the parts' runs have writers of their own."""

    FILES: ClassVar[tuple[str, ...]] = ()


def load(path: Path) -> PaperManifest:
    """Read the paper's run.json. Raises UsageError if the folder holds none, or one that cannot be read."""
    manifest = read_manifest(path, PaperManifest, newest=SCHEMA_VERSION)
    for record in manifest.parts:
        if record.folder is not None and Path(record.folder).name != record.folder:
            raise UsageError(f"{path / 'run.json'}: {record.folder!r} is no folder of this run")
    return manifest


def without_home(text: str) -> str:
    """A text for people elsewhere: a run may be published, and its owner's home is nobody else's concern."""
    return text.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def name_of(part: SpeedPart | AccuracyPart) -> str:
    """A part in words."""
    return f"speed of {part.arch}" if isinstance(part, SpeedPart) else f"accuracy on {part.dataset}"


def reused_words(record: PartRecord) -> str:
    """Which run a part was taken from; nothing for one that was measured."""
    if record.reused is None:
        return ""
    return f"reused: run {record.reused.name} of {record.reused.created[:10]}"


def size_words(part: SpeedPart | AccuracyPart, size: Size) -> str:
    """A size in words: 20 minibatches; 5,000 steps at 4 learning rates."""
    if isinstance(part, SpeedPart):
        return f"{size.amount:,} minibatches"
    rates = len(size.learning_rates)
    return f"{size.amount:,} steps at {rates} learning rate{'s' * (rates != 1)}"
