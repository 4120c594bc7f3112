"""Row statistics and gradients over chunks and shards of classes, against autograd on all logits at once."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.accuracy.chunked import (
    Coefficients,
    Form,
    Gradients,
    PlainSGD,
    RowStatistics,
    backward,
    coefficients,
    form_of,
    row_statistics,
)
from bench.accuracy.chunked.shards import MARGIN, chunk_size
from bench.accuracy.losses import Configured, configured, registry
from bench.errors import UsageError

KEYS = tuple(registry())
MARGINS = ("max-margin", "batch-max-margin")
SMOOTHABLE = tuple(key for key, entry in registry().items() if entry.smoothable)
EVERY = pytest.mark.parametrize("key", KEYS)
#: Of 37 classes: one at a time, odd ones, one short, all, more than there are.
CHUNKS = (1, 5, 7, 36, 37, 1000, None)

Make = Callable[..., Any]


def both_passes(layer: Any, form: Form, chunk: int | None = None, **more: Any) -> tuple[Tensor, Gradients]:
    value, found = coefficients(form, row_statistics(*layer, form, chunk=chunk))
    return value, backward(*layer, form, found, chunk=chunk, **more)


def over_shards(layer: Any, form: Form, cuts: Sequence[int], chunk: int | None) -> tuple[Tensor, Gradients]:
    """As ranks would: statistics of each shard, put together, then each shard's own rows."""
    spans = [(first, last) for first, last in itertools.pairwise(cuts)]
    shards = [(layer.shard(first, last), first) for first, last in spans]
    parts = [row_statistics(*shard, form, first_class=first, chunk=chunk) for shard, first in shards]
    value, found = coefficients(form, RowStatistics.merged(parts))
    each = [
        backward(*shard, form, found, first_class=first, chunk=chunk).dense(len(shard.weight))
        for shard, first in shards
    ]
    weights, biases = ([getattr(part, name) for part in each] for name in ("weight", "bias"))
    bias = None if layer.bias is None else torch.cat(biases)
    return value, Gradients(sum(part.features for part in each), torch.cat(weights), bias)  # type: ignore[arg-type]


def assert_dense(found: tuple[Tensor, Gradients], expected: Any, same: Make, exact: float = 1e-12) -> None:
    value, gradients = found
    same(value, expected.loss, exact)
    same(gradients.features, expected.features, exact)
    rows = gradients.dense(len(expected.weight))
    same(rows.weight, expected.weight, exact)
    same(rows.bias, expected.bias, exact)


@EVERY
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_values_and_gradients_are_the_dense_forms(
    key: str, chunk: int | None, bias: bool, make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    layer, loss = make_layer(bias=bias), make_loss(key, 37)
    assert_dense(both_passes(layer, form_of(loss, 37), chunk), dense(layer, loss), same)


@pytest.mark.parametrize(
    ("key", "more"),
    [
        *((key, {"label_smoothing": 0.1}) for key in SMOOTHABLE),
        ("max-margin", {"gamma": 6.0}),
        ("batch-max-margin", {"gamma": 0.01}),
        ("self-norm", {"alpha": 3.0}),
        ("softmax-tanimoto", {"squared": 1}),
        ("sigmoid-tanimoto", {"squared": 1}),
        ("nce", {"t": 4}),
        ("nce", {"q": "class frequencies", "class_frequencies": torch.arange(1.0, 38)}),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_so_they_are_with_every_hyperparameter(
    key: str, more: dict[str, Any], make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    layer, loss = make_layer(seed=3), make_loss(key, 37, **more)
    form = form_of(loss, 37)
    assert_dense(both_passes(layer, form, 7), dense(layer, loss), same)
    assert_dense(over_shards(layer, form, (0, 0, 12, 37), 7), dense(layer, loss), same)


@EVERY
@settings(max_examples=15, deadline=None)
@given(
    m=st.integers(1, 5),
    k=st.integers(2, 20),
    chunk=st.integers(1, 25),
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 20), max_size=4),
)
def test_shards_of_any_size_make_the_whole(
    key: str,
    m: int,
    k: int,
    chunk: int,
    seed: int,
    cuts: list[int],
    make_layer: Make,
    make_loss: Make,
    dense: Make,
    same: Make,
) -> None:
    layer, loss = make_layer(m, k, 3, seed=seed), make_loss(key, k)
    at = [0, *sorted(min(cut, k) for cut in cuts), k]  # empty shards too
    assert_dense(over_shards(layer, form_of(loss, k), at, chunk), dense(layer, loss), same)


@EVERY
@pytest.mark.parametrize("cuts", [(0, 1, 6), (0, 2, 3, 6), (0, 2, 4, 5, 6)])
def test_ranks_and_steps_of_accumulation_have_the_loss_of_the_global_batch(
    key: str, cuts: tuple[int, ...], make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    layer, loss = make_layer(), make_loss(key, 37)
    form = form_of(loss, 37)
    owns = [slice(first, last) for first, last in itertools.pairwise(cuts)]
    parts = [(layer.features[own], layer.weight, layer.bias, layer.labels[own]) for own in owns]
    value, found = coefficients(form, RowStatistics.joined([row_statistics(*part, form, chunk=7) for part in parts]))
    each = [backward(*part, form, found.of(own), chunk=7) for part, own in zip(parts, owns, strict=True)]
    features = torch.cat([one.features for one in each])
    rows = [one.dense(37) for one in each]
    weight, bias = sum(one.weight for one in rows), sum(one.bias for one in rows)  # type: ignore[misc]
    assert_dense((value, Gradients(features, weight, bias)), dense(layer, loss), same)  # type: ignore[arg-type]


# --- ties, and the rows of a margin loss


@pytest.mark.parametrize("key", MARGINS)
@pytest.mark.parametrize("chunk", [1, 2, 3, None])
def test_tied_logits_share_the_gradient_as_amax_gives_it(
    key: str, chunk: int | None, make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    layer, loss = make_layer(4, 8, 3), make_loss(key, 8, gamma=20.0)
    for copies in ([1, 2, 5], [1, 2, 3, 4, 5, 6, 7]):  # some rows equal, and all but one
        weight, bias = layer.weight.clone(), layer.bias.clone()
        weight[copies], bias[copies] = weight[copies[0]].clone(), bias.max() + 1
        tied = type(layer)(layer.features, weight, bias, torch.tensor([0, 3, 7, 0]))
        form = form_of(loss, 8)
        rows = row_statistics(*tied, form, chunk=chunk)
        assert rows.ties is not None
        assert int(rows.ties.max()) >= len(copies) - 1
        assert_dense(both_passes(tied, form, chunk), dense(tied, loss), same)
        assert_dense(over_shards(tied, form, (0, 2, 2, 5, 8), chunk), dense(tied, loss), same)


@pytest.mark.parametrize("key", MARGINS)
def test_a_single_tie_among_rows_without_one(
    key: str, make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    layer, loss = make_layer(6, 11, 3), make_loss(key, 11, gamma=20.0)
    top = int((layer.features[0] @ layer.weight.t() + layer.bias).argmax())
    twin, other = [j for j in range(11) if j != top][:2]
    weight, bias = layer.weight.clone(), layer.bias.clone()
    weight[twin], bias[twin] = weight[top].clone(), bias[top].clone()
    tied = type(layer)(layer.features, weight, bias, torch.full((6,), other))
    form = form_of(loss, 11)
    ties = row_statistics(*tied, form).ties
    assert ties is not None
    assert set(ties.tolist()) == {1, 2}
    for chunk in (1, 4, None):
        assert_dense(both_passes(tied, form, chunk), dense(tied, loss), same)
    assert_dense(over_shards(tied, form, (0, 4, 11), 3), dense(tied, loss), same)


@pytest.mark.parametrize("key", MARGINS)
def test_a_layer_that_starts_at_zero_is_all_ties(
    key: str, make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    layer, loss = make_layer(3, 9, 4), make_loss(key, 9)
    zero = type(layer)(layer.features, torch.zeros_like(layer.weight), None, layer.labels)
    assert_dense(both_passes(zero, form_of(loss, 9), 2), dense(zero, loss), same)


@pytest.mark.parametrize("key", MARGINS)
def test_a_margin_loss_moves_few_rows_and_reads_no_others(key: str, make_layer: Make, make_loss: Make) -> None:
    layer = make_layer(4, 500, 3)
    form = form_of(make_loss(key, 500), 500)
    _, gradients = both_passes(layer, form)
    assert gradients.rows is not None
    assert gradients.rows.shape == (8,)  # 2 m, some with a gradient of 0
    before = layer.weight.clone()
    both_passes(layer, form, update=PlainSGD(0.1))
    moved = (before != layer.weight).any(1).nonzero().flatten().tolist()
    assert moved
    assert set(moved) <= set(gradients.rows.tolist())


# --- in place


@EVERY
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_sgd_in_place_is_the_step_of_torchs(
    key: str, decay: float, chunk: int, make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    layer, loss = make_layer(), make_loss(key, 37)
    weight, bias = (torch.nn.Parameter(values.clone()) for values in (layer.weight, layer.bias))
    groups: list[dict[str, Any]] = [{"params": [weight], "weight_decay": decay}, {"params": [bias]}]
    optimiser = torch.optim.SGD(groups, lr=0.5)
    expected = dense(layer, loss)
    weight.grad, bias.grad = expected.weight, expected.bias
    optimiser.step()
    value, gradients = both_passes(layer, form_of(loss, 37), chunk, update=PlainSGD(0.5, decay))
    assert gradients.weight is None
    assert gradients.bias is None
    same(value, expected.loss)
    same(gradients.features, expected.features)  # of the weight before the step
    same(layer.weight, weight.detach())
    same(layer.bias, bias.detach())


@pytest.mark.parametrize(("lr", "decay"), [(-0.1, 0.0), (math.nan, 0.0), (0.1, -1.0), (math.inf, 0.0)])
def test_a_step_that_makes_no_sense_is_refused(lr: float, decay: float) -> None:
    with pytest.raises(UsageError, match="finite number, 0 or more"):
        PlainSGD(lr, decay)


# --- other types than float64


@EVERY
@pytest.mark.parametrize("weight_type", [torch.float32, torch.bfloat16, torch.float16])
def test_statistics_are_float32_whatever_the_weights_type(
    key: str, weight_type: torch.dtype, make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    half = make_layer(m=4, k=300, d=8, dtype=weight_type)
    loss = make_loss(key, 300)
    rows = row_statistics(*half, form_of(loss, 300), chunk=64)
    assert rows.true.dtype == torch.float32
    assert {values.dtype for values in rows.statistics.values()} == {torch.float32}
    value, gradients = both_passes(half, form_of(loss, 300), 64)
    exact = dense(type(half)(*(each if each is half.labels else each.double() for each in half)), loss)
    # as close to float64 as float32 is: half-precision weights are read as they stand, their products not rounded
    assert float(value) == pytest.approx(float(exact.loss), rel=1e-5)
    assert gradients.features.dtype == torch.float32
    torch.testing.assert_close(gradients.features.double(), exact.features, rtol=1e-4, atol=1e-5)
    rounded = gradients.dense(300).weight
    assert rounded is not None
    assert rounded.dtype == weight_type
    step = float(torch.finfo(weight_type).eps) * float(exact.weight.abs().max())
    assert float((rounded.double() - exact.weight).abs().max()) <= step + 1e-5


ZIPF = {"q": "class frequencies", "class_frequencies": 1 / torch.arange(1.0, 100_004)}


@pytest.mark.parametrize(("key", "more"), [*((key, {}) for key in KEYS), ("nce", ZIPF)], ids=[*KEYS, "nce of Zipf's"])
def test_in_float32_many_classes_are_as_close_to_float64_as_the_dense_form_is(
    key: str, more: dict[str, Any], make_layer: Make, make_loss: Make, dense: Make
) -> None:
    classes = 100_003
    exact_layer, single = (make_layer(4, classes, 16, dtype=dtype) for dtype in (torch.float64, torch.float32))
    loss = make_loss(key, classes, **more)
    exact, plain = dense(exact_layer, loss), dense(single, loss)
    value, found = both_passes(single, form_of(loss, classes))

    def off(found: Tensor | None, truth: Tensor) -> float:
        assert found is not None
        return float((found.double() - truth).abs().max() / truth.abs().max())

    assert off(value, exact.loss) <= 4 * off(plain.loss, exact.loss) + 5e-7
    assert off(found.features, exact.features) <= 4 * off(plain.features, exact.features) + 1e-6
    assert off(found.dense(classes).weight, exact.weight) <= 4 * off(plain.weight, exact.weight) + 1e-6


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("key", ["batch-ce", "max-margin"])
def test_half_precision_weights_are_rounded_once_in_a_step(
    key: str, decay: float, make_layer: Make, make_loss: Make, dense: Make
) -> None:
    half = make_layer(m=6, k=40, d=8, dtype=torch.bfloat16)
    loss = make_loss(key, 40)
    double = type(half)(*(each if each is half.labels else each.double() for each in half))
    expected = dense(double, loss)
    wanted = (1 - 0.5 * decay) * double.weight - 0.5 * expected.weight
    both_passes(half, form_of(loss, 40), 16, update=PlainSGD(0.5, decay))
    half_steps = torch.exp2(wanted.abs().log2().floor() - 8)  # of 8 significant bits
    assert bool(((half.weight.double() - wanted).abs() <= half_steps + 1e-6).all())  # float32's sums: 1e-6


def test_autocast_does_not_round_the_logits(make_layer: Make, make_loss: Make) -> None:
    layer, form = make_layer(dtype=torch.float32), form_of(make_loss("ce", 37), 37)
    plain = row_statistics(*layer, form)
    with torch.autocast("cpu", torch.bfloat16):
        cast = row_statistics(*layer, form)
        _, found = coefficients(form, cast)
        inside = backward(*layer, form, found)
    assert torch.equal(plain.statistics["lse"], cast.statistics["lse"])
    assert torch.equal(inside.features, backward(*layer, form, found).features)


def test_float32_far_out_is_finite(make_loss: Make) -> None:
    labels = torch.tensor([1, 0])
    features = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    weight = torch.tensor([[1.0, 0], [0, 1], [0.5, -0.5]])
    for key in KEYS:
        value, gradients = both_passes((features, weight, None, labels), form_of(make_loss(key, 3), 3), 2)
        assert value.isfinite()
        assert gradients.features.isfinite().all()
        rows = gradients.dense(3).weight
        assert rows is not None
        assert rows.isfinite().all()


# --- very many classes


@EVERY
def test_370_727_classes(key: str, make_layer: Make, make_loss: Make, dense: Make, same: Make) -> None:
    classes = 370_727
    layer, loss = make_layer(2, classes, 3), make_loss(key, classes)
    assert_dense(both_passes(layer, form_of(loss, classes), 50_001), dense(layer, loss), same)


@pytest.mark.slow
@EVERY
def test_370_727_classes_in_chunks_as_they_come_and_in_shards(
    key: str, make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    classes = 370_727
    layer, loss = make_layer(8, classes, 32), make_loss(key, classes)
    expected = dense(layer, loss)
    assert_dense(both_passes(layer, form_of(loss, classes)), expected, same)
    thirds = (0, 123_576, 247_152, classes)
    assert_dense(over_shards(layer, form_of(loss, classes), thirds, 999), expected, same)


# --- memory


#: Bytes of a chunk of 100 classes' logits of 6 examples in float64, with their margins.
CHUNK_BYTES = 8 * 6 * (100 + 2 * MARGIN)


@EVERY
def test_in_place_neither_all_logits_nor_a_second_weight_is_made(
    key: str, make_layer: Make, make_loss: Make, memory_made: Any
) -> None:
    layer, form = make_layer(6, 3000, 50), form_of(make_loss(key, 3000), 3000)
    with memory_made:
        both_passes(layer, form, 100, update=PlainSGD(0.1, 0.2))
    assert max(memory_made.sizes) <= CHUNK_BYTES  # all logits are 23 times as much, the weight 189 times


@EVERY
def test_with_an_optimiser_the_gradients_alone_are_larger_than_a_chunk(
    key: str, make_layer: Make, make_loss: Make, memory_made: Any
) -> None:
    layer, form = make_layer(6, 3000, 50), form_of(make_loss(key, 3000), 3000)
    with memory_made:
        both_passes(layer, form, 100)[1].dense(3000)
    assert sorted(size for size in memory_made.sizes if size > CHUNK_BYTES) == [8 * 3000, 8 * 3000 * 50]


# --- shards and what is wrong with them


def test_an_empty_shard_adds_nothing(make_layer: Make, make_loss: Make) -> None:
    layer = make_layer()
    for key in KEYS:
        form = form_of(make_loss(key, 37), 37)
        empty = row_statistics(*layer.shard(37, 37), form, first_class=37)
        whole = row_statistics(*layer, form)
        merged = RowStatistics.merged([empty, whole])
        assert torch.equal(merged.true, whole.true)
        for name, values in whole.statistics.items():
            torch.testing.assert_close(merged.statistics[name], values, rtol=1e-15, atol=0)
        _, found = coefficients(form, merged)
        gradients = backward(*layer.shard(37, 37), form, found, first_class=37)
        assert not gradients.features.any()
        assert gradients.weight is not None
        assert gradients.weight.shape == (0, 5)


def test_true_logits_of_another_shard_are_zero(make_layer: Make, make_loss: Make) -> None:
    layer, form = make_layer(), form_of(make_loss("ce", 37), 37)
    true = row_statistics(*layer.shard(0, 20), form).true
    here = layer.labels < 20
    assert here.any()
    assert not here.all()
    logits = layer.features @ layer.weight.t() + layer.bias
    torch.testing.assert_close(true, torch.where(here, logits.gather(1, layer.labels[:, None])[:, 0], 0))


def changed(layer: Any, **fields: Any) -> Any:
    return [
        fields.get(name, value) for name, value in zip(("features", "weight", "bias", "labels"), layer, strict=True)
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"features": torch.zeros(6, 4)}, r"give \(m, d\) and \(k, d\)"),
        ({"features": torch.zeros(5)}, r"give \(m, d\) and \(k, d\)"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, "one for each of 6 examples"),
        ({"features": torch.zeros(0, 5), "labels": torch.zeros(0, dtype=torch.long)}, "at least 1"),
        ({"bias": torch.zeros(36)}, "one for each of 37 classes"),
        ({"features": torch.zeros(6, 5, dtype=torch.long)}, "floating"),
        ({"weight": torch.zeros(37, 5, dtype=torch.int8)}, "floating"),
        ({"labels": torch.zeros(6)}, "an integer"),
        ({"labels": torch.zeros(6, dtype=torch.bool)}, "an integer"),
        (
            {"labels": torch.tensor([0, 1, 37, -1, 2, 3])},
            "2 of 6 labels lie outside 0 .. 36; the first is 37, number 2",
        ),
        ({"weight": torch.zeros(37, 5, device="meta")}, "one device"),
        ({"weight": torch.zeros(38, 5), "bias": None}, "a shard lies within them"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], reason: str, make_layer: Make, make_loss: Make) -> None:
    form = form_of(make_loss("ce", 37), 37)
    with pytest.raises(UsageError, match=reason):
        row_statistics(*changed(make_layer(), **fields), form)


def test_chunks_and_places_of_shards_are_checked(make_layer: Make, make_loss: Make) -> None:
    layer, form = make_layer(), form_of(make_loss("ce", 37), 37)
    with pytest.raises(UsageError, match="chunks of 0 classes"):
        row_statistics(*layer, form, chunk=0)
    for first in (-1, 8):
        with pytest.raises(UsageError, match=f"classes {first} .. "):
            row_statistics(*layer.shard(0, 30), form, first_class=first)


def test_a_chunk_suits_the_device_and_never_holds_all_logits() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chunk_size(32, 512, 370_727, cpu) == 2048  # 4 MB of weights
    assert chunk_size(4096, 512, 370_727, cpu) == 256  # 4 MB of logits
    assert chunk_size(1, 2**24, 370_727, cpu) == 64
    assert chunk_size(32, 512, 370_727, gpu) == 46_341  # an eighth of the classes
    assert chunk_size(1024, 128, 370_727, gpu) == 16_384  # 64 MB of logits


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@EVERY
def test_a_gpu_gives_the_same_and_waits_for_nothing(
    key: str, make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    layer, loss = make_layer(8, 5_001, 32), make_loss(key, 5_001)
    form, there = form_of(loss, 5_001), layer.on("cuda")
    both_passes(there, form, 777)
    torch.cuda.set_sync_debug_mode("error")  # a value read back to the host raises
    try:
        rows = row_statistics(*there, form, chunk=777)
        value, found = coefficients(form, rows)
        if key not in MARGINS:  # they ask once whether anything ties
            backward(*there, form, found, chunk=777)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    gradients = backward(*there, form, found, chunk=777).dense(5_001)
    host = Gradients(gradients.features.cpu(), gradients.weight.cpu(), gradients.bias.cpu())  # type: ignore[union-attr]
    assert_dense((value.cpu(), host), dense(layer, loss), same, 1e-11)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_float32_is_as_close_to_float64_as_the_dense_forms(
    make_layer: Make, make_loss: Make, dense: Make
) -> None:
    exact_layer = make_layer(32, 20_000, 128)
    single = make_layer(32, 20_000, 128, dtype=torch.float32).on("cuda")
    loss = make_loss("batch-ce", 20_000)
    exact, plain = dense(exact_layer, loss), dense(single, loss)
    value, gradients = both_passes(single, form_of(loss, 20_000))

    def off(found: Tensor, truth: Tensor) -> float:
        return float((found.cpu().double() - truth).abs().max())

    assert off(value, exact.loss) <= 2 * off(plain.loss, exact.loss) + 1e-5
    assert off(gradients.features, exact.features) <= 2 * off(plain.features, exact.features) + 1e-6


# --- what passes between


def test_coefficients_are_the_forms_gradients_and_scale(make_layer: Make, make_loss: Make) -> None:
    layer, form = make_layer(), form_of(make_loss("batch-ce", 37), 37)
    rows = row_statistics(*layer, form)
    value, found = coefficients(form, rows)
    assert isinstance(found, Coefficients)
    shares = rows.statistics["lse"].softmax(0)
    torch.testing.assert_close(found.statistics["lse"], shares)
    torch.testing.assert_close(found.true, torch.full_like(shares, -1 / 6))
    torch.testing.assert_close(found.times(3.0).true, torch.full_like(shares, -1 / 2))
    assert torch.equal(found.of(slice(2, 4)).statistics["lse"], found.statistics["lse"][2:4])
    assert not value.requires_grad


def test_configured_defaults_reach_the_layer(make_layer: Make, dense: Make, same: Make) -> None:
    loss: Configured = configured("self-norm", classes=37)
    layer = make_layer()
    assert loss.setting.hyperparameters == {"alpha": 0.1}
    assert_dense(both_passes(layer, form_of(loss, 37)), dense(layer, loss), same)
