"""A layer whose classes are split over ranks makes the step of one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.accuracy.chunked import form_of, in_place_sampled_step, in_place_step, row_gradients
from bench.accuracy.losses import configured
from bench.accuracy.ranks import Alone, ShardedTopLayer
from bench.errors import UsageError

Outcomes = list[dict[str, Any]]


def one_process(cases: dict[str, Any], name: str) -> dict[str, Tensor]:
    """Losses of all classes: autograd through all logits. Sampled: chunked.sampled, which that is tested against."""
    images, labels = cases["minibatch"]()
    backbone, top = cases["network"]()[:2], cases["network"]()[2]
    features = backbone(images).detach().requires_grad_()
    weight, bias = top.weight.detach().clone(), top.bias.detach().clone()
    lr, decay = cases["LR"], cases["DECAY"]
    if name.startswith("sampled "):
        kind = name.removeprefix("sampled ")
        loss, found = row_gradients(features, weight, bias, labels, cases["sampled_form"](kind))
        whole = found.dense(len(weight))
        of_features, of_weight, of_bias = found.features, whole.weight, whole.bias
        in_place_sampled_step(features, weight, bias, labels, cases["sampled_form"](kind), lr, weight_decay=decay)
    else:
        loss = cases["loss_of"](name)(top(features), labels)
        of_features, of_weight, of_bias = torch.autograd.grad(loss, [features, top.weight, top.bias])
        loss = loss.detach()
        weight = weight * (1 - lr * decay) - lr * of_weight
        bias = bias - lr * of_bias
    assert of_weight is not None
    assert of_bias is not None
    return {
        "loss": loss,
        "features": of_features,
        "weight": of_weight,
        "bias": of_bias,
        "stepped weight": weight,
        "stepped bias": bias,
    }


def test_the_step_of_one_process(outcomes: Outcomes, cases: dict[str, Any], close: Callable[..., None]) -> None:
    compared = 0
    for case in outcomes[0]["sharded"]:
        expected = one_process(cases, case.split("/")[0])
        of_ranks = [outcome["sharded"][case] for outcome in outcomes]
        for each in of_ranks:
            for name in ("loss", "step loss", "validation"):
                close(each[name], expected["loss"])
            assert torch.equal(each["loss"], of_ranks[0]["loss"]), "the same bits on all ranks"
        for name in ("features", "step features"):
            close(torch.cat([each[name] for each in of_ranks]), expected["features"])
        for name in ("weight", "bias", "stepped weight", "stepped bias"):
            close(torch.cat([each[name] for each in of_ranks]), expected[name])
        compared += 1
    assert compared == 2 * (len(cases["LOSSES"]) + len(cases["SAMPLED"]))


def test_the_cases_are_uneven(outcomes: Outcomes, cases: dict[str, Any]) -> None:
    """An odd number of classes, a shard of one class, and a rank without any label of its shard."""
    sizes = [len(outcome["sharded"]["ce/uneven"]["weight"]) for outcome in outcomes]
    assert sum(sizes) == cases["K"] == 11
    if len(outcomes) > 1:
        assert min(sizes) == 1
    if len(outcomes) > 2:
        assert int(cases["minibatch"]()[1].max()) < 11 - sizes[-1]


def test_what_does_not_fit_is_refused_by_all(outcomes: Outcomes) -> None:
    for name, said in {
        "labels": "labels lie outside 0 .. 10",
        "width": "features of shape",
        "gap": "is to be held once" if len(outcomes) > 1 else None,
    }.items():
        lines = {outcome["refused"].get(name) for outcome in outcomes}
        assert len(lines) == 1, lines
        (line,) = lines
        if said is None:
            continue
        assert line is not None
        assert said in line


def test_more_ranks_than_classes(as_threads: Callable[..., list[Any]], close: Callable[..., None]) -> None:
    form = form_of(configured("batch-max-margin", classes=2), 2)
    source = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(n, 4, generator=source, dtype=torch.float64) for n in (6, 2))
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    whole = weight.clone()
    expected = in_place_step(features, whole, None, labels, form, 0.1)

    def of_rank(ranks: Any) -> tuple[Tensor, Tensor, Tensor]:
        layer = nn.Linear(4, 2, bias=False).double()
        layer.weight.data.copy_(weight)
        sharded = ShardedTopLayer.of_layer(layer, form, ranks)
        own = slice(2 * ranks.rank, 2 * ranks.rank + 2)
        loss, of_features = sharded.in_place_step(features[own], labels[own], 0.1)
        return loss, of_features, sharded.weight

    found = as_threads(3, of_rank)
    assert [len(own) for _, _, own in found] == [1, 1, 0]
    close(found[0][0], expected.loss)
    close(torch.cat([of_features for _, of_features, _ in found]), expected.features)
    close(torch.cat([own for _, _, own in found]), whole)


def test_bfloat16_rows_have_float32_statistics(as_threads: Callable[..., list[Any]]) -> None:
    form = form_of(configured("ce", classes=9), 9)
    source = torch.Generator().manual_seed(0)
    features, weight = torch.randn(4, 8, generator=source), torch.randn(9, 8, generator=source).bfloat16()
    labels = torch.tensor([0, 3, 8, 5])
    whole = weight.clone()
    expected = in_place_step(features, whole, None, labels, form, 0.1)

    def of_rank(ranks: Any) -> tuple[Tensor, Tensor]:
        held = slice(0, 5) if ranks.rank == 0 else slice(5, 9)
        layer = ShardedTopLayer(weight[held].clone(), None, form, ranks)
        own = slice(2 * ranks.rank, 2 * ranks.rank + 2)
        loss, _ = layer.in_place_step(features[own], labels[own], 0.1)
        return loss, layer.weight

    found = as_threads(2, of_rank)
    assert found[0][0].dtype == torch.float32
    torch.testing.assert_close(found[0][0], expected.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.cat([own for _, own in found]), whole, rtol=2**-7, atol=0)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ([(0, 5), (5, 4)], "shards of 9 classes for a loss over 11"),
        ([(0, 5), (6, 5)], "classes 5 .. 5 are in no shard"),
        ([(0, 6), (5, 6)], "classes 5 .. 5 are in two shards"),
    ],
)
def test_shards_that_are_no_layer(
    as_threads: Callable[..., list[Any]], weights: list[tuple[int, int]], reason: str
) -> None:
    form = form_of(configured("ce", classes=11), 11)

    def of_rank(ranks: Any) -> ShardedTopLayer:
        first, count = weights[ranks.rank]
        return ShardedTopLayer(torch.zeros(count, 3), None, form, ranks, first_class=first)

    assert all(isinstance(each, UsageError) and reason in str(each) for each in as_threads(2, of_rank))


def test_ranks_that_would_draw_other_classes(cases: dict[str, Any], as_threads: Callable[..., list[Any]]) -> None:
    def of_rank(ranks: Any) -> ShardedTopLayer:
        form = cases["sampled_form"]("nce")
        form.generator.manual_seed(ranks.rank)
        return ShardedTopLayer(torch.zeros(6 - ranks.rank, 3), None, form, ranks)

    assert all("ranks would draw different noise classes" in str(each) for each in as_threads(2, of_rank))


def test_shards_of_two_kinds(as_threads: Callable[..., list[Any]]) -> None:
    form = form_of(configured("ce", classes=4), 4)
    found = as_threads(2, lambda ranks: ShardedTopLayer(torch.zeros(2, 3 + ranks.rank), None, form, ranks))
    assert all("shards of one layer have rows of different kinds" in str(each) for each in found)
    alone = ShardedTopLayer(torch.zeros(4, 3), None, form, Alone())
    assert alone.classes == slice(0, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(as_threads: Callable[..., list[Any]]) -> None:
    form = form_of(configured("batch-ce", classes=101), 101)
    features, weight = torch.randn(6, 8), torch.randn(101, 8)
    labels = torch.tensor([0, 100, 50, 51, 7, 7])
    whole = weight.clone()
    expected = in_place_step(features, whole, None, labels, form, 0.1)
    on_cuda = weight.cuda()
    layer = ShardedTopLayer(on_cuda, None, form, Alone())
    found = layer.in_place_step(features.cuda(), labels.cuda(), 0.1)
    torch.testing.assert_close(found.loss.cpu(), expected.loss, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(on_cuda.cpu(), whole, rtol=1e-3, atol=1e-3)
