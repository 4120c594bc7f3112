"""Where values fall among sorted thresholds, several times as fast as by bisection alone.

A bisection costs a mispredicted branch at every other step, 35 ns a value among 50 thresholds. So the range of the
thresholds is cut into equal cells, and only values in a cell that holds a threshold are bisected; in the others
the cell says it all:

    thresholds        |     |  |                     |
    cells          .  X  .  X  X  .  .  .  .  .  .  .  X  .      X: bisect
    answer         0  ?  1  ?  ?  3  3  3  3  3  3  3  ?  4
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.accuracy.metrics.streams import Indices, Reals

#: Cells a threshold: where thresholds lie evenly, one value in so many is bisected.
CELLS = 16

#: No more cells than this: float32 counts them exactly up to 2**24, and their table stays in the cache.
MOST_CELLS = 2**20

#: Fewer values are bisected: setting up the cells would cost more.
FEW = 2048


class Grid:
    """Equal cells 0 .. cells - 1 from a lowest to a highest value, and two more above them.

    A value's cell is worked out by a subtraction and a multiplication by a positive number, and rounding keeps both
    monotone: of two values in different cells the one in the lower cell is the lower, wherever rounding puts borders.
    """

    def __init__(self, ascending: Reals, cells: int) -> None:
        """Lay cells over ascending values; `usable` is false where their spread is none, or too small or large."""
        self.cells = cells
        self._lowest = ascending[0]
        with np.errstate(over="ignore", divide="ignore"):
            self._scale = ascending.dtype.type(cells) / (ascending[-1] - ascending[0])
        self.usable = bool(np.isfinite(self._scale) and self._scale > 0)

    def cell(self, values: Reals) -> Indices:
        """Cell of each value, 0 .. cells + 1; no value below the lowest, all of the type of those it was laid over."""
        with np.errstate(over="ignore"):
            place = values - self._lowest
            place *= self._scale
        np.minimum(place, place.dtype.type(self.cells + 1), out=place)
        cell: Indices = place.astype(np.intp)
        return cell


class Search:
    """searchsorted(thresholds, values, side="right") for many values; thresholds ascending, both of one type."""

    def __init__(self, thresholds: Reals) -> None:
        self.thresholds = thresholds
        self._grid = Grid(thresholds, min(CELLS * len(thresholds), MOST_CELLS))
        if self._grid.usable:
            held = self._grid.cell(thresholds)
            self._holds = np.zeros(self._grid.cells + 2, np.bool_)
            self._holds[held] = True
            self._below = np.searchsorted(held, np.arange(self._grid.cells + 2))

    def __call__(self, values: Reals) -> Indices:
        """How many thresholds are at or below each value; no value may be below the lowest threshold."""
        return self.with_ties(values)[0]

    def with_ties(self, values: Reals) -> tuple[Indices, Indices]:
        """The same, and the indices of the values that equal a threshold, ascending."""
        if not self._grid.usable:
            return bisect(self.thresholds, values)
        cell = self._grid.cell(values)
        found = self._below.take(cell)
        (unsure,) = np.nonzero(self._holds.take(cell))
        bisected, tied = bisect(self.thresholds, values.take(unsure))
        found[unsure] = bisected
        return found, unsure.take(tied)


def bisect(thresholds: NDArray[Any], values: NDArray[Any]) -> tuple[Indices, Indices]:
    """What Search finds, with ties, by bisection alone."""
    found = thresholds.searchsorted(values, side="right")
    return found, np.flatnonzero(thresholds.take(found - 1) == values)


def place(thresholds: Reals, values: Reals) -> tuple[Indices, Indices]:
    """What Search finds, with ties, whichever way is faster."""
    if len(values) < max(FEW, len(thresholds)):
        return bisect(thresholds, values)
    return Search(thresholds).with_ties(values)
