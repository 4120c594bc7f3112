"""Fig. 4: what one logit costs in accuracy, beside what it saves in time, as classes grow.

    1-AUPRC   | one logit / all logits of CE   | speedup     accuracy: errors, and the ratio that is judged; speed
    ----------+--------------------------------+--------
    step, ms  | memory, GB     of training, where it was measured

A marker is filled where the model has converged, hollow where it has not, half filled where that cannot be told.
Losses are told apart by colour and by marker. Losses at one class count are moved apart sideways, in the order of the
legend, so that their intervals do not cover one another; a little only, since of two steep lines the one further right
looks lower. What they are read against, the optimum and all logits of CE, stands where the count is. A line is broken
where a class count is missing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.accuracy.parity import MARGIN, NO_ERROR
from reports.accuracy.canvas import Block, Grid, layout
from reports.figures import COLOURS, MARKERS, PAPER_COLOUR, save_pdf, styled, time_limits, time_ticks
from reports.figures import save as save_both
from reports.scaling import wording
from reports.wording import count, exponent, hardware, speedup, threads

if TYPE_CHECKING:
    from bench.scaling.rows import ScalingRow
    from reports.scaling.results import Result

TITLE = "One logit or all of them, as classes grow"
GRID = Grid(columns=3, panel=(2.6, 2.5), margins=(0.52, 0.55, 0.1, 0.3))

#: Black is the optimum's; losses have the others.
LOSS_COLOURS = COLOURS[:-1]
SPEED_COLOUR = "#333333"
OPTIMUM: dict[str, Any] = {"color": "#000000", "linestyle": (0, (3.2, 1.6)), "linewidth": 1.1}
OPTIMUM_INTERVAL: dict[str, Any] = {"color": "#000000", "alpha": 0.08, "linewidth": 0}
WITHIN_MARGIN: dict[str, Any] = {"color": "#000000", "alpha": 0.12, "linewidth": 0}
REFERENCE: dict[str, Any] = {"linestyle": (0, (1, 1.2)), "linewidth": 1.2}

#: Losses at one class count take this share of the space between two counts.
SPREAD = 0.36
#: Space around a single class count, in decades.
LONE_DECADES = 0.5

#: An error of 0, for which a logarithm has no place, stands so far below the least that is above it.
BELOW = 2.5
#: An interval reaches so far beyond the errors at most; what is beyond is cut by the panel's edge.
LONGEST_INTERVAL = 3.0

#: Width of a character of a tick's label, as a share of a panel's axis.
CHARACTER = 0.036

MARKER_SIZE = 4.8
FILLS: dict[bool | None, Literal["full", "none", "left"]] = {True: "full", False: "none", None: "left"}


@dataclass(frozen=True)
class Point:
    """One marker: where it stands, its interval, and whether its model has converged."""

    classes: int
    value: float
    low: float | None = None
    high: float | None = None
    converged: bool | None = True


@dataclass(frozen=True)
class Look:
    """How a loss is drawn in all panels."""

    label: str
    colour: str
    marker: str
    place: float
    """-0.5 to 0.5, from left to right"""


@dataclass(frozen=True)
class Across:
    """The axis of class counts, which all panels share: logarithmic, a tick at every count of the study."""

    classes: tuple[int, ...]
    """ascending"""

    @property
    def gap(self) -> float:
        """Decades between the two counts that are closest."""
        pairs = zip(self.classes, self.classes[1:], strict=False)
        return min((math.log10(after / before) for before, after in pairs), default=LONE_DECADES)

    def at(self, classes: int, place: float) -> float:
        """Where the marker of a loss stands."""
        return float(classes * 10 ** (place * SPREAD * self.gap))

    def finish(self, axis: Axes) -> None:
        """Ticks, labels and limits."""
        axis.set_xscale("log")
        low, high = self.classes[0] * 10 ** (-0.55 * self.gap), self.classes[-1] * 10 ** (0.55 * self.gap)
        axis.set_xlim(low, high)
        axis.xaxis.set_minor_locator(NullLocator())
        places = [math.log(each / low) / math.log(high / low) for each in self.classes]
        axis.set_xticks(self.classes, staggered([tick_label(each) for each in self.classes], places))
        axis.grid(True)


def tick_label(classes: int) -> str:
    """A class count as a power of ten, or of two where bench.counts calls it so; small ones as they are."""
    if classes >= 10_000 and 10 ** round(math.log10(classes)) == classes:
        return f"$10^{{{round(math.log10(classes))}}}$"
    power = exponent(classes)
    return f"$2^{{{power}}}$" if power else count(classes)


def staggered(texts: Sequence[str], places: Sequence[float]) -> list[str]:
    """Labels at these places (0 to 1 along the axis), one that would touch its neighbour a line lower."""
    free = [-math.inf, -math.inf]
    found = []
    for text, place in zip(texts, places, strict=True):
        # Of a power, what is between braces is raised and smaller.
        half = CHARACTER * (len(text.strip("$").replace("^{", "").rstrip("}")) + 0.5) / 2
        line = next((line for line, end in enumerate(free) if place - half >= end), None)
        if line is None:
            found.append("")  # a tick without a label
            continue
        free[line] = place + half
        found.append("\n" * line + text)
    return found


def save(figure: Figure, png: Path, svg: Path, pdf: Path) -> None:
    """Write the figure, the same bytes for the same numbers, each file complete or not at all. Raises OSError."""
    save_both(figure, png, svg)
    save_pdf(figure, pdf)


def draw(result: "Result") -> Figure:
    """Draw Fig. 4 of a study; a panel without numbers says so, and there are panels of cost where it was measured."""
    rows, looks = result.rows, looks_of(result.rows)
    across = Across(tuple(each.classes for each in result.run.manifest.counts))
    has_costs = any(row.cost is not None and row.cost.seconds is not None for row in rows)
    with styled():
        blocks, legend = [Block("", 5 if has_costs else 3)], _legend(result, looks)
        figure, (panels,) = layout(blocks, GRID, title=TITLE, caption=_caption(result), legend=legend)
        _accuracy(panels[0], result, looks, across)
        _ratios(panels[1], rows, looks, across)
        _speed(panels[2], result, across)
        if has_costs:
            _costs(panels[3], "time of a training step (ms)", step_times(rows), looks, across)
            unit, size = memory_unit(rows)
            _costs(panels[4], f"memory of training steps ({unit})", memory(rows, size), looks, across)
        for axis in panels:
            across.finish(axis)
        for axis in panels[-GRID.columns :]:
            axis.set_xlabel("classes")
        figure.draw_without_rendering()  # lays it out while our style holds
    return figure


def looks_of(rows: "Sequence[ScalingRow]") -> dict[str, Look]:
    """Loss -> its look, in the order of the rows. Seven markers and six colours repeat together after 42 losses."""
    names = {row.loss: _short(row.name) + (" (aligned)" if row.aligned else "") for row in rows}
    return {
        loss: Look(
            name,
            LOSS_COLOURS[index % len(LOSS_COLOURS)],
            MARKERS[index % len(MARKERS)],
            index / (len(names) - 1) - 0.5 if len(names) > 1 else 0.0,
        )
        for index, (loss, name) in enumerate(names.items())
    }


def _short(name: str) -> str:
    return name.removesuffix(" divergence").removesuffix(" loss")


# ---- what is drawn ----


def single_errors(rows: "Sequence[ScalingRow]", loss: str) -> list[Point]:
    """1-AUPRC by one logit, ascending in classes; converged: by one logit and by all."""
    return [
        Point(row.classes, row.single.error, row.single.low, row.single.high, row.convergence.converged)
        for row in rows
        if row.loss == loss and row.single is not None
    ]


def all_errors(rows: "Sequence[ScalingRow]", loss: str) -> list[Point]:
    """1-AUPRC by all logits, ascending in classes; converged: by all logits."""
    return [
        Point(row.classes, row.all.error, row.all.low, row.all.high, row.convergence.all.converged)
        for row in rows
        if row.loss == loss and row.all is not None
    ]


def ratios(rows: "Sequence[ScalingRow]", loss: str) -> list[Point]:
    """1-AUPRC by one logit / by all logits of CE, ascending in classes; converged: both models."""
    references = {row.classes: row.convergence.all.converged for row in rows if row.loss == "ce"}
    found = []
    for row in rows:
        if row.loss == loss and row.with_ce is not None and row.with_ce.ratio is not None:
            states = (row.convergence.converged, references.get(row.classes))
            settled = False if False in states else None if None in states else True
            found.append(Point(row.classes, row.with_ce.ratio, row.with_ce.low, row.with_ce.high, settled))
    return found


def step_times(rows: "Sequence[ScalingRow]") -> dict[str, list[Point]]:
    """Loss -> milliseconds of a step and quartiles of these, ascending in classes."""
    found: dict[str, list[Point]] = {}
    for row in rows:
        if row.cost is not None and row.cost.seconds is not None:
            low, high = row.cost.quartiles or (row.cost.seconds, row.cost.seconds)
            point = Point(row.classes, 1e3 * row.cost.seconds, 1e3 * low, 1e3 * high)
            found.setdefault(row.loss, []).append(point)
    return found


def memory(rows: "Sequence[ScalingRow]", unit: float) -> dict[str, list[Point]]:
    """Loss -> peak memory of its steps in units of so many bytes, ascending in classes.

    What grew by nothing has no place on a logarithmic axis.
    """
    found: dict[str, list[Point]] = {}
    for row in rows:
        if row.cost is not None and row.cost.peak_bytes is not None and row.cost.peak_bytes > 0:
            found.setdefault(row.loss, []).append(Point(row.classes, row.cost.peak_bytes / unit))
    return found


def memory_unit(rows: "Sequence[ScalingRow]") -> tuple[str, float]:
    """GB, or MB where no peak reaches one GB."""
    peaks = [row.cost.peak_bytes or 0 for row in rows if row.cost is not None]
    return ("GB", 1e9) if max(peaks, default=0) >= 1e9 else ("MB", 1e6)


# ---- panels ----


def _accuracy(axis: Axes, result: "Result", looks: dict[str, Look], across: Across) -> None:
    axis.set_title("1-AUPRC", loc="left")
    series = [(look, single_errors(result.rows, loss)) for loss, look in looks.items()]
    every = all_errors(result.rows, "ce")
    optimum = [Point(classes, each.error, each.low, each.high) for classes, each in result.optima]
    points = [*optimum, *every, *(point for _, found in series for point in found)]
    if not points:
        _say(axis, "no model has met the queries yet")
        return
    floor = min((point.value for point in points if point.value >= NO_ERROR), default=0.01) / BELOW
    _line(axis, _lifted(optimum, floor), across, 0.0, marker="_", markersize=7, zorder=3, **OPTIMUM)
    _band(axis, optimum, **OPTIMUM_INTERVAL)
    if every:
        _series(axis, _lifted(every, floor), across, replace(looks["ce"], place=0.0), thin=True)
    for look, found in series:
        _series(axis, _lifted(found, floor), across, look)
    for point in points:
        if point.value < NO_ERROR:
            axis.annotate("0", (point.classes, floor), (5, -2.5), textcoords="offset points", fontsize=7)
    _log_axis(axis, _lifted(points, floor))


def _ratios(axis: Axes, rows: "Sequence[ScalingRow]", looks: dict[str, Look], across: Across) -> None:
    axis.set_title("one logit / all logits of CE", loc="left")
    series = [(look, points) for loss, look in looks.items() if (points := ratios(rows, loss))]
    if not series:
        _say(axis, "not compared")
        return
    axis.axhspan(1.0, MARGIN, **WITHIN_MARGIN)
    axis.axhline(1.0, color=PAPER_COLOUR, linewidth=0.8, zorder=1)
    for look, points in series:
        _series(axis, points, across, look)
    _log_axis(axis, [*(point for _, points in series for point in points), Point(across.classes[0], 1.0)])


def _lifted(points: Sequence[Point], floor: float) -> list[Point]:
    """Errors of 0 as points at the floor, without an interval."""
    return [replace(point, value=floor) if point.value < NO_ERROR else point for point in points]


def _speed(axis: Axes, result: "Result", across: Across) -> None:
    axis.set_title("speedup of one logit over all", loc="left")
    points = [
        Point(classes, each.speedup, each.low, each.high) for classes, each in result.speeds if each.speedup is not None
    ]
    if not points:
        _say(axis, "no speedup was measured")
        return
    axis.axhline(1.0, color=PAPER_COLOUR, linewidth=0.8, zorder=1)
    _line(axis, points, across, 0.0, color=SPEED_COLOUR, marker="o", markersize=MARKER_SIZE, zorder=4)
    _bars(axis, points, across, 0.0, SPEED_COLOUR)
    _log_axis(axis, [*points, Point(points[0].classes, 1.0)])
    last = points[-1]
    words = speedup(last.value)
    axis.annotate(words, (last.classes, last.value), (-6, 3), textcoords="offset points", fontsize=7.5, ha="right")


def _costs(axis: Axes, title: str, found: dict[str, list[Point]], looks: dict[str, Look], across: Across) -> None:
    axis.set_title(title, loc="left")
    if not found:
        _say(axis, "not measured")
        return
    for loss, points in found.items():
        _series(axis, points, across, looks[loss])
    _log_axis(axis, [point for points in found.values() for point in points])


def _series(axis: Axes, points: Sequence[Point], across: Across, look: Look, *, thin: bool = False) -> None:
    """The line of a loss, its intervals, and its markers filled as its models have converged."""
    width = REFERENCE if thin else {"linestyle": "-", "linewidth": 1.3}
    _line(axis, points, across, look.place, color=look.colour, zorder=3 if thin else 4, **width)
    _bars(axis, points, across, look.place, look.colour)
    for point in points:
        axis.plot(
            [across.at(point.classes, look.place)],
            [point.value],
            linestyle="none",
            color=look.colour,
            marker=look.marker,
            markersize=0.8 * MARKER_SIZE if thin else MARKER_SIZE,
            zorder=6,
            **_fill(point.converged, look.colour),
        )


def _fill(converged: bool | None, colour: str) -> dict[str, Any]:
    """White inside where it is hollow, so that no line shows through."""
    style: dict[str, Any] = {"markeredgecolor": colour, "markeredgewidth": 0.9, "markerfacecoloralt": "white"}
    if FILLS[converged] == "none":
        return {**style, "markerfacecolor": "white"}
    return {**style, "markerfacecolor": colour, "fillstyle": FILLS[converged]}


def _line(axis: Axes, points: Sequence[Point], across: Across, place: float, **style: Any) -> None:
    """A line through the points of neighbouring class counts of the study, broken where one is missing."""
    values = {point.classes: point.value for point in points}
    xs = [across.at(classes, place) for classes in across.classes]
    axis.plot(xs, [values.get(classes, math.nan) for classes in across.classes], **style)


def _bars(axis: Axes, points: Sequence[Point], across: Across, place: float, colour: str) -> None:
    for point in points:
        if point.low is not None and point.high is not None and point.value >= NO_ERROR:
            x = across.at(point.classes, place)
            ends = [[point.value - point.low], [point.high - point.value]]
            axis.errorbar(
                [x], [point.value], yerr=ends, fmt="none", ecolor=colour, elinewidth=0.9, capsize=1.8, zorder=5
            )


def _band(axis: Axes, points: Sequence[Point], **style: Any) -> None:
    """The intervals of a line that has one at every class count."""
    whole = [point for point in points if point.value >= NO_ERROR and point.low is not None and point.high is not None]
    low, high = ([getattr(point, end) for point in whole] for end in ("low", "high"))
    axis.fill_between([point.classes for point in whole], low, high, **style)


def _log_axis(axis: Axes, points: Sequence[Point]) -> None:
    """Limits that show all points and, as far as LONGEST_INTERVAL, their intervals; round ticks."""
    least, most = min(point.value for point in points), max(point.value for point in points)
    ends = [end for point in points for end in (point.low, point.high) if end is not None and end > 0]
    low = min([least, *(max(end, least / LONGEST_INTERVAL) for end in ends)])
    high = max([most, *(min(end, most * LONGEST_INTERVAL) for end in ends)])
    low, high = time_limits(low, high)
    axis.set_yscale("log")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylim(low, high)
    axis.set_yticks(time_ticks(low, high))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _say(axis: Axes, words: str) -> None:
    axis.set_yticks([])
    axis.text(0.5, 0.5, words, transform=axis.transAxes, ha="center", color=PAPER_COLOUR)


# ---- around the panels ----


def _legend(result: "Result", looks: dict[str, Look]) -> list[tuple[Any, str]]:
    drawn = [
        (loss, look) for loss, look in looks.items() if single_errors(result.rows, loss) or _is_timed(result, loss)
    ]
    entries = [
        (Line2D([], [], color=look.colour, marker=look.marker, markersize=MARKER_SIZE), look.label) for _, look in drawn
    ]
    if every := all_errors(result.rows, "ce"):
        look = looks["ce"]
        style = {**REFERENCE, "color": look.colour, "marker": look.marker, "markersize": 0.8 * MARKER_SIZE}
        entries.append((Line2D([], [], **style), "all logits of CE"))
    if result.optima:
        entries.append((Line2D([], [], marker="_", markersize=7, **OPTIMUM), "optimum"))
    states = {point.converged for loss in looks for point in single_errors(result.rows, loss)}
    states |= {point.converged for point in every}
    for state, words in ((False, "not converged"), (None, "convergence unknown")):
        if state in states:
            fill = _fill(state, PAPER_COLOUR)
            entries.append(
                (
                    Line2D([], [], linestyle="none", color=PAPER_COLOUR, marker="o", markersize=MARKER_SIZE, **fill),
                    words,
                )
            )
    if not entries:  # a figure of speedups alone
        entries.append((Line2D([], [], color=SPEED_COLOUR, marker="o", markersize=MARKER_SIZE), "speedup"))
    return entries


def _is_timed(result: "Result", loss: str) -> bool:
    return any(row.loss == loss and row.cost is not None and row.cost.seconds is not None for row in result.rows)


def _caption(result: "Result") -> str:
    """How to read the panels; what is missing; what was measured on what."""
    manifest = result.run.manifest
    asked = manifest.queries
    lines = [
        "Solid lines: by the logit of the class alone, trained with each loss. Dotted: by the log-odds from all logits "
        "of CE. Dashed: by the posterior log-odds, which no score can be expected to beat. Bars, and the grey around "
        "the dashed line: 95 % intervals, over queries and seeds (of a step's time: quartiles); cut at the edge of a "
        "panel. Hollow: the error at half of the "
        "steps differs by more than a factor of 1.10, so the model, or CE's where it is compared with that, has not "
        "converged. 0: no error. Grey band: within the margin of 10 %, where an interval that ends in it or below is "
        "parity.",
        f"Queries at every class count: min(classes, {count(asked.classes)}) classes with {count(asked.positives)} "
        f"positive and {count(asked.negatives)} negative examples each.",
        *_untold(result),
        *_notes(result),
    ]
    return "\n".join(lines)


def _untold(result: "Result") -> list[str]:
    """Class counts without a model, a speedup, a time or a place on the axis of memory, and why."""
    lines = [f"{each}." for each in wording.left_out(result.run.manifest)]
    lines += [
        f"No speedup at {count(classes)} classes: {' '.join(each.reason.split())}."
        for classes, each in result.speeds
        if each.speedup is None
    ]
    costs = [(row, row.cost) for row in result.rows if row.cost is not None]
    lines += [
        f"No step timed at {count(row.classes)} classes by {row.name}: {' '.join(cost.reason.split())}."
        for row, cost in costs
        if cost.reason
    ]
    unread = sum(cost.seconds is not None and not cost.peak_bytes for _, cost in costs)
    if unread:
        lines.append(f"Memory of {unread} of {len(costs)} steps is not drawn: it grew by nothing that can be read.")
    return lines


def _notes(result: "Result") -> list[str]:
    """What accuracy, cost and speed were measured on, and when."""
    run, manifest = result.run, result.run.manifest
    lines = []
    recipe = next((each.recipe for each in reversed(manifest.trained) if each.recipe is not None), None)
    if recipe is not None and run.points:
        state = wording.state(run)
        lines.append(
            f"Trainings: {recipe.network}, {len(manifest.seeds)} seed{'s' * (len(manifest.seeds) > 1)}, "
            f"{recipe.device} ({hardware(manifest.machine, recipe.device)}), {manifest.created[:10]}"
            + (f"; {state}" if state else "")
            + "."
        )
    if run.costs:
        batches = sorted({each.batch_size for each in run.costs})
        used = sorted({each.threads for each in run.costs})
        steps = sorted({each.step for each in run.costs})
        lines.append(
            f"Steps: batch {', '.join(map(str, batches))}, {', '.join(map(threads, used))}, "
            f"top layer {', '.join(steps)}."
        )
    if run.speed is not None:
        setting, machine = run.speed.manifest.settings[0], run.speed.manifest.machine
        lines.append(
            f"Speedup: {setting.arch}, batch {setting.batch_size}, {setting.dtype}, {threads(setting.threads)}, "
            f"{setting.device} ({hardware(machine, setting.device)}), {run.speed.manifest.created[:10]}; logits alone, "
            "without the log-normaliser that the log-odds need too."
        )
    return lines
