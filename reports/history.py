"""The history as text: what it holds, and how each speedup went over time."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.history.labels import point_label
from bench.history.snapshot import Estimate, OtherMachine, Point, Snapshot, Work
from bench.history.steps import Measured, Quantity, Series, Step, direction
from bench.history.store import COMMIT_LENGTH, Entry
from bench.machine.fingerprint import DIRTY, Machine
from bench.text import on_one_line
from reports import wording
from reports.terminal import console_for

#: What a quantity is called in a sentence.
NAMES: dict[Quantity, str] = {"single": "time of the single logit", "all": "time of all logits", "speedup": "speedup"}

#: A verdict in the middle of a sentence.
WORDS = {"FASTER": "shorter", "SLOWER": "longer", "HIGHER": "higher", "LOWER": "lower"}

#: A bad change is red, a good one green.
STYLES = {"FASTER": "green", "SLOWER": "red", "HIGHER": "green", "LOWER": "red"}


def print_entries(entries: Sequence[Entry], stream: TextIO | None = None) -> None:
    """A line for each run of the history, oldest first."""
    _print_records(entries, "entry", lambda entry: entry.path.stem.rpartition("-")[2], stream)
    console_for(stream or sys.stdout).print(f"{len(entries)} run{'s' * (len(entries) != 1)}")


def print_baselines(baselines: Sequence[Entry], stream: TextIO | None = None) -> None:
    """A line for each baseline."""
    if not baselines:
        console_for(stream or sys.stdout).print(
            "no baseline yet: `python -m bench history baseline set NAME RUN` makes one"
        )
        return
    _print_records(baselines, "baseline", lambda entry: entry.path.stem, stream)


def print_run(snapshot: Snapshot, stream: TextIO | None = None) -> None:
    """One run: what ran where, and its points."""
    console = console_for(stream or sys.stdout)
    title = f"{snapshot.name}, {day(snapshot.created)}, commit {commit(snapshot.commit)}, {snapshot.status}"
    console.print(Text(on_one_line(title), style="bold"), soft_wrap=True)
    console.print(f"on {machine_words(snapshot.machine)}", soft_wrap=True)
    if snapshot.versions:
        versions = ", ".join(f"{name} {version}" for name, version in snapshot.versions.items())
        console.print(on_one_line(versions), soft_wrap=True)
    table = _table(("point", "ms single", "ms all", "speedup", "95 % interval", "status"), left=("point", "status"))
    for point in snapshot.points:
        label = point_label(point.work, point.threads)
        table.add_row(label, *_estimates(point), _status(point), style="" if point.status == "ok" else "red")
    console.print(table)


def print_series(series: Sequence[Series], last: int, stream: TextIO | None = None) -> None:
    """How each point went over time: its newest `last` runs, and every step of the whole series in words."""
    console = console_for(stream or sys.stdout)
    points: dict[tuple[int, Work, int | None], list[Series]] = {}
    machines: list[Machine | OtherMachine] = []
    for each in series:
        if each.machine not in machines:
            machines.append(each.machine)
        points.setdefault((machines.index(each.machine), each.work, each.threads), []).append(each)
    for (machine, work, threads), quantities in points.items():
        console.print(Text(f"\n{on_one_line(point_label(work, threads))}", style="bold"), soft_wrap=True)
        console.print(f"on {machine_words(machines[machine])}", soft_wrap=True)
        _print_point(console, quantities, last)


def _print_point(console: Console, quantities: Sequence[Series], last: int) -> None:
    entries = sorted(
        {measured.entry.path: measured.entry for each in quantities for measured in each.measured}.values(),
        key=lambda entry: (entry.snapshot.created, entry.path.name),
    )
    marks = _marks(quantities)
    values = {
        each.quantity: {measured.entry.path: measured.estimate for measured in each.measured} for each in quantities
    }
    table = _table(
        ("date", "commit", "ms single", "ms all", "speedup", "95 % interval", ""), left=("date", "commit", "")
    )
    for entry in entries[-last:]:
        single, every, speedup = (values.get(name, {}).get(entry.path) for name in ("single", "all", "speedup"))
        told = marks.get(entry.path, [])
        table.add_row(
            day(entry.snapshot.created),
            commit(entry.snapshot.commit),
            _milliseconds(single),
            _milliseconds(every),
            wording.speedup(speedup.value if speedup else None),
            _interval(speedup),
            "; ".join(told),
        )
    console.print(table)
    if len(entries) > last:
        console.print(f"the newest {last} of {len(entries)} runs; --last {len(entries)} shows all")
    for each in quantities:
        for step in each.steps:
            verdict = direction(each.quantity, step.ratio)
            console.print(Text(step_words(each, step), style=STYLES[verdict]), soft_wrap=True)
    if not any(each.steps for each in quantities):
        console.print(f"no step and no drift in {len(entries)} run{'s' * (len(entries) != 1)}")


def step_words(series: Series, step: Step) -> str:
    """A change in a sentence: how much, from which commit to which, and what else differs between the two runs."""
    before, after = series.measured[step.before], series.measured[step.after]
    ends = sorted((abs(step.low - 1), abs(step.high - 1)))
    crosses = (step.low < 1) != (step.high < 1)
    low = 0.0 if crosses else ends[0]
    change = f"{100 * abs(step.ratio - 1):.1f} % ({100 * low:.1f} to {100 * ends[1]:.1f} %)"
    sentence = (
        f"{step.kind}: {NAMES[series.quantity]} {change} {WORDS[direction(series.quantity, step.ratio)]} "
        f"between {_run(before)} and {_run(after)}"
    )
    if step.kind == "drift":
        sentence += f", little by little over {step.after - step.before + 1} runs"
    return on_one_line("; ".join([sentence, *_suspects(before, after)]))


def _suspects(before: Measured, after: Measured) -> list[str]:
    """What may be the reason: commits in between, versions that differ."""
    old, new = before.entry.snapshot, after.entry.snapshot
    found = [*_between(old.commit, new.commit)]
    found += [
        f"{name} {old.versions.get(name, 'none')} -> {new.versions.get(name, 'none')}"
        for name in sorted(old.versions.keys() | new.versions.keys())
        if old.versions.get(name) != new.versions.get(name)
    ]
    return found


def _between(old: str | None, new: str | None) -> Iterator[str]:
    """What lies between two commits: how git lists it, and changes that it cannot list as they were not committed."""
    if old is None or new is None:
        yield "commit unknown"
        return
    first, last = (name.removesuffix(DIRTY) for name in (old, new))
    yield "the commit is the same" if first == last else f"git log {commit(first)}..{commit(last)}"
    dirty = [side for side, name in (("before", old), ("after", new)) if name.endswith(DIRTY)]
    if dirty:
        yield f"changes that were not committed {' and '.join(dirty)} it"


def _marks(quantities: Iterable[Series]) -> dict[Path, list[str]]:
    """What to write beside the runs at which something changes."""
    marks: dict[Path, list[str]] = {}
    for each in quantities:
        for step in each.steps:
            words = f"{each.quantity} {100 * (step.ratio - 1):+.1f} %"
            if step.kind == "step":
                marks.setdefault(each.measured[step.after].entry.path, []).append(f"<- step: {words}")
            else:
                marks.setdefault(each.measured[step.before].entry.path, []).append(f"<- drift begins: {words}")
                marks.setdefault(each.measured[step.after].entry.path, []).append(f"<- drift ends: {words}")
    return marks


def day(created: str) -> str:
    """A time as date and minute: 2026-11-23 09:15."""
    return created[:16].replace("T", " ")


def commit(name: str | None) -> str:
    """A commit as git abbreviates it, with "+dirty" where it has that; a dash for none."""
    if not name:
        return "-"
    return name[:COMMIT_LENGTH] + (DIRTY if name.endswith(DIRTY) else "")


def machine_words(machine: Machine | OtherMachine) -> str:
    """A machine in a few words."""
    if isinstance(machine, OtherMachine):
        return on_one_line(machine.cpu if machine.cores is None else f"{machine.cpu}, {machine.cores} cores")
    words = f"{machine.cpu}, {machine.cores_usable:g} of {machine.cores_logical} cores"
    return on_one_line(f"{machine.gpu.name}, {words}" if machine.gpu else words)


def _run(measured: Measured) -> str:
    snapshot = measured.entry.snapshot
    return f"{commit(snapshot.commit)} ({day(snapshot.created)})"


def _print_records(entries: Sequence[Entry], title: str, name: Callable[[Entry], str], stream: TextIO | None) -> None:
    console = console_for(stream or sys.stdout)
    table = _table(
        (title, "date", "name", "commit", "points", "machine", "status"),
        left=(title, "date", "name", "commit", "machine", "status"),
    )
    for entry in entries:
        snapshot = entry.snapshot
        table.add_row(
            name(entry),
            day(snapshot.created),
            on_one_line(snapshot.name),
            on_one_line(commit(snapshot.commit)),
            str(sum(point.status == "ok" and point.all is not None for point in snapshot.points)),
            machine_words(snapshot.machine),
            snapshot.status,
        )
    console.print(table)


def _table(columns: Sequence[str], left: Sequence[str]) -> Table:
    table = Table(box=box.ASCII2, header_style="")
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=column != "point")
    return table


def _estimates(point: Point) -> tuple[str, str, str, str]:
    speedup = point.speedup
    return (
        _milliseconds(point.single),
        _milliseconds(point.all),
        wording.speedup(speedup.value if speedup else None),
        _interval(speedup),
    )


def _milliseconds(estimate: Estimate | None) -> str:
    return wording.milliseconds(estimate.value if estimate else None)


def _interval(estimate: Estimate | None) -> str:
    ends = estimate.interval() if estimate else None
    return f"{ends[0]:.3f} .. {ends[1]:.3f}" if ends else ""


def _status(point: Point) -> str:
    return "" if point.status == "ok" else f"{point.status}: {point.reason}"
