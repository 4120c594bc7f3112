from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from archs.registry import Network, find
from archs.top_layer import ClassBank, TopLayer, at_class_count, inspect
from bench.speed import prediction
from bench.speed.prediction import (
    FRESH_BYTES,
    Rates,
    Work,
    backbone_operations,
    cached_weight_bytes,
    calibrate,
    solve_fresh,
    solve_rates,
    top_layer_work,
)


def test_the_work_of_a_small_layer_by_hand() -> None:
    # 2 examples, 3 features, 5 classes: 2*2*3*5 operations and 10 additions of a bias;
    # 15 weights + 5 biases read, 6 features read, 10 logits written, 4 bytes each
    work = top_layer_work(batch_size=2, features=3, classes=5, bias=True, itemsize=4)
    assert work == Work(operations=70, bytes=(15 + 5 + 6 + 10) * 4, logit_bytes=40)


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


def test_fresh_memory_costs_what_filling_it_takes_longer() -> None:
    assert solve_fresh(10**9, fresh_s=1.5, used_s=1.0) == pytest.approx(2e9)


def test_fresh_memory_that_is_no_slower_costs_nothing() -> None:
    assert solve_fresh(10**9, fresh_s=1.0, used_s=1.0) is None


RATES = Rates(operations_per_s=1e11, bytes_per_s=1e10, fresh_bytes_per_s=2e9)


@pytest.mark.parametrize(("logits", "fresh_s"), [(FRESH_BYTES, FRESH_BYTES / 2e9), (FRESH_BYTES - 1, 0.0), (0, 0.0)])
def test_logits_cost_fresh_memory_from_the_allocators_threshold_on(logits: int, fresh_s: float) -> None:
    assert RATES.seconds(Work(10**11, 10**10, logits)) == pytest.approx(1 + 1 + fresh_s)


def test_2_to_the_18_classes_at_a_batch_of_32_are_the_first_in_fresh_memory() -> None:
    """Runs on the CPU had 8,193 page faults a pass more at 2**18 classes than at 2**16: 32 MiB of 4 KiB pages."""

    def logits(classes: int) -> int:
        return top_layer_work(batch_size=32, features=2048, classes=classes, bias=True, itemsize=4).logit_bytes

    assert logits(2**18 - 1) < FRESH_BYTES == logits(2**18)


def test_added_time_holds_what_fresh_memory_costs() -> None:
    small, large = Work(0, 0, 128), Work(0, 0, FRESH_BYTES)
    assert RATES.added_seconds(large, small) == pytest.approx(FRESH_BYTES / 2e9)


works = st.builds(Work, st.integers(0, 10**14), st.integers(0, 10**12), st.integers(0, 10**11))


@given(works, st.floats(1, 10))
def test_on_a_device_slowed_twice_everything_takes_twice_as_long(work: Work, factor: float) -> None:
    assert RATES.slowed(factor).seconds(work) == pytest.approx(factor * RATES.seconds(work))


@given(st.integers(0, 10**12))
def test_twice_the_bytes_take_twice_the_time(moved: int) -> None:
    assert RATES.seconds(Work(0, 2 * moved)) == pytest.approx(2 * RATES.seconds(Work(0, moved)))


def test_rates_without_a_third_are_those_of_old_runs() -> None:
    assert Rates(1e9, 1e9).seconds(Work(10**9, 10**9, 10**12)) == 2.0
    assert Rates(1e9, 1e9).slowed(2.0) == Rates(5e8, 5e8)


@pytest.mark.parametrize(("weight", "fills"), [(2**26, False), (2**27, True)])
def test_fresh_memory_is_looked_at_where_a_top_layer_may_need_it(
    weight: int, fills: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def turns(probes: list[prediction.Probe], *, rounds: int, seconds: float) -> None:
        taken.append(len(probes))
        for probe in probes:
            monkeypatch.setattr(probe, "_least", 1e-3)

    monkeypatch.setattr(prediction, "take_turns", turns)
    monkeypatch.setattr(prediction, "STREAMED_WEIGHT_BYTES", weight)
    calibrate(torch.device("cpu"), torch.float32, 2, largest_bytes=2**40, free_bytes=2**40)
    assert taken == [4 if fills else 2]


def test_probes_have_the_width_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    linear = prediction.functional.linear
    monkeypatch.setattr(prediction, "PROBE_REPEATS", 1)
    monkeypatch.setattr(
        prediction.functional, "linear", lambda x, weight: widths.append(weight.shape[1]) or linear(x, weight)
    )
    calibrate(torch.device("cpu"), torch.float32, 1, largest_bytes=2**20, free_bytes=2**26, features=64)
    assert set(widths) == {64}


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
    assert rates.fresh_bytes_per_s is None  # torch keeps its blocks


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


def test_every_head_and_position_of_the_top_layer_is_left_out_of_the_backbones_operations() -> None:
    for name, own in (("torchvision/squeezenet1_1", 1), ("timm/deit_tiny_distilled_patch16_224", 2)):
        network = find(name)
        top = inspect(network).top
        assert (top.outputs > 1, len(top.heads)) == (True, own)
        one = backbone_operations(network, top)
        counted = one + sum(2 * head.features * head.positions * top.classes for head in top.heads)
        bank = ClassBank(top.features, 3, bias=top.bias, device="meta")
        with torch.device("meta"):
            module = at_class_count(network.build(), top, bank.layer(3))
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            module(torch.empty(1, *network.input_shape, device="meta"))
        fewer = sum(2 * head.features * head.positions * (top.classes - 3) for head in top.heads)
        assert counter.get_total_flops() == counted - fewer
