"""pytest-benchmark's JSON, both ways: a run's samples as its benchmarks, and anybody's benchmarks as points.

What the format has no place for (the work, the machine, estimates with their errors) stands in each benchmark's
`extra_info`, so that a run that was written here is read back as it was. Of anybody else's benchmark the median is
taken as the time of all logits: there is one time to compare and no speedup.
"""

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from bench.errors import UsageError
from bench.history.labels import setting_label
from bench.history.reading import TIMES, as_record, plausible, read_json
from bench.history.snapshot import SCHEMA_VERSION, Estimate, OtherMachine, Point, Snapshot, Work, snapshot
from bench.machine.fingerprint import Machine
from bench.run import Run
from bench.speed.rows import round_tables
from bench.speed.statistics import bootstrap_ratios
from bench.text import on_one_line

#: The key of `extra_info` under which a benchmark holds the run in brief, with the point that it measured.
EXTRA_INFO = "slc_bench"

#: Version of pytest-benchmark that writes files with these fields.
FORMAT_VERSION = "5.1.0"

#: Told by a snapshot's notices: an error comes from quartiles, for lack of single times (--benchmark-save-data).
ERROR_FROM_QUARTILES = "error-from-quartiles"

#: Of a normal law: interquartile range / standard deviation, and standard error of the median / that of the mean.
_IQR_OF_NORMAL = 1.349
_MEDIAN_OF_NORMAL = math.sqrt(math.pi / 2)


@dataclass
class _Timed:
    """What becomes a benchmark: its setting's name, its class count, seconds per example, and points it carries."""

    label: str
    arch: str
    classes: int
    data: list[float]
    points: tuple[Point, ...]


def to_pytest_benchmark(run: Run, brief: Snapshot | None = None) -> dict[str, Any]:
    """A run as pytest-benchmark would have written it: for each setting the single logit, and one benchmark a point.

    Data are seconds per example of every sample that the estimates use, round by round. Points that failed have no
    benchmark of their own, for there is none without a time; the next one carries them in its `extra_info`.
    brief: the run in brief, if it is at hand. Raises UsageError if nothing was measured.
    """
    brief = brief or snapshot(run)
    timed: list[_Timed] = []
    waiting: list[Point] = []
    for each in _in_order(run, brief):
        if isinstance(each, Point):
            waiting.append(each)
        else:
            each.points = (*waiting, *each.points)
            waiting = []
            timed.append(each)
    if not timed:
        raise UsageError(f"{brief.name}: no point was measured, and pytest-benchmark has no benchmark without a time")
    timed[-1].points += tuple(waiting)
    return {
        "machine_info": _machine_info(brief),
        "commit_info": {
            "id": brief.commit,
            "time": None,
            "author_time": None,
            "dirty": None,
            "project": "slc-bench",
            "branch": None,
        },
        "benchmarks": [_benchmark(each, brief) for each in timed],
        "datetime": brief.created,
        "version": FORMAT_VERSION,
    }


def extra_info(brief: Snapshot) -> dict[str, Any]:
    """What a benchmark's `extra_info` must hold for `from_pytest_benchmark` to find these points in it."""
    return {EXTRA_INFO: brief.model_dump(mode="json")}


def from_pytest_benchmark(path: Path) -> Snapshot:
    """A file of pytest-benchmark in brief.

    What slc-bench wrote is read from its `extra_info`, several runs as one with the first one's name; any other
    benchmark is a point whose work is its full name. Raises UsageError, in one line that names the file, for what is
    no such file, for a benchmark with no rounds, without a median, or with a time that nothing can have.
    """
    content = read_json(path)
    benchmarks = content.get("benchmarks")
    if not isinstance(benchmarks, list) or not all(isinstance(each, dict) for each in benchmarks):
        raise UsageError(f"{path}: holds no list `benchmarks`, and so is not a file of pytest-benchmark")
    if not benchmarks:
        raise UsageError(f"{path}: holds no benchmark; run the tests with --benchmark-only and save again")
    found: list[Snapshot] = []
    foreign: list[Point] = []
    quartiles = False
    for number, each in enumerate(benchmarks):
        info = each.get("extra_info")
        if isinstance(info, dict) and EXTRA_INFO in info:
            found.append(as_record(path, info[EXTRA_INFO], Snapshot, newest=SCHEMA_VERSION))
        else:
            name = each.get("fullname") or each.get("name") or f"benchmark {number}"
            point, from_quartiles = _foreign_point(path, str(name), each.get("stats"))
            foreign.append(point)
            quartiles = quartiles or from_quartiles
    merged = _merged(found) if found else _foreign_snapshot(path, content, quartiles)
    points = (*merged.points, *foreign)
    _refuse_twins(path, points)
    return plausible(path, merged.model_copy(update={"points": points}))


def summarise(data: Sequence[float], iterations: int = 1) -> dict[str, Any]:
    """The `stats` of a benchmark with these times, as pytest-benchmark works them out (pytest_benchmark.stats)."""
    ordered = sorted(data)
    mean = statistics.fmean(data)
    deviation = statistics.stdev(data) if len(data) > 1 else 0.0
    q1, q3 = _quartiles(ordered)
    iqr = q3 - q1
    beyond_deviation = sum(not mean - deviation <= time <= mean + deviation for time in data)
    beyond_quartiles = sum(not q1 - 1.5 * iqr <= time <= q3 + 1.5 * iqr for time in data)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": deviation,
        "rounds": len(data),
        "median": statistics.median(data),
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": beyond_quartiles,
        "stddev_outliers": beyond_deviation,
        "outliers": f"{beyond_deviation};{beyond_quartiles}",
        "ld15iqr": ordered[bisect_left(ordered, q1 - 1.5 * iqr)],
        "hd15iqr": ordered[bisect_right(ordered, q3 + 1.5 * iqr) - 1],
        "ops": 1 / mean,
        "total": math.fsum(data),
        "data": list(data),
        "iterations": iterations,
    }


def _quartiles(ordered: Sequence[float]) -> tuple[float, float]:
    """Q1 and Q3 as pytest-benchmark has them: medians of the halves; of odd numbers, between two order statistics."""
    number = len(ordered)
    if number == 1:
        return ordered[0], ordered[0]
    if number % 2 == 0:
        return statistics.median(ordered[: number // 2]), statistics.median(ordered[number // 2 :])
    n, rest = divmod(number, 4)
    if rest == 1:
        return 0.25 * ordered[n - 1] + 0.75 * ordered[n], 0.75 * ordered[3 * n] + 0.25 * ordered[3 * n + 1]
    return 0.75 * ordered[n] + 0.25 * ordered[n + 1], 0.25 * ordered[3 * n + 1] + 0.75 * ordered[3 * n + 2]


# -- writing ----------------------------------------------------------------------------------------------------------


def _in_order(run: Run, brief: Snapshot) -> Iterator[_Timed | Point]:
    """What was timed, and the points that were not, in the order of the run in brief."""
    points = iter(brief.points)
    for index, table in enumerate(round_tables(run)):
        setting = run.manifest.settings[index]
        asked = setting.subset
        counts = sorted(
            {each.classes for each in run.manifest.points if each.setting == index and each.classes > asked}
        )
        is_first = True
        for classes in counts:
            point = next(points)
            if point.status != "ok" or point.all is None:
                yield point
                continue
            label = setting_label(point.work, point.threads)
            if is_first:
                yield _Timed(label, setting.arch, asked, _present(table.single() / setting.batch_size), ())
                is_first = False
            data = _present(table.times(classes) / setting.batch_size)
            yield _Timed(label, setting.arch, classes, data, (point,))


def _present(times: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    flat = times.ravel()
    return [float(time) for time in flat[np.isfinite(flat)]]


def _benchmark(timed: _Timed, brief: Snapshot) -> dict[str, Any]:
    return {
        "group": timed.label,
        "name": f"{timed.arch}[{timed.classes}]",
        "fullname": f"{timed.label}[{timed.classes}]",
        "params": {"classes": timed.classes},
        "param": str(timed.classes),
        "extra_info": extra_info(brief.model_copy(update={"points": timed.points})),
        "options": {
            "disable_gc": True,
            "timer": "perf_counter",
            "min_rounds": len(timed.data),
            "max_time": None,
            "min_time": None,
            "warmup": True,
        },
        "stats": summarise(timed.data),
    }


def _machine_info(brief: Snapshot) -> dict[str, Any]:
    """The machine in pytest-benchmark's words; its name in the network (`node`) is nobody's business."""
    machine = brief.machine
    system, cores = (
        (machine.os, machine.cores_logical) if isinstance(machine, Machine) else (machine.system, machine.cores)
    )
    return {
        "node": "",
        "processor": machine.cpu,
        "machine": "",
        "python_compiler": "",
        "python_implementation": "CPython",
        "python_implementation_version": brief.versions.get("python", ""),
        "python_version": brief.versions.get("python", ""),
        "python_build": ["", ""],
        "release": "",
        "system": system,
        "cpu": {"brand_raw": machine.cpu, "count": cores},
    }


# -- reading ----------------------------------------------------------------------------------------------------------


def _merged(found: Sequence[Snapshot]) -> Snapshot:
    """Runs in brief from one file as one: the first, with everybody's points and warnings."""
    first = found[0]
    worst = next((each for each in found if each.status != "complete"), first)
    return first.model_copy(
        update={
            "status": worst.status,
            "points": tuple(point for each in found for point in each.points),
            "notices": _all_notices(found),
        }
    )


def _all_notices(found: Sequence[Snapshot]) -> tuple[str, ...]:
    """The notices of every different run; the benchmarks of one run repeat its own."""
    runs: list[tuple[str, str, tuple[str, ...]]] = [(each.name, each.created, each.notices) for each in found]
    return tuple(kind for _, _, kinds in dict.fromkeys(runs) for kind in kinds)


def _refuse_twins(path: Path, points: Iterable[Point]) -> None:
    seen = set()
    for point in points:
        key = (point.work, point.threads)
        if key in seen:
            raise UsageError(f"{path}: {point.work.arch!r} is in it twice; save each run to a file of its own")
        seen.add(key)


def _foreign_snapshot(path: Path, content: dict[str, Any], quartiles: bool) -> Snapshot:
    machine = _dict(content.get("machine_info"))
    commit = _dict(content.get("commit_info")).get("id")
    created = content.get("datetime")
    if not isinstance(created, str):
        raise UsageError(f"{path}: holds no `datetime`, and so is not a file of pytest-benchmark")
    python = machine.get("python_version")
    return Snapshot(
        name=on_one_line(path.stem),
        created=created,
        tool="pytest-benchmark",
        commit=str(commit) if commit else None,
        machine=_other_machine(machine),
        versions={"python": str(python)} if python else {},
        points=(),
        notices=(ERROR_FROM_QUARTILES,) if quartiles else (),
    )


def _other_machine(info: dict[str, Any]) -> OtherMachine:
    cpu = _dict(info.get("cpu"))
    cores = cpu.get("count")
    name = cpu.get("brand_raw") or cpu.get("brand") or info.get("processor") or info.get("machine") or "unknown"
    system = " ".join(str(info[key]) for key in ("system", "release", "machine") if info.get(key))
    return OtherMachine(cpu=str(name), cores=cores if isinstance(cores, int) else None, system=system)


def _foreign_point(path: Path, name: str, stats: Any) -> tuple[Point, bool]:
    """A benchmark of anybody's as a point, and whether its error comes from quartiles."""
    stats = _dict(stats)
    median, rounds = stats.get("median"), stats.get("rounds")
    if not _is_number(median):
        raise UsageError(f"{path}: {name!r} has no `stats.median`; save it with pytest-benchmark's --benchmark-json")
    if not median > 0:
        raise UsageError(f"{path}: the median of {name!r} is {median}, where a time must be above 0")
    if not isinstance(rounds, int) or rounds < 1:
        raise UsageError(f"{path}: {name!r} has {rounds!r} rounds: nothing was measured; run it again")
    estimate, from_quartiles = _estimate(path, name, stats, rounds)
    point = Point(work=Work(arch=name, classes=None), all=estimate, rounds=rounds)
    return point, from_quartiles


def _estimate(path: Path, name: str, stats: dict[str, Any], rounds: int) -> tuple[Estimate, bool]:
    median = float(stats["median"])
    data = stats.get("data")
    if isinstance(data, list) and data:
        if not all(_is_number(time) and TIMES[0] <= time <= TIMES[1] for time in data):
            least, most = TIMES
            raise UsageError(
                f"{path}: {name!r} has a time that is no number from {least:g} to {most:g} seconds; measure it again"
            )
        times = np.asarray(data, dtype=float)
        ratio = bootstrap_ratios([times], np.ones_like(times))[0]
        if ratio is None:
            return Estimate(value=median), False
        return Estimate(value=median, error=ratio.error, degrees=ratio.degrees), False
    iqr = stats.get("iqr")
    if not _is_number(iqr) or rounds < 2 or iqr < 0:
        return Estimate(value=median), False
    error = _MEDIAN_OF_NORMAL * iqr / _IQR_OF_NORMAL / math.sqrt(rounds) / median
    return Estimate(value=median, error=error, degrees=rounds - 1), True


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
