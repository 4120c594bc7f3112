import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from archs.code_tree import huffman_lengths
from archs.rivals import (
    RIVALS,
    Adaptive,
    Differentiated,
    Hierarchical,
    LowRank,
    OneClass,
    TopLayerKind,
    cutoffs,
    make,
    slice_shapes,
)

LARGEST = 370_727


def inputs(examples: int, features: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(examples, features, dtype=dtype, generator=torch.Generator().manual_seed(3))


def shuffled(classes: int) -> list[float]:
    """Frequencies in no order, one of them 0."""
    rates = 1 / np.arange(1, classes + 1)
    rates[-1] = 0
    return list(np.random.default_rng(5).permutation(rates))


@pytest.mark.parametrize("kind", RIVALS)
@pytest.mark.parametrize("classes", [2, 3, 7, 64, 101])
@pytest.mark.parametrize("features", [1, 5, 32])
def test_probabilities_sum_to_one_and_a_score_is_its_column(kind: TopLayerKind, classes: int, features: int) -> None:
    layer = make(kind, features, classes, dtype=torch.float64, frequencies=shuffled(classes))
    x = inputs(6, features)
    log_prob = layer.log_prob(x)
    assert log_prob.shape == (6, classes)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(6, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    every = torch.cat([layer.score(x, (label,)) for label in range(classes)], 1)
    torch.testing.assert_close(every, log_prob, rtol=1e-10, atol=1e-12)
    asked = tuple(reversed(range(0, classes, 2)))
    torch.testing.assert_close(layer.score(x, asked), log_prob[:, list(asked)], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(OneClass(layer, asked)(x), log_prob[:, list(asked)], rtol=1e-10, atol=1e-12)
    assert torch.equal(layer(x), log_prob)


@given(
    kind=st.sampled_from(RIVALS),
    frequencies=st.lists(st.floats(0.01, 100), min_size=2, max_size=30),
    features=st.integers(1, 20),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_classes_of_any_layer(
    kind: TopLayerKind, frequencies: list[float], features: int, data: st.DataObject
) -> None:
    layer = make(kind, features, len(frequencies), dtype=torch.float64, frequencies=frequencies)
    asked = tuple(data.draw(st.lists(st.integers(0, len(frequencies) - 1), min_size=1, max_size=6)))
    x = inputs(3, features)
    torch.testing.assert_close(layer.score(x, asked), layer.log_prob(x)[:, list(asked)], rtol=1e-9, atol=1e-11)


def test_a_hierarchical_score_is_the_sum_along_the_path() -> None:
    layer = make("hierarchical-huffman", 4, 6, dtype=torch.float64, frequencies=[45, 5, 15, 7, 20, 10])
    assert isinstance(layer, Hierarchical)
    x = inputs(3, 4)
    for label in range(6):
        nodes, turns = layer.tree.path(label)
        expected = torch.zeros(3, dtype=torch.float64)
        for node, right in zip(nodes, turns, strict=True):
            dot = x @ layer.weight[node]
            expected += torch.log(1 / (1 + torch.exp(dot if right else -dot)))
        torch.testing.assert_close(layer.log_prob(x)[:, label], expected)


def test_adaptive_is_torchs() -> None:
    layer = make("adaptive", 32, 100, dtype=torch.float64)  # by Zipf's law the classes are in torch's order
    assert isinstance(layer, Adaptive)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(32, 100, [10, 31], dtype=torch.float64)
    theirs.load_state_dict(layer.softmax.state_dict())
    x, labels = inputs(9, 32), torch.arange(9) * 11
    torch.testing.assert_close(layer.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(-layer.log_prob(x).gather(1, labels[:, None]).mean(), theirs(x, labels).loss)
    assert layer.choices == {"cut at": "10 31", "divisor": 4.0, "frequencies": "Zipf"}


def test_frequent_classes_are_in_the_adaptive_head() -> None:
    frequencies = [1.0] * 90 + [100.0] * 10
    layer = make("adaptive", 32, 100, frequencies=frequencies)
    assert isinstance(layer, Adaptive)
    head = 2 * layer.softmax.head.weight.numel()
    operations = [layer.work(1, (label,))[0] for label in range(100)]
    assert [cost == head for cost in operations] == [False] * 90 + [True] * 10
    several = layer.work(1, (0, 1, 95))[0]
    assert several == layer.work(1, (0,))[0]  # one cluster serves both, and the head is computed anyway


def test_differentiated_is_a_softmax_of_a_block_diagonal_weight() -> None:
    frequencies = shuffled(30)
    layer = make("differentiated", 16, 30, dtype=torch.float64, frequencies=frequencies)
    assert isinstance(layer, Differentiated)
    assert [tuple(weight.shape) for weight in layer.slices.weights] == [(5, 10), (7, 4), (18, 2)]
    whole = torch.block_diag(*layer.slices.weights)  # type: ignore[no-untyped-call]
    order = torch.argsort(-torch.tensor(frequencies), stable=True)
    x = inputs(4, 16)
    expected = torch.empty(4, 30, dtype=torch.float64)
    expected[:, order] = F.linear(x, whole)
    torch.testing.assert_close(layer.log_prob(x), F.log_softmax(expected, 1))
    torch.testing.assert_close(layer.logit(x, (29, 0, 7)), expected[:, [29, 0, 7]])


def test_low_rank_is_a_softmax_of_a_product() -> None:
    layer = make("low-rank", 16, 30, dtype=torch.float64)
    assert isinstance(layer, LowRank)
    down, up = (parameter for parameter in layer.parameters())
    assert down.shape == (2, 16)
    x = inputs(4, 16)
    expected = x @ (up @ down).T
    torch.testing.assert_close(layer.log_prob(x), F.log_softmax(expected, 1))
    torch.testing.assert_close(layer.logit(x, (29, 0)), expected[:, [29, 0]])


@pytest.mark.parametrize("kind", RIVALS)
@pytest.mark.parametrize("asked", [(0,), (40,), (99,), (0, 40, 41, 99)])
def test_operations_are_those_that_torch_counts(kind: TopLayerKind, asked: tuple[int, ...]) -> None:
    layer = make(kind, 32, 100)
    one = OneClass(layer, asked)
    with FlopCounterMode(display=False) as counter:
        one(inputs(5, 32, torch.float32))
    operations, moved = layer.work(5, asked)
    assert operations == counter.get_total_flops()
    weights = operations // (2 * 5)
    assert moved > 4 * weights


def test_bytes_worked_by_hand() -> None:
    # low rank: d = 16, r = 2, k = 30; 32 + 60 weights, and for each of 4 examples 16 and 2 read, 2 and 30 written
    assert make("low-rank", 16, 30).work(4, (3,)) == (2 * 4 * 92, 4 * (92 + 4 * (16 + 2 + 2 + 30)))


def test_only_a_path_is_read_and_about_log2_of_the_classes() -> None:
    layer = make("hierarchical-balanced", 8, 1000)
    one = OneClass(layer, (617,))
    held = sum(part.numel() for part in one.buffers() if part.dtype == torch.float32 and part.dim() == 2)
    assert held == 10 * 8 + 2 * 10  # rows; signs and counts
    assert not list(one.parameters())


@pytest.mark.parametrize("kind", RIVALS)
def test_gradients(kind: TopLayerKind) -> None:
    layer = make(kind, 6, 9, dtype=torch.float64, frequencies=shuffled(9))
    x = inputs(2, 6).requires_grad_()
    weights = dict(layer.named_parameters())

    def log_prob(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(layer, dict(zip(weights, values, strict=True)), (x,))
        return found

    def score(x: torch.Tensor) -> torch.Tensor:
        return layer.score(x, (8, 1))

    assert torch.autograd.gradcheck(log_prob, (x, *weights.values()))
    assert torch.autograd.gradcheck(score, (x,))
    layer.score(x, (8, 1)).sum().backward()  # type: ignore[no-untyped-call]
    by_score = {name: parameter.grad for name, parameter in weights.items()}
    layer.zero_grad()
    layer.log_prob(x)[:, [8, 1]].sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in weights.items():
        own = by_score[name]
        torch.testing.assert_close(torch.zeros_like(parameter) if own is None else own, parameter.grad)


@pytest.mark.parametrize("kind", RIVALS)
def test_bfloat16_is_near_float64(kind: TopLayerKind) -> None:
    layer = make(kind, 64, 50, dtype=torch.bfloat16)
    x = inputs(8, 64, torch.bfloat16)
    log_prob, score = layer.log_prob(x), OneClass(layer, (3, 47))(x)
    exact = layer.double().log_prob(x.double())
    assert log_prob.dtype == score.dtype == torch.bfloat16
    # 2**-8 of a log-probability, which is a sum of a few terms, and of logits of a few units
    torch.testing.assert_close(log_prob.double(), exact, rtol=0.03, atol=0.06)
    torch.testing.assert_close(score.double(), exact[:, [3, 47]], rtol=0.03, atol=0.06)


@pytest.mark.parametrize("kind", RIVALS)
def test_very_many_classes(kind: TopLayerKind) -> None:
    layer = make(kind, 16, LARGEST)
    x = inputs(2, 16, torch.float32)
    asked = layer.typical(2)
    one = OneClass(layer, asked)
    scored, every = one(x), layer.log_prob(x)
    assert every.shape == (2, LARGEST)
    torch.testing.assert_close(every.double().exp().sum(1), torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=0)
    torch.testing.assert_close(scored, every[:, list(asked)], rtol=1e-4, atol=1e-4)
    assert layer.parameter_bytes <= 4 * LARGEST * 16


def test_typical_costs_what_an_average_request_costs() -> None:
    frequencies = [45.0, 5, 15, 7, 20, 10]  # depths 1 4 3 4 3 3, of mean 228/102
    layer = make("hierarchical-huffman", 4, 6, frequencies=frequencies)
    assert layer.typical(3) == (2, 4, 5)
    assert layer.choices["mean depth"] == pytest.approx(228 / 102)
    assert layer.choices["frequencies"] == "given"
    assert make("low-rank", 4, 6).typical(2) == (0, 1)


def test_huffman_reads_less_than_balanced_where_few_classes_are_asked_for() -> None:
    zipf = 1 / np.arange(1, 1001)
    mean = float(np.average(huffman_lengths(zipf), weights=zipf))
    entropy = float(-np.sum(zipf / zipf.sum() * np.log2(zipf / zipf.sum())))
    huffman, balanced = (make(kind, 8, 1000) for kind in ("hierarchical-huffman", "hierarchical-balanced"))
    assert huffman.work(1, huffman.typical(1))[0] == 2 * 8 * round(mean)
    assert entropy <= mean <= entropy + 1
    assert mean < math.log2(1000)
    assert balanced.work(1, balanced.typical(1))[0] == 2 * 8 * 9  # the first 24, half of all requests, lie at 9


def test_sizes_of_groups() -> None:
    assert cutoffs(LARGEST) == [608, 15024]
    assert [cutoffs(classes) for classes in (2, 3, 10)] == [[1], [1, 2], [3, 5]]
    assert slice_shapes(2048, LARGEST) == [(608, 1280), (14_416, 512), (355_703, 256)]
    assert slice_shapes(1, 10) == [(10, 1)]
    assert slice_shapes(2, 10) == [(3, 1), (7, 1)]


def test_parameter_bytes() -> None:
    assert make("hierarchical-balanced", 8, 100).parameter_bytes == 4 * 99 * 8
    assert make("low-rank", 16, 30, dtype=torch.bfloat16).parameter_bytes == 2 * (32 + 60)


def test_the_same_seed_makes_the_same_weights() -> None:
    a, b, c = (make("adaptive", 32, 100, seed=seed) for seed in (1, 1, 2))
    for x, y, z in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(x, y)
        assert not torch.equal(x, z)


def test_weights_for_training_are_all_drawn() -> None:
    layer = make("low-rank", 8, 3000)
    up = list(layer.parameters())[1].detach()  # the same memory
    assert torch.equal(up[0], up[1024])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer.reset_parameters()
    assert not torch.equal(up[0], up[1024])
    assert float(up.std()) == pytest.approx(1, rel=0.1)  # of rank 1, 1/sqrt(1)


@pytest.mark.parametrize("kind", RIVALS)
def test_classes_that_are_not_there_are_refused(kind: TopLayerKind) -> None:
    layer = make(kind, 4, 5)
    for asked in ((5,), (-1,), ()):
        with pytest.raises(ValueError, match=r"asked for"):
            layer.score(inputs(1, 4, torch.float32), asked)
        with pytest.raises(ValueError, match=r"asked for"):
            layer.work(1, asked)
    with pytest.raises(ValueError, match="give 1 to 5"):
        layer.typical(6)


@pytest.mark.parametrize("kind", RIVALS)
@pytest.mark.parametrize("asked", [True, 1.5, 1.0, "1", None, torch.tensor(1.0)])
def test_only_a_whole_number_names_a_class(kind: TopLayerKind, asked: Any) -> None:
    layer = make(kind, 4, 5)
    refusing: list[Callable[[], object]] = [
        lambda: layer.score(inputs(1, 4, torch.float32), (0, asked)),
        lambda: layer.work(1, (asked,)),
        lambda: OneClass(layer, (asked,)),
    ]
    if isinstance(layer, Differentiated | LowRank):
        refusing.append(lambda: layer.logit(inputs(1, 4, torch.float32), (asked,)))
    for refuses in refusing:
        with pytest.raises(TypeError, match="a class is asked for by a whole number, not a"):
            refuses()


@pytest.mark.parametrize("kind", RIVALS)
def test_whole_numbers_of_other_libraries_name_a_class_too(kind: TopLayerKind) -> None:
    layer, x = make(kind, 4, 5), inputs(2, 4, torch.float32)
    others: Any = (np.int64(3), torch.tensor(1))
    torch.testing.assert_close(layer.score(x, others), layer.score(x, (3, 1)), rtol=0, atol=0)


def test_layers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="no rival"):
        make("full", 4, 5)
    for features, classes in ((0, 5), (4, 1)):
        with pytest.raises(ValueError, match="give 2 and 1 or more"):
            make("adaptive", features, classes)
    for frequencies in ([1.0, 2.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [1.0, math.nan, 1.0]):
        with pytest.raises(ValueError, match="frequencies"):
            make("adaptive", 4, 3, frequencies=frequencies)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", RIVALS)
def test_a_score_can_be_captured_in_a_cuda_graph(kind: TopLayerKind) -> None:
    layer = make(kind, 32, 1000, device="cuda")
    one, x = OneClass(layer, (7, 900)), inputs(4, 32, torch.float32).cuda()
    with torch.inference_mode():
        expected = one(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = one(x)
        graph.replay()
    torch.testing.assert_close(captured, expected)
    torch.testing.assert_close(expected.cpu(), make(kind, 32, 1000).score(x.cpu(), (7, 900)), rtol=1e-3, atol=1e-3)
