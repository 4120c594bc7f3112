import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archs.registry import find
from bench.speed.prediction import Rates, Work, backbone_operations, calibrate, solve_rates, top_layer_work


def test_the_work_of_a_small_layer_by_hand() -> None:
    # 2 examples, 3 features, 5 classes: 2*2*3*5 operations and 10 additions of a bias;
    # 15 weights + 5 biases read, 6 features read, 10 logits written, 4 bytes each
    work = top_layer_work(batch_size=2, features=3, classes=5, bias=True, itemsize=4)
    assert work == Work(operations=70, bytes=(15 + 5 + 6 + 10) * 4)


def test_the_papers_largest_layer_as_the_facts_give_it() -> None:
    # 48.6 GFLOP forward and 3.04 GB of weight at k = 370,727, d = 2048, m = 32
    work = top_layer_work(batch_size=32, features=2048, classes=370_727, bias=False, itemsize=4)
    assert work.operations / 1e9 == pytest.approx(48.6, abs=0.05)
    assert work.bytes / 1e9 == pytest.approx(3.04 + 0.047, abs=0.01)


@given(st.floats(1e9, 1e15), st.floats(1e9, 1e13))
def test_rates_are_found_again_from_times_made_with_them(operations_per_s: float, bytes_per_s: float) -> None:
    cached, streamed = Work(10**9, 10**6), Work(10**11, 10**9)
    truth = Rates(operations_per_s, bytes_per_s)
    streamed_s = truth.seconds(streamed)
    found = solve_rates(cached, cached.operations / operations_per_s, streamed, streamed_s)
    assert found.operations_per_s == pytest.approx(operations_per_s)
    # where memory takes under a twentieth of the time its rate cannot be seen, only bounded
    if streamed.bytes / bytes_per_s > 0.051 * streamed_s:
        assert found.bytes_per_s == pytest.approx(bytes_per_s, rel=1e-6)
    else:
        assert found.bytes_per_s <= bytes_per_s * (1 + 1e-6)


def test_calibration_gives_positive_rates_within_the_memory_it_may_use() -> None:
    rates = calibrate(torch.device("cpu"), torch.float32, 2, largest_bytes=2**30, free_bytes=64 * 2**20)
    assert rates.operations_per_s > 1e8
    assert rates.bytes_per_s > 1e7


def test_operations_of_a_known_network() -> None:
    # torchvision states 4.09 GFLOPs (multiply-adds) for ResNet-50 at 224; here a multiply-add is two
    assert backbone_operations(find("resnet50")) / 2e9 == pytest.approx(4.09, rel=0.01)
