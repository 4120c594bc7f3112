"""Which combinations of lists are measured, which are left out, and what is said of it."""

import itertools

import pytest

from bench.errors import UsageError
from bench.speed.modes import Mode, assumed_frequencies, contradiction, split

GRAPH, REDUCED = Mode(cuda_graph=True), Mode(compile="reduce-overhead")
BOTH = Mode(compile="reduce-overhead", cuda_graph=True)


def test_a_product_is_measured_but_for_what_contradicts_itself() -> None:
    asked = [
        Mode(compile, cuda_graph)
        for compile, cuda_graph in itertools.product(("none", "reduce-overhead"), (False, True))
    ]
    wanted, (notice,) = split(asked, "cuda:0")
    assert wanted == [Mode(), GRAPH, REDUCED]
    assert notice.kind == "left-out"
    assert notice.happened.startswith("left out: --compile reduce-overhead --cuda-graph on (")
    assert "both capture graphs" in notice.happened


def test_what_has_the_same_reason_is_said_together() -> None:
    asked = [Mode(), *(Mode(cuda_graph=True, work=work) for work in ("logits", "normalised"))]
    wanted, (notice,) = split(asked, "cpu")
    assert wanted == [Mode()]
    assert "--cuda-graph on; --cuda-graph on --work normalised (--cuda-graph needs a CUDA device" in notice.happened


@pytest.mark.parametrize(
    ("asked", "device", "words"),
    [
        ([BOTH], "cuda:0", "choose one"),
        ([GRAPH], "cpu", "--cuda-graph needs a CUDA device"),
        ([REDUCED], "cpu", "--compile reduce-overhead needs a CUDA device"),
    ],
)
def test_nothing_left_is_a_usage_error(asked: list[Mode], device: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        split(asked, device)


def test_a_rivals_score_is_measured_once_though_it_is_normalised_already() -> None:
    twice = [Mode(work=work, top_layer="adaptive") for work in ("logits", "normalised")]
    assert split(twice, "cpu")[0] == twice[:1]
    assert split(twice[1:], "cpu") == (twice[1:], []), "asked for alone it is measured under the name it was asked by"


def test_end_to_end_goes_with_everything() -> None:
    asked = [
        Mode(compile, graph, last, "end-to-end", top)
        for compile, graph, last, top in itertools.product(
            ("none", "default"), (False, True), (False, True), ("full", "hierarchical-huffman")
        )
    ]
    assert [contradiction(mode, "cuda:0", asked) for mode in asked] == [None] * len(asked)


def test_only_what_goes_by_frequency_says_what_it_was_told() -> None:
    assert assumed_frequencies({"full", "hierarchical-balanced", "low-rank"}) == []
    (notice,) = assumed_frequencies({"full", "adaptive", "hierarchical-huffman"})
    assert notice.happened.startswith("hierarchical-huffman, adaptive: ")
    assert "Zipf" in notice.happened
