"""The history on the page: each speedup from run to run, and the steps and drifts in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.history.labels import point_label
from bench.machine.fingerprint import Machine
from reports import wording
from reports.page.figures import Figure, Trace, View, rounded, says
from reports.page.tables import Column, Line, Table, number, words

if TYPE_CHECKING:
    from bench.history.steps import Measured, Series, Step

#: Runs drawn of one series, and of all.
RUNS_OF_A_SERIES = 1000
RUNS_OF_A_PAGE = 24_000
FEWEST_RUNS = 60

#: Names of what a series is of.
_QUANTITIES = {"speedup": "speedup", "single": "time of one logit", "all": "time of all logits"}

#: The axis follows intervals up to this factor beyond the values; longer ones run out of the figure.
WIDEST = 1.5

#: Characters of a commit that people read.
_COMMIT = 8


@dataclass(frozen=True)
class History:
    """What the page shows of a history."""

    runs: int
    figure: Figure | None
    steps: Table | None
    problems: tuple[str, ...] = ()
    """a line about each file that cannot be read"""


def read(folder: Path) -> History:
    """Read a history and look for its steps. Raises UsageError if there is none."""
    from bench.history.steps import series
    from bench.history.store import Store

    contents = Store(folder).read()
    found = series(contents.entries)
    return History(len(contents.entries), figure(found), table(found), tuple(contents.problems))


def figure(found: "Sequence[Series]") -> Figure | None:
    """The speedups from run to run, a view each."""
    shown = [each for each in found if each.quantity == "speedup"]
    if not shown:
        return None
    limit = max(FEWEST_RUNS, min(RUNS_OF_A_SERIES, RUNS_OF_A_PAGE // len(shown)))
    # Those with a step first: they are what one comes for.
    ordered = sorted(zip(shown, names_of(shown), strict=True), key=lambda pair: not pair[0].steps)
    views = [_view(each, name, limit) for each, name in ordered]
    return Figure("history", "History: the speedup from run to run", views, choice="Speedup of")


def names_of(found: "Sequence[Series]") -> list[str]:
    """The work of each series, and the machine it was measured on where there are several."""
    works, machines = [point_label(each.work, each.threads) for each in found], [machine_of(each) for each in found]
    if len(set(machines)) == 1:
        return works
    return [f"{work}; {machine}" for work, machine in zip(works, machines, strict=True)]


def machine_of(series: "Series") -> str:
    """The hardware of a series."""
    if isinstance(series.machine, Machine):
        return wording.hardware(series.machine, series.work.device or "cpu")
    return series.machine.cpu


def _view(series: "Series", name: str, limit: int) -> View:
    measured = series.measured
    stride = math.ceil(len(measured) / limit)
    ends = {index for step in series.steps for index in (step.before, step.after)}
    places = [index for index in range(len(measured)) if index % stride == 0 or index in ends]
    traces = [_runs(measured, places)]
    if series.steps:
        traces.append(_steps(measured, series.steps))
    told = [wording.count(len(measured)) + (" run" if len(measured) == 1 else " runs")]
    told += [f"drawn is every {stride}th and each end of a step"] if stride > 1 else []
    changes = len(series.steps)
    told += [f"{changes} change{'s' if changes > 1 else ''} of level" if changes else "no step, no drift"]
    layout = {
        "xaxis": {"title": {"text": "run, oldest first"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "time of all logits / time of one"}, "range": _range(measured)},
    }
    return View(name, traces, layout, note=", ".join(told) + ".")


def _range(measured: "Sequence[Measured]") -> list[float]:
    """The ends of the axis: all values, and their intervals as far as those leave the values apart."""
    values = [each.estimate.value for each in measured]
    ends = [end for each in measured for end in each.estimate.interval() or ()]
    low = max(min([*values, *ends]), min(values) / WIDEST)
    high = min(max([*values, *ends]), max(values) * WIDEST)
    room = max(0.05 * (high - low), 0.01 * high)
    return [rounded(low - room), rounded(high + room)]


def _runs(measured: "Sequence[Measured]", places: Sequence[int]) -> Trace:
    reaches = [_reach(measured[place]) for place in places]
    return {
        "type": "scatter",
        "uid": "c0-runs",
        "meta": {"legend": "a run, with its 95 % interval", "colour": 0, "symbol": "●"},
        "hoverinfo": "text",
        "mode": "lines+markers",
        "x": [place + 1 for place in places],
        "y": [rounded(measured[place].estimate.value) for place in places],
        "error_y": {
            "type": "data",
            "array": [above for _, above in reaches],
            "arrayminus": [below for below, _ in reaches],
            "thickness": 1,
            "width": 0,
        },
        "hovertext": [_run_says(measured[place]) for place in places],
        "line": {"width": 1},
        "marker": {"symbol": "circle", "size": 5},
    }


def _reach(found: "Measured") -> tuple[float, float]:
    """How far the 95 % interval goes below and above the value; 0 where there is none."""
    interval = found.estimate.interval()
    if interval is None:
        return 0.0, 0.0
    return rounded(found.estimate.value - interval[0]), rounded(interval[1] - found.estimate.value)


def _run_says(found: "Measured") -> str:
    interval = found.estimate.interval()
    between = "" if interval is None else f" (95 % interval {interval[0]:.3f} to {interval[1]:.3f})"
    return says(
        f"speedup {wording.speedup(found.estimate.value)}{between}",
        found.entry.snapshot.created,
        f"commit {commit_of(found)}",
    )


def commit_of(found: "Measured") -> str:
    """The first characters of a run's commit."""
    return found.commit[:_COMMIT] if found.commit else "unknown"


def _steps(measured: "Sequence[Measured]", steps: "Sequence[Step]") -> Trace:
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for step in steps:
        if x:  # what lies between two steps belongs to neither
            x.append(None)
            y.append(None)
            text.append("")
        told = says(f"{step.kind}: {change_of(step)}", f"between {between(measured, step)}")
        for index in (step.before, step.after):
            x.append(index + 1)
            y.append(rounded(measured[index].estimate.value))
            text.append(told)
    return {
        "type": "scatter",
        "uid": "w-steps",
        "meta": {"legend": "a step or drift", "colour": "warn", "symbol": "◯"},
        "hoverinfo": "text",
        "mode": "lines+markers",
        "x": x,
        "y": y,
        "hovertext": text,
        "line": {"width": 3},
        "marker": {"symbol": "circle-open", "size": 13, "line": {"width": 2}},
    }


def change_of(step: "Step") -> str:
    """By how much the level changed: -5.1 % (95 % interval -5.6 to -4.5)."""
    low, high = 100 * (step.low - 1), 100 * (step.high - 1)
    return f"{100 * (step.ratio - 1):+.1f} % (95 % interval {low:+.1f} to {high:+.1f})"


def between(measured: "Sequence[Measured]", step: "Step") -> str:
    """The commits between which a change lies, in the words of the history."""
    return f"{commit_of(measured[step.before])} and {commit_of(measured[step.after])}"


def table(found: "Sequence[Series]") -> Table | None:
    """Every step and drift, of the speedups and of the two times they are made of."""
    lines = [_line(each, name, step) for each, name in zip(found, names_of(found), strict=True) for step in each.steps]
    if not lines:
        return None
    columns = (
        Column("what", is_number=False),
        Column("quantity", is_number=False),
        Column("kind", is_number=False),
        Column("change"),
        Column("between commits", is_number=False),
        Column("between runs of", is_number=False),
    )
    note = "A time that goes up is slower. What counts as a step, and why: docs/history.md."
    return Table("steps", "Steps and drifts in the history", columns, tuple(lines), notes=(note,))


def _line(series: "Series", name: str, step: "Step") -> Line:
    measured: Sequence[Any] = series.measured
    dates = (
        f"{measured[step.before].entry.snapshot.created[:10]} and {measured[step.after].entry.snapshot.created[:10]}"
    )
    cells = (
        words(name),
        words(_QUANTITIES[series.quantity]),
        words(step.kind),
        number(change_of(step), step.ratio),
        words(between(measured, step)),
        words(dates),
    )
    return Line(cells, network=series.work.arch)
