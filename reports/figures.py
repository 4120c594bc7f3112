"""Fig. 1: time of one example against the number of classes, one logit flat and all logits rising.

One panel a network. Time is on a logarithmic axis, so that equal heights are equal speedups on any machine and the
paper's points can stand beside ours. The axis of classes is logarithmic too, but for the gap between one class and
the next count measured, which would take half of it.
"""

import io
import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.folder import write_atomically
from bench.run import Manifest
from bench.speed.rows import Row
from reports import wording
from reports.published import PublishedPoint, published
from reports.series import Series, failures, labels

#: Okabe and Ito's colours, told apart by colour-blind readers; the yellow is left out, it is too light on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SINGLE_COLOUR = "#D55E00"
PAPER_COLOUR = "#666666"

PNG_DPI = 200

#: What matplotlib would write into a PDF that changes without the numbers.
PDF_FIELDS = ("CreationDate", "Creator", "Producer")

TITLE = "Time of one example: one logit against all logits"
#: Width and height of a panel, and what of it is left around its axes: left, bottom, right, top.
PANEL_INCHES = (3.1, 2.75)
MARGIN_INCHES = (0.6, 0.6, 0.06, 0.27)
MIN_INCHES = 4.6
TITLE_INCHES = 0.32
LEGEND_ENTRY_INCHES = (1.5, 0.19)
CAPTION_LINE_INCHES = 0.125
CAPTION_CHARACTERS_PER_INCH = 20

#: A panel never shows less than this ratio of times: noise of a percent is not to fill it.
MIN_TIME_RATIO = 1.6

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "slc-bench",  # the same ids in every drawing of the same numbers
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
}


@dataclass(frozen=True)
class Look:
    """How one series is drawn."""

    label: str
    colour: str
    single_colour: str
    predicted_colour: str
    marker: str


@contextmanager
def styled() -> Iterator[None]:
    """Our style, and nothing of the user's: a matplotlibrc must not change a published figure."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def draw(series: Sequence[Series], *, title: str = TITLE, note: str = "") -> Figure:
    """Draw Fig. 1 from series of rows; `note` (machine, date) ends the caption.

    Raises ValueError if there is no series.
    """
    if not series:
        raise ValueError("a figure needs at least one series")
    with styled():
        looks = _looks(labels(series))
        archs = list(dict.fromkeys(each.arch for each in series))
        columns = {1: 1, 2: 2, 4: 2}.get(len(archs), 3)
        width = max(PANEL_INCHES[0] * columns, MIN_INCHES)
        entries = _legend_entries(looks, _drawn(series))
        beside = len(archs) % columns != 0  # the last line of panels has a cell left for the legend
        legend_columns = 1 if beside else max(1, int(width / LEGEND_ENTRY_INCHES[0]))
        legend_lines = 0 if beside else math.ceil(len(entries) / legend_columns)
        caption = _wrapped(_caption(series, note), round(width * CAPTION_CHARACTERS_PER_INCH))
        head = TITLE_INCHES + LEGEND_ENTRY_INCHES[1] * legend_lines
        foot = CAPTION_LINE_INCHES * (caption.count("\n") + 1) + 0.1
        figure, axes, spare = _canvas(len(archs), columns, width, head, foot)
        for arch, axis in zip(archs, axes, strict=True):
            _panel(axis, arch, [pair for pair in zip(series, looks, strict=True) if pair[0].arch == arch])
        _write_around(figure, title, caption)
        _legend(figure, spare, entries, legend_columns)
        figure.draw_without_rendering()  # lays it out while our style holds
    return figure


def _canvas(
    panels: int, columns: int, width: float, head: float, foot: float
) -> tuple[Figure, list[Axes], Axes | None]:
    """A figure, its panels, and the cell left over for the legend, if there is one.

    `width`, and `head` and `foot`, which stay free above and below the panels, are inches.
    """
    lines = math.ceil(panels / columns)
    height = PANEL_INCHES[1] * lines + head + foot
    figure = Figure(figsize=(width, height))
    axes = []
    for index in range(lines * columns if lines > 1 else panels):
        line, column = divmod(index, columns)
        cell = (width / columns * column, height - head - PANEL_INCHES[1] * (line + 1))
        axes.append(figure.add_axes(_inside(cell, (width / columns, PANEL_INCHES[1]), (width, height))))
        if column == 0:
            axes[-1].set_ylabel("time per example (ms)")
        if index + columns >= panels:
            axes[-1].set_xlabel("classes")
    for axis in axes[panels:]:
        axis.set_axis_off()
    return figure, axes[:panels], axes[panels] if len(axes) > panels else None


def _inside(
    corner: tuple[float, float], cell: tuple[float, float], figure: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Where the axes of a cell lie, as fractions of the figure; sizes and the cell's lower left corner in inches."""
    left, bottom, right, top = MARGIN_INCHES
    x, y = corner[0] + left, corner[1] + bottom
    return (
        x / figure[0],
        y / figure[1],
        (cell[0] - left - right) / figure[0],
        (cell[1] - bottom - top) / figure[1],
    )


def _write_around(figure: Figure, title: str, caption: str) -> None:
    width, height = figure.get_size_inches()
    left = 0.06 / width
    figure.text(left, 1 - 0.06 / height, title, fontsize=10.5, va="top")
    figure.text(left, 0.06 / height, caption, fontsize=6.5, va="bottom", color="#333333", linespacing=1.35)


def save(figure: Figure, png: Path, svg: Path) -> None:
    """Write the figure as PNG and SVG, the same bytes for the same numbers, each complete or not at all.

    Raises OSError.
    """
    with mpl.rc_context(STYLE):
        _save(figure, png, dpi=PNG_DPI, metadata={"Software": None})
        _save(figure, svg, metadata={"Date": None, "Creator": None})


def save_pdf(figure: Figure, path: Path) -> None:
    """Write the figure as PDF, likewise. Raises OSError."""
    with mpl.rc_context(STYLE):
        _save(figure, path, metadata=dict.fromkeys(PDF_FIELDS))


def _save(figure: Figure, path: Path, **options: Any) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix[1:], facecolor="white", **options)
    write_atomically(path, drawn.getvalue())


def note(manifests: Sequence[Manifest]) -> str:
    """Machine, torch and date of the runs a figure is drawn from."""
    lines = []
    for manifest in manifests:
        *_, machine = wording.measured_on(manifest)
        state = "" if manifest.status == "complete" else f"; the run is {manifest.status}"
        lines.append(f"{machine}; {manifest.protocol.minibatches} minibatches; {manifest.created[:10]}{state}.")
    return "\n".join(dict.fromkeys(lines))


def _looks(names: Sequence[str]) -> list[Look]:
    """One look a label; where all settings of all networks are alike, one logit has a colour of its own."""
    distinct = list(dict.fromkeys(names))
    looks = []
    for name in names:
        index = distinct.index(name)
        colour = COLOURS[index % len(COLOURS)]
        single, predicted = (SINGLE_COLOUR, "#000000") if len(distinct) == 1 else (colour, colour)
        looks.append(Look(name, colour, single, predicted, MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]))
    return looks


def _panel(axis: Axes, arch: str, drawn: Sequence[tuple[Series, Look]]) -> None:
    counts = sorted({row.classes for series, _ in drawn for row in series.points})
    paper = [point for point in published(arch) if point.classes <= counts[-1]]
    ends: list[tuple[float, str, str]] = []
    _class_axis(axis, counts)
    if paper:
        ends.append(_paper(axis, paper))
    for series, look in drawn:
        _draw_series(axis, series, look, counts[-1], ends)
    _time_axis(
        axis, [time for series, _ in drawn for time in _times(series)] + [1e3 * point.seconds for point in paper]
    )
    _end_labels(axis, counts[-1], ends)
    axis.set_title(arch, loc="left")
    axis.grid(True)


def _paper(axis: Axes, paper: Sequence[PublishedPoint]) -> tuple[float, str, str]:
    """Draw the paper's points; their end, what to write there, and in which colour."""
    counts, times = [point.classes for point in paper], [1e3 * point.seconds for point in paper]
    # No line like ours: between the paper's counts we know nothing. A faint one leads the eye.
    axis.plot(counts, times, color=PAPER_COLOUR, linewidth=0.5, linestyle=":", zorder=1.5)
    axis.plot(counts, times, color=PAPER_COLOUR, linestyle="none", marker="D", markerfacecolor="white", zorder=2)
    return times[-1], f"×{wording.speedup(paper[-1].speedup)}", PAPER_COLOUR


def _draw_series(axis: Axes, series: Series, look: Look, last: int, ends: list[tuple[float, str, str]]) -> None:
    rows = [row for row in series.points if row.median_s is not None]
    _crosses(axis, series, look)
    if not rows:
        return
    single = series.single
    if single is not None and single.median_s is not None:
        _flat(axis, single, series.control, look, last)
    _rising(axis, rows, single, look)
    predicted = [(row.classes, row.predicted_s) for row in series.points if row.predicted_s is not None]
    if predicted and single is not None and single.median_s is not None and predicted[0][0] > single.classes:
        predicted.insert(0, (single.classes, single.median_s))  # a prediction starts from the time measured there
    _line(axis, predicted, color=look.predicted_colour, linestyle=(0, (4, 2)), linewidth=0.9, zorder=3.8)
    highest = rows[-1]
    if highest.is_reference or highest.speedup is None or highest.median_s is None:
        return
    time, text = 1e3 * highest.median_s, f"×{wording.speedup(highest.speedup)}"
    if highest.classes == last:
        ends.append((time, text, look.colour))
    else:
        place: dict[str, Any] = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        axis.annotate(text, (highest.classes, time), color=look.colour, fontsize=7, **place)


def _flat(axis: Axes, single: Row, control: Row | None, look: Look, last: int) -> None:
    assert single.median_s is not None
    time = 1e3 * single.median_s
    axis.plot([1, last], [time, time], color=look.single_colour, linewidth=1.1, zorder=3.2)
    if single.p5_s is not None and single.p95_s is not None:
        axis.fill_between(
            [1, last], 1e3 * single.p5_s, 1e3 * single.p95_s, color=look.single_colour, alpha=0.13, linewidth=0
        )
    if control is not None and control.speedup_low is not None and control.speedup_high is not None:
        low, high = time * control.speedup_low, time * control.speedup_high
        axis.fill_between([1, last], low, high, color=look.single_colour, alpha=0.35, linewidth=0)


def _rising(axis: Axes, rows: Sequence[Row], single: Row | None, look: Look) -> None:
    _line(axis, [(row.classes, row.median_s or 0.0) for row in rows], color=look.colour, zorder=3.5)
    counts, times = [row.classes for row in rows], [1e3 * (row.median_s or 0.0) for row in rows]
    axis.plot(counts, times, color=look.colour, linestyle="none", marker=look.marker, zorder=4)
    spread = [row for row in rows if row.p5_s is not None and row.p95_s is not None]
    _band(axis, spread, [(row.p5_s or 0.0, row.p95_s or 0.0) for row in spread], look.colour, 0.13)
    intervals = _interval_times(rows, single)
    known = [row for row in rows if row.classes in intervals]
    _band(axis, known, [intervals[row.classes] for row in known], look.colour, 0.35)


def _interval_times(rows: Sequence[Row], single: Row | None) -> dict[int, tuple[float, float]]:
    """Class count -> seconds: the speedup's interval times the single logit's median; at one class, just that."""
    if single is None or single.median_s is None:
        return {}
    return {
        row.classes: (single.median_s * low, single.median_s * high)
        for row in rows
        for low, high in [(1.0, 1.0) if row.is_reference else (row.speedup_low, row.speedup_high)]
        if low is not None and high is not None
    }


def _line(axis: Axes, points: Sequence[tuple[int, float]], **style: Any) -> None:
    """A line through points of (classes, seconds), linear in classes."""
    if len(points) > 1:
        known, seconds = zip(*points, strict=True)
        counts = _dense(known)
        axis.plot(counts, 1e3 * np.interp(counts, known, seconds), **style)


def _band(axis: Axes, rows: Sequence[Row], ends: Sequence[tuple[float, float]], colour: str, alpha: float) -> None:
    if len(rows) > 1:
        known = [row.classes for row in rows]
        counts = _dense(known)
        low, high = (np.interp(counts, known, [1e3 * value for value in side]) for side in zip(*ends, strict=True))
        axis.fill_between(counts, low, high, color=colour, alpha=alpha, linewidth=0)


def _dense(counts: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Counts between the measured ones: the top layer's time is linear in classes, and that is a curve on this axis."""
    return np.union1d(np.geomspace(counts[0], counts[-1], 200), np.asarray(counts, dtype=float))


def _crosses(axis: Axes, series: Series, look: Look) -> None:
    failed = [row.classes for row in series.points if row.status != "ok"]
    axis.plot(
        failed,
        [0.0] * len(failed),
        color=look.colour,
        linestyle="none",
        marker="x",
        markersize=6,
        markeredgewidth=1.6,
        transform=axis.get_xaxis_transform(),
        clip_on=False,
        zorder=5,
    )


def _times(series: Series) -> list[float]:
    """All times a series draws, in milliseconds."""
    fields = ("median_s", "p5_s", "p95_s", "predicted_s")
    times = [value for row in series.points for field in fields if (value := getattr(row, field)) is not None]
    times += [time for ends in _interval_times(series.points, series.single).values() for time in ends]
    return [1e3 * time for time in times]


def _class_axis(axis: Axes, counts: Sequence[int]) -> None:
    """Logarithmic but for the first gap, which is as wide as two octaves: log2(1 + 3 (k - 1) / (k2 - 1))."""
    unit = (counts[1] - 1) / 3 if len(counts) > 1 else 1.0

    def forward(classes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        # The axis asks for counts outside of what it shows, too; they go to its left end.
        return np.log2(np.maximum(1 + (np.asarray(classes, dtype=float) - 1) / unit, 2.0**-4))

    def inverse(places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.asarray(1 + unit * (2.0 ** np.asarray(places, dtype=float) - 1))

    axis.set_xscale("function", functions=(forward, inverse))
    places = forward(np.array(counts))
    span = max(float(places[-1]), 1.0)
    low, high = inverse(np.array([-0.04 * span, span * 1.21]))  # room on the right for the speedup
    axis.set_xlim(float(low), float(high))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(counts, tick_labels(counts, [float(place) / span for place in places]))


def tick_labels(counts: Sequence[int], places: Sequence[float]) -> list[str]:
    """Labels of class counts at these places (0 to 1): powers of two where they are, moved down a line if too close.

    Where even two lines are too few, a count has a tick without a label.
    """
    free = [-math.inf, -math.inf]
    texts = []
    for classes, place in zip(counts, places, strict=True):
        text = _power(classes)
        half_width = 0.012 * (3.5 if text.startswith("$") else len(text) + 1)
        line = next((line for line, end in enumerate(free) if place - half_width >= end), None)
        if line is None:
            texts.append("")
            continue
        free[line] = place + half_width
        texts.append("\n" * line + text)
    return texts


def _power(classes: int) -> str:
    """A class count as a power of two where it is one."""
    power = wording.exponent(classes)
    return f"$2^{{{power}}}$" if power else wording.count(classes)


def _time_axis(axis: Axes, times: Sequence[float]) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_minor_locator(NullLocator())
    if not times:
        axis.set_yticks([])
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color=PAPER_COLOUR)
        return
    low, high = time_limits(min(times), max(times))
    axis.set_ylim(low, high)
    axis.set_yticks(time_ticks(low, high))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:,.6g}"))


def time_limits(low: float, high: float) -> tuple[float, float]:
    """Ends of a time axis that shows these times with some air, and noise as noise."""
    widen = max(1.0, math.sqrt(MIN_TIME_RATIO / (high / low)))
    air = (high / low * widen**2) ** 0.07
    return low / widen / air, high * widen * air


#: Round numbers within a decade, coarse to fine; the finest has three in any stretch of MIN_TIME_RATIO.
_ROUND = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.3, 2.6, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9),
)


def time_ticks(low: float, high: float) -> list[float]:
    """Round times between `low` and `high`, both above 0: three or more, seldom above six."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _ROUND:
        ticks = [float(f"{step}e{decade}") for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    return ticks


def _end_labels(axis: Axes, last: int, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write the speedups at the right end, moved apart where they would cover one another."""
    low, high = axis.get_ylim()
    span = math.log(high / low)
    heights = [math.log(time / low) / span for time, _, _ in ends]
    for (_, text, colour), height in zip(ends, spread_out(heights, 0.075), strict=True):
        axis.annotate(
            text,
            (last, low * math.exp(height * span)),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=7,
            annotation_clip=False,
        )


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved as little as it takes from the bottom up, and no further than 1, to stand `gap` apart."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    moved = list(heights)
    for below, above in itertools.pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    ceiling = 1.0
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved


def _drawn(series: Sequence[Series]) -> dict[str, bool]:
    """Which kinds of mark the figure holds: the legend explains these only."""
    points = [row for each in series for row in each.points]
    top = {each.arch: max(row.classes for row in each.points) for each in series}
    return {
        "prediction": any(row.predicted_s is not None for row in points),
        "paper": any(point.classes <= classes for arch, classes in top.items() for point in published(arch)),
        "interval": any(row.speedup_low is not None for each in series for row in each.rows),
        "spread": any(row.p5_s is not None for row in points),
        "failed": any(row.status != "ok" for row in points),
    }


def _legend_entries(looks: Sequence[Look], drawn: dict[str, bool]) -> list[tuple[Any, str]]:
    settings = list(dict.fromkeys(looks))
    # The strokes are explained in one colour where it means nothing, in grey where the settings have theirs.
    alone = len(settings) == 1
    grey = Look("", "#333333", "#333333", "#333333", "o")
    look = settings[0] if alone else grey
    entries: list[tuple[Any, str]] = [
        (Line2D([], [], color=look.colour, marker=look.marker), "all logits"),
        (Line2D([], [], color=look.single_colour, linewidth=1.1), "one logit"),
    ]
    if drawn["prediction"]:
        entries.append((Line2D([], [], color=look.predicted_colour, linestyle=(0, (4, 2)), linewidth=0.9), "predicted"))
    if drawn["interval"]:
        entries.append((Patch(color=look.colour, alpha=0.4, linewidth=0), "95 % interval"))
    if drawn["spread"]:
        entries.append((Patch(color=look.colour, alpha=0.15, linewidth=0), "5-95 % of passes"))
    if drawn["paper"]:
        hollow = Line2D([], [], color=PAPER_COLOUR, marker="D", markerfacecolor="white", linestyle=":", linewidth=0.5)
        entries.append((hollow, "paper, Table 3"))
    if drawn["failed"]:
        cross = Line2D([], [], color=look.colour, linestyle="none", marker="x", markersize=6, markeredgewidth=1.6)
        entries.append((cross, "failed"))
    if not alone:
        entries += [(Line2D([], [], color=each.colour, marker=each.marker), each.label) for each in settings]
    return entries


def _legend(figure: Figure, spare: Axes | None, entries: Sequence[tuple[Any, str]], columns: int) -> None:
    handles, texts = zip(*entries, strict=True)
    if spare is not None:
        spare.legend(handles, texts, loc="center left", fontsize=7.5, labelspacing=0.7)
        return
    top = 1 - (TITLE_INCHES - 0.06) / figure.get_figheight()
    figure.legend(
        handles,
        texts,
        loc="upper left",
        bbox_to_anchor=(0.06 / figure.get_figwidth(), top),
        ncols=columns,
        fontsize=7.5,
        borderaxespad=0,
    )


def _caption(series: Sequence[Series], note: str) -> str:
    drawn = _drawn(series)
    parts = [
        "Median time of one forward pass, for one example, at the class counts marked; lines between them are linear "
        "in classes. The number at a line's end is the speedup there."
    ]
    if drawn["interval"]:
        parts.append(
            "Dark bands: 95 % interval of the speedup times the single logit's median; around one logit, that of the "
            "control."
        )
    if drawn["prediction"]:
        parts.append("Predicted: time at one class plus the top layer's operations and bytes at this device's rates.")
    if drawn["paper"]:
        parts.append("Paper: Keren et al. 2019, means on a Maxwell Titan X.")
    lines = [" ".join(parts)]
    failed = failures(series)
    if failed:
        lines.append("Crosses: " + "; ".join(failed) + ".")
    return "\n".join([*lines, note]).strip()


def _wrapped(text: str, width: int) -> str:
    unbroken = text.replace(" %", "\u00a0%")
    return "\n".join(textwrap.fill(line, width) for line in unbroken.splitlines())
