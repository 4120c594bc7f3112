"""A run in brief: what is compared, kept in the history, and told to other tools.

    run (samples) --.
    history record --+--> Snapshot --> compare, steps, export, page
    pytest-benchmark'

A snapshot holds no samples: of every point the three medians with their errors, and each process's own medians.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from archs.top_layer_kinds import TopLayerKind
from bench.folder import Record, RunStatus
from bench.machine.fingerprint import Machine
from bench.run import Point as RunPoint
from bench.run import Run, Status
from bench.speed.rows import RoundTable, has_times, round_tables
from bench.speed.settings import CompileMode, Dtype, Order, Setting, WorkKind
from bench.speed.statistics import RESAMPLES, Floats, Integers, Ratio, ratios
from bench.speed.uncertainty import log_interval

SCHEMA_VERSION = 1


class Estimate(Record):
    """A median, or a ratio of medians, and what is known of its error."""

    value: PositiveFloat = Field(description="seconds per example, or a ratio")
    error: float | None = Field(None, ge=0, description="standard error of its natural logarithm; none if unknown")
    degrees: float | None = Field(None, gt=0, description="degrees of freedom of `error`")

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """The ends of the interval that holds the truth with this probability; None if the error is unknown."""
        if self.error is None or self.degrees is None:
            return None
        return log_interval(self.value, self.error, self.degrees, confidence)


class Replicate(Record):
    """One process's own medians, seconds per example."""

    rounds: PositiveInt = Field(description="complete timed rounds with both times")
    single_s: PositiveFloat
    all_s: PositiveFloat


class Work(Record):
    """What one example's forward does: two points may be compared only if theirs is equal.

    A run's setting and class count, without what belongs to the machine (device number, threads) and the seed.
    """

    arch: str = Field(description="name of the network; of a benchmark of another tool, its full name")
    classes: PositiveInt | None = Field(description="class count; none for a benchmark of another tool")
    input_shape: tuple[PositiveInt, ...] | None = None
    device: Literal["cpu", "cuda"] | None = None
    dtype: Dtype | None = None
    batch_size: PositiveInt | None = None
    compile: CompileMode = "none"
    cuda_graph: bool = False
    channels_last: bool = False
    tf32: bool = False
    cudnn_benchmark: bool = True
    order: Order = "interleaved"
    block: PositiveInt = 1
    work: WorkKind = "logits"
    subset: PositiveInt = 1
    top_layer: TopLayerKind = "full"


class Place(Record):
    """One class count of one setting."""

    work: Work
    threads: PositiveInt | None = None


class Measurement(Record):
    """What was measured at one class count: times of the single logit and of all logits, and the speedup."""

    status: Status = "ok"
    reason: str = Field("", description="why the status is not ok; empty otherwise")
    single: Estimate | None = Field(None, description="time of the single logit; none for another tool's benchmark")
    all: Estimate | None = Field(None, description="time of all logits; none if the point failed")
    speedup: Estimate | None = Field(None, description="all / single, from rounds that hold both")
    rounds: int = Field(0, ge=0, description="complete timed rounds, over all processes")
    replicates: tuple[Replicate, ...] = Field((), description="one a process, in the order they ran")
    marked: int = Field(0, ge=0, description="samples of both times that carry a mark")


class Point(Measurement, Place):
    """A point of a run: its place, and what was measured there."""


class OtherMachine(Record):
    """A machine as another tool describes it."""

    cpu: str
    cores: int | None = None
    system: str = ""


class Circumstances(Record):
    """When, where and with what a run was made."""

    schema_version: Literal[1] = 1
    name: str
    created: str = Field(description="UTC, ISO 8601")
    status: RunStatus = "complete"
    tool: Literal["slc-bench", "pytest-benchmark"] = "slc-bench"
    commit: str | None = Field(
        None, description="of the git working tree that the run was started in; slc-bench's own where that is unknown"
    )
    machine: Machine | OtherMachine
    versions: dict[str, str] = Field(default_factory=dict)
    notices: tuple[str, ...] = Field((), description="kinds of the run's warnings")


class Snapshot(Circumstances):
    """One run in brief."""

    points: tuple[Point, ...]


def snapshot(run: Run, *, resamples: int = RESAMPLES) -> Snapshot:
    """A run in brief; the reference's class count, 1, has no point of its own, for it is in all of them.

    Errors come from the spread between processes where two or more are whole, otherwise from a bootstrap over rounds
    (bench.speed.statistics.ratios), with this many resamples.
    """
    manifest = run.manifest
    points = [
        point
        for index, table in enumerate(round_tables(run))
        for point in _points(run, index, manifest.settings[index], table, resamples)
    ]
    return Snapshot(
        name=manifest.name,
        created=manifest.created,
        status=manifest.status,
        commit=manifest.tree_commit or manifest.commit,
        machine=manifest.machine,
        versions=manifest.versions,
        points=tuple(points),
        notices=tuple(notice.kind for notice in (*manifest.notices, *run.notices)),
    )


def work_of(setting: Setting, classes: int) -> Work:
    """The work of a setting at a class count."""
    shared = Work.model_fields.keys() & Setting.model_fields.keys() - {"device"}
    device: Literal["cpu", "cuda"] = "cuda" if setting.device.startswith("cuda") else "cpu"
    return Work(classes=classes, device=device, **{name: getattr(setting, name) for name in shared})


def _points(run: Run, index: int, setting: Setting, table: RoundTable, resamples: int) -> list[Point]:
    found: dict[int, list[RunPoint]] = {}
    for point in run.manifest.points:
        if point.setting == index and point.classes > setting.subset:
            found.setdefault(point.classes, []).append(point)
    single_failed = [
        point
        for point in run.manifest.points
        if point.setting == index and point.classes == setting.subset and point.status != "ok"
    ]
    return [_point(setting, classes, [*single_failed, *found[classes]], table, resamples) for classes in sorted(found)]


def _point(setting: Setting, classes: int, processes: Sequence[RunPoint], table: RoundTable, resamples: int) -> Point:
    work = work_of(setting, classes)
    failed = next((point for point in processes if point.status != "ok"), None)
    if failed is not None:
        return Point(work=work, threads=setting.threads, status=failed.status, reason=failed.reason)
    single, every = table.single() / setting.batch_size, table.times(classes) / setting.batch_size
    slots = [(setting.subset, False), (setting.subset, True), (classes, False)]
    samples = [sample for slot in slots for sample in table.samples(*slot)]
    marked = sum(bool(sample.marks) for sample in samples)
    point = measured(work, single, every, table.processes, resamples=resamples, seed=setting.seed)
    return point.model_copy(update={"threads": setting.threads, "marked": marked if point.all else 0})


def measured(
    work: Work, single: Floats, every: Floats, processes: Integers, *, resamples: int = RESAMPLES, seed: int = 0
) -> Point:
    """What times say of one point; without estimates if either side has no time at all.

    single, every: seconds per example of the single logit and of all logits, shape (rounds, passes a round), NaN
    where missing. processes: shape (rounds,), which process ran a round.
    """
    if not (has_times(single) and has_times(every)):
        return Point(work=work)
    one = np.ones((len(processes), 1))
    time_1, time_k = ratios([single, every], one, processes, resamples=resamples, seed=seed)
    (speedup,) = ratios([every], single, processes, resamples=resamples, seed=seed)
    replicates = _replicates(single, every, processes)
    return Point(
        work=work,
        single=_estimate(time_1, _median(single)),
        all=_estimate(time_k, _median(every)),
        speedup=_estimate(speedup, _median(every) / _median(single)),
        rounds=sum(each.rounds for each in replicates),
        replicates=replicates,
    )


def _estimate(ratio: Ratio | None, value: float) -> Estimate:
    if ratio is None:
        return Estimate(value=value)
    return Estimate(value=ratio.estimate, error=ratio.error, degrees=ratio.degrees)


def _replicates(single: Floats, every: Floats, processes: Integers) -> tuple[Replicate, ...]:
    whole = np.isfinite(single).any(axis=1) & np.isfinite(every).any(axis=1)
    found = []
    for process in np.unique(processes[whole]):
        own = whole & (processes == process)
        found.append(Replicate(rounds=int(own.sum()), single_s=_median(single[own]), all_s=_median(every[own])))
    return tuple(found)


def _median(times: Floats) -> float:
    return float(np.nanmedian(times))
