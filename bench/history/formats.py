"""What other tools read: github-action-benchmark, Bencher, CSV; pytest-benchmark's own file is in a module of its own.

    github-action-benchmark   [{name, unit, value, range, extra}]: times and speedups apart, for the tool is told once
                              for all of a file whether smaller or bigger is better
    bencher                   {name: {measure: {value, lower_value, upper_value}}}, Bencher Metric Format
    csv                       one row a point

All of them follow a name from run to run: names come from the work alone (bench.history.labels). Points that failed
have no number and are left out of all but the CSV.
"""

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any, Literal

from bench.errors import UsageError
from bench.history.labels import point_label, setting_label
from bench.history.pytest_benchmark import from_pytest_benchmark, to_pytest_benchmark
from bench.history.snapshot import Estimate, Point, Snapshot, Work
from bench.machine.fingerprint import Machine

__all__ = ["from_pytest_benchmark", "to_bencher", "to_csv", "to_github_action_benchmark", "to_pytest_benchmark"]

GithubQuantity = Literal["times", "speedups"]

#: Seconds -> the unit of a written time.
MS = 1e3
NS = 1e9

#: Measures of Bencher, all in its terms: slugs, latencies in nanoseconds.
SINGLE_MEASURE = "single-logit-latency"
ALL_MEASURE = "all-logits-latency"
SPEEDUP_MEASURE = "speedup"


def to_github_action_benchmark(brief: Snapshot, quantity: GithubQuantity) -> list[dict[str, Any]]:
    """Entries for github-action-benchmark: times are its customSmallerIsBetter, speedups its customBiggerIsBetter.

    Times are milliseconds per example; `range` is half the width of the 95 % interval. Raises UsageError if there is
    nothing to tell, which that tool would refuse later and less clearly.
    """
    entries = list((_times if quantity == "times" else _speedups)(brief))
    if not entries:
        raise UsageError(f"{brief.name}: holds no {quantity} to export")
    return entries


def to_bencher(brief: Snapshot) -> dict[str, dict[str, dict[str, float]]]:
    """Bencher Metric Format: for each point its latencies in nanoseconds per example, and its speedup.

    Raises UsageError if nothing was measured.
    """
    found = {point_label(point.work, point.threads): _measures(point) for point in brief.points}
    found = {name: measures for name, measures in found.items() if measures}
    if not found:
        raise UsageError(f"{brief.name}: no point was measured, so there is nothing to export")
    return found


def to_csv(brief: Snapshot) -> str:
    """A header and one row a point, those that failed too: run, machine, work, estimates with 95 % intervals."""
    machine = brief.machine
    head = {
        "run": brief.name,
        "created": brief.created,
        "run_status": brief.status,
        "commit": brief.commit,
        "cpu": machine.cpu,
        "gpu": machine.gpu.name if isinstance(machine, Machine) and machine.gpu else None,
        "torch": brief.versions.get("torch"),
    }
    written = io.StringIO()
    # Quoted: before Python 3.13 a lone carriage return in a name would not be.
    writer = csv.DictWriter(written, [*head, *_COLUMNS], lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    for point in brief.points:
        writer.writerow(head | {name: column(point) for name, column in _COLUMNS.items()})
    return written.getvalue()


def _times(brief: Snapshot) -> Iterator[dict[str, Any]]:
    told = set()
    for point in brief.points:
        label = setting_label(point.work, point.threads)
        if point.single is not None and label not in told:  # it is the setting's, and so the same at every class count
            told.add(label)
            yield _entry(f"{label}: single logit", point.single, MS, "ms/example", point, brief)
        if point.all is not None:
            what = ": all logits" if point.work.classes is not None else ""
            yield _entry(point_label(point.work, point.threads) + what, point.all, MS, "ms/example", point, brief)


def _speedups(brief: Snapshot) -> Iterator[dict[str, Any]]:
    for point in brief.points:
        if point.speedup is not None:
            yield _entry(f"{point_label(point.work, point.threads)}: speedup", point.speedup, 1, "x", point, brief)


def _entry(name: str, estimate: Estimate, scale: float, unit: str, point: Point, brief: Snapshot) -> dict[str, Any]:
    entry = {"name": name, "unit": unit, "value": estimate.value * scale}
    if (ends := estimate.interval()) is not None:
        entry["range"] = f"± {(ends[1] - ends[0]) / 2 * scale:.4g}"
    facts = [f"rounds: {point.rounds}", f"cpu: {brief.machine.cpu}"]
    if isinstance(brief.machine, Machine) and brief.machine.gpu:
        facts.append(f"gpu: {brief.machine.gpu.name}")
    facts += [f"{name}: {brief.versions[name]}" for name in ("torch",) if name in brief.versions]
    return entry | {"extra": "\n".join(facts)}


def _measures(point: Point) -> dict[str, dict[str, float]]:
    found = {}
    for measure, estimate, scale in (
        (SINGLE_MEASURE, point.single, NS),
        (ALL_MEASURE, point.all, NS),
        (SPEEDUP_MEASURE, point.speedup, 1.0),
    ):
        if estimate is None:
            continue
        found[measure] = {"value": estimate.value * scale}
        if (ends := estimate.interval()) is not None:
            found[measure] |= {"lower_value": ends[0] * scale, "upper_value": ends[1] * scale}
    return found


def _work_column(name: str) -> Callable[[Point], Any]:
    def column(point: Point) -> Any:
        value = getattr(point.work, name)
        return "x".join(map(str, value)) if isinstance(value, tuple) else value

    return column


def _value_column(name: str) -> Callable[[Point], Any]:
    def column(point: Point) -> Any:
        estimate: Estimate | None = getattr(point, name)
        return None if estimate is None else estimate.value

    return column


def _end_column(name: str, end: int) -> Callable[[Point], Any]:
    def column(point: Point) -> Any:
        estimate: Estimate | None = getattr(point, name)
        ends = None if estimate is None else estimate.interval()
        return None if ends is None else ends[end]

    return column


def _estimate_columns(name: str, unit: str) -> dict[str, Callable[[Point], Any]]:
    return {
        f"{name}{unit}": _value_column(name),
        f"{name}_low{unit}": _end_column(name, 0),
        f"{name}_high{unit}": _end_column(name, 1),
    }


#: Column -> what stands in it, of a point.
_COLUMNS: dict[str, Callable[[Point], Any]] = {
    **{name: _work_column(name) for name in Work.model_fields},
    "threads": lambda point: point.threads,
    "status": lambda point: point.status,
    "reason": lambda point: point.reason,
    "rounds": lambda point: point.rounds,
    "processes": lambda point: len(point.replicates),
    "marked": lambda point: point.marked,
    **_estimate_columns("single", "_s"),
    **_estimate_columns("all", "_s"),
    **_estimate_columns("speedup", ""),
}
