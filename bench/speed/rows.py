"""From samples to the rows of Table 3: one row a point, and one for the control."""

import statistics as plain_statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from bench.run import Point, Run, Sample, Status
from bench.speed.slowdown import slowdown
from bench.speed.statistics import RESAMPLES, Floats, Ratio, ratios, speedup, speedup_of_means, summary
from bench.speed.tasks import abandoned

if TYPE_CHECKING:
    import pandas

#: The speedups for which the number of classes is given that reaches them.
BREAK_EVEN_SPEEDUPS = (1.1, 1.5, 2.0, 10.0)


class Row(BaseModel):
    """One line of table3.csv and of the `rows` of --json. Times are seconds per example.

    Statistics are None where the status is not ok or where there is nothing yet to take them from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["point", "control"]
    arch: str
    classes: int
    status: Status
    reason: str
    device: str
    dtype: str
    batch_size: int
    compile: str
    order: str
    cuda_graph: bool = False
    channels_last: bool = False
    work: str = Field("logits", description="what counts as the work: logits, normalised or end-to-end")
    top_layer: str = Field("full", description="what scores the classes asked for, above the reference's count")
    subset: int = Field(1, description="classes asked for at a time: the class count of the reference")
    minibatches: int = Field(description="rounds asked for, in every process")
    rounds_done: int = Field(description="complete timed rounds, over all processes")
    mean_s: float | None = Field(None, description="mean seconds per example: the paper's estimator")
    median_s: float | None = None
    p5_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    speedup: float | None = Field(
        None, description="median here / median of the reference, the single logit (A and A' pooled)"
    )
    speedup_low: float | None = Field(None, description="lower end of the 95 % interval")
    speedup_high: float | None = None
    speedup_of_means: float | None = Field(None, description="ratio of means: the paper's own")
    speedup_unmarked: float | None = Field(None, description="the speedup without marked samples")
    predicted_s: float | None = Field(
        None, description="median of the single logit + slowdown x what the added operations and bytes should take"
    )
    peak_memory_bytes: int | None = Field(
        None, description="what a deployment at this count needs: one minibatch, no rows of larger counts"
    )
    operations: int = Field(description="floating-point operations of the top layer for one minibatch")
    bytes: int = Field(description="bytes the top layer reads and writes for one minibatch")
    marked_samples: int

    @property
    def is_reference(self) -> bool:
        """Whether this is the point that speedups are relative to: the logits asked for, computed alone."""
        return self.kind == "point" and self.classes == self.subset


#: Columns of a table that stand there only where a row differs from the default.
MODES = ("cuda_graph", "channels_last", "work", "top_layer", "subset")

#: Columns that pandas would turn into something else where a value is missing.
_NULLABLE = {
    name: dtype
    for name, field in Row.model_fields.items()
    for annotation, dtype in ((int | None, "Int64"), (float | None, "float64"))
    if field.annotation == annotation
}


@dataclass(frozen=True)
class BreakEven:
    """From how many classes on one logit is this much faster; None if the measured counts cannot say.

    subset: how many logits it is, where classes are not asked for one at a time.
    """

    setting: int
    arch: str
    speedup: float
    classes: float | None
    extrapolated: bool
    subset: int = 1


class RoundTable:
    """Timed samples of one setting as arrays, one row a round; those kept out of the estimates are left out.

    processes: shape (rounds,), which process ran a round; rounds are in the order they were run.
    """

    def __init__(self, samples: Iterable[Sample], reference: int = 1) -> None:
        """Take in the samples of one setting; warm-up and first calls among them are ignored.

        reference: the class count that speedups are relative to, the setting's subset.
        """
        self.reference = reference
        used = [sample for sample in samples if sample.phase == "timed" and not sample.kept_out]
        keys = sorted({(sample.process, sample.round) for sample in used})
        self.processes: NDArray[np.intp] = np.array([process for process, _ in keys], dtype=np.intp)
        self._row = {key: row for row, key in enumerate(keys)}
        self._by_slot: dict[tuple[int, bool], list[Sample]] = {}
        for sample in used:
            self._by_slot.setdefault((sample.classes, sample.control), []).append(sample)

    def samples(self, classes: int, control: bool = False) -> list[Sample]:
        """The samples of one slot, in the order they were taken."""
        return self._by_slot.get((classes, control), [])

    def counts(self) -> list[int]:
        """Class counts with at least one sample, ascending."""
        return sorted({classes for classes, _ in self._by_slot})

    def times(self, classes: int, control: bool = False, *, unmarked: bool = False) -> Floats:
        """Seconds a minibatch, shape (rounds, passes a visit); NaN where a round has no such pass.

        With `unmarked`, passes that carry a mark are missing too.
        """
        return self._array(
            (sample, np.nan if unmarked and sample.marks else sample.wall_s)
            for sample in self.samples(classes, control)
        )

    def single(self, *, unmarked: bool = False) -> Floats:
        """Seconds a minibatch of the reference, the single logit, both slots side by side: A, then A'."""
        return np.hstack([self.times(self.reference, control, unmarked=unmarked) for control in (False, True)])

    def predecessors(self, classes: int, control: bool = False) -> Floats:
        """Class count of the pass before each of `times`; NaN where there was none."""
        return self._array(
            (sample, np.nan if sample.predecessor is None else float(sample.predecessor))
            for sample in self.samples(classes, control)
        )

    def _array(self, values: Iterable[tuple[Sample, float]]) -> Floats:
        by_row: list[list[float]] = [[] for _ in self._row]
        for sample, value in values:
            by_row[self._row[sample.process, sample.round]].append(value)
        width = max((len(row) for row in by_row), default=0) or 1
        return np.array([row + [np.nan] * (width - len(row)) for row in by_row], dtype=float).reshape(-1, width)


def round_tables(run: Run) -> list[RoundTable]:
    """The timed samples of every setting of a run, in the order of the manifest's settings.

    Those of a sequential order that was cut off and begun again are left out (bench.speed.tasks.abandoned).
    """
    manifest = run.manifest
    begun_again = {(one.setting, one.process) for one in manifest.processes if abandoned(manifest, one)}
    by_setting: list[list[Sample]] = [[] for _ in manifest.settings]
    for sample in run.samples:
        if (sample.setting, sample.process) not in begun_again:
            by_setting[sample.setting].append(sample)
    return [RoundTable(samples, setting.subset) for samples, setting in zip(by_setting, manifest.settings, strict=True)]


def rows(run: Run, *, resamples: int = RESAMPLES) -> list[Row]:
    """The rows of a run: for each setting its points in ascending order, the control after the single logit.

    Counts that no process has looked at yet have no row. Intervals come from `bench.speed.statistics.ratios`, with
    this many bootstrap resamples (0: no bootstrap), seeded by the setting.
    """
    return [
        row for index, table in enumerate(round_tables(run)) for row in _SettingRows(run, index, table, resamples).all()
    ]


def break_evens(run: Run) -> list[BreakEven]:
    """For each setting of the full layer, the class counts from which one logit is 1.1, 1.5, 2 and 10 times as fast.

    Rivals have none: their time is no line in the class count, and the single logit is not its first point.

    The median time is taken as linear in the class count: between the measured counts, and beyond the largest along
    the line through it and the single logit. Beyond it nothing is said unless the 95 % interval of the largest
    count's speedup lies above 1: the slope of noise would be extrapolated to any number.
    """
    found = []
    for index, table in enumerate(round_tables(run)):
        setting = run.manifest.settings[index]
        if setting.top_layer != "full":
            continue
        measured = _measured_speedups(run, index, table)
        rising = len(measured) > 1 and _is_above_one(table, measured[-1][0], setting.seed)
        for target in BREAK_EVEN_SPEEDUPS:
            classes, extrapolated = break_even(measured, target, extrapolate=rising)
            found.append(BreakEven(index, setting.arch, target, classes, extrapolated, setting.subset))
    return found


def break_even(
    measured: Sequence[tuple[int, float]], target: float, *, extrapolate: bool = True
) -> tuple[float | None, bool]:
    """Class count at which the speedup reaches `target` for good, and whether that is beyond what was measured.

    measured: (classes, speedup) in ascending order of classes, beginning with the reference's, (1, 1.0). "For good":
    every larger measured count is at or above `target`. None where `target` is not reached and cannot be extrapolated.
    """
    below = max((number for number, (_, ratio) in enumerate(measured) if ratio < target), default=None)
    if below is None or len(measured) < 2:
        return None, False
    low_classes, low = measured[below]
    if below < len(measured) - 1:
        high_classes, high = measured[below + 1]
        return low_classes + (target - low) / (high - low) * (high_classes - low_classes), False
    first_classes = measured[0][0]
    slope = (low - 1) / (low_classes - first_classes)
    if not extrapolate or slope <= 0:
        return None, False
    return first_classes + (target - 1) / slope, True


def _measured_speedups(run: Run, index: int, table: RoundTable) -> list[tuple[int, float]]:
    failed = {point.classes for point in run.manifest.points if point.setting == index and point.status != "ok"}
    counts = [classes for classes in table.counts() if classes not in failed]
    reference = table.reference
    if reference not in counts:
        return []
    single = table.single()
    others = [classes for classes in counts if classes > reference]
    return [(reference, 1.0), *((classes, speedup(table.times(classes), single)) for classes in others)]


def _is_above_one(table: RoundTable, classes: int, seed: int) -> bool:
    ratio = ratios([table.times(classes)], table.single(), table.processes, seed=seed)[0]
    return ratio is not None and ratio.interval()[0] > 1


class _SettingRows:
    """The rows of one setting; intervals of all its counts are worked out together, from the same resamples."""

    def __init__(self, run: Run, index: int, table: RoundTable, resamples: int) -> None:
        self._table = table
        self._setting = run.manifest.settings[index]
        self._minibatches = run.manifest.protocol.minibatches
        self._points: dict[int, list[Point]] = {}
        for point in sorted(run.manifest.points, key=lambda point: (point.classes, point.process)):
            if point.setting == index:
                self._points.setdefault(point.classes, []).append(point)
        self._reference = self._setting.subset
        self._single = table.single()
        self._single_unmarked = table.single(unmarked=True)
        self._resampling: dict[str, int] = {"resamples": resamples, "seed": self._setting.seed}

    def all(self) -> list[Row]:
        """Points in ascending order, the control after the single logit."""
        counts = [classes for classes in self._points if classes > self._reference and self._is_measured(classes)]
        found = ratios(
            [self._table.times(classes) for classes in counts], self._single, self._table.processes, **self._resampling
        )
        intervals = dict(zip(counts, found, strict=True))
        rows = []
        for classes in self._points:
            rows.append(self._point_row(classes, intervals.get(classes)))
            if classes == self._reference:
                rows.append(self._control_row())
        return rows

    def _is_measured(self, classes: int) -> bool:
        everywhere_ok = all(point.status == "ok" for point in self._points[classes])
        return everywhere_ok and has_times(self._single) and has_times(self._table.times(classes))

    def _point_row(self, classes: int, ratio: Ratio | None) -> Row:
        samples = self._table.samples(classes)
        statistics: dict[str, Any] = {}
        if classes == self._reference:
            samples = samples + self._table.samples(classes, control=True)
            if self._status(classes) == "ok" and has_times(self._single):
                statistics = self._times(self._single)
                statistics |= {"speedup": 1.0, "speedup_of_means": 1.0}
                statistics |= {"speedup_unmarked": 1.0 if has_times(self._single_unmarked) else None}
        elif self._is_measured(classes):
            times, unmarked = self._table.times(classes), self._table.times(classes, unmarked=True)
            statistics = self._times(times)
            statistics |= _speedups(times, self._single, unmarked, self._single_unmarked, ratio)
        return self._row("point", classes, samples, statistics, predicted_s=self._predicted(classes))

    def _control_row(self) -> Row:
        reference = self._reference
        first, second = self._table.times(reference), self._table.times(reference, control=True)
        statistics: dict[str, Any] = {}
        if self._status(reference) == "ok" and has_times(first) and has_times(second):
            ratio = ratios([second], first, self._table.processes, **self._resampling)[0]
            clean, clean_base = (self._table.times(reference, control, unmarked=True) for control in (True, False))
            statistics = self._times(second) | _speedups(second, first, clean, clean_base, ratio)
        return self._row("control", reference, self._table.samples(reference, control=True), statistics)

    def _row(
        self,
        kind: Literal["point", "control"],
        classes: int,
        samples: list[Sample],
        statistics: dict[str, Any],
        **more: Any,
    ) -> Row:
        points = self._points[classes]
        failed = next((point for point in points if point.status != "ok"), points[0])
        peaks = [point.peak_memory_bytes for point in points if point.peak_memory_bytes is not None]
        return Row(
            kind=kind,
            arch=self._setting.arch,
            classes=classes,
            status=failed.status,
            reason=failed.reason,
            device=self._setting.device,
            dtype=self._setting.dtype,
            batch_size=self._setting.batch_size,
            compile=self._setting.compile,
            order=self._setting.order,
            **{name: getattr(self._setting, name) for name in MODES},
            minibatches=self._minibatches,
            rounds_done=len({(sample.process, sample.round) for sample in samples}),
            peak_memory_bytes=max(peaks, default=None),
            operations=points[0].operations,
            bytes=points[0].bytes,
            marked_samples=sum(bool(sample.marks) for sample in samples),
            **statistics,
            **more,
        )

    def _status(self, classes: int) -> Status:
        return next((point.status for point in self._points[classes] if point.status != "ok"), "ok")

    def _times(self, times: Floats) -> dict[str, Any]:
        found = summary(times / self._setting.batch_size)
        return {
            "mean_s": found.mean,
            "median_s": found.median,
            "p5_s": found.p5,
            "p95_s": found.p95,
            "p99_s": found.p99,
        }

    def _predicted(self, classes: int) -> float | None:
        """Seconds an example: the measured single logit + what the added rows are calibrated to cost, slowed as it is.

        Rates are least times, and neighbours who slow the single logit slow the added rows as well.
        """
        added = [point.added_s for point in self._points[classes] if point.added_s is not None]
        if classes == self._reference or not added or not has_times(self._single):
            return None
        slowed = slowdown(self._single) * plain_statistics.median(added)
        return (summary(self._single).median + slowed) / self._setting.batch_size


def to_frame(rows: Sequence[Row]) -> "pandas.DataFrame":
    """One line a row, the columns the fields of a Row in their order; missing numbers are NaN or <NA>.

    Of MODES there are those columns in which a row differs from the default.
    """
    import pandas

    frame = pandas.DataFrame([row.model_dump() for row in rows], columns=list(Row.model_fields))
    defaults = {name: Row.model_fields[name].default for name in MODES}
    usual = [name for name, default in defaults.items() if all(getattr(row, name) == default for row in rows)]
    return frame.astype(_NULLABLE).drop(columns=usual)


def has_times(times: Floats) -> bool:
    """Whether there is any time that is not missing."""
    return bool(np.isfinite(times).any())


def _speedups(
    times: Floats, base: Floats, unmarked: Floats, unmarked_base: Floats, ratio: Ratio | None
) -> dict[str, float | None]:
    low, high = ratio.interval() if ratio else (None, None)
    clean = has_times(unmarked) and has_times(unmarked_base)
    return {
        "speedup": speedup(times, base),
        "speedup_low": low,
        "speedup_high": high,
        "speedup_of_means": speedup_of_means(times, base),
        "speedup_unmarked": speedup(unmarked, unmarked_base) if clean else None,
    }
