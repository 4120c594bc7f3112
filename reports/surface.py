"""Fig. 3: the speedup over batch size and class count, as a map, with the line from which one logit pays.

    batch   +-------+-------+-------+
     128    | 1.02  | 1.31  | 2.4   |     a cell: a measured point, its speedup written in it
            +---.---+-------+-------+
      32    | 1.05 .| 1.6   | ////  |     hatched: failed; blank: not measured
            +-------+-------+-------+
              2^14    2^16    2^18        solid and dashed line: measured and predicted break-even

One panel for each network, dtype and mode; a run with several batch sizes has such maps. All panels share their axes
and the colours' scale, and stand in as many columns as make them largest on a page. Cells are equally wide, so the
lines are drawn between the cells' middles, logarithmic in classes and in batch size.

Break-even is the class count from which one logit is PAYS times as fast as all of them, or more.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from bench.folder import write_atomically
from bench.run import Run
from bench.speed.rows import Row, break_even
from bench.speed.rows import rows as estimate
from bench.speed.settings import Setting
from reports import figures, wording
from reports.accuracy.canvas import Block, Grid, layout
from reports.series import Series, series_of

FILES = ("fig3.png", "fig3.svg", "fig3.pdf", "surface.csv")

#: From this speedup on, one logit is said to pay: the first of those for which break-even counts are given.
PAYS = 1.1

#: Light to dark at even steps of lightness, for colour-blind readers and for print without colour.
COLOUR_MAP = "cividis"
HATCH = "////"
HATCH_COLOUR = "#888888"
LINE_COLOUR = "#D55E00"
PREDICTED_COLOUR = "#000000"
PREDICTED_DASHES = (0, (3, 1.6))

#: Heights within a cell: its number stands above the lines.
NUMBER_AT, LINE_AT = 0.66, 0.26

CELL_INCHES = (0.62, 0.42)
#: Left, bottom and right (with the colours' scale) of all maps together.
MARGIN_INCHES = (0.62, 0.5, 0.75)
#: Between maps side by side, and between the lower edge of one and the title of the next.
GAP_INCHES = (0.22, 0.1)
TITLE_SIZE = 8
TITLE_LINE_INCHES = 0.15
TITLE_CHARACTERS_PER_INCH = 14
LEAST_WIDTH_INCHES = 6.2
BAR_INCHES = 0.14
#: Lines of maps that the colours' scale stands beside.
BAR_LINES = 2

#: What a page of A4 or letter paper has room for, and what of its height title, legend and caption take.
PAGE_INCHES = (7.0, 9.8)
AROUND_INCHES = 1.4


@dataclass(frozen=True)
class Cell:
    """One point of the map; a point that failed has a reason and no speedup."""

    batch_size: int
    classes: int
    speedup: float | None
    predicted: float | None
    failed: str = ""


@dataclass(frozen=True)
class Surface:
    """The map of one network in one dtype and mode."""

    name: str
    cells: tuple[Cell, ...]
    reference: int = 1
    """class count of what all logits are compared to: 1, or the classes asked for at a time"""

    @property
    def batch_sizes(self) -> list[int]:
        """Ascending."""
        return sorted({cell.batch_size for cell in self.cells})

    @property
    def classes(self) -> list[int]:
        """Ascending, the reference's count left out."""
        return sorted({cell.classes for cell in self.cells})

    def pays_from(self, *, predicted: bool = False) -> dict[int, float | None]:
        """Batch size -> class count from which one logit is PAYS times as fast; None if no count says.

        Within the measured counts only: a line on a map is not drawn beyond it.
        """
        found: dict[int, float | None] = {}
        for batch in self.batch_sizes:
            cells = [cell for cell in self.cells if cell.batch_size == batch]
            ratios = [(cell.classes, cell.predicted if predicted else cell.speedup) for cell in cells]
            known = sorted((classes, ratio) for classes, ratio in ratios if ratio is not None)
            classes, beyond = break_even([(self.reference, 1.0), *known], PAYS, extrapolate=False)
            found[batch] = None if beyond else classes
        return found


def surfaces(run: Run, rows: Sequence[Row] | None = None) -> list[Surface]:
    """The maps of a run: one for all settings that differ in nothing but the batch size, if there are two or more.

    `rows` are those of bench.speed.rows, where they are at hand.
    """
    groups: dict[str, list[tuple[Setting, Series]]] = {}
    for series in series_of(run, rows if rows is not None else estimate(run)):
        if series.setting is not None:
            key = series.setting.model_copy(update={"batch_size": 1}).model_dump_json()
            groups.setdefault(key, []).append((series.setting, series))
    several = [group for group in groups.values() if len({setting.batch_size for setting, _ in group}) > 1]
    firsts = [group[0][0] for group in several]
    apart = wording.distinguish([each.arch for each in firsts], [_traits(each) for each in firsts])
    return [
        Surface(
            wording.named(setting.arch, label),
            tuple(cell for _, series in group for cell in _cells(series)),
            min(row.classes for _, series in group for row in series.points),
        )
        for setting, label, group in zip(firsts, apart, several, strict=True)
    ]


def _traits(setting: Setting) -> dict[str, str]:
    return {name: text for name, text in wording.traits(setting).items() if name != "batch"}


def _cells(series: Series) -> list[Cell]:
    single = series.single.median_s if series.single is not None else None
    reference = min(row.classes for row in series.points)
    return [
        Cell(
            row.batch_size,
            row.classes,
            row.speedup,
            row.predicted_s / single if row.predicted_s is not None and single else None,
            "" if row.status == "ok" else f"{row.status}: {row.reason}",
        )
        for row in series.points
        if row.classes > reference
    ]


def draw_surface(run: Run, folder: Path, rows: Sequence[Row] | None = None) -> list[Path]:
    """Fig. 3 of one run, as `draw_surfaces` does; `rows` are those of bench.speed.rows, where they are at hand."""
    return draw_surfaces(folder, [(run, rows if rows is not None else estimate(run))])


def draw_surfaces(folder: Path, runs: Sequence[tuple[Run, Sequence[Row]]], names: Sequence[str] = ()) -> list[Path]:
    """Write Fig. 3 as PNG, SVG and PDF, and its numbers as surface.csv; the paths, none if there is no map to draw.

    A run has one where settings differ in batch size alone. `names`: of several runs; a map whose network and mode
    another run has too says which run it is of. Raises OSError; a file is then as it was, or complete.
    """
    found = [[surface for surface in surfaces(run, rows) if surface.cells] for run, rows in runs]
    times = Counter(surface.name for maps in found for surface in maps)
    maps = [
        replace(surface, name=f"{surface.name}, {names[index]}") if times[surface.name] > 1 else surface
        for index, own in enumerate(found)
        for surface in own
    ]
    if not maps:
        return []
    png, svg, pdf, csv = (folder / name for name in FILES)
    figure = draw(maps, note=figures.note([run.manifest for (run, _), own in zip(runs, found, strict=True) if own]))
    figures.save(figure, png, svg)
    figures.save_pdf(figure, pdf)
    write_atomically(csv, to_frame(maps).to_csv(index=False, lineterminator="\n"))
    return [png, svg, pdf, csv]


def to_frame(maps: Sequence[Surface]) -> pd.DataFrame:
    """One line a cell, and what failed with its reason.

    `pays_from` is the measured class count from which one logit pays at that batch size, `pays_from_predicted` the
    predicted one; empty where the counts do not say.
    """
    lines = []
    for surface in maps:
        measured, predicted = surface.pays_from(), surface.pays_from(predicted=True)
        lines += [
            {
                "network": surface.name,
                "batch_size": cell.batch_size,
                "classes": cell.classes,
                "speedup": cell.speedup,
                "predicted_speedup": cell.predicted,
                "failed": cell.failed,
                "pays_from": measured[cell.batch_size],
                "pays_from_predicted": predicted[cell.batch_size],
            }
            for cell in sorted(surface.cells, key=lambda cell: (cell.batch_size, cell.classes))
        ]
    return pd.DataFrame(lines)


def title_of(maps: Sequence[Surface]) -> str:
    """What the maps show of what."""
    return f"Speedup of {_alone(maps)} over all logits, by batch size and class count"


def _alone(maps: Sequence[Surface]) -> str:
    """The logits that speedups are of; maps of several runs may have asked for several numbers of classes."""
    references = {surface.reference for surface in maps}
    return wording.asked(references.pop()) if len(references) == 1 else "the logits asked for"


@dataclass(frozen=True)
class Arrangement:
    """Where maps with the same axes stand: line by line, in so many columns."""

    maps: int
    columns: int
    classes: tuple[int, ...]
    """of any map, ascending: the axis that all share"""
    batch_sizes: tuple[int, ...]
    titles: tuple[str, ...]
    """of the maps, wrapped to their width"""

    @property
    def lines(self) -> int:
        """Lines of maps; the last may have fewer than the others."""
        return math.ceil(self.maps / self.columns)

    @property
    def map_inches(self) -> tuple[float, float]:
        """Width and height of one map's axes."""
        return CELL_INCHES[0] * len(self.classes), CELL_INCHES[1] * len(self.batch_sizes)

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height of all maps with what is around them."""
        (wide, tall), (left, bottom, right) = self.map_inches, MARGIN_INCHES
        width = left + self.columns * wide + (self.columns - 1) * GAP_INCHES[0] + right
        return max(LEAST_WIDTH_INCHES, width), bottom + self.lines * (tall + self._above)

    @property
    def _above(self) -> float:
        return GAP_INCHES[1] + TITLE_LINE_INCHES * max(title.count("\n") + 1 for title in self.titles)

    @property
    def on_a_page(self) -> float:
        """By how much the figure must be made smaller to fit a page; 1 where it fits as it is."""
        width, height = self.inches
        return min(1.0, PAGE_INCHES[0] / width, PAGE_INCHES[1] / (height + AROUND_INCHES))

    def corner(self, index: int) -> tuple[float, float]:
        """Left and lower edge of a map's axes, in inches from the left and lower edge of all."""
        line, column = divmod(index, self.columns)
        wide, tall = self.map_inches
        return (
            MARGIN_INCHES[0] + column * (wide + GAP_INCHES[0]),
            self.inches[1] - (line + 1) * (tall + self._above),
        )

    def is_left(self, index: int) -> bool:
        """Whether a map has no other to its left."""
        return index % self.columns == 0

    def is_lowest(self, index: int) -> bool:
        """Whether a map has no other below it."""
        return index + self.columns >= self.maps


def arrange(maps: Sequence[Surface]) -> Arrangement:
    """As many columns as make the maps largest on a page, the fewest of those."""
    classes = tuple(sorted({count for surface in maps for count in surface.classes}))
    batch_sizes = tuple(sorted({batch for surface in maps for batch in surface.batch_sizes}))
    characters = max(20, int(CELL_INCHES[0] * len(classes) * TITLE_CHARACTERS_PER_INCH))
    titles = tuple(textwrap.fill(surface.name, characters) for surface in maps)
    found = [
        Arrangement(len(maps), columns, classes, batch_sizes, titles)
        for columns in range(1, math.ceil(math.sqrt(len(maps))) + 3)
        if columns <= len(maps)
    ]
    return max(found, key=lambda each: (round(each.on_a_page, 3), -each.columns))


def draw(maps: Sequence[Surface], *, title: str | None = None, note: str = "") -> Figure:
    """Draw the maps side by side and below one another, on the same axes and with the same colours.

    Raises ValueError if there is none.
    """
    if not maps:
        raise ValueError("a figure needs at least one map")
    with figures.styled():
        greatest = _greatest(maps)
        colours = ScalarMappable(Normalize(0.0, greatest), COLOUR_MAP)
        arrangement = arrange(maps)
        whole = Grid(1, arrangement.inches, (0.0, 0.0, 0.0, 0.0))
        figure, ((place,),) = layout(
            [Block("", 1)], whole, title=title or title_of(maps), caption=_caption(maps, note), legend=_legend(maps)
        )
        panels = _panels(figure, place, arrangement)
        for index, (surface, axis) in enumerate(zip(maps, panels, strict=True)):
            _panel(axis, surface, arrangement, index, colours)
        _colour_bar(figure, panels, arrangement.columns, colours, greatest)
        figure.draw_without_rendering()
    return figure


def _panels(figure: Figure, place: Axes, arrangement: Arrangement) -> list[Axes]:
    """The axes of every map, in the place of the one axes that holds it free."""
    (width, height), corner = figure.get_size_inches(), place.get_position()
    place.remove()
    wide, tall = arrangement.map_inches
    panels = []
    for index in range(arrangement.maps):
        x, y = arrangement.corner(index)
        panels.append(figure.add_axes((corner.x0 + x / width, corner.y0 + y / height, wide / width, tall / height)))
    return panels


def _greatest(maps: Sequence[Surface]) -> float:
    """Logarithm of the greatest speedup; a factor of two at least, so that noise does not fill the scale."""
    found = [cell.speedup for surface in maps for cell in surface.cells if cell.speedup is not None]
    return max([math.log2(ratio) for ratio in found if ratio > 0] + [1.0])


def _panel(axis: Axes, surface: Surface, shared: Arrangement, index: int, colours: ScalarMappable) -> None:
    batches, classes = shared.batch_sizes, shared.classes
    for cell in surface.cells:
        _cell(axis, classes.index(cell.classes), batches.index(cell.batch_size), cell, colours)
    for predicted in (False, True):
        _line(axis, surface, shared, predicted)
    axis.set_xlim(0, len(classes))
    axis.set_ylim(0, len(batches))
    places = [(place + 0.5) / len(classes) for place in range(len(classes))]
    axis.set_xticks([place + 0.5 for place in range(len(classes))], figures.tick_labels(classes, places))
    axis.set_yticks([place + 0.5 for place in range(len(batches))], [wording.count(batch) for batch in batches])
    axis.tick_params(length=0, labelleft=shared.is_left(index), labelbottom=shared.is_lowest(index))
    if shared.is_lowest(index):
        axis.set_xlabel("classes")
    if shared.is_left(index):
        axis.set_ylabel("batch size")
    axis.set_title(shared.titles[index], loc="left", fontsize=TITLE_SIZE, pad=3)


def _cell(axis: Axes, column: int, line: int, cell: Cell, colours: ScalarMappable) -> None:
    style: dict[str, Any] = {"facecolor": "white", "edgecolor": "white", "linewidth": 1.0}
    text, ink = "", "#000000"
    if cell.failed:
        style = {"facecolor": "white", "edgecolor": HATCH_COLOUR, "hatch": HATCH, "linewidth": 0.0}
    elif cell.speedup is not None and cell.speedup > 0:
        colour = colours.to_rgba(np.array([math.log2(cell.speedup)]))[0]
        style["facecolor"] = tuple(colour)
        text, ink = wording.speedup(cell.speedup), _ink(tuple(colour))
    axis.add_patch(Rectangle((column, line), 1, 1, **style))
    place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "zorder": 6}  # lines pass below it
    if text:
        ground = {"facecolor": style["facecolor"], "edgecolor": "none", "pad": 0.8}  # a line breaks at a number
        axis.text(column + 0.5, line + NUMBER_AT, text, color=ink, bbox=ground, **place)


def _ink(colour: Sequence[float]) -> str:
    """Black or white, whichever is told better from a colour: by its relative luminance (WCAG 2, without gamma)."""
    red, green, blue = colour[:3]
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "#FFFFFF"


def _line(axis: Axes, surface: Surface, shared: Arrangement, predicted: bool) -> None:
    """Join the break-even counts of neighbouring batch sizes; a batch size without one breaks the line."""
    found = surface.pays_from(predicted=predicted)
    counts = [found.get(batch) for batch in shared.batch_sizes]
    xs = [math.nan if count is None else place_of(count, shared.classes) for count in counts]
    ys = [line + LINE_AT for line in range(len(xs))]
    axis.plot(xs, ys, color="white", linewidth=3.2, zorder=3)
    if predicted:
        axis.plot(xs, ys, color=PREDICTED_COLOUR, linewidth=1.3, linestyle=PREDICTED_DASHES, marker="D", zorder=5, ms=3)
    else:
        axis.plot(xs, ys, color=LINE_COLOUR, linewidth=1.7, marker="o", zorder=4, ms=5)


def place_of(count: float, classes: Sequence[int]) -> float:
    """Where a class count lies on the axis of cells: in a cell's middle at its own count, logarithmic between.

    Below the first count it is the left edge at one class.
    """
    known = [0.0, *(math.log2(each) for each in classes)]
    middles = [0.0, *(place + 0.5 for place in range(len(classes)))]
    return float(np.interp(math.log2(max(count, 1.0)), known, middles))


def _legend(maps: Sequence[Surface]) -> list[tuple[Any, str]]:
    middle = mpl.colormaps[COLOUR_MAP](0.5)
    entries: list[tuple[Any, str]] = [(Patch(facecolor=middle), "speedup, measured")]
    if any(count is not None for surface in maps for count in surface.pays_from().values()):
        entries.append((Line2D([], [], color=LINE_COLOUR, marker="o", markersize=5), "break-even, measured"))
    if any(count is not None for surface in maps for count in surface.pays_from(predicted=True).values()):
        entries.append(
            (
                Line2D([], [], color=PREDICTED_COLOUR, linestyle=PREDICTED_DASHES, marker="D", markersize=3),
                "break-even, predicted",
            )
        )
    if any(cell.failed for surface in maps for cell in surface.cells):
        entries.append((Patch(facecolor="white", edgecolor=HATCH_COLOUR, hatch=HATCH), "failed"))
    return entries


def _colour_bar(figure: Figure, panels: Sequence[Axes], columns: int, colours: ScalarMappable, greatest: float) -> None:
    """To the right of the last column, beside the first lines."""
    top = panels[min(columns, len(panels)) - 1].get_position()
    low = panels[min(columns * BAR_LINES, len(panels)) - 1].get_position()
    width = figure.get_figwidth()
    bar = figure.add_axes((top.x1 + 0.12 / width, low.y0, BAR_INCHES / width, top.y1 - low.y0))
    drawn = figure.colorbar(colours, cax=bar)
    ticks = [float(power) for power in range(0, math.floor(greatest) + 1, max(1, math.ceil(greatest / 5)))]
    drawn.set_ticks(ticks, labels=[f"×{2**power:g}" for power in ticks])
    drawn.outline.set_visible(False)


def _caption(maps: Sequence[Surface], note: str) -> str:
    alone = _alone(maps)
    are = "is" if alone == "one logit" else "are"
    lines = [
        f"Each cell: median time of all logits (with a rival on top: of its score) over median time of {alone} at the "
        "same batch size, measured. White: not measured.",
        f"Break-even: from that class count on {alone} {are} {PAYS:g} times as fast or more. Measured: interpolated "
        f"between the cells. Predicted: between the times expected there, that of {alone} as measured and the rest of "
        "the top layer from its operations, its bytes and this device's rates. A batch size that does not reach it "
        "within the map has no point.",
    ]
    failed: dict[str, list[str]] = {}
    for surface in maps:
        for cell in surface.cells:
            if cell.failed:
                where = f"{surface.name}, batch {cell.batch_size}, {wording.count(cell.classes)} classes"
                failed.setdefault(cell.failed, []).append(where)
    if failed:
        lines.append("Hatched: " + "; ".join(f"{'; '.join(where)}: {why}" for why, where in failed.items()) + ".")
    return "\n".join([*lines, note]).strip()
