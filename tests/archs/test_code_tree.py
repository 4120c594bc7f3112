import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archs.code_tree import CodeTree, balanced_lengths, huffman_lengths


def mean_length_by_heap(frequencies: list[float]) -> float:
    """The textbook's Huffman: each merge adds its weight to the total path length."""
    heap, total = list(frequencies), 0.0
    heapq.heapify(heap)
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def test_huffman_lengths_worked_by_hand() -> None:
    # 5, 7 -> 12; 10, 12 -> 22; 15, 20 -> 35; 22, 35 -> 57; 45, 57 -> 102
    lengths = huffman_lengths(np.array([45.0, 5, 15, 7, 20, 10]))
    assert lengths.tolist() == [1, 4, 3, 4, 3, 3]


def test_equal_frequencies_make_a_balanced_tree() -> None:
    lengths = huffman_lengths(np.ones(11))
    assert sorted(lengths.tolist()) == sorted(balanced_lengths(11).tolist()) == [3] * 5 + [4] * 6


def test_classes_that_never_occur_do_not_make_a_chain() -> None:
    assert huffman_lengths(np.array([1.0, *[0.0] * 8])).max() == 4


def test_fibonacci_frequencies_make_a_chain() -> None:
    frequencies = np.array([1.0, 1, 2, 3, 5, 8, 13])
    assert sorted(huffman_lengths(frequencies).tolist()) == [1, 2, 3, 4, 5, 6, 6]


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=60))
def test_huffman_is_optimal_and_within_a_bit_of_the_entropy(frequencies: list[float]) -> None:
    rates = np.array(frequencies)
    lengths = huffman_lengths(rates)
    assert np.sum(2.0**-lengths) == 1
    assert float(np.sum(rates * lengths)) == pytest.approx(mean_length_by_heap(frequencies))
    if rates.sum() > 0:
        shares = rates / rates.sum()
        shares = shares[shares > 0]
        entropy = -float(np.sum(shares * np.log2(shares)))
        mean = float(np.average(lengths, weights=rates))
        assert entropy - 1e-9 <= mean <= entropy + 1 + 1e-9


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 127, 128, 129, 370_727])
def test_balanced_lengths_are_those_of_a_complete_tree(classes: int) -> None:
    lengths = balanced_lengths(classes)
    exact = np.log2(classes)
    assert set(lengths.tolist()) <= {int(np.floor(exact)), int(np.ceil(exact))}
    assert np.sum(2.0**-lengths) == 1


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=40))
def test_paths_are_those_of_one_tree(frequencies: list[float]) -> None:
    tree = CodeTree(huffman_lengths(np.array(frequencies)))
    paths = [tree.path(label) for label in range(len(frequencies))]
    assert [len(nodes) for nodes, _ in paths] == tree.lengths.tolist()
    codes = ["".join("R" if right else "L" for right in turns) for _, turns in paths]
    assert not any(b.startswith(a) for a, b in itertools.permutations(codes, 2))  # no class lies on another's path
    by_prefix: dict[str, int] = {}
    for code, (nodes, _) in zip(codes, paths, strict=True):
        for depth, node in enumerate(nodes):
            assert by_prefix.setdefault(code[:depth], node) == node  # the same turns lead to the same node
    assert sorted(by_prefix.values()) == list(range(len(frequencies) - 1))  # k - 1 inner nodes, each its own number


@pytest.mark.parametrize("lengths", [[1, 1, 1], [1, 2], [0], [2, 2, 2]])
def test_lengths_of_no_full_tree_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="full binary tree"):
        CodeTree(np.array(lengths))
