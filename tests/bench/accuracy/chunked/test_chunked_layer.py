"""The layer and its loss as training uses them: under autograd, with an optimiser, and with SGD in place."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bench.accuracy.chunked import ChunkedLoss, form_of, in_place_step
from bench.accuracy.losses import registry
from bench.errors import UsageError

KEYS = tuple(registry())
EVERY = pytest.mark.parametrize("key", KEYS)
Make = Callable[..., Any]


def with_gradients(layer: Any) -> list[torch.Tensor]:
    return [layer.features.clone().requires_grad_(), nn.Parameter(layer.weight), nn.Parameter(layer.bias), layer.labels]


@EVERY
@pytest.mark.parametrize("chunk", [4, None])
def test_autograd_sees_one_function_with_the_dense_forms_gradients(
    key: str, chunk: int | None, make_layer: Make, make_loss: Make, dense: Make, same: Make
) -> None:
    layer, loss = make_layer(), make_loss(key, 37)
    expected = dense(layer, loss)
    features, weight, bias, labels = with_gradients(layer)
    value = ChunkedLoss(form_of(loss, 37), chunk)(features, weight, bias, labels)
    (2 * value).backward()
    same(value.detach(), expected.loss)
    same(features.grad, 2 * expected.features)
    same(weight.grad, 2 * expected.weight)
    same(bias.grad, 2 * expected.bias)


@EVERY
def test_gradients_by_finite_differences(key: str, make_layer: Make, make_loss: Make) -> None:
    features, weight, bias, labels = with_gradients(make_layer(3, 7, 4, seed=5))
    loss = ChunkedLoss(form_of(make_loss(key, 7), 7), 3)
    assert torch.autograd.gradcheck(lambda *inputs: loss(*inputs, labels), (features, weight, bias))


def test_it_is_differentiable_once(make_layer: Make, make_loss: Make) -> None:
    features, weight, bias, labels = with_gradients(make_layer())
    value = ChunkedLoss(form_of(make_loss("ce", 37), 37))(features, weight, bias, labels)
    with pytest.raises(UsageError, match="differentiable once"):
        torch.autograd.grad(value, features, create_graph=True)


def test_a_weight_that_changed_before_the_backward_is_noticed(make_layer: Make, make_loss: Make) -> None:
    features, weight, bias, labels = with_gradients(make_layer())
    value = ChunkedLoss(form_of(make_loss("ce", 37), 37))(features, weight, bias, labels)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()  # type: ignore[no-untyped-call]


@EVERY
def test_a_network_trains_as_with_all_logits(key: str, make_loss: Make) -> None:
    torch.manual_seed(0)
    loss = make_loss(key, 23)
    body, top = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).double(), nn.Linear(8, 23).double()
    twins = copy.deepcopy((body, top))
    images, labels = torch.randn(12, 6, dtype=torch.float64), torch.randint(23, (12,))
    chunked = ChunkedLoss(form_of(loss, 23), 5)
    optimisers = [
        torch.optim.AdamW([*pair[0].parameters(), *pair[1].parameters()], lr=0.01) for pair in ((body, top), twins)
    ]
    for _ in range(5):
        for optimiser in optimisers:
            optimiser.zero_grad()
        chunked(body(images), top.weight, top.bias, labels).backward()  # type: ignore[no-untyped-call]
        loss(twins[1](twins[0](images)), labels).backward()  # type: ignore[no-untyped-call]
        for optimiser in optimisers:
            optimiser.step()
    for ours, theirs in zip(body.parameters(), twins[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)  # AdamW divides by gradients that may be tiny


@EVERY
def test_steps_in_place_are_steps_of_sgd(key: str, make_loss: Make) -> None:
    torch.manual_seed(1)
    loss = make_loss(key, 23)
    body, top = nn.Linear(6, 8).double(), nn.Linear(8, 23).double()
    twin_body, twin_top = copy.deepcopy((body, top))
    images, labels = torch.randn(12, 6, dtype=torch.float64), torch.randint(23, (12,))
    form = form_of(loss, 23)
    sgd, twin_sgd = (torch.optim.SGD(own, lr=0.1) for own in (body.parameters(), twin_body.parameters()))
    twin_top_sgd = torch.optim.SGD(
        [{"params": [twin_top.weight], "weight_decay": 0.01}, {"params": [twin_top.bias]}], lr=0.1
    )
    for _ in range(5):
        for optimiser in (sgd, twin_sgd, twin_top_sgd):
            optimiser.zero_grad()
        features = body(images)
        step = in_place_step(features, top.weight, top.bias, labels, form, 0.1, weight_decay=0.01, chunk=5)
        features.backward(step.features)
        expected = loss(twin_top(twin_body(images)), labels)
        expected.backward()
        torch.testing.assert_close(step.loss, expected.detach(), rtol=1e-12, atol=1e-13)
        for optimiser in (sgd, twin_sgd, twin_top_sgd):
            optimiser.step()
    torch.testing.assert_close(top.weight, twin_top.weight, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(top.bias, twin_top.bias, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(body.weight, twin_body.weight, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("key", ["max-margin", "batch-max-margin"])
def test_sparse_gradients_are_the_dense_ones(key: str, make_layer: Make, make_loss: Make, dense: Make) -> None:
    layer, loss = make_layer(), make_loss(key, 37)
    expected = dense(layer, loss)
    features, weight, bias, labels = with_gradients(layer)
    ChunkedLoss(form_of(loss, 37), sparse=True)(features, weight, bias, labels).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.is_sparse
    assert weight.grad._nnz() <= 2 * 6 + 2
    torch.testing.assert_close(weight.grad.to_dense(), expected.weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(bias.grad.to_dense(), expected.bias, rtol=1e-12, atol=1e-14)
    torch.optim.SGD([weight, bias], lr=0.1).step()


def test_of_ties_sparse_gradients_have_every_tied_row(make_layer: Make, make_loss: Make, dense: Make) -> None:
    layer, loss = make_layer(), make_loss("max-margin", 37)
    layer.weight[10:20], layer.bias[10:20] = layer.weight[10].clone(), 100.0
    expected = dense(layer, loss)
    features, weight, bias, labels = with_gradients(layer)
    ChunkedLoss(form_of(loss, 37), 7, sparse=True)(features, weight, bias, labels).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.is_sparse
    torch.testing.assert_close(weight.grad.to_dense(), expected.weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(features.grad, expected.features, rtol=1e-12, atol=1e-14)


def test_gradients_have_the_types_of_what_they_belong_to(make_layer: Make, make_loss: Make) -> None:
    features, weight, bias, labels = with_gradients(make_layer(dtype=torch.bfloat16))
    for key in ("ce", "max-margin"):
        form = form_of(make_loss(key, 37), 37)
        value = ChunkedLoss(form)(features, weight, bias, labels)
        assert value.dtype == torch.float32
        assert {each.dtype for each in torch.autograd.grad(value, (features, weight, bias))} == {torch.bfloat16}
        assert in_place_step(features, weight, bias, labels, form, 0.1).features.dtype == torch.bfloat16


def test_what_cannot_be_done_is_refused(make_layer: Make, make_loss: Make) -> None:
    layer = make_layer()
    with pytest.raises(UsageError, match="in every row: leave sparse out"):
        ChunkedLoss(form_of(make_loss("ce", 37), 37), sparse=True)
    other = form_of(make_loss("ce", 38), 38)
    for act in (lambda: ChunkedLoss(other)(*layer), lambda: in_place_step(*layer, other, 0.1)):
        with pytest.raises(UsageError, match="a layer of 37 classes and a loss over 38"):
            act()
    form = form_of(make_loss("ce", 37), 37)
    before = layer.weight.clone()
    with pytest.raises(UsageError, match="learning rate of -1"):
        in_place_step(*layer, form, -1)
    with pytest.raises(UsageError, match="labels lie outside"):
        in_place_step(layer.features, layer.weight, layer.bias, layer.labels + 37, form, 0.1)
    assert torch.equal(layer.weight, before)
