"""From operations and bytes to an expected time.

    time at k classes = time at 1 + operations added / rate of operations + bytes added / rate of bytes

Both rates are calibrated on the device itself in a few seconds, at the setting's batch size and dtype: that of
operations on a linear layer that stays in the caches, that of bytes on one that does not:

    CPU     | call |  | call |  | call |  ...                      one call between two clock readings
    CUDA    | call call call ... call  wait |  | call call ...     as many as take 5 ms: launching and waiting for
                                                                   one alone takes longer than its work

Adding the two terms, not taking the larger (the roofline of Williams et al., 2009), is what narrow matrix products
do on the machines seen so far: they wait for the weight and then compute.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from archs.registry import Network
from archs.top_layer import TopLayer, place_of

#: Weights of the two probes, in bytes: one that caches keep, one that is far beyond the largest of them.
CACHED_WEIGHT_BYTES = 2 * 2**20
STREAMED_WEIGHT_BYTES = 512 * 2**20
#: Operations of one call of the second at most: large minibatches wait for arithmetic, whatever the weight.
STREAMED_OPERATIONS = 20 * 10**9
#: Features of the probes' layer: ResNet's and Inception's own.
PROBE_FEATURES = 2048
#: A probe is repeated for this long, or this often, whichever ends first. Its least time counts: a rate is what the
#: device can do, and a busy neighbour only ever takes from it.
PROBE_SECONDS = 1.0
PROBE_REPEATS = 50
#: On CUDA a reading holds as many calls as take this long. Launching the first and waiting for the last take some
#: 20 us: 0.4 % of it, and several times what the cached probe's own work takes.
STRETCH_SECONDS = 5e-3
#: Share of a GPU's second-level cache that the cached weight takes: inputs, outputs and others live there too.
CACHE_SHARE = 4


@dataclass(frozen=True)
class Work:
    """What a linear layer does for one minibatch: floating-point operations, and bytes read and written."""

    operations: int
    bytes: int

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.operations - other.operations, self.bytes - other.bytes)


@dataclass(frozen=True)
class Rates:
    """What a device does a second at one batch size and dtype."""

    operations_per_s: float
    bytes_per_s: float

    def seconds(self, work: Work) -> float:
        """Expected seconds for some work."""
        return work.operations / self.operations_per_s + work.bytes / self.bytes_per_s


def top_layer_work(*, batch_size: int, features: int, classes: int, bias: bool, itemsize: int) -> Work:
    """The work of a linear layer (batch, features) -> (batch, classes): a multiplication and an addition a weight.

    Bytes are those of weight, bias, features and logits, each moved once.
    """
    weights = features * classes + (classes if bias else 0)
    moved = weights + batch_size * features + batch_size * classes
    operations = 2 * batch_size * features * classes + (batch_size * classes if bias else 0)
    return Work(operations, moved * itemsize)


def solve_rates(cached: Work, cached_s: float, streamed: Work, streamed_s: float) -> Rates:
    """The two rates from the two probes' times.

    The cached probe moves its bytes from caches, taken as free. If the streamed probe is no slower than its
    operations alone, memory is not what limits it: the rate of bytes is then at least what was seen.
    """
    operations_per_s = cached.operations / cached_s
    waiting = streamed_s - streamed.operations / operations_per_s
    return Rates(operations_per_s, streamed.bytes / max(waiting, 0.05 * streamed_s))


def calibrate(
    device: torch.device, dtype: torch.dtype, batch_size: int, *, largest_bytes: int, free_bytes: int
) -> Rates:
    """Measure both rates; takes up to a few seconds.

    The weight that is streamed is no larger than the largest top layer to be predicted (`largest_bytes`), so that
    calibrating does not need more memory than measuring, nor than a quarter of what is free.
    """
    bounded_bytes = STREAMED_OPERATIONS // (2 * batch_size) * dtype.itemsize
    cached_bytes = cached_weight_bytes(device)
    weight_bytes = max(4 * cached_bytes, min(STREAMED_WEIGHT_BYTES, bounded_bytes, largest_bytes, free_bytes // 4))
    with torch.inference_mode():
        cached, cached_s = _probe(device, dtype, batch_size, cached_bytes)
        streamed, streamed_s = _probe(device, dtype, batch_size, weight_bytes)
    return solve_rates(cached, cached_s, streamed, streamed_s)


def cached_weight_bytes(device: torch.device) -> int:
    """Bytes of a weight that the device's caches keep.

    On CUDA a quarter of the second-level cache: a weight of 2 MB is too little work to fill a large GPU.
    """
    if device.type != "cuda":
        return CACHED_WEIGHT_BYTES
    cache_bytes = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))  # 0: it does not say
    return max(CACHED_WEIGHT_BYTES, cache_bytes // CACHE_SHARE)


def _probe(device: torch.device, dtype: torch.dtype, batch_size: int, weight_bytes: int) -> tuple[Work, float]:
    classes = max(1, weight_bytes // (PROBE_FEATURES * dtype.itemsize))
    weight = torch.empty(classes, PROBE_FEATURES, device=device, dtype=dtype).fill_(0.01)
    weight[:, ::7] = -0.02
    generator = torch.Generator().manual_seed(0)  # its own: the caller's random numbers stay where they are
    features = torch.randn(batch_size, PROBE_FEATURES, generator=generator).to(device, dtype)
    work = top_layer_work(
        batch_size=batch_size, features=PROBE_FEATURES, classes=classes, bias=False, itemsize=dtype.itemsize
    )

    def step() -> Tensor:
        return functional.linear(features, weight)

    if device.type == "cuda":
        return work, least_seconds(step, lambda: torch.cuda.synchronize(device), stretch_s=STRETCH_SECONDS)
    return work, least_seconds(step)


def least_seconds(
    step: Callable[[], object],
    wait: Callable[[], object] = lambda: None,
    *,
    stretch_s: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Least seconds of one call of `step`, over PROBE_REPEATS readings or PROBE_SECONDS, whichever ends first.

    `wait` returns when all calls so far are done; `clock` tells the time in seconds. A reading is a stretch of calls
    and one wait, divided by the number of calls: one where `stretch_s` is 0, else so many (a power of two) that the
    stretch takes at least so many seconds.
    """

    def timed(calls: int) -> float:
        start = clock()
        for _ in range(calls):
            step()
        wait()
        return clock() - start

    timed(1)  # the first call chooses kernels and faults pages in
    calls = 1
    while stretch_s and timed(calls) < stretch_s:
        calls *= 2
    times: list[float] = []
    while len(times) < PROBE_REPEATS and sum(times) < PROBE_SECONDS:
        times.append(timed(calls))
    return min(times) / calls


def backbone_operations(network: Network, top: TopLayer) -> int:
    """Floating-point operations of one example's forward below its top layer, counted on the meta device.

    A network that does not run there (its forward looks at values) is built and run once on the CPU.
    """
    try:
        whole = _counted_on(torch.device("meta"), network)
    except Exception:  # any error of theirs means the same here; on the CPU it is raised
        whole = _counted_on(torch.device("cpu"), network)
    return whole - 2 * top.features * top.classes


def _counted_on(device: torch.device, network: Network) -> int:
    with device, torch.inference_mode():
        module = network.build()
    place, dtype = place_of(module)  # a module in hand, or a factory with a mind of its own, may be elsewhere
    inputs = torch.zeros(1, *network.input_shape, device=place, dtype=dtype)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(inputs)
    return int(counter.get_total_flops())
