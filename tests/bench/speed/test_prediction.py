from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from archs.registry import Network, find
from archs.top_layer import TopLayer, inspect
from bench.speed import prediction
from bench.speed.prediction import (
    Rates,
    Work,
    backbone_operations,
    cached_weight_bytes,
    calibrate,
    least_seconds,
    solve_rates,
    top_layer_work,
)


class Replay:
    """A device with a clock of its own: every call takes as long as it is told, every wait what waiting takes."""

    def __init__(self, call_s: float, wait_s: float = 0.0) -> None:
        self.now = 0.0
        self.calls = 0
        self.waits = 0
        self._call_s = call_s
        self._wait_s = wait_s

    def step(self) -> None:
        self.calls += 1
        self.now += self._call_s

    def wait(self) -> None:
        self.waits += 1
        self.now += self._wait_s

    def clock(self) -> float:
        return self.now

    def least_seconds(self, stretch_s: float) -> float:
        return least_seconds(self.step, self.wait, stretch_s=stretch_s, clock=self.clock)


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


@pytest.mark.parametrize("call_s", [1e-6, 1e-4, 1e-2])
def test_what_launching_and_waiting_take_hardly_changes_the_time_of_a_call(call_s: float) -> None:
    device = Replay(call_s, wait_s=20e-6)
    assert device.least_seconds(prediction.STRETCH_SECONDS) == pytest.approx(call_s, rel=0.01)


def test_rates_hardly_change_with_20_us_a_stretch() -> None:
    """A GPU of 50 TFLOP/s and 2 TB/s; its cached probe takes 4 us, a fifth of what waiting for it takes."""
    truth = Rates(50e12, 2e12)
    cached, streamed = Work(200 * 10**6, 12 * 2**20), Work(8 * 10**9, 512 * 2**20)
    cached_s = Replay(cached.operations / truth.operations_per_s, 20e-6).least_seconds(prediction.STRETCH_SECONDS)
    streamed_s = Replay(truth.seconds(streamed), 20e-6).least_seconds(prediction.STRETCH_SECONDS)
    found = solve_rates(cached, cached_s, streamed, streamed_s)
    assert found.operations_per_s == pytest.approx(truth.operations_per_s, rel=0.02)
    assert found.bytes_per_s == pytest.approx(truth.bytes_per_s, rel=0.02)


def test_without_a_stretch_there_is_one_call_between_two_readings() -> None:
    device = Replay(1e-3)
    assert device.least_seconds(0.0) == pytest.approx(1e-3)
    assert device.calls == device.waits == 1 + prediction.PROBE_REPEATS


def test_a_slow_call_is_repeated_until_its_time_is_over() -> None:
    device = Replay(0.4)
    assert device.least_seconds(0.0) == pytest.approx(0.4)
    assert device.calls == 1 + 3  # 0.4, 0.8 and 1.2 s: the third reading ends the second that a probe has


def test_the_cached_weight_of_a_cpu_is_always_the_same() -> None:
    assert cached_weight_bytes(torch.device("cpu")) == prediction.CACHED_WEIGHT_BYTES


@pytest.mark.parametrize(
    ("cache", "expected"), [({"L2_cache_size": 50 * 2**20}, 50 * 2**18), ({"L2_cache_size": 2**20}, 2**21), ({}, 2**21)]
)
def test_the_cached_weight_of_a_gpu_is_a_quarter_of_its_cache(
    cache: dict[str, int], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("Properties", (), cache))
    assert cached_weight_bytes(torch.device("cuda:0")) == expected


@pytest.mark.gpu
def test_rates_of_a_gpu_are_those_of_a_gpu() -> None:
    # the slowest that torch still runs on, a Tesla T4, does 8 TFLOP/s and 320 GB/s
    rates = calibrate(torch.device("cuda:0"), torch.float32, 32, largest_bytes=2**30, free_bytes=2**32)
    assert rates.operations_per_s > 1e12
    assert rates.bytes_per_s > 1e11


def two_layers(**place: object) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(6, 5, **place), nn.Linear(5, 3, **place)).eval()  # type: ignore[arg-type]


TOP = TopLayer(path="1", features=5, classes=3, bias=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_operations_are_counted_in_the_dtype_of_the_network(dtype: torch.dtype) -> None:
    assert backbone_operations(Network("mine", (6,), two_layers(dtype=dtype)), TOP) == 2 * 6 * 5


def test_operations_are_counted_where_the_network_is() -> None:
    assert backbone_operations(Network("mine", (6,), two_layers(device="cpu")), TOP) == 2 * 6 * 5


@pytest.mark.gpu
def test_a_network_on_a_gpu_is_counted_there() -> None:
    build = two_layers(device="cuda", dtype=torch.float16)
    assert backbone_operations(Network("mine", (6,), build), TOP) == 2 * 6 * 5


def test_operations_of_a_known_network() -> None:
    # torchvision states 4.09 GFLOPs (multiply-adds) for ResNet-50 at 224; here a multiply-add is two
    resnet = find("resnet50")
    assert (backbone_operations(resnet, inspect(resnet).top) + 2 * 2048 * 1000) / 2e9 == pytest.approx(4.09, rel=0.01)
