"""An accuracy run on disk: manifest, trainings, evaluations, influences (bench.accuracy.records has the folder)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.accuracy.records import Evaluation, Manifest, Training
from bench.accuracy.settings import Member
from bench.array_files import Arrays, read_arrays, write_arrays
from bench.folder import FolderWriter, Notice, read_lines, read_manifest

SCHEMA_VERSION = 1
TRAININGS = "trainings.jsonl"
EVALUATIONS = "evaluations.jsonl"


class Influence(NamedTuple):
    """Each test example's influence on 1-AUPRC of one model; both of shape (test examples,)."""

    single: npt.NDArray[np.float64]
    all: npt.NDArray[np.float64]


@dataclass(frozen=True)
class AccuracyRun:
    """A run in memory: what was asked for, and what has ended so far.

    One record a training, and one test a loss and seed: of what was tried again, the last.
    """

    manifest: Manifest
    trainings: tuple[Training, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    influences: Mapping[str, Influence] = field(default_factory=dict)
    """by the name of a member"""
    path: Path | None = None
    notices: tuple[Notice, ...] = ()
    """what was noticed while reading, beside the manifest's own"""


class AccuracyWriter(FolderWriter[Manifest]):
    """The one writer of an accuracy run."""

    FILES: ClassVar[tuple[str, ...]] = (TRAININGS, EVALUATIONS)

    @classmethod
    def reopen(cls, path: Path) -> tuple["AccuracyWriter", AccuracyRun]:
        """Read a run in order to go on writing it. Raises UsageError as `reopened` does."""
        return cls.reopened(path, load)


def latest_trainings(written: Iterable[Training]) -> list[Training]:
    """The records that stand: one that failed and was tried again has a second record."""
    return list({each.member: each for each in written}.values())


def latest_evaluations(written: Iterable[Evaluation]) -> list[Evaluation]:
    """The tests that stand, one a loss and seed: a training tried again may turn out to be the best of its rates."""
    return list({(each.member.loss, each.member.seed): each for each in written}.values())


def load(path: Path) -> AccuracyRun:
    """Read a run from its folder; of what was tried again, the last record.

    Raises UsageError, naming file and line, for anything unreadable but a torn last line, which is dropped with a
    notice.
    """
    manifest = read_manifest(path, Manifest, newest=SCHEMA_VERSION)
    trainings, torn_trainings = read_lines(path / TRAININGS, Training, "training")
    evaluations, torn_evaluations = read_lines(path / EVALUATIONS, Evaluation, "evaluation")
    tested = latest_evaluations(evaluations)
    influences = {each.member.name: read_influence(path, each.member) for each in tested}
    torn = (*torn_trainings, *torn_evaluations)
    return AccuracyRun(manifest, tuple(latest_trainings(trainings)), tuple(tested), influences, path, torn)


def write_influence(folder: Path, member: Member, influence: Influence) -> None:
    """Write the influences of one model, whole or not at all. Raises OSError."""
    write_arrays(_influence_file(folder, member), **influence._asdict())


def read_influence(folder: Path, member: Member) -> Influence:
    """Read them again. Raises UsageError naming the file if that is impossible; nothing in it is executed."""
    file = _influence_file(folder, member)
    return Influence(*read_arrays(file, Influence._fields, "the influences of a model", _refuse_other_content))


def _refuse_other_content(arrays: Arrays) -> None:
    for array in arrays:
        if array.dtype != np.float64 or array.ndim != 1 or not np.isfinite(array).all():
            raise ValueError(f"an array of {array.dtype} and shape {array.shape}, or not finite")


def _influence_file(folder: Path, member: Member) -> Path:
    return folder / "influences" / f"{member.name}.npz"
