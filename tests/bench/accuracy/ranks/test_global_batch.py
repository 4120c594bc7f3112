"""Over any number of ranks and accumulation steps, the losses and gradients of one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.accuracy.chunked import form_of
from bench.accuracy.losses import configured
from bench.accuracy.ranks import Alone, global_loss, global_mean, own_noise, own_rows, refuse_own_draws
from bench.accuracy.ranks.global_batch import BUCKET_BYTES, _buckets, statistics_of_logits
from bench.errors import UsageError

Outcomes = list[dict[str, Any]]


@pytest.mark.parametrize("route", ["logits", "chunked"])
def test_losses_and_gradients_of_one_process(
    outcomes: Outcomes, cases: dict[str, Any], close: Callable[..., None], route: str
) -> None:
    compared = 0
    for outcome in outcomes:
        for (name, _), found in outcome[route].items():
            expected = cases["one_process"](name)
            assert found.keys() == expected.keys()
            for part, value in found.items():
                close(value, expected[part])
                compared += 1
    assert compared == len(outcomes) * len(cases["LOSSES"]) * 3 * 5


def test_averaging_over_ranks_would_be_another_loss(cases: dict[str, Any]) -> None:
    """What the tests above would miss if the examples were too alike to tell."""
    images, labels = cases["minibatch"]()
    logits = cases["network"]()(images).detach()
    for name in ("batch-ce", "batch-max-margin", "ce"):
        loss = cases["loss_of"](name)
        rows = [slice(0, 3), slice(3, 5), slice(5, 7)]
        averaged = torch.stack([loss(logits[own], labels[own]) for own in rows]).mean()
        assert abs(float(averaged - loss(logits, labels))) > 1e-3, name


def test_half_precision_logits_are_read_as_float32() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    loss = configured("batch-ce", classes=5)
    labels = torch.tensor([0, 1, 2, 3])
    value = global_loss(logits, labels, form_of(loss, 5), Alone())
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(loss(logits.detach(), labels)), rel=1e-6)
    value.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(("shape", "labels"), [((4, 6), 4), ((4, 5), 3), ((4,), 4)])
def test_logits_that_do_not_fit(shape: tuple[int, ...], labels: int) -> None:
    form = form_of(configured("ce", classes=5), 5)
    with pytest.raises(UsageError, match=r"for a loss over 5 classes: give \(m, 5\) and \(m,\)"):
        statistics_of_logits(torch.zeros(shape), torch.zeros(labels, dtype=torch.int64), form)


def test_fewer_examples_than_ranks(as_threads: Callable[..., list[Any]]) -> None:
    found = as_threads(3, lambda ranks: own_rows(2, ranks))
    assert all("a minibatch of 2 examples over 3 ranks" in str(each) for each in found)
    assert as_threads(3, lambda ranks: own_rows(7, ranks)) == [slice(0, 3), slice(3, 5), slice(5, 7)]


# --- losses that draw classes


def test_a_mean_over_uneven_ranks(as_threads: Callable[..., list[Any]]) -> None:
    values = torch.arange(7.0, dtype=torch.float64) ** 2

    def of_rank(ranks: Any) -> tuple[float, float]:
        own = values[own_rows(7, ranks)].clone().requires_grad_()
        mean, part = global_mean(own.mean(), len(own), ranks)
        part.backward()
        assert own.grad is not None
        return float(mean), float(own.grad[0])

    for mean, slope in as_threads(3, of_rank):
        assert mean == pytest.approx(float(values.mean()), rel=1e-14)
        assert slope == pytest.approx(1 / 7, rel=1e-14)


@pytest.mark.parametrize("name", ["nce", "negative-sampling", "nce shared"])
def test_ranks_draw_what_one_process_draws(
    cases: dict[str, Any], as_threads: Callable[..., list[Any]], name: str
) -> None:
    whole = cases["sampled_form"](name).draw(7)
    found = as_threads(3, lambda ranks: own_noise(cases["sampled_form"](name), 7, ranks))
    if name.endswith("shared"):
        assert all(torch.equal(each, whole) for each in found)
    else:
        assert torch.equal(torch.cat(found), whole)


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2), (None, None)])
def test_generators_in_different_states_are_refused(
    as_threads: Callable[..., list[Any]], seeds: tuple[int | None, ...]
) -> None:
    def of_rank(ranks: Any) -> None:
        seed = seeds[ranks.rank]
        refuse_own_draws(None if seed is None else torch.Generator().manual_seed(seed), ranks)

    found = as_threads(2, of_rank)
    if seeds == (1, 1):
        assert found == [None, None]
    else:
        assert all("ranks would draw different noise classes" in str(each) for each in found)
    refuse_own_draws(None, Alone())


# --- buckets


def test_small_gradients_share_a_message_and_large_ones_are_not_copied() -> None:
    small, double = torch.ones(10), torch.ones(10, dtype=torch.float64)
    large = torch.empty(BUCKET_BYTES // 4 + 1, device="meta")
    found = _buckets([small, small, large, small, double, double])
    assert [len(bucket) for bucket in found] == [2, 1, 1, 2]
    assert found[1][0] is large
