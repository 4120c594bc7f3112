"""Fig. 3: the speedup over batch size and class count, as a map, with the line from which one logit pays.

    batch   +-------+-------+-------+
     128    | 1.02  | 1.31  | 2.4   |     a cell: a measured point, its speedup written in it
            +---.---+-------+-------+
      32    | 1.05 .| 1.6   | ////  |     hatched: failed; blank: not measured
            +-------+-------+-------+
              2^14    2^16    2^18        solid and dashed line: measured and predicted break-even

One panel for each network, dtype and mode; a run with several batch sizes has such maps. Cells are equally wide, so
the lines are drawn between the cells' middles, logarithmic in classes and in batch size.
"""

import io
import math
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
from matplotlib.patheffects import withStroke

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

#: What matplotlib would write into a PDF that changes without the numbers.
PDF_FIELDS = ("CreationDate", "Creator", "Producer")

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
#: Left, bottom, right (with the colours' scale) and top of a map.
MARGIN_INCHES = (0.62, 0.5, 0.75, 0.28)
LEAST_WIDTH_INCHES = 6.2
BAR_INCHES = 0.14


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
    _save_pdf(figure, pdf)
    write_atomically(csv, to_frame(maps).to_csv(index=False, lineterminator="\n"))
    return [png, svg, pdf, csv]


def _save_pdf(figure: Figure, path: Path) -> None:
    """The same bytes for the same numbers, complete or not at all. Raises OSError."""
    drawn = io.BytesIO()
    with mpl.rc_context(figures.STYLE):
        figure.savefig(drawn, format="pdf", facecolor="white", metadata=dict.fromkeys(PDF_FIELDS))
    write_atomically(path, drawn.getvalue())


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


def draw(maps: Sequence[Surface], *, title: str | None = None, note: str = "") -> Figure:
    """Draw the maps below one another; all share the colours' scale. Raises ValueError if there is none."""
    if not maps:
        raise ValueError("a figure needs at least one map")
    with figures.styled():
        greatest = _greatest(maps)
        colours = ScalarMappable(Normalize(0.0, greatest), COLOUR_MAP)
        blocks, grid = [Block("", len(maps))], _grid(maps)
        figure, (axes,) = layout(
            blocks, grid, title=title or title_of(maps), caption=_caption(maps, note), legend=_legend(maps)
        )
        for surface, axis in zip(maps, axes, strict=True):
            _panel(axis, surface, colours)
        _colour_bar(figure, axes[0], colours, greatest)
        figure.draw_without_rendering()
    return figure


def _grid(maps: Sequence[Surface]) -> Grid:
    """One map a line, each with room for the one with the most cells, the colours' scale to the right of them."""
    left, bottom, right, top = MARGIN_INCHES
    wide = CELL_INCHES[0] * max(len(surface.classes) for surface in maps)
    tall = CELL_INCHES[1] * max(len(surface.batch_sizes) for surface in maps)
    width = max(LEAST_WIDTH_INCHES, left + wide + right)
    return Grid(1, (width, bottom + tall + top), (left, bottom, width - left - wide, top))


def _greatest(maps: Sequence[Surface]) -> float:
    """Logarithm of the greatest speedup; a factor of two at least, so that noise does not fill the scale."""
    found = [cell.speedup for surface in maps for cell in surface.cells if cell.speedup is not None]
    return max([math.log2(ratio) for ratio in found if ratio > 0] + [1.0])


def _panel(axis: Axes, surface: Surface, colours: ScalarMappable) -> None:
    batches, classes = surface.batch_sizes, surface.classes
    for cell in surface.cells:
        _cell(axis, classes.index(cell.classes), batches.index(cell.batch_size), cell, colours)
    for predicted in (False, True):
        _line(axis, surface, predicted)
    axis.set_xlim(0, len(classes))
    axis.set_ylim(0, len(batches))
    places = [(place + 0.5) / len(classes) for place in range(len(classes))]
    axis.set_xticks([place + 0.5 for place in range(len(classes))], figures.tick_labels(classes, places))
    axis.set_yticks([place + 0.5 for place in range(len(batches))], [wording.count(batch) for batch in batches])
    axis.tick_params(length=0)
    axis.set_xlabel("classes")
    axis.set_ylabel("batch size")
    axis.set_title(surface.name, loc="left")


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
    number = axis.text(column + 0.5, line + NUMBER_AT, text, color=ink, **place)
    number.set_path_effects([withStroke(linewidth=2.0, foreground=style["facecolor"])])


def _ink(colour: Sequence[float]) -> str:
    """Black or white, whichever is told better from a colour: by its relative luminance (WCAG 2, without gamma)."""
    red, green, blue = colour[:3]
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "#FFFFFF"


def _line(axis: Axes, surface: Surface, predicted: bool) -> None:
    """Join the break-even counts of neighbouring batch sizes; a batch size without one breaks the line."""
    found = surface.pays_from(predicted=predicted)
    counts = [found[batch] for batch in surface.batch_sizes]
    xs = [math.nan if count is None else place_of(count, surface.classes) for count in counts]
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
    entries: list[tuple[Any, str]] = [(Patch(facecolor=middle), "measured")]
    if any(count is not None for surface in maps for count in surface.pays_from().values()):
        entries.append((Line2D([], [], color=LINE_COLOUR, marker="o", markersize=5), f"{PAYS:g}x, measured"))
    if any(count is not None for surface in maps for count in surface.pays_from(predicted=True).values()):
        entries.append(
            (
                Line2D([], [], color=PREDICTED_COLOUR, linestyle=PREDICTED_DASHES, marker="D", markersize=3),
                f"{PAYS:g}x, predicted",
            )
        )
    if any(cell.failed for surface in maps for cell in surface.cells):
        entries.append((Patch(facecolor="white", edgecolor=HATCH_COLOUR, hatch=HATCH), "failed"))
    return entries


def _colour_bar(figure: Figure, beside: Axes, colours: ScalarMappable, greatest: float) -> None:
    place, width = beside.get_position(), figure.get_figwidth()
    bar = figure.add_axes((place.x1 + 0.12 / width, place.y0, BAR_INCHES / width, place.height))
    drawn = figure.colorbar(colours, cax=bar)
    ticks = [float(power) for power in range(0, math.floor(greatest) + 1, max(1, math.ceil(greatest / 5)))]
    drawn.set_ticks(ticks, labels=[f"×{2**power:g}" for power in ticks])
    drawn.outline.set_visible(False)


def _caption(maps: Sequence[Surface], note: str) -> str:
    alone = _alone(maps)
    are = "is" if alone == "one logit" else "are"
    lines = [
        f"Each cell: median time of all logits (with a rival on top: of its score) over median time of {alone} at the "
        f"same batch size, measured. The lines: from there to the right {alone} {are} {PAYS:g} times as fast or more, "
        "interpolated between measured "
        "counts and between predicted ones; a batch size that does not reach it within the map has no point. White: "
        "not measured."
    ]
    failed = [
        f"{surface.name}, batch {cell.batch_size}, {wording.count(cell.classes)} classes: {cell.failed}"
        for surface in maps
        for cell in surface.cells
        if cell.failed
    ]
    if failed:
        lines.append("Hatched: " + "; ".join(failed) + ".")
    return "\n".join([*lines, note]).strip()
