"""A study on disk: what bench.scaling.records lists, and each query's 1-AUPRC beside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.array_files import Arrays, read_arrays, write_arrays
from bench.folder import FolderWriter, Notice, read_lines, read_manifest
from bench.run import Run, load_run
from bench.scaling import tasks
from bench.scaling.records import Optimum, StepCost, StudyManifest, StudyPoint, StudyTraining

SCHEMA_VERSION = 1
TRAININGS = "trainings.jsonl"
OPTIMA = "optima.jsonl"
POINTS = "points.jsonl"
COSTS = "costs.jsonl"
QUERIES = "queries"
SPEED = "speed"


class QueryErrors(NamedTuple):
    """1-AUPRC query by query; of an optimum `single` and `all` are the same array."""

    classes: npt.NDArray[np.int64]
    """(q,) that are asked for, ascending"""
    single: npt.NDArray[np.float64]
    """(q,) by the logit of the class alone"""
    all: npt.NDArray[np.float64]
    """(q,) by its log-odds, from all logits"""


@dataclass(frozen=True)
class StudyRun:
    """A study in memory: what was asked for, and what has ended so far.

    One record of each thing: of what was tried again, the last.
    """

    manifest: StudyManifest
    trainings: tuple[StudyTraining, ...] = ()
    optima: tuple[Optimum, ...] = ()
    points: tuple[StudyPoint, ...] = ()
    costs: tuple[StepCost, ...] = ()
    queries: Mapping[str, QueryErrors] = field(default_factory=dict)
    """by the name of a point, and of an optimum (`optimum_name`)"""
    speed: Run | None = None
    path: Path | None = None
    notices: tuple[Notice, ...] = ()
    """what was noticed while reading, beside the manifest's own"""


class StudyWriter(FolderWriter[StudyManifest]):
    """The one writer of a study."""

    FILES: ClassVar[tuple[str, ...]] = (TRAININGS, OPTIMA, POINTS, COSTS)

    @classmethod
    def reopen(cls, path: Path) -> tuple["StudyWriter", StudyRun]:
        """Read a study in order to go on writing it. Raises UsageError as `reopened` does."""
        return cls.reopened(path, load)


def optimum_name(classes: int) -> str:
    """Name of the file of an optimum in queries/: 1000-optimum."""
    return f"{classes}-optimum"


def latest_trainings(written: Iterable[StudyTraining]) -> tuple[StudyTraining, ...]:
    """The records that stand: one that failed and was tried again has a second record."""
    return tuple({(each.classes, each.stage, each.training.member): each for each in written}.values())


def latest_points(written: Iterable[StudyPoint]) -> tuple[StudyPoint, ...]:
    """One a model: a search that was tried again may choose another rate."""
    return tuple({each.name: each for each in written}.values())


def latest_costs(written: Iterable[StepCost]) -> tuple[StepCost, ...]:
    """One a loss and class count: one that was refused may have been measured since."""
    return tuple({(each.classes, each.loss): each for each in written}.values())


def load(path: Path) -> StudyRun:
    """Read a study from its folder; of what was tried again, the last record, and of models those chosen now.

    Raises UsageError, naming file and line, for anything unreadable but a torn last line, which is dropped with a
    notice.
    """
    manifest = read_manifest(path, StudyManifest, newest=SCHEMA_VERSION)
    trainings, torn_trainings = read_lines(path / TRAININGS, StudyTraining, "training")
    optima, torn_optima = read_lines(path / OPTIMA, Optimum, "optimum")
    points, torn_points = read_lines(path / POINTS, StudyPoint, "point")
    costs, torn_costs = read_lines(path / COSTS, StepCost, "cost")
    ended = latest_trainings(trainings)
    standing = tasks.standing(manifest, ended, latest_points(points))
    names = (*(optimum_name(each.classes) for each in optima), *(each.name for each in standing))
    return StudyRun(
        manifest=manifest,
        trainings=ended,
        optima=tuple({each.classes: each for each in optima}.values()),
        points=standing,
        costs=latest_costs(costs),
        queries={name: read_queries(path, name) for name in names},
        speed=_speed(path),
        path=path,
        notices=(*torn_trainings, *torn_optima, *torn_points, *torn_costs),
    )


def speed_folder(path: Path) -> Path | None:
    """The folder of the study's speed run; of several, the newest. None where none was begun."""
    found = sorted(each.parent for each in (path / SPEED).glob("*/run.json"))
    return found[-1] if found else None


def _speed(path: Path) -> Run | None:
    folder = speed_folder(path)
    return None if folder is None else load_run(folder)


def write_queries(folder: Path, name: str, errors: QueryErrors) -> None:
    """Write the queries of one model, whole or not at all. Raises OSError."""
    write_arrays(_file(folder, name), **errors._asdict())


def read_queries(folder: Path, name: str) -> QueryErrors:
    """Read them again. Raises UsageError naming the file if that is impossible; nothing in it is executed."""
    return QueryErrors(
        *read_arrays(_file(folder, name), QueryErrors._fields, "the queries of a model", _refuse_other_content)
    )


def _refuse_other_content(arrays: Arrays) -> None:
    for name, array, dtype in zip(QueryErrors._fields, arrays, (np.int64, np.float64, np.float64), strict=True):
        if array.dtype != dtype or array.shape != arrays[0].shape or array.ndim != 1:
            raise ValueError(f"{name} is an array of {array.dtype} and shape {array.shape}")
    if not all(((array >= 0) & (array <= 1)).all() for array in arrays[1:]):
        raise ValueError("1-AUPRC outside 0 to 1")


def _file(folder: Path, name: str) -> Path:
    return folder / QUERIES / f"{name}.npz"
