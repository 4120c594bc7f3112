"""A binary tree over classes, known by the depth of each class alone: the canonical tree of those code lengths.

    level 0            o                     count[0] = 0 classes, 1 inner node
    level 1        c0      o                 count[1] = 1
    level 2              c1  c2              count[2] = 2

At every level the classes stand first, in the order of their numbers, then the inner nodes; the children of the i-th
inner node stand at 2i and 2i + 1 one level deeper. Inner nodes are numbered level by level. Nothing is as large as
classes x depth, and paths are followed by arithmetic.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def balanced_lengths(classes: int) -> Integers:
    """Depth of each class in a complete binary tree, (classes,): floor or ceiling of log2, the first ones shallower."""
    depth = (classes - 1).bit_length()
    lengths = np.full(classes, depth, dtype=np.int64)
    lengths[: 2**depth - classes] -= 1
    return lengths


def huffman_lengths(frequencies: npt.NDArray[np.float64]) -> Integers:
    """Depth of each class in a Huffman tree, (classes,): the least mean depth (Huffman, Proc. IRE 40, 1952).

    Two queues, one of classes by rising frequency and one of pairs as they are made (van Leeuwen, ICALP 1976): linear
    after the sort, and of all best trees the one of least depth. frequencies: (classes,), 0 or more.
    """
    classes = len(frequencies)
    order = np.argsort(frequencies, kind="stable")
    weights = [*frequencies[order].tolist(), *[0.0] * (classes - 1)]
    parents = [0] * (2 * classes - 1)
    leaf, pair = 0, classes
    for made in range(classes, 2 * classes - 1):
        for _ in range(2):
            if leaf < classes and (pair == made or weights[leaf] <= weights[pair]):
                taken, leaf = leaf, leaf + 1
            else:
                taken, pair = pair, pair + 1
            parents[taken] = made
            weights[made] += weights[taken]
    depths = [0] * (2 * classes - 1)
    for node in range(2 * classes - 3, -1, -1):  # parents are made after their children
        depths[node] = depths[parents[node]] + 1
    lengths = np.empty(classes, dtype=np.int64)
    lengths[order] = depths[:classes]
    return lengths


@dataclass(frozen=True)
class Level:
    """One level of the tree, below the root: how many of its nodes are classes, and the inner nodes above them."""

    first_parent: int
    """number of the first inner node one level up; its parents are numbered on from there"""
    parents: int
    classes: int


class CodeTree:
    """The canonical tree of code lengths; `lengths` (classes,) fulfil Kraft's equation, as those above do."""

    def __init__(self, lengths: Integers) -> None:
        """Raises ValueError for lengths of no full binary tree."""
        self.lengths = lengths
        #: Classes in the order of the levels: (classes,).
        self.order: Integers = np.argsort(lengths, kind="stable")
        self._position = np.empty(len(lengths), dtype=np.int64)
        self._counts = np.bincount(lengths)
        begin = 0
        for count in self._counts:
            self._position[self.order[begin : begin + count]] = np.arange(count)
            begin += count
        self.levels = self._levels()

    def _levels(self) -> tuple[Level, ...]:
        levels = []
        first, parents = 0, 1 - int(self._counts[0])
        for count in self._counts[1:].tolist():
            levels.append(Level(first, parents, count))
            first, parents = first + parents, 2 * parents - count
            if parents < 0:
                break
        if parents or self._counts[0]:
            raise ValueError("these code lengths are not those of a full binary tree")
        return tuple(levels)

    def path(self, label: int) -> tuple[list[int], list[bool]]:
        """Inner nodes from the root to a class, and whether the path goes right at each."""
        nodes, turns = [], []
        position = int(self._position[label])
        for depth in range(int(self.lengths[label]), 0, -1):
            level = self.levels[depth - 1]
            nodes.append(level.first_parent + position // 2)
            turns.append(position % 2 == 1)
            position = int(self._counts[depth - 1]) + position // 2
        return nodes[::-1], turns[::-1]
