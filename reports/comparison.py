"""A comparison as people and machines read it: text, Markdown, annotations of GitHub, one JSON object.

All four say the same: the answer in a sentence, the figures of every point, and the findings: what is worse, what
could not be decided, what differs between the two sides, the smallest change that could have been found.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from bench.history.compare import GATED, QUANTITIES, Quantity
from bench.history.confirm import NOT_ASKED
from bench.history.verdict import percent
from bench.speed.settings import Setting
from bench.text import on_one_line
from reports import wording

if TYPE_CHECKING:
    from bench.history.compare import Comparison, Gate, Judged, PointChange
    from bench.history.confirm import Confirmed
    from bench.history.snapshot import Point, Snapshot, Work

#: Name and version of what --format json prints.
SCHEMA = "slc-bench/comparison/1"

#: GitHub shows so many annotations of a kind and drops the rest, so the last one says how many are left out.
MOST_ANNOTATIONS = 10

Severity = Literal["error", "warning", "note"]

#: Verdicts that turn the gate red, and their opposites.
_WORSE = ("SLOWER", "LOWER")
_BETTER = ("FASTER", "HIGHER")

_IN_WORDS: dict[Quantity, str] = {
    "single": "time of the single logit",
    "all": "time of all logits",
    "speedup": "speedup",
}

_HEADER = ("classes", "", "base", "new", "change", "interval", "finds", "verdict")
_STYLES = {**dict.fromkeys(_WORSE, "red"), **dict.fromkeys(_BETTER, "green"), "AMBIGUOUS": "yellow"}
_SEVERITY_STYLES: dict[Severity, str] = {"error": "red", "warning": "yellow", "note": ""}
_SEVERITY_WORDS: dict[Severity, str] = {"error": "worse", "warning": "warning", "note": "note"}


@dataclass(frozen=True)
class Finding:
    """One thing to know about a comparison: a title of a few words, and a text that stands for itself."""

    severity: Severity
    title: str
    text: str


# -- the answer in a sentence -------------------------------------------------------------------------------------


def headline(confirmed: "Confirmed") -> str:
    """What came out, in a sentence on one line."""
    return on_one_line(_sentence(confirmed))


def _sentence(confirmed: "Confirmed") -> str:
    outcome = confirmed.outcome
    if outcome == "worse":
        return _worse_sentence(confirmed)
    if outcome == "undecided":
        return f"Undecided: {_undecided_reason(confirmed)}."
    final = confirmed.final
    again = f"; {_points(len(confirmed.cleared))} looked worse at first" if confirmed.cleared else ""
    if final.undecided:
        return (
            f"Nothing is known to be worse: {len(final.undecided)} of {_points(len(final.points))} could not be "
            f"decided{again}."
        )
    return f"Nothing got worse at {_points(len(final.points))}, to a margin of {_margin(final)}{again}."


def _worse_sentence(confirmed: "Confirmed") -> str:
    final = confirmed.final
    names = _Names(confirmed.first)
    worst = max(final.worse, key=lambda point: _harm(point, final.gate))
    first = f"{names.of(worst.new)}: {', '.join(_complaints(worst, final.gate))}"
    if len(final.points) == 1:
        return f"Worse: {first}."
    return f"Worse at {len(final.worse)} of {_points(len(final.points))}, above all {first}."


def _undecided_reason(confirmed: "Confirmed") -> str:
    first = confirmed.first
    if first.hardware:
        return _unequal(first.hardware)
    reasons = []
    if first.failed:
        reasons.append(f"{_points(len(first.failed))} of BASE failed in NEW")
    if confirmed.lost:
        reasons.append(f"{_points(len(confirmed.lost))} looked worse and could not be measured again")
    if confirmed.unsettled:
        reasons.append(f"{_points(len(confirmed.unsettled))} looked worse and ambiguous when measured again")
    final = confirmed.final
    if not reasons and final.undecided:
        reasons.append(f"{len(final.undecided)} of {_points(len(final.points))} ambiguous")
    return " and ".join(reasons) or "no point can be judged"


def _gated(point: "PointChange", gate: "Gate") -> "Iterator[tuple[Quantity, Judged]]":
    """What the gate looks at; a benchmark of another tool has but one time."""
    judged = list(_judged(point))
    has_one_time = [quantity for quantity, _ in judged] == ["all"]
    return (each for each in judged if has_one_time or each[0] in GATED[gate])


def _unequal(fields: Sequence[str]) -> str:
    """What the two sides do not have in common, and what follows."""
    if tuple(fields) == ("threads",):
        return "points were measured with unequal threads, so there are figures without verdicts at those"
    return f"the two machines differ ({', '.join(fields)}), so there are figures without verdicts"


def _complaints(point: "PointChange", gate: "Gate") -> list[str]:
    """What is worse at a point, of what the gate looks at: "speedup -4.9 % (LOWER)"."""
    return [
        f"{_called(point, quantity)} {percent(judged.change.ratio)} ({judged.verdict})"
        for quantity, judged in _gated(point, gate)
        if judged.verdict in _WORSE
    ]


def _called(point: "PointChange", quantity: Quantity) -> str:
    return "time" if point.single is None and quantity == "all" else _IN_WORDS[quantity]


def _harm(point: "PointChange", gate: "Gate") -> float:
    """How much worse, as a factor above 1, so that times and speedups can be put in one order."""
    factors = [
        1 / judged.change.ratio if quantity == "speedup" else judged.change.ratio
        for quantity, judged in _gated(point, gate)
        if judged.verdict in _WORSE
    ]
    return max(factors, default=0.0)


# -- the findings -------------------------------------------------------------------------------------------------


def findings(confirmed: "Confirmed") -> list[Finding]:
    """All there is to know beside the figures, each on one line: what is worse first, then warnings, then notes."""
    names = _Names(confirmed.first)
    found = [*_of_points(confirmed, names), *_of_confirmation(confirmed, names), *_of_sides(confirmed.first, names)]
    found.append(Finding("note", "what could have been found", _smallest(confirmed.final)))
    order: tuple[Severity, ...] = ("error", "warning", "note")
    lines = (Finding(each.severity, on_one_line(each.title), on_one_line(each.text)) for each in found)
    return sorted(lines, key=lambda finding: order.index(finding.severity))


def _of_points(confirmed: "Confirmed", names: "_Names") -> Iterator[Finding]:
    final = confirmed.final
    for cause, points in _by_cause(final.worse).items():
        which = names.join(point.new for point in points)
        title = f"{which if len(points) == 1 else _points(len(points))} got worse"
        yield Finding("error", title, f"{which}: {'; '.join(filter(None, (cause, _less_speedup(points))))}")
    if final.undecided:
        yield Finding(
            "warning",
            f"{_points(len(final.undecided))} ambiguous",
            f"ambiguous, neither the same nor a change: {names.join(point.new for point in final.undecided)}; "
            f"{_what_decides(final.undecided)} would decide",
        )
    changed = [point for point in final.points if point not in final.worse and _has_changed(point)]
    for cause, points in _by_cause(changed).items():
        yield Finding("note", "changed", f"{names.join(point.new for point in points)}: {cause}")


def _what_decides(points: Sequence["PointChange"]) -> str:
    """What to measure more of, with the options of the tool that measured these points."""
    ways = []
    if not all(map(_is_foreign, points)):
        ways.append("more rounds (--minibatches) or processes (--processes)")
    if any(map(_is_foreign, points)):
        ways.append("of pytest-benchmark more rounds (--benchmark-min-rounds), each saved (--benchmark-save-data)")
    return " and ".join(ways)


def _is_foreign(point: "PointChange") -> bool:
    """Whether another tool measured it: then there is one time."""
    return point.work.classes is None


def _by_cause(points: Iterable["PointChange"]) -> dict[str, list["PointChange"]]:
    found: dict[str, list[PointChange]] = {}
    for point in points:
        found.setdefault(point.cause, []).append(point)
    return found


def _less_speedup(points: Sequence["PointChange"]) -> str:
    """By how much a lower speedup is lower, which the cause does not say."""
    ratios = sorted(point.speedup.change.ratio for point in points if point.speedup and point.speedup.verdict in _WORSE)
    if not ratios:
        return ""
    least, most = percent(ratios[-1]), percent(ratios[0])
    return f"speedup {least}" if least == most else f"speedup {least} to {most}"


def _of_confirmation(confirmed: "Confirmed", names: "_Names") -> Iterator[Finding]:
    for each in confirmed.lost:
        name = names.of(each.point.new)
        complaint = ", ".join(_complaints(each.point, confirmed.first.gate))
        text = f"{name}: {complaint} at first; it could not be measured again: {each.reason}"
        yield Finding("warning", f"{name} could not be confirmed", text)
    if confirmed.hindrance:
        text = f"what looks worse was not measured again: {confirmed.hindrance}; the verdicts are those of two runs"
        asked = confirmed.hindrance == NOT_ASKED
        yield Finding("note" if asked else "warning", "not confirmed", text)
    for sentence in confirmed.unchecked:
        yield Finding(
            "warning", "code not checked", f"{sentence}; measure and compare in git working trees as committed"
        )
    if confirmed.again is None:
        return
    if confirmed.unsettled:
        which = names.join(point.new for point in confirmed.unsettled)
        text = f"worse at first and ambiguous when measured again, so not cleared: {which}; a larger --confirm decides"
        yield Finding("warning", f"{_points(len(confirmed.unsettled))} not cleared", text)
    measured = _points(len(confirmed.again.points))
    cleared = f"; cleared: {names.join(point.new for point in confirmed.cleared)}" if confirmed.cleared else ""
    processes = "1 fresh process" if confirmed.turns == 1 else f"{confirmed.turns} fresh processes"
    if confirmed.base_again:
        text = f"{measured} measured again, base and new in turn, in {processes} a side{cleared}"
    else:
        text = (
            f"{measured} measured again in {processes} of NEW alone and compared with BASE as it "
            f"was kept: if the machine has changed since, that is in the figures; --base-python or --base-dir measures "
            f"BASE in turn{cleared}"
        )
    yield Finding("note", "measured again", text)


def _of_sides(comparison: "Comparison", names: "_Names") -> Iterator[Finding]:
    for point in comparison.failed:
        reason = f"{point.status}" + (f": {' '.join(point.reason.split())}" if point.reason else "")
        name = names.of(point)
        yield Finding("warning", f"{name} failed in NEW", f"failed in NEW, not in BASE: {name}: {reason}")
    if comparison.hardware:
        yield Finding("warning", "other machine", _unequal(comparison.hardware))
    for side, snapshot in (("BASE", comparison.base), ("NEW", comparison.new)):
        if snapshot.status != "complete":
            yield Finding(
                "warning", f"{side} is {snapshot.status}", f"{side} is {snapshot.status}: points may lack rounds"
            )
        if snapshot.notices:
            kinds = ", ".join(dict.fromkeys(snapshot.notices))
            yield Finding("warning", f"warnings of {side}", f"{side} was measured with warnings of its own: {kinds}")
    yield from _marked(comparison, names)
    if comparison.versions:
        yield Finding("note", "software", f"software that differs: {', '.join(comparison.versions)}")
    for side, points in (("BASE", comparison.only_base), ("NEW", comparison.only_new)):
        if points:
            yield Finding("note", f"only in {side}", f"only in {side}, not compared: {names.join(points)}")
    if comparison.neither:
        yield Finding("note", "failed on both sides", f"failed on both sides: {names.join(comparison.neither)}")


def _marked(comparison: "Comparison", names: "_Names") -> Iterator[Finding]:
    points = [point for point in comparison.points if point.base.marked or point.new.marked]
    if points:
        most = max(points, key=lambda point: max(point.base.marked, point.new.marked))
        text = (
            f"samples marked for contention or throttling, and kept, at {_points(len(points))}; most at "
            f"{names.of(most.new)}: {most.base.marked} in base, {most.new.marked} in new"
        )
        yield Finding("warning", "marked samples", text)


def _smallest(comparison: "Comparison") -> str:
    """The smallest change that could have been found, of each quantity the gate looks at.

    Points without a verdict are told apart: there no change can be found, however well the times are known.
    """
    with_verdict: dict[str, list[Judged]] = {}
    without: dict[str, list[Judged]] = {}
    for point in comparison.points:
        for quantity, judged in _gated(point, comparison.gate):
            found = without if judged.verdict is None else with_verdict
            found.setdefault(_called(point, quantity), []).append(judged)
    parts = [part for name, some in with_verdict.items() for part in _reach(name, some, comparison)]
    if without:
        count = max(map(len, without.values()))
        reason = "machines" if comparison.hardware != ("threads",) else "threads"
        known = [part for name, some in without.items() for part in _reach(name, some, comparison)]
        parts.append(f"none at {_points(count)} measured on unequal {reason}; on equal ones: {', '.join(known)}")
    tests = "one change" if comparison.tests == 1 else f"all {comparison.tests} changes judged here together"
    told = "; ".join(parts) or "none, as no point has both times"
    return f"smallest change that could have been found: {told} (intervals hold for {tests})"


def _reach(name: str, some: Sequence["Judged"], comparison: "Comparison") -> Iterator[str]:
    """The smallest changes of one quantity in words, with the reason where there is none."""
    smallest = [judged.change.smallest(comparison.margin, comparison.tests) for judged in some]
    known = [each for each in smallest if each is not None]
    if known:
        low, high = _percent(min(known)), _percent(max(known))
        yield f"{name} {low if low == high else f'{low} to {high}, by point'}"
    if unknown := sum(judged.change.error is None for judged in some):
        yield f"{name} unknown at {_points(unknown)}, with too few rounds to know an error"
    if beyond := len(some) - len(known) - unknown:
        yield f"{name} none at {_points(beyond)}, however large: the errors are too large"


def _has_changed(point: "PointChange") -> bool:
    return any(judged.verdict in (*_WORSE, *_BETTER) for _, judged in _judged(point))


# -- text ---------------------------------------------------------------------------------------------------------


def print_comparison(confirmed: "Confirmed", stream: TextIO | None = None) -> None:
    """The answer, the figures, the findings, for a terminal or a log; 100 columns hold the table."""
    from reports.terminal import console_for

    console = console_for(stream or sys.stdout)
    first = confirmed.first
    colour = {"worse": "red", "undecided": "yellow", "nothing worse": "green"}[confirmed.outcome]
    console.print(Text(headline(confirmed), style=f"bold {colour}"), soft_wrap=True)
    for side, snapshot in (("base", first.base), ("new", first.new)):
        console.print(Text(f"{side + ':':6}{_described(snapshot)}"), soft_wrap=True)
    for title, points in _Names(first).tables(first.points):
        console.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
        console.print(_table(confirmed, points))
    console.print(Text(_legend(first)), soft_wrap=True)
    for finding in findings(confirmed):
        word = (f"{_SEVERITY_WORDS[finding.severity]}: ", _SEVERITY_STYLES[finding.severity])
        console.print(Text.assemble(word, finding.text), soft_wrap=True)


def _table(confirmed: "Confirmed", points: Sequence["PointChange"]) -> Table:
    table = Table(box=box.ASCII2, header_style="")
    for name in _HEADER:
        table.add_column(name, justify="left" if name in ("", "verdict") else "right", no_wrap=True)
    for point in points:
        for cells in _cells(confirmed, point):
            table.add_row(*cells, style=_STYLES.get(cells[-1], ""))
    return table


def _cells(confirmed: "Confirmed", point: "PointChange") -> Iterator[tuple[str, ...]]:
    """A line for each quantity of a point, and once more for those measured again."""
    classes = "" if point.work.classes is None else wording.count(point.work.classes)
    yield from _cells_of(point, classes)
    again = confirmed.again_of(point)
    if again is not None:
        yield from _cells_of(again, "again")


def _cells_of(point: "PointChange", label: str) -> Iterator[tuple[str, ...]]:
    for quantity, judged in _judged(point):
        name = "time" if point.single is None and quantity == "all" else quantity
        yield (
            label,
            name,
            _value(quantity, judged.base.value),
            _value(quantity, judged.new.value),
            _signed(judged.change.ratio),
            _interval(judged),
            "" if judged.smallest is None else _percent(judged.smallest),
            judged.verdict or "no verdict",
        )
        label = ""


def _legend(comparison: "Comparison") -> str:
    names = dict.fromkeys(
        _called(point, quantity) for point in comparison.points for quantity, _ in _gated(point, comparison.gate)
    )
    whose = "" if all(map(_is_foreign, comparison.points)) else "Times are for one example. "
    gate = f"; what can turn this red: {' and '.join(names)} (--gate {comparison.gate})" if names else ""
    return (
        f"{whose}Finds: the smallest change that would have been found four times out of five. "
        f"Margin {_margin(comparison)}{gate}."
    )


def _described(snapshot: "Snapshot") -> str:
    processes = {len(point.replicates) for point in snapshot.points if point.replicates}
    most = max(processes, default=0)
    parts = [
        snapshot.name,
        snapshot.created,
        "" if snapshot.commit is None else f"commit {_short(snapshot.commit)}",
        "" if "torch" not in snapshot.versions else f"torch {snapshot.versions['torch']}",
        "" if not most else "1 process" if most == 1 else f"{most} processes",
        "" if snapshot.tool == "slc-bench" else f"by {snapshot.tool}",
    ]
    return on_one_line(", ".join(part for part in parts if part))


# -- Markdown, GitHub, JSON ---------------------------------------------------------------------------------------


def to_markdown(confirmed: "Confirmed") -> str:
    """The same for a pull request or a job's summary."""
    from reports.tables import markdown_table

    first = confirmed.first
    parts = [f"## {_markdown(headline(confirmed))}"]
    parts.append(
        "\n".join(
            f"- {side}: {_markdown(_described(each))}" for side, each in (("base", first.base), ("new", first.new))
        )
    )
    for title, points in _Names(first).tables(first.points):
        cells = [line for point in points for line in _cells(confirmed, point)]
        parts.append(f"### {_markdown(title)}")
        parts.append(markdown_table(_HEADER, cells, left=(1, 7)))
    parts.append(_markdown(_legend(first)))
    parts.append(
        "\n".join(f"- {_SEVERITY_WORDS[each.severity]}: {_markdown(each.text)}" for each in findings(confirmed))
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(text: str) -> str:
    """Text that GitHub's Markdown prints as it is, on one line.

    A mention of a person and a bare address become live after Markdown's own escapes are gone, so that a character
    without a width (&#8203;) has to take them apart.
    """
    escaped = re.sub(r"([\\|*_`<>\[\]&~$])", r"\\\1", on_one_line(text))
    return re.sub(r"(@|:(?=//)|www(?=\.))", r"\1&#8203;", escaped, flags=re.IGNORECASE)


def to_annotations(confirmed: "Confirmed") -> list[str]:
    """Workflow commands, one a line: https://docs.github.com/actions/reference/workflow-commands-for-github-actions.

    The answer as a notice, an error for each cause for which points got worse, a warning for each other thing to know;
    a kind of which there are more than GitHub shows ends with how many are left out.
    """
    found = findings(confirmed)
    lines = []
    for severity in ("error", "warning"):
        some = [finding for finding in found if finding.severity == severity]
        if len(some) > MOST_ANNOTATIONS:
            left_out = len(some) - MOST_ANNOTATIONS + 1
            text = f"{left_out} more are in the job's summary"
            some = [*some[: MOST_ANNOTATIONS - 1], Finding(some[0].severity, f"{left_out} more", text)]
        lines += [annotation(severity, finding.title, finding.text) for finding in some]
    return [*lines, annotation("notice", f"compare: {confirmed.outcome}", headline(confirmed))]


def annotation(command: str, title: str, message: str) -> str:
    """One workflow command, escaped as GitHub's own toolkit escapes."""
    escaped = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::{command} title={escaped}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def to_object(confirmed: "Confirmed") -> dict[str, object]:
    """{schema, base, new, rows} as plain values, one row a point, and what holds for all of them."""
    first, final = confirmed.first, confirmed.final
    rows = [_compared_row(confirmed, point) for point in first.points]
    rows += [_row("only base", point, base=point) for point in first.only_base]
    for kind, points in (("failed", first.failed), ("only new", first.only_new), ("failed on both", first.neither)):
        rows += [_row(kind, point, new=point) for point in points]
    return {
        "schema": SCHEMA,
        "outcome": confirmed.outcome,
        "answer": headline(confirmed),
        "gate": first.gate,
        "margin": first.margin,
        "tests": first.tests,
        "hardware": list(first.hardware),
        "versions": list(first.versions),
        "base": first.base.model_dump(mode="json", exclude={"points"}),
        "new": first.new.model_dump(mode="json", exclude={"points"}),
        "confirmation": {
            "processes": confirmed.turns,
            "base_again": confirmed.base_again,
            "hindrance": confirmed.hindrance or None,
        },
        "worse": len(final.worse),
        "undecided": len(final.undecided),
        "findings": [
            {"severity": each.severity, "title": each.title, "text": each.text} for each in findings(confirmed)
        ],
        "rows": rows,
    }


def _compared_row(confirmed: "Confirmed", point: "PointChange") -> dict[str, object]:
    again = confirmed.again_of(point)
    counted = again or point
    lost = next((each.reason for each in confirmed.lost if each.point == point), None)
    return {
        **_row("compared", point.new, base=point.base, new=point.new),
        **_changes(point),
        "again": None if again is None else {**_sides(again.base, again.new), **_changes(again)},
        "not_measured_again": lost,
        "worse": counted in confirmed.final.worse,
        "undecided": lost is not None or counted in confirmed.final.undecided,
    }


def _row(kind: str, point: "Point", base: "Point | None" = None, new: "Point | None" = None) -> dict[str, object]:
    return {"kind": kind, **point.work.model_dump(mode="json"), "threads": point.threads, **_sides(base, new)}


def _sides(base: "Point | None", new: "Point | None") -> dict[str, object]:
    return {
        side: None if point is None else point.model_dump(mode="json", exclude={"work", "threads"})
        for side, point in (("base", base), ("new", new))
    }


def _changes(point: "PointChange") -> dict[str, object]:
    found = dict(_judged(point))
    changes = {quantity: _plain(found[quantity]) if quantity in found else None for quantity in QUANTITIES}
    return {"changes": changes, "cause": point.cause}


def _plain(judged: "Judged") -> dict[str, object]:
    return {
        "ratio": judged.change.ratio,
        "low": judged.low,
        "high": judged.high,
        "error": judged.change.error,
        "degrees": judged.change.degrees,
        "smallest": judged.smallest,
        "verdict": judged.verdict,
    }


# -- words --------------------------------------------------------------------------------------------------------


class _Names:
    """What the points of a comparison are called: the network, and what tells its settings apart."""

    def __init__(self, comparison: "Comparison") -> None:
        points = [point.new for point in comparison.points]
        points += [*comparison.failed, *comparison.only_base, *comparison.only_new, *comparison.neither]
        settings = list(dict.fromkeys(_setting_of(point) for point in points))
        traits = [_traits(work, threads) for work, threads in settings]
        apart = wording.distinguish([work.arch for work, _ in settings], traits)
        self._names = {
            setting: wording.named(setting[0].arch, label) for setting, label in zip(settings, apart, strict=True)
        }
        self._traits = dict(zip(settings, traits, strict=True))

    def of(self, point: "Point") -> str:
        """A point's name: resnet50 at 65,536 classes."""
        name = self._names[_setting_of(point)]
        return name if point.work.classes is None else f"{name} at {wording.count(point.work.classes)} classes"

    def join(self, points: Iterable["Point"]) -> str:
        """The names of points, those of one setting together: resnet50 at 1,024 and 65,536 classes; vgg16 at ..."""
        counts: dict[str, list[str]] = {}
        for point in points:
            some = counts.setdefault(self._names[_setting_of(point)], [])
            if point.work.classes is not None:
                some.append(wording.count(point.work.classes))
        return "; ".join(f"{name} at {_and(some)} classes" if some else name for name, some in counts.items())

    def tables(self, points: Sequence["PointChange"]) -> list[tuple[str, list["PointChange"]]]:
        """Points by setting, in the order of their first, with a title that names what was measured."""
        found: dict[tuple[Work, int | None], list[PointChange]] = {}
        for point in points:
            found.setdefault(_setting_of(point.new), []).append(point)
        return [(self._title(setting), some) for setting, some in found.items()]

    def _title(self, setting: "tuple[Work, int | None]") -> str:
        shown = ("device", "dtype", "batch", "threads", "compile", "cuda graph", "tf32", "channels last", "order")
        traits = self._traits[setting]
        return on_one_line(", ".join([setting[0].arch, *(traits[name] for name in shown if traits.get(name))]))


def _setting_of(point: "Point") -> "tuple[Work, int | None]":
    return point.work.model_copy(update={"classes": None}), point.threads


def _traits(work: "Work", threads: int | None) -> Mapping[str, str]:
    if work.device is None or work.dtype is None or work.batch_size is None or work.input_shape is None:
        return {}  # a benchmark of another tool, of which nothing but its name is known
    fields = work.model_dump(exclude={"classes"})
    traits = wording.traits(Setting(**fields, threads=threads or 1))
    return {name: text for name, text in traits.items() if name != "seed"}


def _judged(point: "PointChange") -> "Iterator[tuple[Quantity, Judged]]":
    for quantity in QUANTITIES:
        judged: Judged | None = getattr(point, quantity)
        if judged is not None:
            yield quantity, judged


def _value(quantity: Quantity, value: float) -> str:
    return f"{wording.speedup(value)}x" if quantity == "speedup" else f"{wording.milliseconds(value)} ms"


def _interval(judged: "Judged") -> str:
    if judged.low is None or judged.high is None:
        return ""
    return f"{100 * (judged.low - 1):+.1f} .. {100 * (judged.high - 1):+.1f} %"


def _signed(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def _percent(share: float) -> str:
    return f"{wording.significant(100 * share, 2)} %"


def _margin(comparison: "Comparison") -> str:
    return f"{100 * comparison.margin:.3g} %"


def _points(count: int) -> str:
    return "1 point" if count == 1 else f"{count} points"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _short(commit: str) -> str:
    name, plus, dirty = commit.partition("+")
    return name[:12] + plus + dirty
