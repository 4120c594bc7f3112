"""Between the two clock readings nothing of ours takes time worth mentioning."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from archs.registry import find
from bench.speed.assembly import build_backbone, input_pool
from bench.speed.clocks import CudaClock, Forward, read_on_cpu
from bench.speed.forwards import Eager
from bench.speed.settings import Setting
from bench.speed.statistics import Ratio
from bench.speed.torch_state import torch_state

pytestmark = pytest.mark.benchmark

READINGS = 5000
#: The design's figure: own cost in a pass, and in the shortest of passes.
SHARE_OF_A_PASS = 0.001
SHORTEST_S = 10e-6


class Nothing:
    """A forward that has its logits already."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def load(self, minibatch: Tensor) -> None:
        pass

    def __call__(self) -> Tensor:
        return self._logits


def alexnet(batch_size: int) -> tuple[Setting, Forward, list[Tensor]]:
    network = find("alexnet")
    setting = Setting(
        arch=network.name,
        input_shape=network.input_shape,
        device="cpu",
        batch_size=batch_size,
        threads=torch.get_num_threads(),
    )
    module, _ = build_backbone(network, setting)
    return setting, Eager(module), input_pool(setting, 4)


def bare_pair(_: int) -> float:
    start = time.perf_counter_ns()
    end = time.perf_counter_ns()
    return (end - start) / 1e9


def median_of(read: Callable[[int], float], readings: int) -> float:
    return float(np.median([read(number) for number in range(readings)]))


def test_a_reading_of_nothing_is_short_against_a_pass(benchmark: Any, say: Callable[..., None]) -> None:
    setting, forward, pool = alexnet(1)
    nothing = Nothing(torch.zeros(1, 1))
    with torch_state(setting), torch.inference_mode():
        pass_s = median_of(lambda number: read_on_cpu(forward, pool[number % 4]).wall_s, 10)
        bare_s = median_of(bare_pair, READINGS)
        own_s = benchmark.pedantic(
            median_of, args=(lambda _: read_on_cpu(nothing, pool[0]).wall_s, READINGS), rounds=1, iterations=1
        )
    say(
        f"a reading of nothing {own_s * 1e9:.0f} ns, a bare pair {bare_s * 1e9:.0f} ns, AlexNet at batch 1 "
        f"{pass_s * 1e3:.1f} ms: own cost {(own_s - bare_s) / pass_s:.1e} of that pass",
        own_s=own_s,
        bare_s=bare_s,
        pass_s=pass_s,
    )
    assert own_s <= max(SHARE_OF_A_PASS * pass_s, SHORTEST_S)


@pytest.mark.gpu
def test_a_reading_of_nothing_on_cuda_is_short_against_a_pass(benchmark: Any, say: Callable[..., None]) -> None:
    """Two synchronisations and two events stand between the readings there."""
    device = torch.device("cuda:0")
    clock = CudaClock(device)
    nothing, minibatch = Nothing(torch.zeros(1, device=device)), torch.zeros(1, device=device)
    own_s = benchmark.pedantic(
        median_of, args=(lambda _: clock(nothing, minibatch).wall_s, READINGS), rounds=1, iterations=1
    )
    resnet = find("resnet50")
    setting = Setting(arch="resnet50", input_shape=resnet.input_shape, device="cuda:0", batch_size=32, threads=1)
    module, _ = build_backbone(resnet, setting)
    (noise,) = input_pool(setting, 1)
    with torch_state(setting), torch.inference_mode():
        pass_s = median_of(lambda _: clock(Eager(module), noise).wall_s, 20)
    say(f"a reading of nothing {own_s * 1e6:.1f} us, ResNet-50 {pass_s * 1e3:.2f} ms", own_s=own_s, pass_s=pass_s)
    assert own_s <= max(SHARE_OF_A_PASS * pass_s, SHORTEST_S)


def test_torchs_own_timer_says_the_same(compare: Callable[..., Any], say_ratio: Callable[[str, Ratio], None]) -> None:
    """torch.utils.benchmark runs its statement twice before it times it; so do we here, for equal caches."""
    setting, forward, pool = alexnet(2)
    timer = Timer("forward()", globals={"forward": forward}, num_threads=setting.threads)

    def ours(number: int) -> float:
        minibatch = pool[number % 4]
        read_on_cpu(forward, minibatch), read_on_cpu(forward, minibatch)
        return read_on_cpu(forward, minibatch).wall_s

    def theirs(number: int) -> float:
        forward.load(pool[number % 4])
        return float(timer.timeit(1).times[0])

    with torch_state(setting), torch.inference_mode():
        ratio = compare({"ours": ours, "theirs": theirs}, 60).ratio("ours", "theirs")
    say_ratio("slc-bench / torch.utils.benchmark", ratio)
    low, high = ratio.interval(0.99)
    assert low <= 1.02, "ours is slower by more than 2 %, and noise does not explain it"
    assert high >= 0.98, "ours is faster by more than 2 %, and noise does not explain it"
    assert 0.9 < ratio.estimate < 1.1, "whatever the interval says"
