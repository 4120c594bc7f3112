"""Batch norm over ranks: outputs, gradients and running statistics of one process's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bench.accuracy.ranks import Alone, over_ranks, own_rows
from bench.accuracy.ranks.batch_norm import GlobalBatchNorm
from bench.errors import UsageError

Outcomes = list[dict[str, Any]]


def test_as_in_one_process(outcomes: Outcomes, cases: dict[str, Any], close: Callable[..., None]) -> None:
    """Two steps of SGD with torch's own batch norm on all examples, and an evaluation."""
    for kind in cases["NORMS"]:
        expected = cases["batch_norm"](Alone(), kind)
        of_ranks = [outcome["norms"][kind] for outcome in outcomes]
        for name in ("outputs 0", "inputs 0", "outputs 1", "inputs 1", "evaluated"):
            close(torch.cat([each[name] for each in of_ranks]), expected[name])
        for each in of_ranks:
            assert each["state"].keys() == expected["state"].keys(), "names stay what they were"
            for name, tensor in each["state"].items():
                close(tensor, expected["state"][name])
            over = "GlobalBatchNorm" in each["kinds"]
            assert over == (len(outcomes) > 1)


def test_its_gradient_is_that_of_differences(as_threads: Callable[..., list[Any]]) -> None:
    images = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def of_rank(ranks: Any) -> bool:
        layer = GlobalBatchNorm(nn.BatchNorm1d(2).double(), Alone())
        return torch.autograd.gradcheck(lambda x: layer(x).square(), images.clone().requires_grad_())

    assert as_threads(1, of_rank) == [True]


def test_half_precision_is_summed_in_float32(as_threads: Callable[..., list[Any]]) -> None:
    images = (100 + torch.randn(512, 3, generator=torch.Generator().manual_seed(0))).bfloat16()

    def of_rank(ranks: Any) -> torch.Tensor:
        layer = GlobalBatchNorm(nn.BatchNorm1d(3), ranks)
        found = layer(images[own_rows(512, ranks)])
        assert found.dtype == torch.bfloat16
        return found

    whole = torch.cat(as_threads(2, of_rank)).double()
    expected = nn.functional.batch_norm(images.double(), None, None, training=True)
    torch.testing.assert_close(whole, expected, rtol=2**-8, atol=1e-3)


def test_one_example_has_no_variance() -> None:
    layer = GlobalBatchNorm(nn.BatchNorm1d(2), Alone())
    with pytest.raises(ValueError, match="batch norm of 1 value a channel"):
        layer(torch.ones(1, 2))
    with pytest.raises(ValueError, match="1 axes"):
        layer(torch.ones(2))


class Own(nn.BatchNorm2d):
    pass


def test_a_batch_norm_of_another_kind_is_refused(as_threads: Callable[..., list[Any]]) -> None:
    found = as_threads(2, lambda ranks: over_ranks(nn.Sequential(Own(3)), ranks))
    assert all(isinstance(each, UsageError) and "'0' is a Own" in str(each) for each in found)


def test_nothing_changes_where_there_is_nothing_to_do(as_threads: Callable[..., list[Any]]) -> None:
    alone = nn.Sequential(nn.BatchNorm1d(3))
    assert over_ranks(alone, Alone()) is alone
    assert type(alone[0]) is nn.BatchNorm1d
    plain = nn.Linear(2, 2)
    assert as_threads(2, lambda ranks: over_ranks(plain, ranks)) == [plain, plain]
    (only, _) = as_threads(2, lambda ranks: over_ranks(nn.BatchNorm1d(3), ranks))
    assert isinstance(only, GlobalBatchNorm)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_it_is_torchs_own(as_threads: Callable[..., list[Any]]) -> None:
    module = nn.Sequential(nn.BatchNorm1d(3)).cuda()
    (found, _) = as_threads(2, lambda ranks: over_ranks(module, ranks))
    assert isinstance(found[0], nn.SyncBatchNorm)
