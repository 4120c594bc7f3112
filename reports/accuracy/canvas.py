"""Where the panels of a figure lie: blocks of panels below one another, legend above, caption below.

All sizes are inches until the last step, so that text and panels keep their size however many there are.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures import CAPTION_CHARACTERS_PER_INCH, CAPTION_LINE_INCHES, LEGEND_ENTRY_INCHES, TITLE_INCHES

HEADING_INCHES = 0.26
EDGE_INCHES = 0.06

#: Width of an entry of a legend with short texts.
ENTRY_INCHES = LEGEND_ENTRY_INCHES[0]


@dataclass(frozen=True)
class Grid:
    """How the panels of every block are laid out."""

    columns: int
    panel: tuple[float, float]
    """width and height of a panel with what is around its axes"""
    margins: tuple[float, float, float, float]
    """what of it is left around the axes: left, bottom, right, top"""

    @property
    def width(self) -> float:
        """Of the whole figure."""
        return self.columns * self.panel[0]


@dataclass(frozen=True)
class Block:
    """Panels that belong together, with a heading where there are several such blocks."""

    heading: str
    panels: int


def layout(
    blocks: Sequence[Block], grid: Grid, *, title: str, caption: str, legend: Sequence[tuple[Any, str]]
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with its title, legend and caption, and the empty axes of each block, line by line."""
    text = _wrapped(caption, round(grid.width * CAPTION_CHARACTERS_PER_INCH))
    legend_columns = max(1, int(grid.width / ENTRY_INCHES))
    head = TITLE_INCHES + LEGEND_ENTRY_INCHES[1] * math.ceil(len(legend) / legend_columns)
    foot = CAPTION_LINE_INCHES * (text.count("\n") + 1) + 0.1
    heights = [_height(block, grid) for block in blocks]
    figure = Figure(figsize=(grid.width, head + sum(heights) + foot))
    _write_around(figure, title, text, legend, legend_columns)
    axes, top = [], figure.get_figheight() - head
    for block, height in zip(blocks, heights, strict=True):
        axes.append(_block(figure, block, grid, top))
        top -= height
    return figure, axes


def _height(block: Block, grid: Grid) -> float:
    return math.ceil(block.panels / grid.columns) * grid.panel[1] + (HEADING_INCHES if block.heading else 0.0)


def _block(figure: Figure, block: Block, grid: Grid, top: float) -> list[Axes]:
    """The axes of one block, whose upper edge is `top` inches above the figure's lower one."""
    width, height = figure.get_size_inches()
    if block.heading:
        figure.text(EDGE_INCHES / width, (top - 0.08) / height, block.heading, fontsize=9.5, weight="bold", va="top")
        top -= HEADING_INCHES
    left, bottom, right, above = grid.margins
    axes = []
    for index in range(block.panels):
        line, column = divmod(index, grid.columns)
        x, y = column * grid.panel[0] + left, top - (line + 1) * grid.panel[1] + bottom
        size = (grid.panel[0] - left - right, grid.panel[1] - bottom - above)
        axes.append(figure.add_axes((x / width, y / height, size[0] / width, size[1] / height)))
    return axes


def _write_around(
    figure: Figure, title: str, caption: str, legend: Sequence[tuple[Any, str]], legend_columns: int
) -> None:
    width, height = figure.get_size_inches()
    left = EDGE_INCHES / width
    figure.text(left, 1 - EDGE_INCHES / height, title, fontsize=10.5, va="top")
    figure.text(left, EDGE_INCHES / height, caption, fontsize=6.5, va="bottom", color="#333333", linespacing=1.35)
    handles, texts = zip(*legend, strict=True)
    figure.legend(
        handles,
        texts,
        loc="upper left",
        bbox_to_anchor=(left, 1 - (TITLE_INCHES - 0.06) / height),
        ncols=legend_columns,
        fontsize=7.5,
        borderaxespad=0,
    )


def _wrapped(text: str, width: int) -> str:
    unbroken = text.replace(" %", "\u00a0%")
    return "\n".join(textwrap.fill(line, width) for line in unbroken.splitlines())
